//! Operations as tools that agents elsewhere call by name. A tool is an operation: it takes what that takes, in one object,
//! and is refused as that is.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, header},
    response::Response,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    auth::{Asked, InOrg},
    body::{Fields, Input, WITH_IMAGES},
    error::{ApiError, Loc, Refusal, Refusals, ValidationError},
    limits::Limit,
    tool_calls::Call,
    users,
};
use crate::App;

/// Levels of the refusal's place that stand for the tool's arguments.
const ARGUMENTS: [&str; 2] = ["body", "arguments"];

/// Tools there are.
#[derive(Serialize, ToSchema)]
pub struct ToolsResponse {
    tools: Vec<ToolDefinition>,
    total_count: usize,
}

/// A tool.
#[derive(Serialize, ToSchema)]
pub struct ToolDefinition {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    category: &'static str,
    /// A JSON schema of its arguments.
    #[schema(value_type = serde_json::Map<String, serde_json::Value>)]
    pub(super) parameters: Value,
    /// The route whose scope it needs.
    #[serde(skip)]
    #[schema(ignore)]
    pub(super) route: (Method, &'static str),
}

/// A tool to call.
#[derive(ToSchema)]
pub struct ExecuteToolInput {
    /// Its name.
    tool_name: String,
    /// As its `parameters` say; others are not looked at.
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    arguments: String,
}

impl Input for ExecuteToolInput {
    const BODY: usize = WITH_IMAGES;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let tool_name = fields.text("tool_name");
        let arguments = fields.optional_object("arguments");
        Some(Self { tool_name: tool_name?, arguments: arguments?.unwrap_or_else(|| "{}".to_owned()) })
    }
}

/// The tool of this name.
pub(super) fn named(name: &str) -> Result<ToolDefinition, ApiError> {
    let tool = definitions().into_iter().find(|tool| tool.name == name);
    tool.ok_or_else(|| ApiError::not_found("There is no tool of this name."))
}

/// Every tool.
pub(super) fn definitions() -> Vec<ToolDefinition> {
    let text = |about: &str| json!({ "type": "string", "description": about });
    let number = |about: &str| json!({ "type": "integer", "description": about });
    let perhaps = |kind: &str, about: &str| json!({ "anyOf": [{ "type": kind }, { "type": "null" }], "default": null, "description": about });
    let part = |name: &str, about: &str, default: i64| {
        (name.to_owned(), json!({ "type": "integer", "default": default, "description": about }))
    };
    let pages = || vec![part("skip", "Items left out", 0), part("limit", "Most items, at most 100", 100)];
    let run = || ("agent_run_id".to_owned(), number("Which run"));
    let mut tools = Vec::new();
    let mut tool = |name, category, route, description, parameters: Vec<(String, Value)>, required: &[&str]| {
        let parameters = json!({ "type": "object", "properties": Map::from_iter(parameters), "required": required });
        tools.push(ToolDefinition { name, category, description, parameters, route });
    };
    tool(
        "create_agent_run",
        "agents",
        (Method::POST, "/v1/organizations/{org_id}/agent/run"),
        "Start a run: an agent works on the prompt by itself, in a repository where one is named.",
        vec![
            ("prompt".to_owned(), text("What the agent shall do")),
            ("repo_id".to_owned(), perhaps("integer", "In which repository")),
            ("base_branch".to_owned(), perhaps("string", "From which branch of it")),
            ("model".to_owned(), perhaps("string", "Which model, as provider/name")),
            ("output_schema".to_owned(), perhaps("object", "JSON schema of a structured result")),
        ],
        &["prompt"],
    );
    tool(
        "get_agent_run",
        "agents",
        (Method::GET, "/v1/organizations/{org_id}/agent/run/{agent_run_id}"),
        "A run as it is now, with its result and pull requests.",
        vec![run()],
        &["agent_run_id"],
    );
    tool(
        "list_agent_runs",
        "agents",
        (Method::GET, "/v1/organizations/{org_id}/agent/runs"),
        "Runs of the organization, newest first.",
        [
            vec![
                ("user_id".to_owned(), perhaps("integer", "Only those of this user")),
                ("source_type".to_owned(), perhaps("string", "Only those asked for here, as API or SLACK")),
            ],
            pages(),
        ]
        .concat(),
        &[],
    );
    tool(
        "wait_for_agent_run",
        "agents",
        (Method::GET, "/v1/organizations/{org_id}/agent/run/{agent_run_id}"),
        "Wait until a run has ended, or the time is over, and give the run as it is then. Ask again while it works on.",
        vec![run(), part("timeout_seconds", "How long at most, 1 to 3600", 50)],
        &["agent_run_id"],
    );
    tool(
        "resume_agent_run",
        "agents",
        (Method::POST, "/v1/organizations/{org_id}/agent/run/resume"),
        "Tell a run more: one that works hears it at its next step, one that has ended goes on.",
        vec![run(), ("prompt".to_owned(), text("What the agent shall do next"))],
        &["agent_run_id", "prompt"],
    );
    tool(
        "send_message",
        "agents",
        (Method::POST, "/v1/organizations/{org_id}/agent/run/resume"),
        "Tell a run that works something, which it hears at its next step. One that has ended is not started again.",
        vec![run(), ("message".to_owned(), text("What the agent shall know"))],
        &["agent_run_id", "message"],
    );
    tool(
        "stop_agent_run",
        "agents",
        (Method::POST, "/v1/organizations/{org_id}/agent/run/stop"),
        "Stop a run; its work is kept.",
        vec![run()],
        &["agent_run_id"],
    );
    tool(
        "get_agent_run_logs",
        "agents",
        (Method::GET, "/v1/organizations/{org_id}/agent/run/{agent_run_id}/logs"),
        "What a run did: its thoughts, tool calls and outputs.",
        [
            vec![
                run(),
                ("reverse".to_owned(), json!({ "type": "boolean", "default": false, "description": "Newest first" })),
            ],
            pages(),
        ]
        .concat(),
        &["agent_run_id"],
    );
    tool(
        "get_agent_run_diff",
        "agents",
        (Method::GET, "/v1/organizations/{org_id}/agent/run/{agent_run_id}/diff"),
        "What a run changed in its repository, as a patch; of a run that works, so far.",
        vec![run()],
        &["agent_run_id"],
    );
    tool(
        "list_organizations",
        "organizations",
        (Method::GET, "/v1/organizations"),
        "Organizations that the token's owner belongs to.",
        pages(),
        &[],
    );
    tool(
        "list_repositories",
        "repositories",
        (Method::GET, "/v1/organizations/{org_id}/repos"),
        "Repositories of the organization.",
        pages(),
        &[],
    );
    tool(
        "list_users",
        "users",
        (Method::GET, "/v1/organizations/{org_id}/users"),
        "Members of the organization.",
        pages(),
        &[],
    );
    tool(
        "list_integrations",
        "integrations",
        (Method::GET, "/v1/organizations/{org_id}/integrations"),
        "Services that the organization has connected.",
        vec![],
        &[],
    );
    tools
}

