//! Organizations.

use std::sync::Arc;

use axum::{Json, extract::State};
use codegen_store::{Org, OrgChange};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Asked, Caller, InOrg, Manager, Person},
    body::{Fields, Input, USUAL},
    error::{ApiError, Refusals},
    limits::Limit,
    page::{Page, Paging},
    tokens::name,
    users::Nothing,
};
use crate::App;

/// An organization.
#[derive(Serialize, ToSchema)]
pub struct OrganizationResponse {
    id: i64,
    name: String,
    settings: OrganizationSettings,
}

/// What an organization lets its runs do.
#[derive(Serialize, ToSchema)]
pub struct OrganizationSettings {
    /// Push branches and open pull requests.
    #[schema(required = false, default = true)]
    enable_pr_creation: bool,
    /// Read rule files of the repository.
    #[schema(required = false, default = true)]
    enable_rules_detection: bool,
}

impl From<Org> for OrganizationResponse {
    fn from(org: Org) -> Self {
        let settings = OrganizationSettings {
            enable_pr_creation: org.enable_pr_creation,
            enable_rules_detection: org.enable_rules_detection,
        };
        Self { id: org.id, name: org.name, settings }
    }
}

/// Organizations the caller belongs to.
#[utoipa::path(get, path = "/v1/organizations", tag = "organizations",
    operation_id = "get_organizations_v1_organizations_get", params(Paging),
    responses((status = 200, description = "Successful Response", body = Page<OrganizationResponse>), Refusals))]
pub async fn list(
    State(app): State<Arc<App>>,
    asked: Asked<Caller, Paging>,
) -> Result<Json<Page<OrganizationResponse>>, ApiError> {
    let paging = asked.input;
    let (orgs, total) = app.store.orgs_of_user(asked.by.user.id, paging.skip, paging.limit).await?;
    Ok(Json(paging.page(orgs.into_iter().map(Into::into).collect(), total)))
}

/// An organization to make.
#[derive(ToSchema)]
pub struct NewOrganizationInput {
    #[schema(min_length = 1, max_length = 200, pattern = "\\S")]
    name: String,
}

impl Input for NewOrganizationInput {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { name: name(fields, "name")? })
    }
}

/// Makes an organization, whose admin the caller is.
#[utoipa::path(post, path = "/v1/organizations", tag = "organizations", operation_id = "create_organization",
    request_body = NewOrganizationInput,
    responses((status = 200, description = "Successful Response", body = OrganizationResponse), Refusals))]
pub async fn create(
    State(app): State<Arc<App>>,
    asked: Asked<Person, NewOrganizationInput>,
) -> Result<Json<OrganizationResponse>, ApiError> {
    let org = app.store.found_org(&asked.input.name, asked.by.0.user.id, app.now()).await?;
    Ok(Json(org.into()))
}

/// One organization.
#[utoipa::path(get, path = "/v1/organizations/{org_id}", tag = "organizations", operation_id = "get_organization",
    params(("org_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = OrganizationResponse), Refusals))]
pub async fn get(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, Nothing>,
) -> Result<Json<OrganizationResponse>, ApiError> {
    Ok(Json(app.store.org(asked.by.org_id).await?.into()))
}

/// What to change of an organization; what is absent stays.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct OrganizationChangeInput {
    #[schema(min_length = 1, max_length = 200, pattern = "\\S")]
    name: Option<String>,
    /// Push branches and open pull requests.
    enable_pr_creation: Option<bool>,
    /// Read rule files of the repository.
    enable_rules_detection: Option<bool>,
}

impl Input for OrgChange {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let new_name = match fields.optional_text("name") {
            Some(Some(_)) => name(fields, "name").map(Some),
            other => other,
        };
        let enable_pr_creation = fields.optional_flag("enable_pr_creation");
        let enable_rules_detection = fields.optional_flag("enable_rules_detection");
        Some(Self {
            name: new_name?,
            enable_pr_creation: enable_pr_creation?,
            enable_rules_detection: enable_rules_detection?,
        })
    }
}

/// Renames an organization or changes its settings.
#[utoipa::path(patch, path = "/v1/organizations/{org_id}", tag = "organizations", operation_id = "update_organization",
    params(("org_id" = i64, Path)), request_body = OrganizationChangeInput,
    responses((status = 200, description = "Successful Response", body = OrganizationResponse), Refusals))]
pub async fn update(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, OrgChange>,
) -> Result<Json<OrganizationResponse>, ApiError> {
    Ok(Json(app.store.update_org(asked.by.0.org_id, asked.input, app.now()).await?.into()))
}
