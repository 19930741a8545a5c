//! Providers of models that an organization has its own account with, and the model of its runs that name none. Keys are
//! in `secrets`; here is only their end.

use serde_json::{Value, json};
use sqlx::{FromRow, Row as _};

use crate::{
    Error, Result, Store,
    audit::{self, Entry},
    dialect::{Db, Row, Tx},
    row::unreadable,
    secrets::{self, Sealed},
};

/// A provider with an account of the organization's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelProvider {
    /// Key.
    pub id: i64,
    /// Whose.
    pub org_id: i64,
    /// What models begin with, as `anthropic` in `anthropic/claude-sonnet-4-5`.
    pub provider: String,
    /// What can be set.
    pub settings: ModelProviderSettings,
    /// When made.
    pub created_at: i64,
    /// When last changed.
    pub changed_at: i64,
}

/// What can be set of a provider.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelProviderSettings {
    /// Which API it speaks: `anthropic` or `openai`.
    pub api: String,
    /// Where, if not at the provider's usual address.
    pub base_url: Option<String>,
    /// The end of the key; none where there is no key.
    pub key_hint: Option<String>,
    /// Names without the provider; none for all.
    pub allowed_models: Vec<String>,
    /// JSON: name without the provider -> US dollars per million tokens.
    pub prices: String,
    /// When it last answered a test.
    pub tested_at: Option<i64>,
}

impl FromRow<'_, Row> for ModelProvider {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let allowed: String = row.try_get("allowed_models")?;
        let settings = ModelProviderSettings {
            api: row.try_get("api")?,
            base_url: row.try_get("base_url")?,
            key_hint: row.try_get("key_hint")?,
            allowed_models: serde_json::from_str(&allowed).map_err(|error| unreadable("allowed_models", error))?,
            prices: row.try_get("prices")?,
            tested_at: row.try_get("tested_at")?,
        };
        Ok(Self {
            id: row.try_get("id")?,
            org_id: row.try_get("org_id")?,
            provider: row.try_get("provider")?,
            settings,
            created_at: row.try_get("created_at")?,
            changed_at: row.try_get("changed_at")?,
        })
    }
}

impl ModelProvider {
    /// As the audit log has it: an address may hold a secret after its host.
    fn told(&self) -> Value {
        let Self { provider, settings, .. } = self;
        let host = settings.base_url.as_deref().and_then(|url| url.split('/').nth(2));
        json!({
            "provider": provider, "api": settings.api, "host": host, "has_key": settings.key_hint.is_some(),
            "allowed_models": settings.allowed_models,
        })
    }
}

