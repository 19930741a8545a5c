//! Log-in at an OpenID provider: authorization code with PKCE. Knows nothing of cookies or rows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{Request, Response};
use openidconnect::{
    AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointMaybeSet, EndpointNotSet, EndpointSet, IssuerUrl,
    LogoutRequest, Nonce, OAuth2TokenResponse as _, PkceCodeChallenge, PkceCodeVerifier, PostLogoutRedirectUrl,
    ProviderMetadataWithLogout, RedirectUrl, RequestTokenError, Scope, TokenResponse as _,
    core::{CoreAuthenticationFlow, CoreClient, CoreErrorResponseType, CoreIdToken},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;
use tokio::sync::Mutex;
use url::Url;

use crate::config::LogIn;

/// Where the provider sends browsers back to.
pub const CALLBACK: &str = "/v1/session/oidc/callback";
/// What a provider said about itself is believed for so long.
const KNOWN: Duration = Duration::from_secs(600);
/// Any one answer of the provider.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any answer has.
const LARGEST: usize = 1 << 20;

type Metadata = ProviderMetadataWithLogout;
type Client =
    CoreClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointMaybeSet, EndpointMaybeSet>;

/// The provider that is set up.
pub struct Provider {
    issuer: String,
    client_id: String,
    secret: Option<SecretString>,
    scopes: Vec<String>,
    public_url: String,
    http: reqwest::Client,
    known: Mutex<Option<(Instant, Arc<Metadata>)>>,
}

/// What a log-in that is under way must be ended with; the browser that began it keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pending {
    state: String,
    nonce: String,
    verifier: String,
    /// Where the person wanted to be.
    pub next: String,
}

/// What the provider sends a browser back with.
#[derive(Debug, Default, Deserialize)]
pub struct Answer {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
}

/// Who somebody is, in the provider's words.
pub struct Person {
    /// Their id there.
    pub subject: String,
    /// All claims of the ID token and of the user's page.
    pub claims: Map<String, Value>,
    /// For log-out there.
    pub id_token: String,
}

/// Why nobody was logged in. Each is a word that the log-in page knows a sentence for.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The provider does not answer, or not as one.
    #[error("the OpenID provider does not answer as it should")]
    Away(#[source] anyhow::Error),
    /// The browser is not the one that began, or began too long ago.
    #[error("the log-in was not begun by this browser")]
    Other,
    /// The person, or the provider, said no.
    #[error("the OpenID provider refused: {0}")]
    Refused(String),
    /// The code is used up, too old, or was made up.
    #[error("the OpenID provider does not know the code: {0}")]
    Code(String),
    /// The ID token is not the provider's, not for us, or not for this log-in.
    #[error("the ID token is not valid")]
    Token(#[source] anyhow::Error),
}

impl Failed {
    /// For the log-in page.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::Other => "other",
            Self::Refused(_) => "refused",
            Self::Code(_) => "code",
            Self::Token(_) => "token",
        }
    }
}

/// Why the provider could not be asked.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error(transparent)]
    Response(#[from] http::Error),
    #[error("the answer is larger than 1 MiB")]
    Large,
}

