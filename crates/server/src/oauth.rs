//! Connections of people's accounts elsewhere: where they agree, and what the code that they come back with is worth. Knows
//! nothing of cookies and rows.

use std::{sync::OnceLock, time::Duration};

use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use codegen_store::Place;
use reqwest::{Client, redirect::Policy};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::{App, config::OAuthProvider, token};

/// Time that a person has at the provider.
pub const PENDING_MS: i64 = 600_000;
/// Most bytes of an answer.
const MOST: usize = 256 << 10;

static CLIENT: OnceLock<Client> = OnceLock::new();

/// A connection that was begun; only the browser that began it has this, sealed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pending {
    /// For which organization.
    pub org_id: i64,
    /// Whose account.
    pub user_id: i64,
    /// Where.
    pub provider: String,
    /// What the provider sends back.
    pub state: String,
    /// What the code is traded with.
    verifier: String,
    /// Where to go afterwards.
    pub next: String,
    /// Unix milliseconds.
    pub expires_at: i64,
}

/// Who a connection is for.
pub struct Wanted {
    /// For which organization.
    pub org_id: i64,
    /// Whose account.
    pub user_id: i64,
    /// Where to go afterwards.
    pub next: String,
}

/// Why a code was worth nothing, for the log.
#[derive(Debug, thiserror::Error)]
#[error("the provider {provider} gives no token: {why}")]
pub struct Refused {
    provider: String,
    why: String,
}

/// What is asked of a provider's answer.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<i64>,
    #[serde(default)]
    scope: Option<String>,
}

/// What is kept of it, sealed.
#[derive(Serialize, Deserialize)]
struct Kept {
    access_token: String,
    refresh_token: Option<String>,
    expires_at: Option<i64>,
    scope: Option<String>,
}

/// Where a connection's tokens are kept.
pub fn token_place(org_id: i64, token_id: i64) -> Place {
    Place::new(org_id, "oauth_tokens", token_id, "tokens")
}

/// A pending connection is bound to no row.
pub fn pending_place() -> Place {
    Place::new(0, "oauth_tokens", 0, "pending")
}

fn client() -> Result<Client> {
    if let Some(client) = CLIENT.get() {
        return Ok(client.clone());
    }
    crate::install_tls();
    let client = Client::builder()
        .user_agent(concat!("codegen/", env!("CARGO_PKG_VERSION")))
        .timeout(Duration::from_secs(30))
        // A redirect would carry the secret to another host.
        .redirect(Policy::none())
        .build()
        .context("preparing the way to providers")?;
    Ok(CLIENT.get_or_init(|| client).clone())
}

impl App {
    /// The provider of this name, and whether people can connect their accounts of it.
    pub(crate) fn oauth_provider(&self, name: &str) -> Option<&OAuthProvider> {
        self.config.mcp_providers.iter().find(|provider| provider.name == name)
    }

    fn oauth_secret(&self, name: &str) -> Option<&SecretString> {
        self.config.mcp_client_secrets.iter().find(|(of, _)| of == name).map(|(_, secret)| secret)
    }

    fn oauth_callback(&self) -> String {
        format!("{}/v1/oauth/callback", self.config.public_url)
    }

