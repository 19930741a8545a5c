//! A run's log as its page shows it: the newest entries first, each cut to what is seen before it is unfolded.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use codegen_store::LogRow;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::{
    agent_runs::no_run,
    auth::{Asked, Caller, InOrg},
    body::{Fields, Input},
    error::{ApiError, Loc, Refusal, Refusals, ValidationError},
    limits::Limit,
    run_views::{RunView, ViewedRun, view},
};
use crate::App;

/// Entries of a first screen.
const SCREEN: i64 = 100;
/// Stages of a first screen.
const STAGES: i64 = 40;
/// Organizations that are searched for a run.
const ORGANIZATIONS: i64 = 100;
/// Bytes of an output that are sent before it is unfolded.
const TAIL: usize = 6 << 10;
/// Most matches of a search.
const MATCHES: i64 = 10_000;

/// An entry of a run's log.
#[derive(Serialize, ToSchema)]
pub struct TraceEntry {
    seq: i64,
    kind: String,
    /// When, in Unix milliseconds.
    at: i64,
    /// What it says. A long output has only its end here, and `output_cut` says how many bytes were left out.
    #[schema(value_type = serde_json::Map<String, serde_json::Value>)]
    body: Map<String, Value>,
}

/// A part of a run's log.
#[derive(Serialize, ToSchema)]
pub struct TraceEntries {
    /// Oldest first.
    entries: Vec<TraceEntry>,
}

/// Everything for the first screen of a run's page.
#[derive(Serialize, ToSchema)]
pub struct RunScreen {
    run: RunView,
    /// How the sandbox was prepared, oldest first.
    stages: Vec<TraceEntry>,
    /// The newest entries, oldest first; the stream of events goes on from the last.
    entries: Vec<TraceEntry>,
}

/// Numbers of entries.
#[derive(Serialize, ToSchema)]
pub struct Matches {
    /// Oldest first.
    seqs: Vec<i64>,
}

/// Which entries.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct EntriesQuery {
    /// Only those before this one; the newest when left out.
    #[param(required = false)]
    before: Option<i64>,
    /// Most entries.
    #[param(required = false, minimum = 1, maximum = 500, default = 100)]
    limit: i64,
}

/// Which entries of which run.
pub struct Entries {
    run_id: i64,
    before: Option<i64>,
    limit: i64,
}

impl Input for Entries {
    const LIMIT: Limit = Limit::View;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let run_id = fields.path_id("agent_run_id");
        let before = fields.query_int("before");
        let limit = fields.query_within("limit", 100, 1, 500);
        Some(Self { run_id: run_id?, before: before?, limit: limit? })
    }
}

/// Which entry of which run.
pub struct One {
    run_id: i64,
    seq: i64,
}

impl Input for One {
    const LIMIT: Limit = Limit::View;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (run_id, seq) = (fields.path_id("agent_run_id"), fields.path_id("seq"));
        Some(Self { run_id: run_id?, seq: seq? })
    }
}

/// What to look for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct SearchQuery {
    /// Text, in either case.
    #[param(min_length = 1)]
    text: String,
}

/// What to look for in which run.
pub struct Search {
    run_id: i64,
    text: String,
}

impl Input for Search {
    const LIMIT: Limit = Limit::View;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let run_id = fields.path_id("agent_run_id");
        let text = fields.query_needed_text("text");
        Some(Self { run_id: run_id?, text: text? })
    }
}

