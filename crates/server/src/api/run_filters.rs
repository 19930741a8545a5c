//! The query of lists of runs: which, and which part of them.

use codegen_store::{Cursor, RunFilter};
use utoipa::IntoParams;

use super::{
    agent_runs::{ApiAgentRunSourceType, SOURCES},
    body::{Fields, Input},
    page::Paging,
    words,
};

/// Words of the contract.
pub const STATUSES: [&str; 9] = [
    "ACTIVE",
    "PAUSED",
    "COMPLETE",
    "ERROR",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "MAX_ITERATIONS_REACHED",
    "OUT_OF_TOKENS",
];

/// Which runs.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct RunsQuery {
    /// Only those of this user.
    #[param(nullable, required = false)]
    user_id: Option<i64>,
    /// Only those from here.
    #[param(nullable, required = false)]
    source_type: Option<ApiAgentRunSourceType>,
    /// Only those of this status.
    #[param(required = false, schema_with = words::run_status)]
    status: Option<String>,
    /// Only those in this repository.
    #[param(required = false)]
    repo_id: Option<i64>,
    /// Only those with this tag.
    #[param(required = false)]
    tag: Option<String>,
    /// Only those made at this time (ISO 8601; a day alone is its beginning in UTC) or later.
    #[param(required = false, format = DateTime)]
    since: Option<String>,
    /// Only those made before this time.
    #[param(required = false, format = DateTime)]
    until: Option<String>,
    /// Only those whose prompt, log or result has these words.
    #[param(required = false)]
    text: Option<String>,
    /// Archived ones, in place of the others.
    #[param(required = false)]
    archived: Option<bool>,
}

/// A page by key: quick at any depth, and not moved by what is new.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct CursorQuery {
    /// The page of those older than this run, in place of `skip`.
    #[param(required = false)]
    before: Option<i64>,
    /// The page of those newer than this run.
    #[param(required = false)]
    after: Option<i64>,
}

/// Reads which runs are asked for.
pub fn read(fields: &mut Fields<'_>) -> Option<RunFilter> {
    let user_id = fields.query_int("user_id");
    let source_type = fields.query_word("source_type", &SOURCES);
    let status = fields.query_word("status", &STATUSES);
    let repo_id = fields.query_int("repo_id");
    let since = fields.query_time("since");
    let until = fields.query_time("until");
    let archived = fields.query_flag("archived");
    Some(RunFilter {
        user_id: user_id?,
        source_type: source_type?,
        status: status?,
        repo_id: repo_id?,
        tag: fields.query_text("tag"),
        since: since?,
        until: until?,
        text: fields.query_text("text"),
        archived: archived?,
    })
}

/// Which runs, and which part of them.
pub struct Runs {
    /// Which.
    pub filter: RunFilter,
    /// The part by skip.
    pub paging: Paging,
    /// The part.
    pub from: Cursor,
}

impl Input for Runs {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let filter = read(fields);
        let paging = fields.page();
        let before = fields.query_int("before");
        let after = fields.query_int("after");
        let (before, after, paging) = (before?, after?, paging?);
        let from = match (before, after) {
            (None, None) => Cursor::Skip(paging.skip),
            (Some(id), None) => Cursor::Before(id),
            (None, Some(id)) => Cursor::After(id),
            (Some(_), Some(_)) => {
                fields.fail(&["query", "after"], "value_error", "Value error, give before or after, not both");
                return None;
            }
        };
        Some(Self { filter: filter?, paging, from })
    }
}
