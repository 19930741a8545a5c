//! Sessions of Claude Code on people's own machines: each is a run with a trace that its machine tells line by line.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use codegen_store::{Reason, Run, SessionStatus};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    agent_runs::web_url,
    auth::{Asked, InOrg},
    body::{Fields, Input, USUAL},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    transcript::{self, Told},
};
use crate::App;

/// Characters of a session's name, which is a UUID.
const LONGEST_NAME: usize = 64;
const STATUSES: [&str; 4] = ["ACTIVE", "COMPLETE", "ERROR", "CANCELLED"];
/// Lines that come at once.
const MOST_LINES: i64 = 500;
/// Entries before a result in which its call is looked for.
const BACK: i64 = 200;

/// A session that begins.
#[derive(ToSchema)]
pub struct ClaudeSessionInput {
    /// Its name, usually a UUID.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    session_id: String,
}

impl Input for ClaudeSessionInput {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::SessionLog;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { session_id: fields.word("session_id", LONGEST_NAME)? })
    }
}

/// The run of a session.
#[derive(Serialize, ToSchema)]
pub struct ClaudeSessionResponse {
    agent_run_id: i64,
    session_id: String,
    status: String,
    /// Where people watch it.
    web_url: String,
}

impl ClaudeSessionResponse {
    fn new(app: &App, session_id: String, run: &Run) -> Self {
        Self { agent_run_id: run.id, session_id, status: run.status().to_owned(), web_url: web_url(app, run.id) }
    }
}

/// Where a session is.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct ClaudeSessionStatusInput {
    status: ClaudeSessionStatus,
}

/// Words for where a session is.
#[derive(ToSchema)]
#[schema(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(dead_code, reason = "documentation")]
pub enum ClaudeSessionStatus {
    Active,
    Complete,
    Error,
    Cancelled,
}

/// Where which session is.
pub struct SetStatus(String, SessionStatus);

impl Input for SetStatus {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::SessionLog;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let session_id = fields.path_word("session_id", LONGEST_NAME);
        let status = fields.needed_word("status", &STATUSES).map(|word| match word.as_str() {
            "ACTIVE" => SessionStatus::Active,
            "COMPLETE" => SessionStatus::Ended(Reason::Complete),
            "ERROR" => SessionStatus::Ended(Reason::Error),
            _ => SessionStatus::Ended(Reason::Cancelled),
        });
        Some(Self(session_id?, status?))
    }
}

/// A line of a session's transcript.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct ClaudeSessionLogInput {
    /// As Claude Code wrote it.
    log: serde_json::Map<String, Value>,
}

/// A line of which session's transcript.
pub struct AppendLine(String, String);

impl Input for AppendLine {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::SessionLog;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let session_id = fields.path_word("session_id", LONGEST_NAME);
        let line = fields.object("log");
        Some(Self(session_id?, line?))
    }
}

/// What was kept of a line.
#[derive(Serialize, ToSchema)]
pub struct ClaudeSessionLogResponse {
    agent_run_id: i64,
    /// Entries that the run's log gained.
    entries: usize,
}

fn no_session(error: codegen_store::Error) -> ApiError {
    match error {
        codegen_store::Error::NotFound => ApiError::not_found("Session not found."),
        other => other.into(),
    }
}

/// Begins a session, or finds it: a session is one run, however often it is said to begin.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/claude_code/session", tag = "claude-code",
    operation_id = "create_claude_session_v1_organizations__org_id__claude_code_session_post",
    params(("org_id" = i64, Path)), request_body = ClaudeSessionInput,
    responses((status = 200, description = "Successful Response", body = ClaudeSessionResponse), Refusals))]
pub async fn create(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, ClaudeSessionInput>,
) -> Result<Json<ClaudeSessionResponse>, ApiError> {
    let session_id = asked.input.session_id;
    let run = app.store.claude_session(asked.by.org_id, asked.by.member.user.id, &session_id, app.now()).await?;
    Ok(Json(ClaudeSessionResponse::new(&app, session_id, &run)))
}

