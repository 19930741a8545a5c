//! Organizations.

use std::sync::Arc;

use axum::{Json, extract::State};
use codegen_store::Org;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Asked, Caller},
    error::{ApiError, Refusals},
    page::{Page, Paging},
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