    /// Where a person agrees, and what ends the connection.
    ///
    /// # Errors
    /// Where the provider's address cannot be read; the settings have checked it.
    pub(crate) fn begin_connection(
        &self,
        provider: &OAuthProvider,
        client_id: &str,
        wanted: Wanted,
    ) -> Result<(Url, Pending)> {
        let Wanted { org_id, user_id, next } = wanted;
        let pending = Pending {
            org_id,
            user_id,
            next,
            provider: provider.name.clone(),
            state: token::random(32),
            verifier: token::random(64),
            expires_at: self.now().saturating_add(PENDING_MS),
        };
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&pending.verifier));
        let mut url = Url::parse(&provider.authorization_endpoint).context("reading the provider's address")?;
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", client_id)
            .append_pair("redirect_uri", &self.oauth_callback())
            .append_pair("state", &pending.state)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        if let Some(scopes) = provider.default_scopes.as_ref().filter(|scopes| !scopes.is_empty()) {
            url.query_pairs_mut().append_pair("scope", &scopes.join(" "));
        }
        Ok((url, pending))
    }

    /// Trades a code for tokens, as they are kept.
    ///
    /// # Errors
    /// [`Refused`], and what went wrong on the way.
    pub(crate) async fn trade_code(
        &self,
        provider: &OAuthProvider,
        pending: &Pending,
        code: &str,
    ) -> Result<SecretString> {
        let callback = self.oauth_callback();
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", callback.as_str()),
            ("code_verifier", pending.verifier.as_str()),
        ];
        let (status, body) = self.ask_provider(provider, &provider.token_endpoint, &form).await?;
        let refused = |why: String| Refused { provider: provider.name.clone(), why };
        if !status.is_success() {
            // The error's word alone: what else there is may repeat what was sent.
            let word = serde_json::from_slice::<serde_json::Value>(&body).ok();
            let word = word.as_ref().and_then(|body| body["error"].as_str()).unwrap_or("no reason given");
            return Err(refused(format!("{status} {}", word.chars().take(100).collect::<String>())).into());
        }
        let granted: Granted =
            serde_json::from_slice(&body).map_err(|_| refused("its answer has no access_token".to_owned()))?;
        let kept = Kept {
            access_token: granted.access_token,
            refresh_token: granted.refresh_token,
            expires_at: granted.expires_in.map(|seconds| self.now().saturating_add(seconds.saturating_mul(1000))),
            scope: granted.scope,
        };
        Ok(serde_json::to_string(&kept).context("keeping the tokens")?.into())
    }

    /// Tells a provider that tokens are not wanted any more, where it has a place for that.
    ///
    /// # Errors
    /// What went wrong on the way, or the provider's refusal.
    pub(crate) async fn tell_revoked(&self, name: &str, kept: &SecretString) -> Result<()> {
        let Some(provider) = self.oauth_provider(name) else { return Ok(()) };
        let Some(endpoint) = &provider.revocation_endpoint else { return Ok(()) };
        let kept: Kept = serde_json::from_str(kept.expose_secret()).context("reading the tokens")?;
        // With the refresh token its access tokens go, too.
        let (token, hint) = match &kept.refresh_token {
            Some(token) => (token, "refresh_token"),
            None => (&kept.access_token, "access_token"),
        };
        let form = [("token", token.as_str()), ("token_type_hint", hint)];
        let (status, _) = self.ask_provider(provider, endpoint, &form).await?;
        if status.is_success() {
            return Ok(());
        }
        Err(Refused { provider: name.to_owned(), why: format!("revoking: {status}") }.into())
    }

    async fn ask_provider(
        &self,
        provider: &OAuthProvider,
        endpoint: &str,
        form: &[(&str, &str)],
    ) -> Result<(reqwest::StatusCode, Vec<u8>)> {
        let client_id = provider.client_id.as_deref().unwrap_or_default();
        let escaped = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let secret = self.oauth_secret(&provider.name);
        let by_name = [("client_id", client_id)];
        let fields = form.iter().chain(by_name.iter().filter(|_| secret.is_none()));
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut request = client()?
            .post(endpoint)
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded");
        if let Some(secret) = secret {
            // RFC 6749 wants both escaped before they are put together.
            request = request.basic_auth(escaped(client_id), Some(escaped(secret.expose_secret())));
        }
        let mut response = request.body(body).send().await.map_err(reqwest::Error::without_url)?;
        let (status, mut bytes) = (response.status(), Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MOST {
                let why = format!("its answer is larger than {} KiB", MOST >> 10);
                return Err(Refused { provider: provider.name.clone(), why }.into());
            }
        }
        Ok((status, bytes))
    }
}
