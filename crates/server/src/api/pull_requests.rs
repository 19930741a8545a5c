//! Pull requests, as far as codegen keeps them itself.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Asked, InOrg},
    body::{Fields, Input},
    error::{ApiError, Refusal, Refusals},
    page::time,
};
use crate::App;

/// A pull request.
#[derive(Serialize, ToSchema)]
pub struct PullRequestResponse {
    id: i64,
    agent_run_id: i64,
    number: i64,
    title: String,
    body: String,
    url: String,
    /// `open`, `closed` or `merged`.
    state: String,
    head_branch_name: String,
    base_branch_name: String,
    created_at: String,
}

/// A pull request's id.
pub struct PullRequestId(i64);

impl Input for PullRequestId {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("pr_id")?))
    }
}

/// A pull request as it is now.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/prs/{pr_id}", tag = "pull-requests",
    operation_id = "get_pull_request_v1_organizations__org_id__prs__pr_id__get",
    params(("org_id" = i64, Path), ("pr_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = PullRequestResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn get(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, PullRequestId>,
) -> Result<Json<PullRequestResponse>, ApiError> {
    let found = app.store.pull_request(asked.by.org_id, asked.input.0).await.map_err(|error| match error {
        codegen_store::Error::NotFound => ApiError::not_found("Pull request not found."),
        other => other.into(),
    })?;
    Ok(Json(PullRequestResponse {
        id: found.id,
        agent_run_id: found.run_id,
        number: found.number,
        title: found.title,
        body: found.body,
        url: found.url,
        state: found.state,
        head_branch_name: found.head_branch,
        base_branch_name: found.base_branch,
        created_at: time(found.created_at),
    }))
}
