//! Runs as pages show them: with their phase, repository, people, branch and what they cost; a list by key, and its changes.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{
        Sse,
        sse::{Event, KeepAlive},
    },
};
use codegen_store::{Change, ChangeKind, Phase, PullRequestAnswer, Reason, Run, RunList};
use futures::Stream;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use super::{
    agent_runs::{GithubPullRequestResponse, no_run},
    auth::{Asked, InOrg, while_allowed},
    body::{Fields, Input},
    error::{ApiError, Refusal, Refusals},
    events::StreamedEvent,
    limits::Limit,
    page::time,
    run_filters::{self, RunsQuery},
    session::Viewing,
};
use crate::App;

/// A viewer hears of a run at most this often.
const PACE: Duration = Duration::from_millis(500);

/// A run as pages show it.
#[derive(Serialize, ToSchema)]
pub struct RunView {
    id: i64,
    organization_id: i64,
    /// The contract's word.
    status: String,
    /// queued, preparing, running, waiting, finishing or done.
    phase: String,
    /// Why it ended.
    reason: Option<String>,
    /// What it was asked; in a list the beginning of it.
    prompt: String,
    summary: Option<String>,
    result: Option<String>,
    source_type: String,
    user_id: i64,
    user_name: Option<String>,
    repo_id: Option<i64>,
    repo_name: Option<String>,
    model: Option<String>,
    base_branch: Option<String>,
    branch: Option<String>,
    diff_stat: Option<String>,
    stop_requested: bool,
    attempt: i64,
    steps: i64,
    tokens_in: i64,
    tokens_out: i64,
    /// US dollars.
    cost: f64,
    created_at: String,
    started_at: Option<String>,
    ended_at: Option<String>,
    /// Entries of its log.
    log_seq: i64,
    pull_requests: Vec<GithubPullRequestResponse>,
    tags: Vec<String>,
    archived: bool,
    /// The structured result, where one was asked for; in a list none.
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<Box<RawValue>>,
}

/// A part of the list of runs.
#[derive(Serialize, ToSchema)]
pub struct RunViews {
    items: Vec<RunView>,
    /// What to give as `before` for the next part; none at the end.
    next: Option<i64>,
}

/// Which part of the list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct RunViewsQuery {
    /// Only those older than this run.
    #[param(required = false)]
    before: Option<i64>,
    /// Most runs.
    #[param(required = false, minimum = 1, maximum = 100, default = 50)]
    limit: i64,
}

impl Input for RunList {
    const LIMIT: Limit = Limit::View;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let before = fields.query_int("before");
        let limit = fields.query_within("limit", 50, 1, 100);
        let filter = run_filters::read(fields);
        Some(Self { before: before?, limit: limit?, filter: filter? })
    }
}

/// The run of a page.
pub struct ViewedRun(pub i64);

impl Input for ViewedRun {
    const LIMIT: Limit = Limit::View;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("agent_run_id")?))
    }
}

/// Runs of one organization as pages show them.
pub(super) async fn views(app: &App, org_id: i64, runs: Vec<Run>) -> Result<Vec<RunView>, ApiError> {
    let (Some(first), Some(last)) = (runs.iter().map(|r| r.id).min(), runs.iter().map(|r| r.id).max()) else {
        return Ok(Vec::new());
    };
    let mut pulls: HashMap<i64, Vec<GithubPullRequestResponse>> = HashMap::new();
    for pull in app.store.pull_requests_between(org_id, first, last).await? {
        pulls.entry(pull.run_id).or_default().push(PullRequestAnswer::from(pull).into());
    }
    let (mut repos, mut users) = (HashMap::new(), HashMap::new());
    for run in &runs {
        if let Some(id) = run.repo_id.filter(|id| !repos.contains_key(id)) {
            repos.insert(id, app.store.repo_name(org_id, id).await?);
        }
        if let Entry::Vacant(unknown) = users.entry(run.user_id) {
            let member = app.store.org_member(org_id, run.user_id).await?;
            unknown.insert(member.map(|m| m.user.full_name.unwrap_or(m.user.github_username)));
        }
    }
    let view = |run: Run| RunView {
        status: run.status().to_owned(),
        phase: run.phase.as_str().to_owned(),
        reason: run.reason.map(Reason::as_str).map(str::to_owned),
        user_name: users.get(&run.user_id).cloned().flatten(),
        repo_name: run.repo_id.and_then(|id| repos.get(&id).cloned()),
        created_at: time(run.created_at),
        started_at: run.started_at.map(time),
        ended_at: run.ended_at.map(time),
        pull_requests: pulls.remove(&run.id).unwrap_or_default(),
        id: run.id,
        organization_id: run.org_id,
        prompt: run.prompt,
        summary: run.summary,
        result: run.result,
        source_type: run.source_type,
        user_id: run.user_id,
        repo_id: run.repo_id,
        model: run.model,
        base_branch: run.base_branch,
        branch: run.branch,
        diff_stat: run.diff_stat,
        stop_requested: run.stop_requested && run.phase != Phase::Done,
        attempt: run.attempt,
        steps: run.steps,
        tokens_in: run.tokens_in,
        tokens_out: run.tokens_out,
        cost: run.cost,
        log_seq: run.log_seq,
        tags: run.tags,
        archived: run.archived,
        // What was checked when it was kept; a row that holds something else shows none.
        output: run.output.and_then(|text| RawValue::from_string(text).ok()),
    };
    Ok(runs.into_iter().map(view).collect())
}

