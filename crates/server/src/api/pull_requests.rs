//! Pull requests that runs opened: as they are, and their state changed at their forge.

use std::sync::Arc;

use axum::{Json, extract::State};
use codegen_store::PullRequest;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Asked, InOrg},
    body::{Fields, Input, USUAL},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    page::time,
};
use crate::{
    App,
    forge::{self, Edit},
};

/// A pull request.
#[derive(Serialize, ToSchema)]
pub struct PullRequestResponse {
    id: i64,
    agent_run_id: i64,
    number: i64,
    title: String,
    body: String,
    url: String,
    /// `open`, `draft`, `closed` or `merged`.
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
    let found = app.store.pull_request(asked.by.org_id, asked.input.0).await.map_err(no_pull_request)?;
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

fn no_pull_request(error: codegen_store::Error) -> ApiError {
    match error {
        codegen_store::Error::NotFound => ApiError::not_found("Pull request not found."),
        other => other.into(),
    }
}

/// What to do to a pull request.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct EditPRInput {
    state: EditState,
}

/// What a pull request shall be.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "documentation")]
pub enum EditState {
    Open,
    Closed,
    Draft,
    ReadyForReview,
}

/// A pull request as it is after a change, or why there was none.
#[derive(Serialize, ToSchema)]
pub struct EditPRResponse {
    success: bool,
    url: Option<String>,
    number: Option<i64>,
    title: Option<String>,
    /// `open`, `draft`, `closed` or `merged`.
    state: Option<String>,
    error: Option<String>,
}

fn edit_of(fields: &mut Fields<'_>) -> Option<Edit> {
    Some(match fields.needed_word("state", &["open", "closed", "draft", "ready_for_review"])?.as_str() {
        "open" => Edit::Open,
        "closed" => Edit::Close,
        "draft" => Edit::Draft,
        _ => Edit::ReadyForReview,
    })
}

/// A change of a pull request.
pub struct EditPullRequest {
    /// Where the path names the repository.
    repo_id: Option<i64>,
    id: i64,
    edit: Edit,
}

impl Input for EditPullRequest {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::PullRequests;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let repo_id =
            if fields.path_text("repo_id").is_some() { fields.path_id("repo_id").map(Some) } else { Some(None) };
        let (id, edit) = (fields.path_id("pr_id"), edit_of(fields));
        Some(Self { repo_id: repo_id?, id: id?, edit: edit? })
    }
}

/// Opens, closes, or takes back a pull request, or asks for its review.
#[utoipa::path(patch, path = "/v1/organizations/{org_id}/prs/{pr_id}", tag = "pull-requests",
    operation_id = "edit_pull_request_simple_v1_organizations__org_id__prs__pr_id__patch",
    params(("org_id" = i64, Path), ("pr_id" = i64, Path)), request_body = EditPRInput,
    responses((status = 200, description = "Successful Response", body = EditPRResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn edit(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, EditPullRequest>,
) -> Result<Json<EditPRResponse>, ApiError> {
    let EditPullRequest { repo_id, id, edit } = asked.input;
    let org_id = asked.by.org_id;
    let found = app.store.pull_request(org_id, id).await.map_err(no_pull_request)?;
    if repo_id.is_some_and(|repo_id| repo_id != found.repo_id) {
        return Err(no_pull_request(codegen_store::Error::NotFound));
    }
    let (shown, error) = match change(&app, &found, edit).await {
        Ok(changed) => (changed, None),
        Err(forge::Error::Refused(why) | forge::Error::Unreachable(why)) => (found, Some(why)),
        Err(forge::Error::Store(error)) => return Err(error.into()),
    };
    Ok(Json(EditPRResponse {
        success: error.is_none(),
        url: Some(shown.url),
        number: Some(shown.number),
        title: Some(shown.title),
        state: Some(shown.state),
        error,
    }))
}

/// The same where the path names the repository.
#[utoipa::path(patch, path = "/v1/organizations/{org_id}/repos/{repo_id}/prs/{pr_id}", tag = "pull-requests",
    operation_id = "edit_pull_request_v1_organizations__org_id__repos__repo_id__prs__pr_id__patch",
    params(("org_id" = i64, Path), ("repo_id" = i64, Path), ("pr_id" = i64, Path)), request_body = EditPRInput,
    responses((status = 200, description = "Successful Response", body = EditPRResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn edit_in_repo(
    app: State<Arc<App>>,
    asked: Asked<InOrg, EditPullRequest>,
) -> Result<Json<EditPRResponse>, ApiError> {
    edit(app, asked).await
}

/// Changes it at its forge, and then what is kept of it.
async fn change(app: &App, found: &PullRequest, edit: Edit) -> Result<PullRequest, forge::Error> {
    let repo = app.store.repo(found.org_id, found.repo_id).await?;
    let forge = forge::of_origin(&app.config, &app.store, &repo.origin)?;
    if forge.name() != found.forge {
        let why = format!("the pull request is at {}, which the settings have no token for", found.forge);
        return Err(forge::Error::Refused(why));
    }
    let changed = forge.edit(found, edit).await?;
    Ok(app.store.set_pull_request_state(found.org_id, found.id, &changed.state, app.now()).await?)
}
