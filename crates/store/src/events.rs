//! Events that webhooks are told of, written in the transaction that makes them true.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::{Change, ChangeKind, Result, Run, dialect::Tx, runs::full_run};

/// Longest part of a run's result that an event carries, in characters.
pub const RESULT: usize = 4000;

/// Largest structured result that an event carries, in bytes; of a larger one there is none.
const OUTPUT: usize = 64 << 10;

/// Events of runs and pull requests, besides `ping`.
pub const EVENTS: [&str; 9] = [
    "run.created",
    "run.started",
    "run.resumed",
    "run.completed",
    "run.failed",
    "run.stopped",
    "pull_request.opened",
    "pull_request.closed",
    "pull_request.merged",
];

/// Whether an endpoint of `runs.org_id` wants the event that [`pattern`] looks for; the parameter is the second one.
pub const IS_WANTED: &str =
    "CASE WHEN EXISTS (SELECT 1 FROM webhook_endpoints WHERE webhook_endpoints.org_id = runs.org_id
     AND enabled = 1 AND (events = '' OR events LIKE $2)) THEN CAST(1 AS BIGINT) ELSE CAST(0 AS BIGINT) END";

/// Finds an event in an endpoint's list.
pub fn pattern(event: &str) -> String {
    format!("% {event} %")
}

/// Writes an event of a run for every endpoint that wants it.
pub async fn emit(tx: &mut Tx, run_id: i64, event: &str, extra: Option<(&str, Value)>, now: i64) -> Result<()> {
    // Usually there is none, and then nothing is read.
    let sql = AssertSqlSafe(format!("SELECT {IS_WANTED} FROM runs WHERE id = $1"));
    let wanted: i64 = sqlx::query_scalar(sql).bind(run_id).bind(pattern(event)).fetch_one(&mut tx.conn).await?;
    if wanted == 0 {
        return Ok(());
    }
    let run = full_run(tx, run_id).await?;
    write(tx, &run, event, extra, now).await
}

/// Writes an event of a run for every endpoint that wants it, as one does.
pub async fn write(tx: &mut Tx, run: &Run, event: &str, extra: Option<(&str, Value)>, now: i64) -> Result<()> {
    let mut data = of_run(run);
    if let (Some((key, value)), Some(fields)) = (extra, data.as_object_mut()) {
        fields.insert(key.to_owned(), value);
    }
    sqlx::query(
        "INSERT INTO webhook_deliveries (org_id, endpoint_id, message_id, event, run_id, data, state, next_try_at,
                                         created_at)
         SELECT org_id, id, $2, $3, $4, $5, 'pending', $6, $6 FROM webhook_endpoints
         WHERE org_id = $1 AND enabled = 1 AND (events = '' OR events LIKE $7) ORDER BY id",
    )
    .bind(run.org_id)
    .bind(format!("evt_{}_{}_{now:x}", event.replace('.', "_"), run.id))
    .bind(event)
    .bind(run.id)
    .bind(data.to_string())
    .bind(now)
    .bind(pattern(event))
    .execute(&mut tx.conn)
    .await?;
    tx.changes.push(told(run.org_id, Some(run.id)));
    Ok(())
}

fn of_run(run: &Run) -> Value {
    let result = run.result.as_ref().map(|text| text.chars().take(RESULT).collect::<String>());
    let output = run.output.as_deref().filter(|text| text.len() <= OUTPUT);
    let output = output.and_then(|text| serde_json::from_str::<Value>(text).ok());
    json!({
        "organization_id": run.org_id,
        "agent_run_id": run.id,
        "user_id": run.user_id,
        "repo_id": run.repo_id,
        "source_type": run.source_type,
        "status": run.status(),
        "reason": run.reason.map(crate::Reason::as_str),
        "branch": run.branch,
        "summary": run.summary,
        "result": result,
        "output": output,
    })
}

/// What wakes the sender.
pub fn told(org_id: i64, run_id: Option<i64>) -> Change {
    Change { org_id, run_id: run_id.unwrap_or_default(), kind: ChangeKind::EventQueued }
}