/// One run as pages show it.
pub(super) async fn view(app: &App, run: Run) -> Result<RunView, ApiError> {
    let views = views(app, run.org_id, vec![run]).await?;
    views.into_iter().next().ok_or_else(|| ApiError::internal(&"a run has no view"))
}

/// Runs as pages list them, newest first.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/runs/views", tag = "web", operation_id = "list_run_views",
    params(("org_id" = i64, Path), RunViewsQuery, RunsQuery),
    responses((status = 200, description = "Successful Response", body = RunViews), Refusals))]
pub async fn list(State(app): State<Arc<App>>, asked: Asked<InOrg, RunList>) -> Result<Json<RunViews>, ApiError> {
    let org_id = asked.by.org_id;
    let limit = asked.input.limit;
    let runs = app.store.list_runs(org_id, asked.input).await?;
    let full = i64::try_from(runs.len()).is_ok_and(|n| n == limit);
    let next = runs.last().map(|run| run.id).filter(|_| full);
    Ok(Json(RunViews { items: views(&app, org_id, runs).await?, next }))
}

/// A run as its page shows it.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/run/{agent_run_id}/view", tag = "web", operation_id = "get_run_view",
    params(("agent_run_id" = i64, Path), ("org_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = RunView),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn get(State(app): State<Arc<App>>, asked: Asked<InOrg, ViewedRun>) -> Result<Json<RunView>, ApiError> {
    let run = app.store.run(asked.by.org_id, asked.input.0).await.map_err(no_run)?;
    Ok(Json(view(&app, run).await?))
}

/// Runs of the organization as they change, each as `event: run`, or with its id as `event: gone` once it is removed; no run
/// more often than twice a second.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/runs/changes", tag = "web", operation_id = "get_run_changes",
    params(("org_id" = i64, Path)),
    responses((status = 200, description = "Server-sent events", body = StreamedEvent, content_type = "text/event-stream"),
        Refusals))]
pub async fn changes(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    asked: Asked<InOrg, Viewing>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (out, events) = mpsc::channel(64);
    let org_id = asked.by.org_id;
    let viewed = app.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = app.shutdown.cancelled() => {}
            outcome = follow(&app, org_id, &out) => if let Err(error) = outcome {
                tracing::error!(org.id = org_id, ?error, "following an organization's runs");
            },
        }
    });
    Sse::new(while_allowed::<InOrg, _>(viewed, &headers, org_id, ReceiverStream::new(events)))
        .keep_alive(KeepAlive::default())
}

/// Returns when the viewer has left.
async fn follow(app: &App, org_id: i64, out: &mpsc::Sender<Result<Event, Infallible>>) -> Result<(), ApiError> {
    let mut changes = app.store.subscribe();
    let mut changed = BTreeSet::new();
    let mut tick = tokio::time::interval(PACE);
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Ok(Change { org_id: org, run_id, kind }) if org == org_id && kind != ChangeKind::AccessChanged => {
                    changed.insert(run_id);
                }
                // What was missed cannot be known here; the page asks for its list anew.
                Ok(Change { kind: ChangeKind::Missed, .. }) | Err(RecvError::Lagged(_)) => if out.send(Ok(Event::default().event("lagged").data("{}"))).await.is_err() {
                    return Ok(());
                },
                Ok(_) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            _ = tick.tick(), if !changed.is_empty() => for id in std::mem::take(&mut changed) {
                let event = match app.store.run(org_id, id).await {
                    Ok(run) => {
                        let view = view(app, run).await?;
                        let data = serde_json::to_string(&view).map_err(|error| ApiError::internal(&error))?;
                        Event::default().event("run").data(data)
                    }
                    Err(codegen_store::Error::NotFound) => Event::default().event("gone").data(id.to_string()),
                    Err(error) => return Err(error.into()),
                };
                if out.send(Ok(event)).await.is_err() {
                    return Ok(());
                }
            },
            () = out.closed() => return Ok(()),
        }
    }
}
