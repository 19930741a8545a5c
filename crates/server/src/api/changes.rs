//! What a run changed: kept with an ended run, and of a live one what its workspace showed after its last turn.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use codegen_store::{Phase, Run};
use serde_json::json;

use super::{
    agent_runs::{RunId, no_run},
    auth::{Asked, InOrg},
    error::{ApiError, Refusal, Refusals},
};
use crate::{
    App,
    forge::git::{self, Kept, Mirror},
};

/// What a run changed, as a patch, or with `Accept: application/json` as `{diff, stat}`. Of a live run: so far.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/run/{agent_run_id}/diff", tag = "agents",
    operation_id = "get_agent_run_diff_v1_organizations__org_id__agent_run__agent_run_id__diff_get",
    params(("agent_run_id" = i64, Path), ("org_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = String, content_type = "text/plain"),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn diff(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    asked: Asked<InOrg, RunId>,
) -> Result<Response, ApiError> {
    let org_id = asked.by.org_id;
    let run = app.store.run(org_id, asked.input.0).await.map_err(no_run)?;
    let so_far = anywhere(&app, &run).await.unwrap_or_else(|error| {
        // Its mirror may be just being made; what an earlier part of the run changed is known without it.
        tracing::debug!(run.id = run.id, error = format!("{error:#}"), "comparing the workspace of a live run");
        None
    });
    let (patch, stat) = match so_far {
        Some(change) => change,
        None => {
            let patch = app.store.blob(org_id, run.id, "diff").await?.unwrap_or_default();
            (patch, run.diff_stat.unwrap_or_default())
        }
    };
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("application/json") {
        let body = json!({"diff": String::from_utf8_lossy(&patch), "stat": stat});
        return Ok(Json(body).into_response());
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], patch)
        .into_response())
}

/// From the worker that has the run, else from here.
async fn anywhere(app: &App, run: &Run) -> anyhow::Result<Option<(Vec<u8>, String)>> {
    if let Some(elsewhere) = &app.elsewhere
        && run.phase != Phase::Done
        && let Some(change) = elsewhere.changes(run.id).await?
    {
        return Ok(Some(change));
    }
    Ok(so_far(app, run).await?)
}

/// The change that the kept workspace of a live run shows, and its summary. None where nothing is kept beyond its last commit.
pub async fn so_far(app: &App, run: &Run) -> Result<Option<(Vec<u8>, String)>, git::Error> {
    let (false, Some(repo_id)) = (run.phase == Phase::Done, run.repo_id) else { return Ok(None) };
    let mirror = Mirror::of(&app.config.data_dir, repo_id);
    let Some(commit) = mirror.kept(Kept::Workspace(run.id)).await? else { return Ok(None) };
    let base = run.base_commit.as_deref();
    Ok(Some((mirror.diff(base, &commit).await?, mirror.diff_stat(base, &commit).await?)))
}