/// Says where a session is; a later word replaces an earlier one.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/claude_code/session/{session_id}/status", tag = "claude-code",
    operation_id = "set_claude_session_status_v1_organizations__org_id__claude_code_session__session_id__status_post",
    params(("org_id" = i64, Path), ("session_id" = String, Path)), request_body = ClaudeSessionStatusInput,
    responses((status = 200, description = "Successful Response", body = ClaudeSessionResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn set_status(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, SetStatus>,
) -> Result<Json<ClaudeSessionResponse>, ApiError> {
    let SetStatus(session_id, status) = asked.input;
    let set = app.store.set_claude_session_status(asked.by.org_id, &session_id, status, app.now()).await;
    let run = set.map_err(no_session)?;
    Ok(Json(ClaudeSessionResponse::new(&app, session_id, &run)))
}

/// Tells a line of a session's transcript; lines are kept in the order in which they come.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/claude_code/session/{session_id}/log", tag = "claude-code",
    operation_id = "add_claude_session_log_v1_organizations__org_id__claude_code_session__session_id__log_post",
    params(("org_id" = i64, Path), ("session_id" = String, Path)), request_body = ClaudeSessionLogInput,
    responses((status = 200, description = "Successful Response", body = ClaudeSessionLogResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn add_log(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, AppendLine>,
) -> Result<Json<ClaudeSessionLogResponse>, ApiError> {
    let AppendLine(session_id, line) = asked.input;
    let org_id = asked.by.org_id;
    let (run_id, _) = app.store.claude_session_run(org_id, &session_id).await.map_err(no_session)?;
    let line = serde_json::from_str(&line).map_err(|error| ApiError::internal(&error))?;
    let entries = keep(&app, org_id, &session_id, run_id, vec![line], None).await?;
    Ok(Json(ClaudeSessionLogResponse { agent_run_id: run_id, entries }))
}

/// Keeps lines of a session's transcript; says how many entries the run's log gained.
async fn keep(
    app: &App,
    org_id: i64,
    session_id: &str,
    run_id: i64,
    lines: Vec<Value>,
    numbers: Option<(i64, i64)>,
) -> Result<usize, ApiError> {
    let replies = if lines.iter().any(transcript::needs_replies) {
        let rows = app.store.log_before(org_id, run_id, None, BACK).await?;
        rows.iter()
            .rev()
            .filter(|row| row.kind == "reply")
            .filter_map(|row| serde_json::from_str(&row.body).ok())
            .collect()
    } else {
        Vec::new()
    };
    let Told { mut news, outputs } = transcript::read(lines, replies);
    for (name, bytes) in outputs {
        app.store.put_blob(org_id, run_id, &name, &bytes).await?;
    }
    news.lines = numbers;
    let gained = news.entries.len();
    app.store.append_claude_session(org_id, session_id, news, app.now()).await.map_err(no_session)?;
    Ok(gained)
}

/// Lines of a session's transcript, by their number.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct ClaudeSessionLinesInput {
    /// Number of the first of them in the transcript, from 0.
    #[schema(minimum = 0)]
    from: i64,
    /// As Claude Code wrote them.
    #[schema(min_items = 1, max_items = 500)]
    lines: Vec<serde_json::Map<String, Value>>,
}

/// Lines of which session's transcript.
pub struct AppendLines(String, i64, Vec<Value>);

impl Input for AppendLines {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::SessionLog;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let session_id = fields.path_word("session_id", LONGEST_NAME);
        let from = fields.int("from").and_then(|from| {
            if from < 0 {
                let msg = "Input should be greater than or equal to 0";
                fields.fail(&["body", "from"], "greater_than_equal", msg);
            }
            (from >= 0).then_some(from)
        });
        let lines = fields.objects("lines", usize::try_from(MOST_LINES).unwrap_or(usize::MAX));
        Some(Self(session_id?, from?, lines?))
    }
}

/// How far a session's transcript is known.
#[derive(Serialize, ToSchema)]
pub struct ClaudeSessionLinesResponse {
    agent_run_id: i64,
    /// Lines that are known: the next one's number.
    lines: i64,
    /// Entries that the run's log gained.
    entries: usize,
}

/// Tells lines of a session's transcript by their number: however often a line is told, it is kept once. Lines that are known
/// already are left out; ones that would leave a gap are refused.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/claude_code/session/{session_id}/lines", tag = "claude-code",
    operation_id = "add_claude_session_lines",
    params(("org_id" = i64, Path), ("session_id" = String, Path)), request_body = ClaudeSessionLinesInput,
    responses((status = 200, description = "Successful Response", body = ClaudeSessionLinesResponse),
        (status = 404, description = "Not Found", body = Refusal),
        (status = 409, description = "Lines before these are missing", body = Refusal), Refusals))]
pub async fn add_lines(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, AppendLines>,
) -> Result<Json<ClaudeSessionLinesResponse>, ApiError> {
    let AppendLines(session_id, from, lines) = asked.input;
    let org_id = asked.by.org_id;
    let (run_id, known) = app.store.claude_session_run(org_id, &session_id).await.map_err(no_session)?;
    if from > known {
        let sentence = format!("Lines before these are missing: {known} are known.");
        return Err(ApiError::Refused(StatusCode::CONFLICT, sentence));
    }
    let skipped = usize::try_from(known - from).unwrap_or(usize::MAX);
    let new: Vec<Value> = lines.into_iter().skip(skipped).collect();
    let count = i64::try_from(new.len()).unwrap_or(i64::MAX);
    let entries = match count {
        0 => 0,
        _ => keep(&app, org_id, &session_id, run_id, new, Some((known, count))).await?,
    };
    Ok(Json(ClaudeSessionLinesResponse { agent_run_id: run_id, lines: known + count, entries }))
}
