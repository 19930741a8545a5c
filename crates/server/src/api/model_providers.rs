//! An organization's own accounts with providers of models. A key goes in, is tried and is never shown again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{Json, extract::State};
use codegen_agent::models::{self as known, Api, prices::Rates};
use codegen_store::{ModelProvider, ModelProviderSettings};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    auth::{Admin, Asked},
    body::{Fields, Input},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    models::invalid,
    page::{Page, Paging, time},
};
use crate::{App, models};

const BODY: usize = 64 << 10;
/// Most providers of an organization.
const MOST: i64 = 20;
/// Most models that one is kept to, or has prices for.
const MOST_MODELS: usize = 200;
const LONGEST_NAME: usize = 200;
/// Characters of a key.
const SHORTEST_KEY: usize = 8;
const LONGEST_KEY: usize = 1000;
/// Characters of it that are shown, where it is several times as long.
const SHOWN: usize = 4;

/// An account with a provider of models.
#[derive(Serialize, ToSchema)]
pub struct ModelProviderResponse {
    id: i64,
    /// What its models begin with.
    provider: String,
    /// Which API it speaks: `anthropic` or `openai`.
    api: String,
    /// None for the provider's usual one.
    base_url: Option<String>,
    has_key: bool,
    /// The last four characters of the key.
    key_hint: Option<String>,
    /// Models that runs may use; none for all.
    allowed_models: Vec<String>,
    /// US dollars per million tokens, by model.
    #[schema(value_type = serde_json::Map<String, serde_json::Value>)]
    prices: Value,
    /// When it last answered a test.
    tested_at: Option<String>,
    created_at: String,
    changed_at: String,
}

impl From<ModelProvider> for ModelProviderResponse {
    fn from(provider: ModelProvider) -> Self {
        let ModelProviderSettings { api, base_url, key_hint, allowed_models, prices, tested_at } = provider.settings;
        Self {
            id: provider.id,
            provider: provider.provider,
            api,
            base_url,
            has_key: key_hint.is_some(),
            key_hint: key_hint.filter(|hint| !hint.is_empty()),
            allowed_models,
            prices: serde_json::from_str(&prices).unwrap_or_default(),
            tested_at: tested_at.map(time),
            created_at: time(provider.created_at),
            changed_at: time(provider.changed_at),
        }
    }
}

/// What came of a test.
#[derive(Serialize, ToSchema)]
pub struct ModelProviderTest {
    /// Whether the provider answered.
    success: bool,
    /// The model that was asked.
    model: String,
    /// What is wrong.
    error: Option<String>,
    duration_ms: i64,
}

/// An account to add or change.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct ModelProviderInput {
    /// `anthropic`, `openai`, `gemini`, `xai`, `openrouter`, `ollama`, or a word of one's own for another service.
    provider: String,
    /// Which API it speaks, `anthropic` or `openai`: only for a word of one's own, and `openai` where it is absent.
    api: Option<String>,
    /// Its key; shown to nobody again.
    #[schema(min_length = 8, max_length = 1000)]
    api_key: Option<String>,
    /// Where, if not at the provider's usual address.
    #[schema(format = "uri")]
    base_url: Option<String>,
    /// Models that runs may use, without the provider; none for all.
    allowed_models: Option<Vec<String>>,
    /// US dollars per million tokens: by model `input` and `output`, perhaps `cache_read` and `cache_write`.
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    prices: Option<String>,
    /// Ask the provider something small first, and keep nothing where it does not answer.
    #[schema(default = true)]
    test: Option<bool>,
    /// Which model to ask; else one that is allowed, or usual.
    test_model: Option<String>,
}

/// A change of an account; what is absent stays as it is.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct ModelProviderChange {
    #[schema(min_length = 8, max_length = 1000)]
    api_key: Option<String>,
    /// A new one needs the key again; an empty one is the usual one.
    #[schema(format = "uri")]
    base_url: Option<String>,
    allowed_models: Option<Vec<String>>,
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    prices: Option<String>,
    #[schema(default = true)]
    test: Option<bool>,
    test_model: Option<String>,
}

/// What a body sets.
#[derive(Default)]
struct Given {
    key: Option<SecretString>,
    base_url: Option<String>,
    allowed_models: Option<Vec<String>>,
    prices: Option<String>,
    test: bool,
    test_model: Option<String>,
}

