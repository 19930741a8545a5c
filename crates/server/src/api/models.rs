//! Models to choose from, and the one of runs that name none.

use std::sync::Arc;

use axum::{Json, extract::State};
use codegen_agent::models::{ConnectError, prices};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Admin, Asked, Caller, InOrg},
    body::{Fields, Input},
    error::{ApiError, Loc, Refusals, ValidationError},
    limits::Limit,
    session::Viewing,
};
use crate::{App, models::NoModel};

/// Models to choose from; others may be named too.
#[derive(Serialize, ToSchema)]
pub struct ModelsResponse {
    /// The one of runs that name none.
    default_model: Option<String>,
    /// Those whose price is known.
    models: Vec<String>,
}

/// Models to choose from.
#[utoipa::path(get, path = "/v1/models", tag = "web", operation_id = "list_models",
    responses((status = 200, description = "Successful Response", body = ModelsResponse), Refusals))]
pub async fn list(
    State(app): State<Arc<App>>,
    _asked: Asked<Caller, Viewing>,
) -> Result<Json<ModelsResponse>, ApiError> {
    let models = prices::listed().map(str::to_owned).collect();
    Ok(Json(ModelsResponse { default_model: app.config.default_model(), models }))
}

/// Models that runs of an organization may name.
#[derive(Serialize, ToSchema)]
pub struct OrganizationModels {
    /// The one of runs that name none: the organization's setting, else one of its accounts', else the server's.
    default_model: Option<String>,
    /// Whether the organization has set it.
    default_is_set: bool,
    /// Providers may have others, too, where the organization does not keep to some.
    models: Vec<ModelChoice>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub struct ModelChoice {
    /// As runs name it.
    name: String,
    provider: String,
    /// Whose account is used: `organization` or `server`.
    account: &'static str,
}

async fn of_org(app: &App, org_id: i64) -> Result<OrganizationModels, ApiError> {
    let choice = |choice: crate::models::Choice| ModelChoice {
        name: choice.name,
        provider: choice.provider,
        account: if choice.own { "organization" } else { "server" },
    };
    Ok(OrganizationModels {
        default_model: app.default_model(org_id).await?,
        default_is_set: app.store.default_model(org_id).await?.is_some(),
        models: app.choices(org_id).await?.into_iter().map(choice).collect(),
    })
}

/// Models that runs of the organization may name.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/models", tag = "models", operation_id = "list_organization_models",
    params(("org_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = OrganizationModels), Refusals))]
pub async fn list_of_org(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, Viewing>,
) -> Result<Json<OrganizationModels>, ApiError> {
    Ok(Json(of_org(&app, asked.by.org_id).await?))
}

/// The model of runs that name none.
#[derive(ToSchema)]
pub struct DefaultModelInput {
    /// As `provider/name`; null for the server's.
    #[schema(required = true)]
    model: Option<String>,
}

impl Input for DefaultModelInput {
    const BODY: usize = 64 << 10;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        if !fields.required("model") {
            return None;
        }
        let model = fields.optional_text("model");
        refuse_scripts(fields, &model);
        Some(Self { model: model?.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()) })
    }
}

/// Sets the model of the organization's runs that name none.
#[utoipa::path(put, path = "/v1/organizations/{org_id}/default-model", tag = "models", operation_id = "set_default_model",
    params(("org_id" = i64, Path)), request_body = DefaultModelInput,
    responses((status = 200, description = "Successful Response", body = OrganizationModels), Refusals))]
pub async fn put_default(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, DefaultModelInput>,
) -> Result<Json<OrganizationModels>, ApiError> {
    let (org_id, name) = (asked.by.0.org_id, asked.input.model);
    if name.is_some() {
        check(&app, org_id, name.as_deref()).await?;
    }
    app.store.set_default_model(org_id, name, app.now()).await?;
    Ok(Json(of_org(&app, org_id).await?))
}

/// A script is a file of this machine, as a local repository is a folder of it.
pub(super) fn refuse_scripts(fields: &mut Fields<'_>, model: &Option<Option<String>>) {
    let scripted = model.iter().flatten().any(|name| name.starts_with("scripted:"));
    if scripted && !fields.app.config.allow_local_repos {
        let sentence = "Value error, this server takes no scripts: its setting allow_local_repos is off";
        fields.fail(&["body", "model"], "value_error", sentence);
    }
}

/// Whether an organization's runs can use this model, or its default one.
///
/// # Errors
/// 422 with what to set.
pub(super) async fn check(app: &App, org_id: i64, name: Option<&str>) -> Result<(), ApiError> {
    match app.model(org_id, name).await {
        Ok(_) => Ok(()),
        Err(NoModel::Connect(ConnectError::Client(error))) => Err(ApiError::internal(&error)),
        Err(error) => Err(invalid("model", &error.to_string())),
    }
}

/// 422 for a value of the body that was looked at later than the others.
pub(super) fn invalid(key: &str, sentence: &str) -> ApiError {
    let loc = vec![Loc::Key("body".to_owned()), Loc::Key(key.to_owned())];
    ApiError::Invalid(vec![ValidationError { loc, msg: format!("Value error, {sentence}"), r#type: "value_error" }])
}