/// Entries for a page, oldest first, from rows that are newest first.
fn shown(rows: Vec<LogRow>) -> Result<Vec<TraceEntry>, ApiError> {
    let mut finished = HashSet::new();
    // Calls under way, by id: their name and arguments are in the reply before them.
    let mut under_way: HashMap<String, usize> = HashMap::new();
    let mut entries: Vec<TraceEntry> = Vec::with_capacity(rows.len());
    for row in rows {
        let mut body: Map<String, Value> =
            serde_json::from_str(&row.body).map_err(|error| ApiError::internal(&error))?;
        let call = body.get("call_id").and_then(Value::as_str).map(str::to_owned);
        match row.kind.as_str() {
            "reply" => {
                // The calls have entries of their own; what the provider wants back is not for people.
                let calls = body.remove("calls");
                body.remove("opaque");
                for call in calls.iter().filter_map(Value::as_array).flatten() {
                    let place = call.get("id").and_then(Value::as_str).and_then(|id| under_way.remove(id));
                    let Some(started) = place.and_then(|place| entries.get_mut(place)) else { continue };
                    for key in ["name", "input"] {
                        started.body.insert(key.to_owned(), call.get(key).cloned().unwrap_or_default());
                    }
                }
            }
            "call_finished" => {
                cut_output(&mut body);
                finished.extend(call);
            }
            "call_started" => match call {
                Some(id) if !finished.contains(&id) => {
                    under_way.insert(id, entries.len());
                }
                Some(_) | None => body.clear(),
            },
            _ => {}
        }
        entries.push(TraceEntry { seq: row.seq, kind: row.kind, at: row.created_at, body });
    }
    entries.reverse();
    Ok(entries)
}

/// Leaves the end of a long output.
fn cut_output(body: &mut Map<String, Value>) {
    let Some(Value::String(output)) = body.get_mut("output") else { return };
    if output.len() <= TAIL {
        return;
    }
    let mut from = output.len() - TAIL;
    while !output.is_char_boundary(from) {
        from += 1;
    }
    // From the beginning of a line, where one is near.
    from += output[from..].find('\n').filter(|at| *at < 500).map_or(0, |at| at + 1);
    let rest = output.split_off(from);
    let cut = std::mem::replace(output, rest).len();
    body.insert("output_cut".to_owned(), cut.into());
}

/// The first screen of a run's page, in whichever of the caller's organizations the run is.
#[utoipa::path(get, path = "/v1/runs/{agent_run_id}", tag = "web", operation_id = "get_run_screen",
    params(("agent_run_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = RunScreen),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn screen(State(app): State<Arc<App>>, asked: Asked<Caller, ViewedRun>) -> Result<Json<RunScreen>, ApiError> {
    let id = asked.input.0;
    let (orgs, _) = app.store.orgs_of_user(asked.by.user.id, 0, ORGANIZATIONS).await?;
    for org in orgs {
        let run = match app.store.run(org.id, id).await {
            Ok(run) => run,
            Err(codegen_store::Error::NotFound) => continue,
            Err(error) => return Err(error.into()),
        };
        // What comes in between is also in the stream, which begins after the last entry here.
        let entries = shown(app.store.log_before(org.id, id, None, SCREEN).await?)?;
        let mut stages = app.store.stages(org.id, id, STAGES).await?;
        stages.reverse();
        return Ok(Json(RunScreen { run: view(&app, run).await?, stages: shown(stages)?, entries }));
    }
    Err(no_run(codegen_store::Error::NotFound))
}

/// Entries of a run before one of them.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/run/{agent_run_id}/entries", tag = "web",
    operation_id = "list_run_entries", params(("agent_run_id" = i64, Path), ("org_id" = i64, Path), EntriesQuery),
    responses((status = 200, description = "Successful Response", body = TraceEntries),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn entries(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, Entries>,
) -> Result<Json<TraceEntries>, ApiError> {
    let Entries { run_id, before, limit } = asked.input;
    let rows = app.store.log_before(asked.by.org_id, run_id, before, limit).await.map_err(no_run)?;
    Ok(Json(TraceEntries { entries: shown(rows)? }))
}

/// The whole output of a tool call.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/run/{agent_run_id}/entries/{seq}/output", tag = "web",
    operation_id = "get_run_output",
    params(("agent_run_id" = i64, Path), ("org_id" = i64, Path), ("seq" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = String, content_type = "text/plain"),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn output(State(app): State<Arc<App>>, asked: Asked<InOrg, One>) -> Result<Response, ApiError> {
    let One { run_id, seq } = asked.input;
    let org_id = asked.by.org_id;
    let none = || ApiError::not_found("This entry has no output.");
    let row = app.store.log_entry(org_id, run_id, seq).await.map_err(|error| match error {
        codegen_store::Error::NotFound => none(),
        other => other.into(),
    })?;
    let body: Value = serde_json::from_str(&row.body).map_err(|error| ApiError::internal(&error))?;
    let kept = match body.get("full_output_blob").and_then(Value::as_str) {
        Some(name) => app.store.blob(org_id, run_id, name).await?,
        None => None,
    };
    let bytes = match (kept, body.get("output").and_then(Value::as_str)) {
        (Some(bytes), _) => bytes,
        (None, Some(text)) => text.as_bytes().to_owned(),
        (None, None) => return Err(none()),
    };
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], bytes)
        .into_response())
}

