//! A run with its log, in the contract's shape.

use std::sync::Arc;

use axum::{Json, extract::State};
use codegen_store::LogRow;
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};
use utoipa::{IntoParams, ToSchema};

use super::{
    agent_runs::{no_run, raw, web_url},
    auth::{Asked, InOrg},
    body::{Fields, Input},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    page::{Paging, time},
};
use crate::App;

/// A run with a part of its log.
#[derive(Serialize, ToSchema)]
pub struct AgentRunWithLogsResponse {
    id: i64,
    organization_id: i64,
    status: Option<String>,
    created_at: Option<String>,
    web_url: Option<String>,
    result: Option<String>,
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    metadata: Option<Box<RawValue>>,
    logs: Vec<AgentRunLogResponse>,
    total_logs: Option<i64>,
    page: Option<i64>,
    size: Option<i64>,
    pages: Option<i64>,
}

/// One entry.
#[derive(Serialize, ToSchema)]
pub struct AgentRunLogResponse {
    agent_run_id: i64,
    /// Its number in the run's log, for `after` and `before`.
    seq: i64,
    created_at: Option<String>,
    tool_name: Option<String>,
    message_type: Option<String>,
    thought: Option<String>,
    observation: Option<Observation>,
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    tool_input: Option<Map<String, Value>>,
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    tool_output: Option<Map<String, Value>>,
}

/// What was seen.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Observation {
    /// An object.
    Object(Map<String, Value>),
    /// A text.
    Text(String),
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

fn log(row: LogRow) -> AgentRunLogResponse {
    let body: Value = serde_json::from_str(&row.body).unwrap_or_default();
    let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut log = AgentRunLogResponse {
        agent_run_id: row.run_id,
        seq: row.seq,
        created_at: Some(time(row.created_at)),
        tool_name: None,
        message_type: None,
        thought: None,
        observation: None,
        tool_input: None,
        tool_output: None,
    };
    let kind = match row.kind.as_str() {
        "call_finished" => {
            let field = |key: &str| body.get(key).cloned().unwrap_or_default();
            let output = object(json!({
                "output": field("output"), "exit_code": field("exit_code"),
                "is_error": field("is_error"), "duration_ms": field("duration_ms"),
            }));
            log.tool_name = text("name");
            log.tool_input = Some(object(field("input")));
            log.observation = Some(Observation::Object(output.clone()));
            log.tool_output = Some(output);
            "ACTION"
        }
        "reply" => {
            log.thought = text("text");
            "PLAN_EVALUATION"
        }
        "user_message" => {
            log.observation = text("text").map(Observation::Text);
            "USER_MESSAGE"
        }
        "result" => {
            log.observation = text("text").map(Observation::Text);
            if body.get("is_error") == Some(&Value::Bool(true)) { "ERROR" } else { "FINAL_ANSWER" }
        }
        "pull_request" => {
            log.observation = Some(Observation::Object(object(body.clone())));
            "INITIAL_PR_GENERATION"
        }
        _ => {
            log.observation = Some(Observation::Object(object(body.clone())));
            "ACTION"
        }
    };
    log.message_type = Some(kind.to_owned());
    log
}

/// Order of entries.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct LogsQuery {
    /// Newest first.
    #[param(required = false, default = false)]
    reverse: bool,
    /// Only entries after this one.
    #[param(required = false)]
    after: Option<i64>,
    /// Only entries before this one.
    #[param(required = false)]
    before: Option<i64>,
}

/// Which run, which part of its log, in which order.
pub struct Logs {
    run_id: i64,
    paging: Paging,
    reverse: bool,
    /// Entries between these.
    between: (i64, i64),
}

impl Input for Logs {
    const LIMIT: Limit = Limit::Logs;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let run_id = fields.path_id("agent_run_id");
        let paging = fields.page();
        let reverse = fields.query_flag("reverse");
        let (after, before) = (fields.query_int("after"), fields.query_int("before"));
        let between = (after?.unwrap_or(0), before?.unwrap_or(i64::MAX));
        Some(Self { run_id: run_id?, paging: paging?, reverse: reverse?, between })
    }
}

/// A run with its log, oldest entries first.
#[utoipa::path(get, path = "/v1/alpha/organizations/{org_id}/agent/run/{agent_run_id}/logs", tag = "agents-alpha",
    operation_id = "get_agent_run_logs_v1_alpha_organizations__org_id__agent_run__agent_run_id__logs_get",
    params(("agent_run_id" = i64, Path), ("org_id" = i64, Path), Paging, LogsQuery),
    responses((status = 200, description = "Successful Response", body = AgentRunWithLogsResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn alpha(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, Logs>,
) -> Result<Json<AgentRunWithLogsResponse>, ApiError> {
    let Logs { run_id, paging, reverse, between } = asked.input;
    let org_id = asked.by.org_id;
    let run = app.store.run(org_id, run_id).await.map_err(no_run)?;
    let (rows, total) =
        app.store.contract_logs(org_id, run_id, between, paging.skip, paging.limit, reverse).await.map_err(no_run)?;
    Ok(Json(AgentRunWithLogsResponse {
        id: run.id,
        organization_id: run.org_id,
        status: Some(run.status().to_owned()),
        created_at: Some(time(run.created_at)),
        web_url: Some(web_url(&app, run.id)),
        metadata: raw(&run.metadata).map_err(|error| ApiError::internal(&error))?,
        result: run.result,
        logs: rows.into_iter().map(log).collect(),
        total_logs: Some(total),
        page: Some(paging.number()),
        size: Some(paging.limit),
        pages: Some(paging.pages(total)),
    }))
}

/// The same without `alpha`, where the guide looks for it.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/run/{agent_run_id}/logs", tag = "agents",
    operation_id = "get_agent_run_logs_v1_organizations__org_id__agent_run__agent_run_id__logs_get",
    params(("agent_run_id" = i64, Path), ("org_id" = i64, Path), Paging, LogsQuery),
    responses((status = 200, description = "Successful Response", body = AgentRunWithLogsResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn get(app: State<Arc<App>>, asked: Asked<InOrg, Logs>) -> Result<Json<AgentRunWithLogsResponse>, ApiError> {
    alpha(app, asked).await
}