fn given(fields: &mut Fields<'_>) -> Option<Given> {
    let key = fields.optional_text("api_key");
    let wrong_key = |key: &String| {
        let key = key.trim();
        !(SHORTEST_KEY..=LONGEST_KEY).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic())
    };
    if key.iter().flatten().any(wrong_key) {
        let sentence =
            format!("Value error, a key has {SHORTEST_KEY} to {LONGEST_KEY} visible ASCII characters without blanks");
        fields.fail(&["body", "api_key"], "value_error", sentence);
    }
    let base_url = fields.optional_text("base_url");
    if let Some(Some(url)) = &base_url
        && !url.trim().is_empty()
        && let Err(why) = fields.app.outside.check(url.trim())
    {
        fields.fail(&["body", "base_url"], "value_error", format!("Value error, {why}"));
    }
    let has_models = fields.has("allowed_models");
    let allowed_models = fields.optional_texts("allowed_models");
    if let Some(models) = &allowed_models {
        for (index, _) in models.iter().enumerate().filter(|(_, name)| !is_name(name)) {
            fields.fail_item("allowed_models", index, "value_error", name_sentence());
        }
        if models.len() > MOST_MODELS {
            let sentence = format!("List should have at most {MOST_MODELS} items");
            fields.fail(&["body", "allowed_models"], "too_long", sentence);
        }
    }
    let prices = fields.optional_object("prices");
    if let Some(Some(text)) = &prices {
        let rates = serde_json::from_str::<BTreeMap<String, Rates>>(text);
        let good = rates.is_ok_and(|rates| {
            let all = |rates: &Rates| [Some(rates.input), Some(rates.output), rates.cache_read, rates.cache_write];
            rates.len() <= MOST_MODELS
                && rates.keys().all(|name| is_name(name))
                && rates.values().flat_map(all).flatten().all(|rate| (0.0..=1e6).contains(&rate))
        });
        if !good {
            let sentence = "Value error, it gives by model `input` and `output`, perhaps `cache_read` and `cache_write`, in \
                            US dollars per million tokens";
            fields.fail(&["body", "prices"], "value_error", sentence);
        }
    }
    let test = fields.optional_flag("test");
    let test_model = fields.optional_text("test_model");
    if test_model.iter().flatten().any(|name| !is_name(name)) {
        fields.fail(&["body", "test_model"], "value_error", name_sentence());
    }
    let mut seen = BTreeSet::new();
    Some(Given {
        key: key?.map(|key| key.trim().to_owned().into()),
        base_url: base_url?.map(|url| url.trim().trim_end_matches('/').to_owned()),
        allowed_models: allowed_models
            .map(|models| models.into_iter().filter(|name| seen.insert(name.clone())).collect())
            .map(|models| has_models.then_some(models))?,
        prices: prices?,
        test: test?.unwrap_or(true),
        test_model: test_model?,
    })
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
}

fn name_sentence() -> String {
    format!("Value error, a model's name has 1 to {LONGEST_NAME} visible ASCII characters, and no provider before it")
}

/// A new account.
pub struct NewProvider {
    provider: String,
    api: Api,
    given: Given,
}

impl Input for NewProvider {
    const BODY: usize = BODY;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let provider = fields.text("provider");
        let is_word = |word: &String| {
            (1..=40).contains(&word.len())
                && word.starts_with(|c: char| c.is_ascii_lowercase())
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
                && word != "scripted"
        };
        let usual = provider.as_deref().and_then(known::api_of);
        if provider.as_ref().is_some_and(|word| !is_word(word)) {
            let names: Vec<&str> = known::providers().collect();
            let sentence = format!(
                "Value error, it is one of {}, or a word of your own in small letters, digits, - and _",
                names.join(", ")
            );
            fields.fail(&["body", "provider"], "value_error", sentence);
        }
        let api = fields.optional_word("api", &["anthropic", "openai"]);
        let named = api.as_ref().map(|word| word.as_deref().map(models::api));
        if let (Some(usual), Some(Some(named))) = (usual, named)
            && usual != named
        {
            fields.fail(&["body", "api"], "value_error", "Value error, this provider speaks another API");
        }
        let given = given(fields);
        let needs_address = provider.as_deref().is_some_and(|word| usual.is_none() || word == "ollama");
        if needs_address && given.as_ref().is_some_and(|given| given.base_url.as_ref().is_none_or(String::is_empty)) {
            let sentence = "Value error, this provider needs an address";
            fields.fail(&["body", "base_url"], "value_error", sentence);
        }
        Some(Self { provider: provider?, api: usual.or(named?).unwrap_or(Api::OpenAi), given: given? })
    }
}

/// A changed account.
pub struct ChangedProvider(i64, Given);

impl Input for ChangedProvider {
    const BODY: usize = BODY;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let id = fields.path_id("model_provider_id");
        let given = given(fields);
        Some(Self(id?, given?))
    }
}

/// An account's id.
pub struct ProviderId(i64);

