//! From a model's name to the model: which provider, which address, which key.

use std::{path::Path, sync::Arc};

use reqwest::Client;
use secrecy::SecretString;

use super::{
    Model,
    anthropic::Anthropic,
    http::{self, Patience, Provider},
    openai::OpenAi,
    prices,
    scripted::Scripted,
};

/// Keys and addresses, from the settings. A base URL of one's own makes the key optional.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// `ANTHROPIC_API_KEY`.
    pub anthropic: Option<SecretString>,
    /// `ANTHROPIC_BASE_URL`; `/v1/messages` is added.
    pub anthropic_base_url: Option<String>,
    /// `OPENAI_API_KEY`.
    pub openai: Option<SecretString>,
    /// `OPENAI_BASE_URL`; `/chat/completions` is added.
    pub openai_base_url: Option<String>,
    /// `GEMINI_API_KEY`.
    pub gemini: Option<SecretString>,
    /// `GEMINI_BASE_URL`; `/chat/completions` is added.
    pub gemini_base_url: Option<String>,
    /// `XAI_API_KEY`.
    pub xai: Option<SecretString>,
    /// `XAI_BASE_URL`; `/chat/completions` is added.
    pub xai_base_url: Option<String>,
    /// `OPENROUTER_API_KEY`.
    pub openrouter: Option<SecretString>,
    /// `OPENROUTER_BASE_URL`; `/chat/completions` is added.
    pub openrouter_base_url: Option<String>,
    /// `OLLAMA_BASE_URL`; `/v1` is added where it has no path, then `/chat/completions`.
    pub ollama_base_url: Option<String>,
}

/// Why there is no such model.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No provider has a model of this name.
    #[error(
        "unknown model {0:?}: write it as provider/name, where the provider is anthropic, openai, gemini, xai, openrouter or ollama"
    )]
    Unknown(String),
    /// Its provider's key is not set.
    #[error("there is no key for {provider}: set {variable}")]
    NoKey {
        /// `anthropic`, ...
        provider: &'static str,
        /// The environment variable that is looked at.
        variable: &'static str,
    },
    /// The script is missing or is not one; a sentence.
    #[error("{0}")]
    Script(String),
    /// A base URL is not one.
    #[error("the base URL of {provider} is not an http or https URL: {url:?}")]
    BaseUrl {
        /// `anthropic`, ...
        provider: &'static str,
        /// As it is set.
        url: String,
    },
    /// No HTTPS here.
    #[error("preparing the HTTP client for models")]
    Client(#[from] reqwest::Error),
}

/// One provider's part of the settings.
struct Entrance<'a> {
    name: &'static str,
    variable: &'static str,
    key: &'a Option<SecretString>,
    base_url: &'a Option<String>,
    default_url: &'static str,
}

/// Provider and model of a name, bare ones by their beginning.
fn split(name: &str) -> Option<(&str, &str)> {
    if let Some(path) = name.strip_prefix("scripted:") {
        return Some(("scripted", path));
    }
    if let Some((provider, model)) = name.split_once('/') {
        let known = ["anthropic", "openai", "gemini", "xai", "openrouter", "ollama"].contains(&provider);
        return (known && !model.is_empty()).then_some((provider, model));
    }
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let provider = if begins(&["claude-"]) {
        "anthropic"
    } else if begins(&["gpt-", "chatgpt-", "codex-"]) || (begins(&["o1", "o3", "o4"]) && !name.contains([':', '.'])) {
        "openai"
    } else if begins(&["gemini-"]) {
        "gemini"
    } else if begins(&["grok-"]) {
        "xai"
    } else {
        return None;
    };
    Some((provider, name))
}

/// Whether a name can be connected to once its key is there; checks no key and opens no file.
pub fn is_known(name: &str) -> bool {
    split(name).is_some()
}

