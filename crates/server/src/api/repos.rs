//! Repositories, and their setup commands.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use codegen_store::{Repo, RepoChange};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Admin, Asked, InOrg, Manager},
    body::{Fields, Input, USUAL},
    error::{ApiError, Loc, Refusal, Refusals, ValidationError},
    limits::Limit,
    page::{Page, Paging},
    tokens::name,
};
use crate::{App, forge::git};

const LONGEST_SETUP: usize = 100_000;
const LONGEST_DESCRIPTION: usize = 2000;

/// A repository.
#[derive(Serialize, ToSchema)]
pub struct RepoResponse {
    id: i64,
    name: String,
    full_name: String,
    #[schema(required)]
    description: Option<String>,
    github_id: String,
    organization_id: i64,
    #[schema(required)]
    visibility: Option<String>,
    #[schema(required)]
    archived: Option<bool>,
    setup_status: String,
    #[schema(required)]
    language: Option<String>,
}

impl From<Repo> for RepoResponse {
    fn from(repo: Repo) -> Self {
        Self {
            id: repo.id,
            name: repo.name,
            full_name: repo.full_name,
            description: repo.description,
            github_id: repo.id.to_string(),
            organization_id: repo.org_id,
            visibility: repo.visibility,
            archived: Some(repo.archived),
            setup_status: repo.setup_status,
            language: repo.language,
        }
    }
}

/// A repository to add.
#[derive(ToSchema)]
pub struct AddRepoInput {
    /// A git URL, or a folder of the server where its settings allow that.
    #[schema(value_type = String)]
    url: SecretString,
}

impl Input for AddRepoInput {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let url = fields.text("url")?.trim().to_owned();
        let loc = ["body", "url"];
        if let Err(error) = git::check_origin(&url) {
            fields.fail(&loc, "value_error", format!("Value error, {error}"));
            return None;
        }
        if git::local_path(&url).is_some() && !fields.app.config.allow_local_repos {
            fields.fail(
                &loc,
                "value_error",
                "Value error, this server does not take folders: its setting allow_local_repos is off",
            );
            return None;
        }
        Some(Self { url: url.into() })
    }
}

/// A repository's setup commands.
#[derive(Serialize, ToSchema)]
pub struct SetupCommands {
    /// Run at the start of each run, in one shell whose environment the agent inherits.
    setup_commands: String,
}

/// A repository's id.
pub struct RepoId(i64);

impl Input for RepoId {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("repo_id")?))
    }
}

/// New setup commands of a repository.
pub struct PutSetupCommands(i64, String);

impl Input for PutSetupCommands {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let id = fields.path_id("repo_id");
        let commands = fields.text("setup_commands");
        if commands.as_ref().is_some_and(|text| text.chars().count() > LONGEST_SETUP) {
            let sentence = format!("String should have at most {LONGEST_SETUP} characters");
            fields.fail(&["body", "setup_commands"], "string_too_long", sentence);
        }
        Some(Self(id?, commands?))
    }
}

/// What to change of a repository; what is absent stays.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct RepoChangeInput {
    /// What people call it.
    #[schema(min_length = 1, max_length = 200, pattern = "\\S")]
    name: Option<String>,
    description: Option<String>,
    /// The branch that runs start from.
    default_branch: Option<String>,
    /// Takes no new runs.
    archived: Option<bool>,
}

/// Which repository, and what of it.
pub struct ChangedRepo(i64, RepoChange);

impl Input for ChangedRepo {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let id = fields.path_id("repo_id");
        let new_name = match fields.optional_text("name") {
            Some(Some(_)) => name(fields, "name").map(Some),
            other => other,
        };
        let description = fields.optional_text("description");
        if description.iter().flatten().any(|text| text.chars().count() > LONGEST_DESCRIPTION) {
            let msg = format!("String should have at most {LONGEST_DESCRIPTION} characters");
            fields.fail(&["body", "description"], "string_too_long", msg);
        }
        let default_branch = fields.optional_text("default_branch");
        let strange = |name: &str| {
            name.is_empty()
                || name.starts_with('-')
                || name.contains("..")
                || name.chars().any(|c| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c))
        };
        if default_branch.iter().flatten().any(|name| strange(name)) {
            fields.fail(&["body", "default_branch"], "value_error", "Value error, this is no name of a branch");
        }
        let archived = fields.optional_flag("archived");
        let change = RepoChange {
            name: new_name?,
            description: description?,
            default_branch: default_branch?,
            archived: archived?,
        };
        Some(Self(id?, change))
    }
}

