//! Runs put away, tagged or removed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use codegen_store::{ChangeKind, Phase, Role, Run};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    agent_runs::{AgentRunResponse, no_run, response},
    auth::{Asked, InOrg},
    body::{Fields, Input, USUAL},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
};
use crate::{App, forge::git::Mirror, run::destroy_all_of};
use axum::http::StatusCode;

/// Tags of a run.
const MOST_TAGS: usize = 20;
/// Characters of a tag.
const LONGEST_TAG: usize = 64;
/// How long a removal waits for its run to stop.
const STOPPING: Duration = Duration::from_secs(30);

/// Reads tags: words without blanks at their ends, each once.
pub fn tags(fields: &mut Fields<'_>) -> Option<Vec<String>> {
    let given = fields.optional_texts("tags")?;
    let wrong = |tag: &String| {
        tag.is_empty() || tag.chars().count() > LONGEST_TAG || tag.trim() != tag || tag.chars().any(char::is_control)
    };
    let mut failed = false;
    for (index, _) in given.iter().enumerate().filter(|(_, tag)| wrong(tag)) {
        let msg = format!("Value error, a tag has 1 to {LONGEST_TAG} characters and no blank at its ends");
        fields.fail_item("tags", index, "value_error", msg);
        failed = true;
    }
    let mut seen = BTreeSet::new();
    let tags: Vec<String> = given.into_iter().filter(|tag| seen.insert(tag.clone())).collect();
    if tags.len() > MOST_TAGS {
        fields.fail(&["body", "tags"], "too_long", format!("List should have at most {MOST_TAGS} items"));
        failed = true;
    }
    (!failed).then_some(tags)
}

/// A word on a run: at most 64 characters, no blank at its ends, no control character.
#[derive(ToSchema)]
#[schema(pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]{0,62}[^\s\x00-\x1f\x7f-\x9f])?$")]
#[allow(dead_code, reason = "documentation")]
pub struct Tag(String);

/// What to change of a run. What is absent or null stays.
#[derive(ToSchema)]
pub struct EditAgentRunInput {
    /// Leave it out of lists, or take it back.
    archived: Option<bool>,
    /// Words on it, all of them.
    #[schema(value_type = Option<Vec<Tag>>, max_items = 20)]
    tags: Option<Vec<String>>,
    #[schema(ignore)]
    run_id: i64,
}

impl Input for EditAgentRunInput {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let run_id = fields.path_id("agent_run_id");
        let archived = fields.optional_flag("archived");
        let given = fields.has("tags");
        let tags = tags(fields);
        Some(Self { run_id: run_id?, archived: archived?, tags: Some(tags?).filter(|_| given) })
    }
}

/// A run to remove.
pub struct Removed(i64);

impl Input for Removed {
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("agent_run_id")?))
    }
}

/// That a run is gone.
#[derive(Serialize, ToSchema)]
pub struct RemovedResponse {
    /// Always true.
    success: bool,
}

/// Archives a run or takes it back, and sets its tags.
#[utoipa::path(patch, path = "/v1/organizations/{org_id}/agent/run/{agent_run_id}", tag = "agents", operation_id = "edit_agent_run",
    params(("agent_run_id" = i64, Path), ("org_id" = i64, Path)), request_body = EditAgentRunInput,
    responses((status = 200, description = "Successful Response", body = AgentRunResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn edit(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, EditAgentRunInput>,
) -> Result<Json<AgentRunResponse>, ApiError> {
    let EditAgentRunInput { archived, tags, run_id } = asked.input;
    let run = app.store.set_run(asked.by.org_id, run_id, archived, tags, app.now()).await.map_err(no_run)?;
    Ok(Json(response(&app, run)?))
}

/// Removes a run with all that is kept of it, for good; a live one is stopped first. Branches and pull requests that it
/// pushed stay where they are. Managers may remove any run, others their own.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}/agent/run/{agent_run_id}", tag = "agents", operation_id = "delete_agent_run",
    params(("agent_run_id" = i64, Path), ("org_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = RemovedResponse),
        (status = 404, description = "Not Found", body = Refusal),
        (status = 409, description = "It has not stopped yet", body = Refusal), Refusals))]
pub async fn remove(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, Removed>,
) -> Result<Json<RemovedResponse>, ApiError> {
    let (org_id, run_id) = (asked.by.org_id, asked.input.0);
    let run = app.store.run(org_id, run_id).await.map_err(no_run)?;
    if run.user_id != asked.by.member.user.id && asked.by.member.role == Role::Member {
        return Err(ApiError::Refused(
            StatusCode::FORBIDDEN,
            "Only managers and admins remove others' runs.".to_owned(),
        ));
    }
    stop(&app, &run).await?;
    // Before its row goes, so that one that is kept for a while is still known to be the run's.
    if let Err(error) = destroy_all_of(&app, run_id).await {
        tracing::warn!(run.id = run_id, %error, "looking for a removed run's sandboxes; they are looked for again later");
    }
    if let Some(repo_id) = run.repo_id {
        let forgotten = Mirror::of(&app.config.data_dir, repo_id).forget_run(run_id).await;
        forgotten.map_err(|error| ApiError::internal(&error))?;
    }
    app.store.remove_run(org_id, run_id, app.now()).await.map_err(no_run)?;
    Ok(Json(RemovedResponse { success: true }))
}

/// Returns once the run is done.
async fn stop(app: &App, run: &Run) -> Result<(), ApiError> {
    let mut changes = app.store.subscribe();
    let mut now = app.store.request_stop(run.org_id, run.id, app.now()).await.map_err(no_run)?;
    let deadline = tokio::time::Instant::now() + STOPPING;
    while now.phase != Phase::Done {
        match tokio::time::timeout_at(deadline, changes.recv()).await {
            Err(_) => {
                let sentence = "The run has not stopped yet; try again.";
                return Err(ApiError::Refused(StatusCode::CONFLICT, sentence.to_owned()));
            }
            Ok(Ok(change)) if change.run_id != run.id && change.kind != ChangeKind::Missed => continue,
            Ok(_) => {}
        }
        now = app.store.run(run.org_id, run.id).await.map_err(no_run)?;
    }
    Ok(())
}
