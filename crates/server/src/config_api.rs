//! Settings of the API: how long clients may keep it waiting, and services whose tools runs may use.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::table::{Setting, above_zero, per_host, plain, secret, whole};

/// A service that people connect their accounts of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuthProvider {
    /// Its word, as `linear`.
    pub name: String,
    /// Who signs.
    pub issuer: String,
    /// Where people agree.
    pub authorization_endpoint: String,
    /// Where codes are traded for tokens.
    pub token_endpoint: String,
    /// Where tokens are given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_endpoint: Option<String>,
    /// This server, as the provider knows it; without it nobody can connect an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// What is asked for.
    #[serde(default)]
    pub default_scopes: Option<Vec<String>>,
    /// More that clients should know.
    #[serde(default)]
    pub meta: Option<Map<String, Value>>,
}

pub(super) const MCP_PROVIDERS: Setting = plain(
    "mcp_providers",
    "MCP servers that people connect their accounts of: a JSON list of objects with `name`, `issuer`, \
     `authorization_endpoint`, `token_endpoint` and, where wanted, `client_id` (people can connect their accounts), \
     `revocation_endpoint`, `default_scopes` and `meta`. Each sends people back to `/v1/oauth/callback`.",
    "`[]`",
    |c| Some(serde_json::json!(c.mcp_providers).to_string()),
    |c, v| {
        let providers: Vec<OAuthProvider> =
            serde_json::from_str(v).map_err(|error| format!("must be a JSON list of providers: {error}"))?;
        for (index, provider) in providers.iter().enumerate() {
            let needed = [&provider.issuer, &provider.authorization_endpoint, &provider.token_endpoint];
            for address in needed.into_iter().chain(&provider.revocation_endpoint) {
                let good = url::Url::parse(address).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
                if !good {
                    return Err(format!("{address:?} of {:?} must be an http or https URL", provider.name));
                }
            }
            if provider.name.is_empty() || providers[..index].iter().any(|earlier| earlier.name == provider.name) {
                return Err(format!("the name {:?} must be there once", provider.name));
            }
        }
        c.mcp_providers = providers;
        Ok(())
    },
);

pub(super) const MCP_CLIENT_SECRETS: Setting = secret(plain(
    "mcp_client_secrets",
    "Secrets of this server at those of `mcp_providers` that gave it one, as `name=secret`; a list, or separated by commas.",
    "none",
    |c| (!c.mcp_client_secrets.is_empty()).then(String::new),
    |c, v| {
        c.mcp_client_secrets = per_host(v)?.map(|(name, secret)| (name, secret.into())).collect();
        Ok(())
    },
));

pub(super) const IDLE: Setting = plain(
    "idle_s",
    "Seconds after which a connection is closed that has sent no whole head of a request.",
    "`60`",
    |c| Some(c.idle_s.to_string()),
    |c, v| above_zero(&mut c.idle_s, v),
);

pub(super) const SESSION_STALE: Setting = plain(
    "session_stale_h",
    "Hours without a word of its machine after which a session of Claude Code ends, as TIMEOUT; a further word takes it up \
     again; `0`: never.",
    "`24`",
    |c| Some(c.session_stale_h.to_string()),
    |c, v| whole(&mut c.session_stale_h, v),
);

pub(super) const BODY: Setting = plain(
    "body_s",
    "Seconds that a request's body may take; a slower one is refused.",
    "`300`",
    |c| Some(c.body_s.to_string()),
    |c, v| above_zero(&mut c.body_s, v),
);