/// 404 in the contract's words.
pub(super) fn no_repo(id: i64) -> impl Fn(codegen_store::Error) -> ApiError {
    move |error| match error {
        codegen_store::Error::NotFound => ApiError::not_found(format!("Repository {id} not found.")),
        other => other.into(),
    }
}

/// Repositories of the organization.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/repos", tag = "repositories",
    operation_id = "get_repositories_v1_organizations__org_id__repos_get", params(("org_id" = i64, Path), Paging),
    responses((status = 200, description = "Successful Response", body = Page<RepoResponse>), Refusals))]
pub async fn list(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, Paging>,
) -> Result<Json<Page<RepoResponse>>, ApiError> {
    let paging = asked.input;
    let (repos, total) = app.store.repos(asked.by.org_id, paging.skip, paging.limit).await?;
    Ok(Json(paging.page(repos.into_iter().map(Into::into).collect(), total)))
}

/// The same, where the Python client looks for it. Where there are none, one item with the id 0 says so.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/repositories", tag = "repositories",
    operation_id = "list_repositories_v1_organizations__org_id__repositories_get", params(("org_id" = i64, Path), Paging),
    responses((status = 200, description = "Successful Response", body = Page<RepoResponse>), Refusals))]
pub async fn list_alias(
    app: State<Arc<App>>,
    asked: Asked<InOrg, Paging>,
) -> Result<Json<Page<RepoResponse>>, ApiError> {
    let org_id = asked.by.org_id;
    let Json(mut page) = list(app, asked).await?;
    if page.total == 0 {
        // That client shows eight repositories that it makes up in place of an empty list, and leaves out an id of 0 that is chosen.
        page.items.push(RepoResponse {
            id: 0,
            name: "(none yet)".to_owned(),
            full_name: "(none yet)".to_owned(),
            description: Some("Add one: codegen repo add URL".to_owned()),
            github_id: "0".to_owned(),
            organization_id: org_id,
            visibility: None,
            archived: Some(false),
            setup_status: "NOT_STARTED".to_owned(),
            language: None,
        });
    }
    Ok(Json(page))
}

/// Adds a repository, or finds the one with this address.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/repos", tag = "repositories",
    operation_id = "add_repository_v1_organizations__org_id__repos_post", params(("org_id" = i64, Path)),
    request_body = AddRepoInput,
    responses((status = 200, description = "Successful Response", body = RepoResponse), Refusals))]