impl Store {
    /// Adds a provider. Its id is known before its key can be encrypted, so the caller makes that of it.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the organization has it already, or as many as `most`; what `seal` says.
    pub async fn create_model_provider(
        &self,
        org_id: i64,
        provider: &str,
        settings: ModelProviderSettings,
        most: i64,
        seal: impl FnOnce(i64) -> Result<Option<Sealed>> + Clone + Send + 'static,
        now: i64,
    ) -> Result<ModelProvider> {
        let provider = provider.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let there: Vec<String> =
                    sqlx::query_scalar("SELECT provider FROM model_providers WHERE org_id = $1 ORDER BY id")
                        .bind(org_id)
                        .fetch_all(&mut tx.conn)
                        .await?;
                if there.contains(&provider) {
                    let sentence = format!("The organization has the provider {provider} already; change that one.");
                    return Err(Error::Conflict(sentence));
                }
                if there.len() >= usize::try_from(most).unwrap_or_default() {
                    return Err(Error::Conflict(format!("An organization has at most {most} providers of models.")));
                }
                let made = sqlx::query_as::<Db, ModelProvider>(
                    "INSERT INTO model_providers (org_id, provider, api, base_url, key_hint, allowed_models, prices, tested_at,
                                                  created_at, changed_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9) RETURNING *",
                )
                .bind(org_id)
                .bind(provider)
                .bind(settings.api)
                .bind(settings.base_url)
                .bind(settings.key_hint)
                .bind(json!(settings.allowed_models).to_string())
                .bind(settings.prices)
                .bind(settings.tested_at)
                .bind(now)
                .fetch_one(&mut tx.conn)
                .await?;
                if let Some(sealed) = seal(made.id)? {
                    secrets::put(tx, &sealed, now).await?;
                }
                let entry = Entry::new("model_provider.created", "model_provider", made.id, made.told());
                audit::record(tx, org_id, entry, now).await?;
                Ok(made)
            })
        })
        .await
    }

    /// An organization's providers, oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn model_providers(&self, org_id: i64) -> Result<Vec<ModelProvider>> {
        let sql = "SELECT * FROM model_providers WHERE org_id = $1 ORDER BY id";
        Ok(sqlx::query_as::<Db, ModelProvider>(sql).bind(org_id).fetch_all(&self.quick).await?)
    }

    /// One provider.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is another organization's.
    pub async fn model_provider(&self, org_id: i64, id: i64) -> Result<ModelProvider> {
        sqlx::query_as::<Db, ModelProvider>("SELECT * FROM model_providers WHERE org_id = $1 AND id = $2")
            .bind(org_id)
            .bind(id)
            .fetch_optional(&self.quick)
            .await?
            .ok_or(Error::NotFound)
    }

    /// Sets a provider, with a new key where one is given.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_model_provider(
        &self,
        org_id: i64,
        id: i64,
        settings: ModelProviderSettings,
        key: Option<Sealed>,
        now: i64,
    ) -> Result<ModelProvider> {
        self.write(move |tx| {
            Box::pin(async move {
                let before = read(tx, org_id, id).await?.told();
                let after = sqlx::query_as::<Db, ModelProvider>(
                    "UPDATE model_providers SET api = $3, base_url = $4, key_hint = $5, allowed_models = $6, prices = $7,
                         tested_at = $8, changed_at = $9
                     WHERE org_id = $1 AND id = $2 RETURNING *",
                )
                .bind(org_id)
                .bind(id)
                .bind(settings.api)
                .bind(settings.base_url)
                .bind(settings.key_hint)
                .bind(json!(settings.allowed_models).to_string())
                .bind(settings.prices)
                .bind(settings.tested_at)
                .bind(now)
                .fetch_one(&mut tx.conn)
                .await?;
                let mut told = after.told();
                if let Some(key) = key {
                    told["key_replaced"] = true.into();
                    secrets::put(tx, &key, now).await?;
                }
                let entry = Entry { before, ..Entry::new("model_provider.changed", "model_provider", id, told) };
                audit::record(tx, org_id, entry, now).await?;
                Ok(after)
            })
        })
        .await
    }

    /// Notes that a provider answered a test.
    ///
    /// # Errors
    /// The database's.
    pub async fn model_provider_answered(&self, org_id: i64, id: i64, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query("UPDATE model_providers SET tested_at = $3 WHERE org_id = $1 AND id = $2")
                    .bind(org_id)
                    .bind(id)
                    .bind(now)
                    .execute(&mut tx.conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Removes a provider with its key.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_model_provider(&self, org_id: i64, id: i64, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let before = read(tx, org_id, id).await?.told();
                secrets::forget(tx, org_id, "model_providers", id).await?;
                sqlx::query("DELETE FROM model_providers WHERE org_id = $1 AND id = $2")
                    .bind(org_id)
                    .bind(id)
                    .execute(&mut tx.conn)
                    .await?;
                let entry = Entry { before, ..Entry::new("model_provider.deleted", "model_provider", id, Value::Null) };
                audit::record(tx, org_id, entry, now).await
            })
        })
        .await
    }

    /// The model of an organization's runs that name none, where it has set one.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn default_model(&self, org_id: i64) -> Result<Option<String>> {
        let found: Option<(Option<String>,)> = sqlx::query_as("SELECT default_model FROM orgs WHERE id = $1")
            .bind(org_id)
            .fetch_optional(&self.quick)
            .await?;
        Ok(found.ok_or(Error::NotFound)?.0)
    }

    /// Sets it; none for the server's.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_default_model(&self, org_id: i64, model: Option<String>, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let before: Option<(Option<String>,)> = sqlx::query_as("SELECT default_model FROM orgs WHERE id = $1")
                    .bind(org_id)
                    .fetch_optional(&mut tx.conn)
                    .await?;
                let before = json!({ "default_model": before.ok_or(Error::NotFound)?.0 });
                sqlx::query("UPDATE orgs SET default_model = $2 WHERE id = $1")
                    .bind(org_id)
                    .bind(&model)
                    .execute(&mut tx.conn)
                    .await?;
                let after = json!({ "default_model": model });
                let entry = Entry { before, ..Entry::new("organization.default_model", "organization", org_id, after) };
                audit::record(tx, org_id, entry, now).await
            })
        })
        .await
    }
}

async fn read(tx: &mut Tx, org_id: i64, id: i64) -> Result<ModelProvider> {
    sqlx::query_as::<Db, ModelProvider>("SELECT * FROM model_providers WHERE org_id = $1 AND id = $2")
        .bind(org_id)
        .bind(id)
        .fetch_optional(&mut tx.conn)
        .await?
        .ok_or(Error::NotFound)
}