/// Which entries of a run have a text.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/run/{agent_run_id}/matches", tag = "web",
    operation_id = "find_in_run", params(("agent_run_id" = i64, Path), ("org_id" = i64, Path), SearchQuery),
    responses((status = 200, description = "Successful Response", body = Matches),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn matches(State(app): State<Arc<App>>, asked: Asked<InOrg, Search>) -> Result<Json<Matches>, ApiError> {
    let Search { run_id, text } = asked.input;
    if text.len() > 1000 {
        let loc = vec![Loc::Key("query".to_owned()), Loc::Key("text".to_owned())];
        let msg = "String should have at most 1000 characters".to_owned();
        return Err(ApiError::Invalid(vec![ValidationError { loc, msg, r#type: "string_too_long" }]));
    }
    let seqs = app.store.find_in_log(asked.by.org_id, run_id, &text, MATCHES).await.map_err(no_run)?;
    Ok(Json(Matches { seqs }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Entries from bodies that are oldest first, as rows are from the end.
    fn entries(bodies: &[Value]) -> Vec<TraceEntry> {
        let rows = bodies.iter().zip(1..).map(|(body, seq)| LogRow {
            run_id: 1,
            seq,
            kind: body["kind"].as_str().unwrap_or_default().to_owned(),
            body: body.to_string(),
            contract: false,
            created_at: 0,
        });
        let mut rows: Vec<LogRow> = rows.collect();
        rows.reverse();
        shown(rows).unwrap_or_else(|_| panic!("the bodies are JSON"))
    }

    #[test]
    fn a_long_output_has_its_end_from_the_beginning_of_a_line_and_says_what_is_missing() {
        let output: String = (0..5000).map(|n| format!("zeile {n} ä\n")).collect();
        let found = entries(&[json!({"kind": "call_finished", "call_id": "a", "output": output})]);
        let rest = found[0].body["output"].as_str().unwrap_or_default();
        assert!(rest.len() <= TAIL && rest.starts_with("zeile ") && rest.ends_with("zeile 4999 ä\n"), "{rest}");
        assert_eq!(found[0].body["output_cut"].as_u64(), Some((output.len() - rest.len()) as u64));
        let one_line = "ä".repeat(TAIL);
        let found = entries(&[json!({"kind": "call_finished", "call_id": "a", "output": one_line})]);
        assert!(found[0].body["output"].as_str().is_some_and(|rest| rest.len() <= TAIL && !rest.is_empty()));
    }

    #[test]
    fn a_call_under_way_says_what_it_is_and_one_that_has_ended_says_it_once() {
        let calls = json!([{"id": "a", "name": "shell", "input": {"command": "true"}}, {"id": "b", "name": "read", "input": {}}]);
        let found = entries(&[
            json!({"kind": "reply", "text": "", "calls": calls, "opaque": {"thinking": "secret"}}),
            json!({"kind": "call_started", "call_id": "a"}),
            json!({"kind": "call_started", "call_id": "b"}),
            json!({"kind": "call_finished", "call_id": "b", "name": "read", "input": {}, "output": "x"}),
        ]);
        assert!(found[0].body.get("calls").is_none() && found[0].body.get("opaque").is_none());
        assert_eq!(found[1].body["input"]["command"], json!("true"));
        assert!(found[2].body.is_empty());
        assert_eq!(found[3].body["output"], json!("x"));
        assert_eq!(found.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}