/// The model of a name: `provider/model`, a known bare name, or `scripted:/path/to/file`.
///
/// # Errors
/// When the name is unknown, its key is missing, or its script cannot be read.
pub fn connect(name: &str, keys: &Keys) -> Result<Arc<dyn Model>, ConnectError> {
    let (provider, model) = split(name).ok_or_else(|| ConnectError::Unknown(name.to_owned()))?;
    let entrance = match provider {
        "scripted" => return Ok(Arc::new(Scripted::open(name, Path::new(model)).map_err(ConnectError::Script)?)),
        "anthropic" => Entrance {
            name: "anthropic",
            variable: "ANTHROPIC_API_KEY",
            key: &keys.anthropic,
            base_url: &keys.anthropic_base_url,
            default_url: "https://api.anthropic.com",
        },
        "openai" => Entrance {
            name: "openai",
            variable: "OPENAI_API_KEY",
            key: &keys.openai,
            base_url: &keys.openai_base_url,
            default_url: "https://api.openai.com/v1",
        },
        "gemini" => Entrance {
            name: "gemini",
            variable: "GEMINI_API_KEY",
            key: &keys.gemini,
            base_url: &keys.gemini_base_url,
            default_url: "https://generativelanguage.googleapis.com/v1beta/openai",
        },
        "xai" => Entrance {
            name: "xai",
            variable: "XAI_API_KEY",
            key: &keys.xai,
            base_url: &keys.xai_base_url,
            default_url: "https://api.x.ai/v1",
        },
        "openrouter" => Entrance {
            name: "openrouter",
            variable: "OPENROUTER_API_KEY",
            key: &keys.openrouter,
            base_url: &keys.openrouter_base_url,
            default_url: "https://openrouter.ai/api/v1",
        },
        "ollama" => Entrance {
            name: "ollama",
            variable: "OLLAMA_BASE_URL",
            key: &None,
            base_url: &keys.ollama_base_url,
            default_url: "http://127.0.0.1:11434",
        },
        _ => return Err(ConnectError::Unknown(name.to_owned())),
    };
    let key = entrance.key.clone();
    let own_url = entrance.base_url.as_deref().map(str::trim).filter(|url| !url.is_empty());
    if key.is_none() && own_url.is_none() && entrance.name != "ollama" {
        return Err(ConnectError::NoKey { provider: entrance.name, variable: entrance.variable });
    }
    let url = endpoint(&entrance, own_url.unwrap_or(entrance.default_url))?;
    let name = format!("{}/{model}", entrance.name);
    let price = prices::price(&name);
    let provider = Provider {
        name: entrance.name,
        key_setting: entrance.variable,
        model: model.to_owned(),
        patience: Patience::default(),
    };
    let client: Client = http::client()?;
    Ok(if entrance.name == "anthropic" {
        Arc::new(Anthropic { name, provider, client, url, key, price })
    } else {
        Arc::new(OpenAi { name, provider, client, url, key, price })
    })
}

/// Where questions go. A path in the base URL is kept whole.
fn endpoint(entrance: &Entrance<'_>, base: &str) -> Result<String, ConnectError> {
    let base =
        if entrance.name == "ollama" && !base.contains("://") { format!("http://{base}") } else { base.to_owned() };
    let parsed = url::Url::parse(&base).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(parsed) = parsed else {
        return Err(ConnectError::BaseUrl { provider: entrance.name, url: base });
    };
    let whole = base.trim_end_matches('/');
    Ok(match entrance.name {
        "anthropic" if whole.ends_with("/v1") => format!("{whole}/messages"),
        "anthropic" => format!("{whole}/v1/messages"),
        "ollama" if parsed.path() == "/" => format!("{whole}/v1/chat/completions"),
        _ => format!("{whole}/chat/completions"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bare_names_go_to_their_provider_and_unknown_ones_nowhere() {
        assert_eq!(split("claude-sonnet-4-5"), Some(("anthropic", "claude-sonnet-4-5")));
        assert_eq!(split("gpt-5"), Some(("openai", "gpt-5")));
        assert_eq!(split("openrouter/meta/llama"), Some(("openrouter", "meta/llama")));
        assert_eq!(split("scripted:/a/b"), Some(("scripted", "/a/b")));
        assert!(["nonsense", "acme/model", "openai/", ""].iter().all(|name| !is_known(name)));
    }

    #[test]
    fn a_missing_key_names_its_variable() {
        let error = connect("claude-sonnet-4-5", &Keys::default()).err().unwrap();
        assert!(matches!(error, ConnectError::NoKey { variable: "ANTHROPIC_API_KEY", .. }), "{error}");
    }

    #[test]
    fn base_urls_keep_their_path() {
        let at = |name, base| {
            let entrance = Entrance { name, variable: "", key: &None, base_url: &None, default_url: "" };
            endpoint(&entrance, base).unwrap()
        };
        assert_eq!(at("anthropic", "https://proxy/team/a/"), "https://proxy/team/a/v1/messages");
        assert_eq!(at("openai", "https://proxy/x/openai/v1"), "https://proxy/x/openai/v1/chat/completions");
        assert_eq!(at("ollama", "box:11434"), "http://box:11434/v1/chat/completions");
        assert_eq!(at("ollama", "http://box/ollama/v1"), "http://box/ollama/v1/chat/completions");
    }
}