impl Provider {
    /// The one of the settings, if there is one.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(settings: &LogIn, public_url: &str) -> anyhow::Result<Option<Self>> {
        let (Some(issuer), Some(client_id)) = (&settings.oidc_issuer, &settings.oidc_client_id) else {
            return Ok(None);
        };
        crate::install_tls();
        let http = reqwest::Client::builder()
            .user_agent(concat!("codegen/", env!("CARGO_PKG_VERSION")))
            .timeout(PATIENCE)
            // A provider that sends us elsewhere could send us anywhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("making the client of the OpenID provider")?;
        Ok(Some(Self {
            issuer: issuer.clone(),
            client_id: client_id.clone(),
            secret: settings.oidc_client_secret.clone(),
            scopes: settings.oidc_scopes.clone(),
            public_url: public_url.trim_end_matches('/').to_owned(),
            http,
            known: Mutex::default(),
        }))
    }

    /// Its address.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Where a browser logs in, and what it must come back with.
    ///
    /// # Errors
    /// [`Failed::Away`].
    pub async fn begin(&self, next: String) -> Result<(Url, Pending), Failed> {
        let metadata = self.metadata().await?;
        let client = self.client(&metadata).map_err(Failed::Away)?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let request = client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, CsrfToken::new_random, Nonce::new_random)
            .add_scopes(self.scopes.iter().cloned().map(Scope::new))
            .set_pkce_challenge(challenge);
        let (url, state, nonce) = request.url();
        let pending = Pending {
            state: state.secret().clone(),
            nonce: nonce.secret().clone(),
            verifier: verifier.secret().clone(),
            next,
        };
        Ok((url, pending))
    }

    /// Who came back.
    ///
    /// # Errors
    /// Any [`Failed`].
    pub async fn finish(&self, pending: Pending, answer: Answer) -> Result<Person, Failed> {
        let state = answer.state.unwrap_or_default();
        let is_ours: bool = state.as_bytes().ct_eq(pending.state.as_bytes()).into();
        if !is_ours || answer.iss.is_some_and(|iss| iss != self.issuer) {
            return Err(Failed::Other);
        }
        if let Some(error) = answer.error {
            return Err(Failed::Refused(error));
        }
        let code = answer.code.ok_or_else(|| Failed::Code("there is none".to_owned()))?;
        let metadata = self.metadata().await?;
        let client = self.client(&metadata).map_err(Failed::Away)?;
        let request = client.exchange_code(AuthorizationCode::new(code)).map_err(|error| Failed::Away(error.into()))?;
        let request = request.set_pkce_verifier(PkceCodeVerifier::new(pending.verifier));
        let tokens = request.request_async(&|request| send(self.http.clone(), request)).await;
        let tokens = tokens.map_err(|error| match error {
            RequestTokenError::ServerResponse(refusal) if *refusal.error() == CoreErrorResponseType::InvalidGrant => {
                Failed::Code(refusal.to_string())
            }
            other => Failed::Away(other.into()),
        })?;
        let id_token = tokens.id_token().ok_or_else(|| Failed::Token(anyhow!("the provider gave none")))?;
        let nonce = Nonce::new(pending.nonce);
        let valid =
            |client: &Client| id_token.claims(&client.id_token_verifier(), &nonce).map(|c| c.subject().to_string());
        let subject = match valid(&client) {
            Ok(subject) => subject,
            // The provider may have new keys since it was last asked.
            Err(_) => {
                *self.known.lock().await = None;
                let client = self.client(&*self.metadata().await?).map_err(Failed::Away)?;
                valid(&client).map_err(|error| Failed::Token(error.into()))?
            }
        };
        let mut claims = payload(id_token).map_err(Failed::Token)?;
        // Many providers keep names and groups out of the ID token.
        if let Some(url) = metadata.userinfo_endpoint() {
            let about = self.http.get(url.url().clone()).bearer_auth(tokens.access_token().secret());
            let about = about.send().await.and_then(reqwest::Response::error_for_status);
            let about = about.map_err(|error| Failed::Away(error.into()))?;
            let about: Map<String, Value> = about.json().await.map_err(|error| Failed::Away(error.into()))?;
            if about.get("sub").and_then(Value::as_str) != Some(&*subject) {
                return Err(Failed::Token(anyhow!("the user's page is somebody else's")));
            }
            claims.extend(about);
        }
        Ok(Person { subject, claims, id_token: id_token.to_string() })
    }

    /// Where a browser logs out at the provider, if it has such a place.
    pub async fn log_out_url(&self, id_token: &str) -> Option<Url> {
        let metadata = self.metadata().await.ok()?;
        let place = metadata.additional_metadata().end_session_endpoint.clone()?;
        let back = PostLogoutRedirectUrl::new(format!("{}/login", self.public_url)).ok()?;
        let request = LogoutRequest::from(place)
            .set_client_id(ClientId::new(self.client_id.clone()))
            .set_post_logout_redirect_uri(back);
        let request = match id_token.parse::<CoreIdToken>() {
            Ok(hint) => request.set_id_token_hint(&hint),
            Err(_) => request,
        };
        Some(request.http_get_url())
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, Failed> {
        let mut known = self.known.lock().await;
        if let Some((at, metadata)) = &*known
            && at.elapsed() < KNOWN
        {
            return Ok(metadata.clone());
        }
        let issuer = IssuerUrl::new(self.issuer.clone()).map_err(|error| Failed::Away(error.into()))?;
        let found = Metadata::discover_async(issuer, &|request| send(self.http.clone(), request)).await;
        let found = Arc::new(found.map_err(|error| Failed::Away(error.into()))?);
        *known = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    fn client(&self, metadata: &Metadata) -> anyhow::Result<Client> {
        let secret = self.secret.as_ref().map(|secret| ClientSecret::new(secret.expose_secret().to_owned()));
        let back = RedirectUrl::new(format!("{}{CALLBACK}", self.public_url)).context("public_url")?;
        let id = ClientId::new(self.client_id.clone());
        Ok(CoreClient::from_provider_metadata(metadata.clone(), id, secret).set_redirect_uri(back))
    }
}

impl Person {
    /// A text among the claims.
    pub fn text(&self, name: &str) -> Option<String> {
        let text = self.claims.get(name)?.as_str()?.trim();
        (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
    }

    /// Whether the provider has seen that the e-mail address is theirs; none where it does not say.
    pub fn email_verified(&self) -> Option<bool> {
        match self.claims.get("email_verified")? {
            Value::Bool(verified) => Some(*verified),
            Value::String(text) => Some(text == "true"),
            _ => None,
        }
    }

    /// The texts at a claim; dots lead into objects.
    pub fn groups(&self, claim: &str) -> Vec<&str> {
        let whole = self.claims.get(claim);
        let found = whole.or_else(|| {
            let mut steps = claim.split('.');
            let first = self.claims.get(steps.next()?)?;
            steps.try_fold(first, |object, step| object.get(step))
        });
        match found {
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(one)) => vec![one],
            Some(_) | None => Vec::new(),
        }
    }
}

/// The claims of a token whose signature was checked.
fn payload(id_token: &CoreIdToken) -> anyhow::Result<Map<String, Value>> {
    let text = id_token.to_string();
    let part = text.split('.').nth(1).context("the ID token has no claims")?;
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).context("decoding the ID token")?;
    serde_json::from_slice(&bytes).context("reading the ID token")
}

async fn send(http: reqwest::Client, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Unanswered> {
    let mut answer = http.execute(request.try_into()?).await?;
    let mut made = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        made = made.header(name, value);
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > LARGEST {
            return Err(Unanswered::Large);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(made.body(body)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_are_found_in_lists_in_objects_and_alone() {
        let claims = json!({"groups": ["a", 1, "b"], "one": "c", "realm_access": {"roles": ["d"]}, "x.y": ["e"]});
        let claims = claims.as_object().cloned().unwrap_or_default();
        let person = Person { subject: String::new(), claims, id_token: String::new() };
        for (claim, groups) in [
            ("groups", vec!["a", "b"]),
            ("one", vec!["c"]),
            ("realm_access.roles", vec!["d"]),
            ("x.y", vec!["e"]),
            ("no.ne", vec![]),
        ] {
            assert_eq!(person.groups(claim), groups, "{claim}");
        }
    }
}
