//! From a run's model to who answers it: its organization's own accounts first, then the server's.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use codegen_agent::{
    Delta, Entry,
    models::{self, Account, Api, ConnectError, Model, ModelError, Request, prices},
};
use codegen_store::{ModelProvider, Place};
use secrecy::SecretString;

use crate::App;

/// How long a provider has to answer a test.
const PATIENCE: Duration = Duration::from_secs(45);
/// Most names in a sentence.
const NAMED: usize = 12;

/// Why a run has no model.
#[derive(Debug, thiserror::Error)]
pub enum NoModel {
    /// None named and none set up.
    #[error(
        "there is no model to use: set ANTHROPIC_API_KEY, OPENAI_API_KEY or GEMINI_API_KEY, name a default_model in the \
         settings, or add a provider of the organization's own (`codegen models add`)"
    )]
    NotSet,
    /// No provider has a model of this name.
    #[error("unknown model {name:?}: write it as provider/name; {known}")]
    Unknown {
        /// As it was named.
        name: String,
        /// Which ones there are.
        known: String,
    },
    /// The organization keeps to others.
    #[error("the organization does not use {name}: of {provider} it uses {allowed}")]
    NotAllowed {
        /// As it was named.
        name: String,
        /// Of which provider.
        provider: String,
        /// Those that it uses.
        allowed: String,
    },
    /// The named one cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The address of the organization's account is not allowed here; a sentence.
    #[error("the address of the organization's account with {provider} cannot be used: {why}")]
    Address {
        /// Of which provider.
        provider: String,
        /// Why.
        why: String,
    },
    /// The key of the organization's account cannot be read, or the store cannot.
    #[error("{0:#}")]
    Account(anyhow::Error),
}

/// A model that an organization's runs may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// `provider/name`.
    pub name: String,
    /// Of which provider.
    pub provider: String,
    /// Whether the organization's own account is used.
    pub own: bool,
}

/// Where a provider's key is kept.
pub fn key_place(org_id: i64, provider_id: i64) -> Place {
    Place::new(org_id, "model_providers", provider_id, "api_key")
}

/// Which API a word of the store stands for.
pub fn api(word: &str) -> Api {
    if word == "anthropic" { Api::Anthropic } else { Api::OpenAi }
}

/// The model that a provider is tested with where nobody names one.
pub fn usual_model(provider: &str) -> Option<&'static str> {
    match provider {
        "anthropic" => Some("claude-haiku-4-5"),
        "openai" => Some("gpt-5-nano"),
        "gemini" => Some("gemini-2.5-flash-lite"),
        "xai" => Some("grok-3-mini"),
        "openrouter" => Some("openai/gpt-5-nano"),
        _ => None,
    }
}

/// The model of runs that name none, of a provider that is the only thing set up.
fn default_of(provider: &ModelProvider) -> Option<String> {
    let known = match provider.provider.as_str() {
        "anthropic" => Some("claude-sonnet-4-5"),
        "openai" => Some("gpt-5"),
        "gemini" => Some("gemini-2.5-pro"),
        "xai" => Some("grok-4"),
        "openrouter" => Some("anthropic/claude-sonnet-4.5"),
        _ => None,
    };
    let allowed = &provider.settings.allowed_models;
    let known = known.filter(|name| allowed.is_empty() || allowed.iter().any(|model| model == name));
    let model = known.or_else(|| allowed.first().map(String::as_str))?;
    Some(format!("{}/{model}", provider.provider))
}

/// What a provider's models cost by its own list.
fn prices_of(provider: &ModelProvider) -> BTreeMap<String, prices::Rates> {
    // What was checked when it was kept.
    serde_json::from_str(&provider.settings.prices).unwrap_or_default()
}

impl App {
    /// The model of this name for an organization's runs, or its default one.
    ///
    /// # Errors
    /// A sentence on what to set.
    pub async fn model(&self, org_id: i64, name: Option<&str>) -> Result<Arc<dyn Model>, NoModel> {
        let store = |error| NoModel::Account(anyhow::Error::from(error).context("reading the organization's models"));
        let default = match name {
            Some(_) => None,
            None => self.default_model(org_id).await.map_err(store)?,
        };
        let name = name.map(str::to_owned).or(default).ok_or(NoModel::NotSet)?;
        if name.starts_with("scripted:") {
            return Ok(models::connect(&name, &self.config.models)?);
        }
        let own = self.store.model_providers(org_id).await.map_err(store)?;
        let of_own = |(provider, model): (&str, &str)| {
            let account = own.iter().find(|own| own.provider == provider)?;
            (!model.is_empty()).then(|| (account, model.to_owned()))
        };
        if let Some((account, model)) =
            name.split_once('/').and_then(of_own).or_else(|| models::split(&name).and_then(of_own))
        {
            return self.own_model(account, &name, &model).await;
        }
        if !models::is_known(&name) {
            return Err(NoModel::Unknown { known: self.known(&own), name });
        }
        Ok(models::connect(&name, &self.config.models)?)
    }

