//! From a model's name to the model: which provider, which address, which key.

use std::{path::Path, sync::Arc};

use reqwest::Client;
use secrecy::SecretString;

use super::{
    Model,
    anthropic::Anthropic,
    http::{self, Patience, Provider},
    openai::OpenAi,
    prices::{self, Rates},
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
        provider: String,
        /// As it is set.
        url: String,
    },
    /// No HTTPS here.
    #[error("preparing the HTTP client for models")]
    Client(#[from] reqwest::Error),
}

/// Which API a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Anthropic's Messages.
    Anthropic,
    /// Chat completions.
    OpenAi,
}

/// A provider that is known by its name.
struct Known {
    name: &'static str,
    variable: &'static str,
    default_url: &'static str,
    api: Api,
}

const KNOWN: [Known; 6] = [
    Known {
        name: "anthropic",
        variable: "ANTHROPIC_API_KEY",
        default_url: "https://api.anthropic.com",
        api: Api::Anthropic,
    },
    Known { name: "openai", variable: "OPENAI_API_KEY", default_url: "https://api.openai.com/v1", api: Api::OpenAi },
    Known {
        name: "gemini",
        variable: "GEMINI_API_KEY",
        default_url: "https://generativelanguage.googleapis.com/v1beta/openai",
        api: Api::OpenAi,
    },
    Known { name: "xai", variable: "XAI_API_KEY", default_url: "https://api.x.ai/v1", api: Api::OpenAi },
    Known {
        name: "openrouter",
        variable: "OPENROUTER_API_KEY",
        default_url: "https://openrouter.ai/api/v1",
        api: Api::OpenAi,
    },
    Known { name: "ollama", variable: "OLLAMA_BASE_URL", default_url: "http://127.0.0.1:11434", api: Api::OpenAi },
];

/// A provider with an account that is not the server's.
#[derive(Debug, Clone)]
pub struct Account {
    /// What its models begin with.
    pub provider: String,
    /// Which API it speaks.
    pub api: Api,
    /// Where, if not at its usual address.
    pub base_url: Option<String>,
    /// Its key.
    pub key: Option<SecretString>,
    /// Where people set the key, for sentences.
    pub key_setting: String,
    /// What its models cost, where that is not as listed.
    pub price: Option<Rates>,
    /// The way there; that of the server's own accounts where there is none.
    pub client: Option<Client>,
}

impl Keys {
    fn of(&self, provider: &str) -> (&Option<SecretString>, &Option<String>) {
        match provider {
            "anthropic" => (&self.anthropic, &self.anthropic_base_url),
            "openai" => (&self.openai, &self.openai_base_url),
            "gemini" => (&self.gemini, &self.gemini_base_url),
            "xai" => (&self.xai, &self.xai_base_url),
            "openrouter" => (&self.openrouter, &self.openrouter_base_url),
            "ollama" => (&None, &self.ollama_base_url),
            _ => (&None, &None),
        }
    }

    /// Whether a provider is set up here.
    pub fn has(&self, provider: &str) -> bool {
        let (key, base_url) = self.of(provider);
        key.is_some() || base_url.is_some()
    }
}

/// Names of the providers that are known.
pub fn providers() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|known| known.name)
}

/// Which API a known provider speaks.
pub fn api_of(provider: &str) -> Option<Api> {
    KNOWN.iter().find(|known| known.name == provider).map(|known| known.api)
}

/// Provider and model of a name, bare ones by their beginning.
pub fn split(name: &str) -> Option<(&str, &str)> {
    if let Some(path) = name.strip_prefix("scripted:") {
        return Some(("scripted", path));
    }
    if let Some((provider, model)) = name.split_once('/') {
        return (api_of(provider).is_some() && !model.is_empty()).then_some((provider, model));
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
    if provider == "scripted" {
        return Ok(Arc::new(Scripted::open(name, Path::new(model)).map_err(ConnectError::Script)?));
    }
    let known = KNOWN.iter().find(|known| known.name == provider);
    let known = known.ok_or_else(|| ConnectError::Unknown(name.to_owned()))?;
    let (key, base_url) = keys.of(known.name);
    let base_url = base_url.as_deref().map(str::trim).filter(|url| !url.is_empty());
    if key.is_none() && base_url.is_none() && known.name != "ollama" {
        return Err(ConnectError::NoKey { provider: known.name, variable: known.variable });
    }
    let account = Account {
        provider: known.name.to_owned(),
        api: known.api,
        base_url: base_url.map(str::to_owned),
        key: key.clone(),
        key_setting: known.variable.to_owned(),
        price: None,
        client: None,
    };
    connect_account(model, account)
}

/// A model of an account, by its name without the provider.
///
/// # Errors
/// When the account has no address that can be used.
pub fn connect_account(model: &str, account: Account) -> Result<Arc<dyn Model>, ConnectError> {
    let Account { provider, api, base_url, key, key_setting, price, client } = account;
    let usual = || KNOWN.iter().find(|known| known.name == provider).map(|known| known.default_url.to_owned());
    let base_url = base_url.or_else(usual).unwrap_or_default();
    let url = endpoint(&provider, api, &base_url)?;
    let name = format!("{provider}/{model}");
    let price = price.map_or_else(|| prices::price(&name), Into::into);
    let client = client.map_or_else(http::client, Ok)?;
    let (model, patience) = (model.to_owned(), Patience::default());
    let provider = Provider { name: provider, key_setting, key: key.clone(), model, patience };
    Ok(match api {
        Api::Anthropic => Arc::new(Anthropic { name, provider, client, url, key, price }),
        Api::OpenAi => Arc::new(OpenAi { name, provider, client, url, key, price }),
    })
}

/// Where questions go. A path in the base URL is kept whole.
fn endpoint(provider: &str, api: Api, base: &str) -> Result<String, ConnectError> {
    let is_ollama = provider == "ollama";
    let base = if is_ollama && !base.contains("://") { format!("http://{base}") } else { base.to_owned() };
    let parsed = url::Url::parse(&base).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(parsed) = parsed else {
        return Err(ConnectError::BaseUrl { provider: provider.to_owned(), url: base });
    };
    let whole = base.trim_end_matches('/');
    Ok(match api {
        Api::Anthropic if whole.ends_with("/v1") => format!("{whole}/messages"),
        Api::Anthropic => format!("{whole}/v1/messages"),
        Api::OpenAi if is_ollama && parsed.path() == "/" => format!("{whole}/v1/chat/completions"),
        Api::OpenAi => format!("{whole}/chat/completions"),
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
        let at = |name, base| endpoint(name, api_of(name).unwrap(), base).unwrap();
        assert_eq!(at("anthropic", "https://proxy/team/a/"), "https://proxy/team/a/v1/messages");
        assert_eq!(at("openai", "https://proxy/x/openai/v1"), "https://proxy/x/openai/v1/chat/completions");
        assert_eq!(at("ollama", "box:11434"), "http://box:11434/v1/chat/completions");
        assert_eq!(at("ollama", "http://box/ollama/v1"), "http://box/ollama/v1/chat/completions");
    }
}