pub async fn add(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, AddRepoInput>,
) -> Result<Json<RepoResponse>, ApiError> {
    let AddRepoInput { url } = asked.input;
    let probe = git::probe(url.expose_secret()).await.map_err(|error| {
        let loc = vec![Loc::Key("body".to_owned()), Loc::Key("url".to_owned())];
        ApiError::Invalid(vec![ValidationError { loc, msg: format!("Value error, {error}"), r#type: "value_error" }])
    })?;
    let added = app.add_repo(asked.by.0.org_id, &url, probe.default_branch.as_deref()).await;
    Ok(Json(added.map_err(|error| ApiError::internal(&format!("{error:#}")))?.into()))
}

/// Branches of a repository, as its origin has them now.
#[derive(Serialize, ToSchema)]
pub struct BranchesResponse {
    default_branch: Option<String>,
    branches: Vec<String>,
}

/// Branches to start a run from.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/repos/{repo_id}/branches", tag = "web",
    operation_id = "list_branches", params(("org_id" = i64, Path), ("repo_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = BranchesResponse),
        (status = 404, description = "Not Found", body = Refusal),
        (status = 502, description = "The origin does not answer", body = Refusal), Refusals))]
pub async fn branches(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, RepoId>,
) -> Result<Json<BranchesResponse>, ApiError> {
    let id = asked.input.0;
    let repo = app.store.repo(asked.by.org_id, id).await.map_err(no_repo(id))?;
    let unreadable = |error: anyhow::Error| ApiError::Refused(StatusCode::BAD_GATEWAY, error.to_string());
    let origin = app.origin(&repo).await.map_err(unreadable)?;
    let probe = git::probe(origin.expose_secret())
        .await
        .map_err(|error| ApiError::Refused(StatusCode::BAD_GATEWAY, error.to_string()))?;
    let default_branch = repo.default_branch.or(probe.default_branch);
    Ok(Json(BranchesResponse { default_branch, branches: probe.branches }))
}

/// A repository's setup commands.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/repos/{repo_id}/setup-commands", tag = "repositories",
    operation_id = "get_setup_commands_v1_organizations__org_id__repos__repo_id__setup_commands_get",
    params(("org_id" = i64, Path), ("repo_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = SetupCommands),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn setup_commands(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, RepoId>,
) -> Result<Json<SetupCommands>, ApiError> {
    let id = asked.input.0;
    let repo = app.store.repo(asked.by.org_id, id).await.map_err(no_repo(id))?;
    Ok(Json(SetupCommands { setup_commands: repo.setup_commands }))
}

/// Replaces a repository's setup commands.
#[utoipa::path(put, path = "/v1/organizations/{org_id}/repos/{repo_id}/setup-commands", tag = "repositories",
    operation_id = "put_setup_commands_v1_organizations__org_id__repos__repo_id__setup_commands_put",
    params(("org_id" = i64, Path), ("repo_id" = i64, Path)), request_body = SetupCommands,
    responses((status = 200, description = "Successful Response", body = SetupCommands),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn put_setup_commands(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, PutSetupCommands>,
) -> Result<Json<SetupCommands>, ApiError> {
    let PutSetupCommands(id, commands) = asked.input;
    let repo = app.store.set_setup_commands(asked.by.0.org_id, id, &commands).await.map_err(no_repo(id))?;
    Ok(Json(SetupCommands { setup_commands: repo.setup_commands }))
}

/// One repository.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/repos/{repo_id}", tag = "repositories",
    operation_id = "get_repository", params(("org_id" = i64, Path), ("repo_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = RepoResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn get(State(app): State<Arc<App>>, asked: Asked<InOrg, RepoId>) -> Result<Json<RepoResponse>, ApiError> {
    let id = asked.input.0;
    Ok(Json(app.store.repo(asked.by.org_id, id).await.map_err(no_repo(id))?.into()))
}

/// Changes a repository's settings.
#[utoipa::path(patch, path = "/v1/organizations/{org_id}/repos/{repo_id}", tag = "repositories",
    operation_id = "update_repository", params(("org_id" = i64, Path), ("repo_id" = i64, Path)),
    request_body = RepoChangeInput,
    responses((status = 200, description = "Successful Response", body = RepoResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn update(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, ChangedRepo>,
) -> Result<Json<RepoResponse>, ApiError> {
    let ChangedRepo(id, change) = asked.input;
    Ok(Json(app.store.change_repo(asked.by.0.org_id, id, change, app.now()).await.map_err(no_repo(id))?.into()))
}

/// Deletes a repository: its runs under way are stopped, what they did stays to be looked at.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}/repos/{repo_id}", tag = "repositories",
    operation_id = "delete_repository", params(("org_id" = i64, Path), ("repo_id" = i64, Path)),
    responses((status = 204, description = "Deleted"), (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn delete(State(app): State<Arc<App>>, asked: Asked<Admin, RepoId>) -> Result<StatusCode, ApiError> {
    let id = asked.input.0;
    app.store.delete_repo(asked.by.0.org_id, id, app.now()).await.map_err(no_repo(id))?;
    Ok(StatusCode::NO_CONTENT)
}