    async fn own_model(&self, own: &ModelProvider, name: &str, model: &str) -> Result<Arc<dyn Model>, NoModel> {
        let allowed = &own.settings.allowed_models;
        if !allowed.is_empty() && !allowed.iter().any(|allowed| allowed == model) {
            return Err(NoModel::NotAllowed {
                name: name.to_owned(),
                provider: own.provider.clone(),
                allowed: named(allowed.iter().map(|model| format!("{}/{model}", own.provider))),
            });
        }
        let key = match &own.settings.key_hint {
            Some(_) => self.secret(&key_place(own.org_id, own.id)).await.map_err(NoModel::Account)?,
            None => None,
        };
        self.model_of_account(own, key, model)
    }

    /// A model of an account as it is, or as it is about to be set.
    ///
    /// # Errors
    /// Where its address cannot be used.
    pub fn model_of_account(
        &self,
        own: &ModelProvider,
        key: Option<SecretString>,
        model: &str,
    ) -> Result<Arc<dyn Model>, NoModel> {
        // Looked at again, for the setting may have changed; names are checked as they are connected to.
        if let Some(Err(why)) = own.settings.base_url.as_deref().map(|url| self.outside.check(url)) {
            return Err(NoModel::Address { provider: own.provider.clone(), why });
        }
        let client = own.settings.base_url.as_ref().map(|_| self.outside.client()).transpose();
        let account = Account {
            provider: own.provider.clone(),
            api: api(&own.settings.api),
            base_url: own.settings.base_url.clone(),
            key,
            key_setting: "the organization's models".to_owned(),
            price: prices_of(own).get(model).copied(),
            client: client.context("preparing the way to models").map_err(NoModel::Account)?,
        };
        Ok(models::connect_account(model, account)?)
    }

    /// The model of an organization's runs that name none: its own setting, then one of its accounts, then the server's.
    ///
    /// # Errors
    /// The store's.
    pub async fn default_model(&self, org_id: i64) -> Result<Option<String>, codegen_store::Error> {
        if let Some(name) = self.store.default_model(org_id).await? {
            return Ok(Some(name));
        }
        let own = self.store.model_providers(org_id).await?;
        Ok(own.iter().find_map(default_of).or_else(|| self.config.default_model()))
    }

    /// Models that an organization's runs may name. Providers may have others, too, where they are not kept to some.
    ///
    /// # Errors
    /// The store's.
    pub async fn choices(&self, org_id: i64) -> Result<Vec<Choice>, codegen_store::Error> {
        Ok(self.choices_with(&self.store.model_providers(org_id).await?))
    }

    fn choices_with(&self, own: &[ModelProvider]) -> Vec<Choice> {
        let listed = |provider: &str| {
            let prefix = format!("{provider}/");
            prices::listed().filter(|name| name.starts_with(&prefix)).map(str::to_owned).collect::<Vec<_>>()
        };
        let mut choices = Vec::new();
        for account in own {
            let provider = &account.provider;
            let mut names: Vec<String> = match account.settings.allowed_models.as_slice() {
                [] => prices_of(account).keys().map(|model| format!("{provider}/{model}")).collect(),
                allowed => allowed.iter().map(|model| format!("{provider}/{model}")).collect(),
            };
            if account.settings.allowed_models.is_empty() {
                names.extend(listed(provider));
            }
            names.sort();
            names.dedup();
            choices.extend(names.into_iter().map(|name| Choice { name, provider: provider.clone(), own: true }));
        }
        for provider in models::providers().filter(|name| self.config.models.has(name)) {
            if own.iter().any(|account| account.provider == provider) {
                continue;
            }
            let of_server = |name| Choice { name, provider: provider.to_owned(), own: false };
            choices.extend(listed(provider).into_iter().map(of_server));
        }
        choices
    }

    fn known(&self, own: &[ModelProvider]) -> String {
        let mut providers: Vec<String> = own.iter().map(|own| own.provider.clone()).collect();
        let others = models::providers().filter(|name| !own.iter().any(|own| own.provider == *name));
        providers.extend(others.map(str::to_owned));
        let providers = providers.join(", ");
        let choices = self.choices_with(own);
        if choices.is_empty() {
            return format!("the providers are {providers}");
        }
        format!("the providers are {providers}; known are {}", named(choices.into_iter().map(|choice| choice.name)))
    }
}

fn named(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(NAMED);
    let shown = names.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Asks a model something small.
///
/// # Errors
/// A sentence on what is wrong, without the key.
pub async fn test(model: &dyn Model) -> Result<(), String> {
    let history = [Entry::UserMessage { text: "Answer with the word yes.".to_owned(), images: Vec::new() }];
    let request = Request { system: "You are asked whether you can be reached.", history: &history, tools: &[] };
    let mut ignored = |_: Delta| {};
    match tokio::time::timeout(PATIENCE, model.reply(request, &mut ignored)).await {
        Err(_) => Err(format!("{} gave no answer within {} s", model.name(), PATIENCE.as_secs())),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(ModelError::ContextFull)) => Err("the model takes no questions of even a few words".to_owned()),
        Ok(Err(ModelError::Fatal(sentence) | ModelError::Retry { message: sentence, .. })) => Err(sentence),
    }
}