/// Tools that may be called.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/tools", tag = "tools",
    operation_id = "list_tools_v1_organizations__org_id__tools_get", params(("org_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = ToolsResponse), Refusals))]
pub async fn list(_asked: Asked<InOrg, users::Nothing>) -> Result<Json<ToolsResponse>, ApiError> {
    let tools = definitions();
    Ok(Json(ToolsResponse { total_count: tools.len(), tools }))
}

/// Calls a tool; the answer is that of its operation.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/tools/execute", tag = "tools",
    operation_id = "execute_tool_v1_organizations__org_id__tools_execute_post", params(("org_id" = i64, Path)),
    request_body = ExecuteToolInput,
    responses((status = 200, description = "What the operation answers", body = serde_json::Map<String, serde_json::Value>),
        (status = 404, description = "No such tool, or what the tool was to work on is not there", body = Refusal),
        (status = 409, description = "Its state does not allow it", body = Refusal), Refusals))]
pub async fn execute(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    asked: Asked<InOrg, ExecuteToolInput>,
) -> Result<Response, ApiError> {
    let Asked { by, input: ExecuteToolInput { tool_name, arguments }, key: _ } = asked;
    let mut who = headers;
    // Whatever a caller of a tool accepts, it is given JSON.
    who.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let call = Call { app, org_id: Some(by.org_id), caller: by.into_caller(), arguments, headers: who, tell: None };
    call.of(&named(&tool_name)?).await.map_err(|error| match error {
        ApiError::Invalid(failures) => ApiError::Invalid(failures.into_iter().map(in_arguments).collect()),
        other => other,
    })
}

/// Where the failure is in the tool's request.
fn in_arguments(failure: ValidationError) -> ValidationError {
    let place = ARGUMENTS.map(|part| Loc::Key(part.to_owned()));
    ValidationError { loc: place.into_iter().chain(failure.loc.into_iter().skip(1)).collect(), ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients make Python functions of these.
    #[test]
    fn every_tool_can_become_a_function_with_named_arguments() {
        for tool in definitions() {
            let parameters = tool.parameters["properties"].as_object().cloned().unwrap_or_default();
            let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(is_name(tool.name), "{}", tool.name);
            for (name, schema) in &parameters {
                let about = schema["description"].as_str().unwrap_or_default();
                assert!(is_name(name) && !about.is_empty() && !about.contains(['\n', '\\']), "{} {name}", tool.name);
                let required = tool.parameters["required"].as_array().is_some_and(|all| all.contains(&json!(name)));
                assert_ne!(required, schema.get("default").is_some(), "{} {name}", tool.name);
            }
        }
    }
}
