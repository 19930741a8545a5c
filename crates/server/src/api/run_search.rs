//! Words in prompts, logs and results.

use std::{collections::HashMap, sync::Arc};

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    agent_runs::{AgentRunResponse, response},
    auth::{Asked, InOrg},
    body::{Fields, Input},
    error::{ApiError, Refusals},
};
use crate::App;

/// Characters that are looked for at most.
const LONGEST: usize = 500;

/// What to look for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct SearchQuery {
    /// Words, each of which the run must have; between quotation marks, side by side.
    #[param(min_length = 1, max_length = 500)]
    text: String,
    /// Only runs older than this one.
    #[param(required = false)]
    before: Option<i64>,
    /// Most runs.
    #[param(required = false, minimum = 1, maximum = 100, default = 20)]
    limit: i64,
}

/// Words to look for.
pub struct Search {
    text: String,
    before: Option<i64>,
    limit: i64,
}

impl Input for Search {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let text = fields.query_needed_text("text");
        if text.as_ref().is_some_and(|text| text.chars().count() > LONGEST) {
            let msg = format!("String should have at most {LONGEST} characters");
            fields.fail(&["query", "text"], "string_too_long", msg);
            return None;
        }
        let before = fields.query_int("before");
        let limit = fields.query_within("limit", 20, 1, 100);
        Some(Self { text: text?, before: before?, limit: limit? })
    }
}

/// A run that has the words.
#[derive(Serialize, ToSchema)]
pub struct FoundRun {
    run: AgentRunResponse,
    matches: Vec<FoundMatch>,
}

/// Where it has them.
#[derive(Serialize, ToSchema)]
pub struct FoundMatch {
    /// Entry of its log.
    seq: i64,
    /// Words around.
    snippet: String,
    /// The words that were found in it, each as where it begins and ends in characters.
    highlights: Vec<[usize; 2]>,
}

/// Runs that have the words, newest first.
#[derive(Serialize, ToSchema)]
pub struct FoundRuns {
    items: Vec<FoundRun>,
    /// What to give as `before` for the next part; none at the end.
    next: Option<i64>,
}

/// Takes the marks out of a snippet and says where they were.
fn unmarked(marked: &str) -> (String, Vec<[usize; 2]>) {
    let (mut text, mut at, mut begun, mut highlights) = (String::new(), 0, None, Vec::new());
    for c in marked.chars() {
        match c {
            '\u{2}' => begun = Some(at),
            '\u{3}' => highlights.extend(begun.take().map(|begin| [begin, at])),
            c => {
                text.push(c);
                at += 1;
            }
        }
    }
    (text, highlights)
}

/// Looks for words in prompts, logs and results.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/runs/search", tag = "agents", operation_id = "search_agent_runs",
    params(("org_id" = i64, Path), SearchQuery),
    responses((status = 200, description = "Successful Response", body = FoundRuns), Refusals))]
pub async fn search(State(app): State<Arc<App>>, asked: Asked<InOrg, Search>) -> Result<Json<FoundRuns>, ApiError> {
    let org_id = asked.by.org_id;
    let Search { text, before, limit } = asked.input;
    let found = app.store.search(org_id, &text, before, limit).await?;
    let full = i64::try_from(found.len()).is_ok_and(|n| n == limit);
    let next = found.last().map(|found| found.run_id).filter(|_| full);
    let mut shown: HashMap<i64, AgentRunResponse> = HashMap::with_capacity(found.len());
    for found in &found {
        match app.store.run_answer(org_id, found.run_id).await {
            Ok(run) => drop(shown.insert(run.id, response(&app, run)?)),
            // Removed meanwhile.
            Err(codegen_store::Error::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let items = found.into_iter().filter_map(|found| {
        let run = shown.remove(&found.run_id)?;
        let matches = found.matches.into_iter().map(|place| {
            let (snippet, highlights) = unmarked(&place.snippet);
            FoundMatch { seq: place.seq, snippet, highlights }
        });
        Some(FoundRun { run, matches: matches.collect() })
    });
    Ok(Json(FoundRuns { items: items.collect(), next }))
}