impl Input for ProviderId {
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("model_provider_id")?))
    }
}

fn no_provider(error: codegen_store::Error) -> ApiError {
    match error {
        codegen_store::Error::NotFound => ApiError::not_found("Model provider not found."),
        other => other.into(),
    }
}

/// The last characters of a key; of a short one none, for they would be too much of it.
fn hint(key: &SecretString) -> String {
    let key = key.expose_secret();
    // Keys are ASCII.
    if key.len() >= 4 * SHOWN { key.get(key.len() - SHOWN..).unwrap_or_default().to_owned() } else { String::new() }
}

/// The model that an account is tested with.
fn test_model(provider: &ModelProvider, named: Option<String>) -> Option<String> {
    let allowed = provider.settings.allowed_models.first().cloned();
    named.or(allowed).or_else(|| models::usual_model(&provider.provider).map(str::to_owned))
}

/// Tests an account as it is about to be set; what is wrong is a failure of the request.
async fn try_out(
    app: &App,
    provider: &ModelProvider,
    key: Option<SecretString>,
    named: Option<String>,
) -> Result<(), ApiError> {
    let place = if key.is_some() { "api_key" } else { "base_url" };
    let model = test_model(provider, named)
        .ok_or_else(|| invalid("test_model", "name a model to test it with, or set `test` to false"))?;
    let model = app.model_of_account(provider, key, &model).map_err(|error| invalid("base_url", &error.to_string()))?;
    let tested = models::test(&*model).await;
    tested.map_err(|why| {
        invalid(place, &format!("{why}. Nothing was kept; with `test` set to false it is kept untested"))
    })
}

/// The organization's accounts with providers of models.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/model-providers", tag = "models",
    operation_id = "list_model_providers", params(("org_id" = i64, Path), Paging),
    responses((status = 200, description = "Successful Response", body = Page<ModelProviderResponse>), Refusals))]
pub async fn list(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, Paging>,
) -> Result<Json<Page<ModelProviderResponse>>, ApiError> {
    let paging = asked.input;
    let all = app.store.model_providers(asked.by.0.org_id).await?;
    let total = i64::try_from(all.len()).unwrap_or(i64::MAX);
    let bound = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
    let part = all.into_iter().skip(bound(paging.skip)).take(bound(paging.limit));
    Ok(Json(paging.page(part.map(Into::into).collect(), total)))
}

/// Adds an account. Unless `test` is false the provider is asked something small first, and where it does not answer
/// nothing is kept.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/model-providers", tag = "models",
    operation_id = "create_model_provider", params(("org_id" = i64, Path)), request_body = ModelProviderInput,
    responses((status = 200, description = "Successful Response", body = ModelProviderResponse),
        (status = 409, description = "It is there already, or there are too many", body = Refusal), Refusals))]
pub async fn create(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, NewProvider>,
) -> Result<Json<ModelProviderResponse>, ApiError> {
    let (org_id, now) = (asked.by.0.org_id, app.now());
    let NewProvider { provider, api, given } = asked.input;
    if given.key.is_none() && given.base_url.as_ref().is_none_or(String::is_empty) {
        return Err(invalid("api_key", "this provider needs a key"));
    }
    let settings = ModelProviderSettings {
        api: if api == Api::Anthropic { "anthropic" } else { "openai" }.to_owned(),
        base_url: given.base_url.filter(|url| !url.is_empty()),
        key_hint: given.key.as_ref().map(hint),
        allowed_models: given.allowed_models.unwrap_or_default(),
        prices: given.prices.unwrap_or_else(|| "{}".to_owned()),
        tested_at: given.test.then_some(now),
    };
    let wanted = ModelProvider { id: 0, org_id, provider, settings, created_at: now, changed_at: now };
    if given.test {
        try_out(&app, &wanted, given.key.clone(), given.test_model).await?;
    }
    let (sealing, key) = (app.clone(), given.key);
    let seal = move |id| {
        let sealed = key.map(|key| sealing.keys.seal(models::key_place(org_id, id), &key)).transpose();
        sealed.map_err(|error| codegen_store::Error::Answer(error.into()))
    };
    let made = app.store.create_model_provider(org_id, &wanted.provider, wanted.settings, MOST, seal, now).await?;
    Ok(Json(made.into()))
}

/// One account.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/model-providers/{model_provider_id}", tag = "models",
    operation_id = "get_model_provider", params(("org_id" = i64, Path), ("model_provider_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = ModelProviderResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn get(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, ProviderId>,
) -> Result<Json<ModelProviderResponse>, ApiError> {
    let provider = app.store.model_provider(asked.by.0.org_id, asked.input.0).await.map_err(no_provider)?;
    Ok(Json(provider.into()))
}

/// Changes an account, which is tested as a new one is. Runs under way go on with what they began with.
#[utoipa::path(patch, path = "/v1/organizations/{org_id}/model-providers/{model_provider_id}", tag = "models",
    operation_id = "update_model_provider", params(("org_id" = i64, Path), ("model_provider_id" = i64, Path)),
    request_body = ModelProviderChange,
    responses((status = 200, description = "Successful Response", body = ModelProviderResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn update(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, ChangedProvider>,
) -> Result<Json<ModelProviderResponse>, ApiError> {
    let (org_id, ChangedProvider(id, given), now) = (asked.by.0.org_id, asked.input, app.now());
    let mut provider = app.store.model_provider(org_id, id).await.map_err(no_provider)?;
    let place = models::key_place(org_id, id);
    let goes_elsewhere =
        given.base_url.as_deref().is_some_and(|url| url != provider.settings.base_url.as_deref().unwrap_or(""));
    if goes_elsewhere && given.key.is_none() && provider.settings.key_hint.is_some() {
        return Err(invalid("api_key", "another address needs the key again: the one before is not sent there"));
    }
    let settings = &mut provider.settings;
    if let Some(url) = given.base_url {
        settings.base_url = Some(url).filter(|url| !url.is_empty());
    }
    let needs_address = known::api_of(&provider.provider).is_none() || provider.provider == "ollama";
    if settings.base_url.is_none() && needs_address {
        return Err(invalid("base_url", "this provider needs an address"));
    }
    if let Some(key) = &given.key {
        settings.key_hint = Some(hint(key));
    }
    settings.allowed_models = given.allowed_models.unwrap_or_else(|| settings.allowed_models.clone());
    settings.prices = given.prices.unwrap_or_else(|| settings.prices.clone());
    let is_new_account = goes_elsewhere || given.key.is_some();
    if given.test && is_new_account {
        try_out(&app, &provider, given.key.clone(), given.test_model).await?;
        provider.settings.tested_at = Some(now);
    } else if is_new_account {
        provider.settings.tested_at = None;
    }
    let sealed = given.key.map(|key| app.keys.seal(place, &key)).transpose();
    let sealed = sealed.map_err(|error| ApiError::internal(&format!("{error:#}")))?;
    let changed =
        app.store.set_model_provider(org_id, id, provider.settings, sealed, now).await.map_err(no_provider)?;
    Ok(Json(changed.into()))
}

/// Removes an account with its key; answers with what it was. Runs under way go on with what they began with.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}/model-providers/{model_provider_id}", tag = "models",
    operation_id = "delete_model_provider", params(("org_id" = i64, Path), ("model_provider_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = ModelProviderResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn delete(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, ProviderId>,
) -> Result<Json<ModelProviderResponse>, ApiError> {
    let (org_id, id) = (asked.by.0.org_id, asked.input.0);
    let provider = app.store.model_provider(org_id, id).await.map_err(no_provider)?;
    app.store.delete_model_provider(org_id, id, app.now()).await.map_err(no_provider)?;
    Ok(Json(provider.into()))
}

/// Asks a provider something small with the key that is kept.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/model-providers/{model_provider_id}/test", tag = "models",
    operation_id = "test_model_provider",
    params(("org_id" = i64, Path), ("model_provider_id" = i64, Path)),
    responses((status = 200, description = "What came of it", body = ModelProviderTest),
        (status = 404, description = "Not Found", body = Refusal),
        (status = 409, description = "It is not known which model to ask", body = Refusal), Refusals))]
pub async fn test(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, ProviderId>,
) -> Result<Json<ModelProviderTest>, ApiError> {
    let (org_id, id) = (asked.by.0.org_id, asked.input.0);
    let provider = app.store.model_provider(org_id, id).await.map_err(no_provider)?;
    let model = test_model(&provider, None).ok_or_else(|| {
        let sentence = "It is not known which model to ask: name one in allowed_models.";
        codegen_store::Error::Conflict(sentence.to_owned())
    })?;
    let name = format!("{}/{model}", provider.provider);
    let began = std::time::Instant::now();
    let tested = match app.secret(&models::key_place(org_id, id)).await {
        Err(error) => Err(format!("{error:#}")),
        Ok(key) => match app.model_of_account(&provider, key, &model) {
            Err(error) => Err(error.to_string()),
            Ok(model) => models::test(&*model).await,
        },
    };
    if tested.is_ok() {
        app.store.model_provider_answered(org_id, id, app.now()).await?;
    }
    let duration_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
    Ok(Json(ModelProviderTest { success: tested.is_ok(), model: name, error: tested.err(), duration_ms }))
}
