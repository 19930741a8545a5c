//! Operations as tools that agents elsewhere call by name. A tool is an operation: it takes what that takes, in one object,
//! and is refused as that is.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    agent_runs,
    auth::{Asked, Caller, InOrg},
    body::{Fields, Input, WITH_IMAGES},
    error::{ApiError, Loc, Refusal, Refusals, ValidationError},
    limits::{self, Limit},
    logs, repos,
    rights::scope_of,
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
    name: &'static str,
    description: &'static str,
    category: &'static str,
    /// A JSON schema of its arguments.
    #[schema(value_type = serde_json::Map<String, serde_json::Value>)]
    parameters: Value,
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

fn definitions() -> Vec<ToolDefinition> {
    let text = |about: &str| json!({ "type": "string", "description": about });
    let number = |about: &str| json!({ "type": "integer", "description": about });
    let perhaps = |kind: &str, about: &str| json!({ "anyOf": [{ "type": kind }, { "type": "null" }], "default": null, "description": about });
    let part = |name: &str, about: &str, default: i64| {
        (name.to_owned(), json!({ "type": "integer", "default": default, "description": about }))
    };
    let pages = || vec![part("skip", "Items left out", 0), part("limit", "Most items, at most 100", 100)];
    let run = || ("agent_run_id".to_owned(), number("Which run"));
    let tool = |name, category, description, parameters: Vec<(String, Value)>, required: &[&str]| ToolDefinition {
        name,
        category,
        description,
        parameters: json!({
            "type": "object", "properties": Map::from_iter(parameters), "required": required,
        }),
    };
    vec![
        tool(
            "create_agent_run",
            "agents",
            "Start a run: an agent works on the prompt by itself, in a repository where one is named.",
            vec![
                ("prompt".to_owned(), text("What the agent shall do")),
                ("repo_id".to_owned(), perhaps("integer", "In which repository")),
                ("base_branch".to_owned(), perhaps("string", "From which branch of it")),
                ("model".to_owned(), perhaps("string", "Which model, as provider/name")),
                ("output_schema".to_owned(), perhaps("object", "JSON schema of a structured result")),
            ],
            &["prompt"],
        ),
        tool(
            "get_agent_run",
            "agents",
            "A run as it is now, with its result and pull requests.",
            vec![run()],
            &["agent_run_id"],
        ),
        tool(
            "list_agent_runs",
            "agents",
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
        ),
        tool(
            "resume_agent_run",
            "agents",
            "Tell a run more: one that works hears it at its next step, one that has ended goes on.",
            vec![run(), ("prompt".to_owned(), text("What the agent shall do next"))],
            &["agent_run_id", "prompt"],
        ),
        tool("stop_agent_run", "agents", "Stop a run; its work is kept.", vec![run()], &["agent_run_id"]),
        tool(
            "get_agent_run_logs",
            "agents",
            "What a run did: its thoughts, tool calls and outputs.",
            [
                vec![
                    run(),
                    (
                        "reverse".to_owned(),
                        json!({ "type": "boolean", "default": false, "description": "Newest first" }),
                    ),
                ],
                pages(),
            ]
            .concat(),
            &["agent_run_id"],
        ),
        tool("list_repositories", "repositories", "Repositories of the organization.", pages(), &[]),
        tool("list_users", "users", "Members of the organization.", pages(), &[]),
    ]
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
pub async fn execute(State(app): State<Arc<App>>, asked: Asked<InOrg, ExecuteToolInput>) -> Result<Response, ApiError> {
    let Asked { by, input: ExecuteToolInput { tool_name, arguments }, key: _ } = asked;
    // As which operation a token's scopes are looked at.
    let operation = match tool_name.as_str() {
        "create_agent_run" => (Method::POST, "agent/run"),
        "resume_agent_run" => (Method::POST, "agent/run/resume"),
        "stop_agent_run" => (Method::POST, "agent/run/stop"),
        "list_repositories" => (Method::GET, "repos"),
        "list_users" => (Method::GET, "users"),
        _ => (Method::GET, "agent/runs"),
    };
    let scope = scope_of(&operation.0, &format!("/v1/organizations/{{org_id}}/{}", operation.1));
    if let Some(scope) = scope.filter(|scope| !scope.is_in(by.token.scopes.as_deref())) {
        return Err(ApiError::Refused(StatusCode::FORBIDDEN, format!("This token does not have the scope {scope}.")));
    }
    let call = Call { app, by, arguments };
    match tool_name.as_str() {
        "create_agent_run" => answer(agent_runs::create(call.app(), call.asked().await?).await),
        "get_agent_run" => answer(agent_runs::get(call.app(), call.asked().await?).await),
        "list_agent_runs" => answer(agent_runs::list(call.app(), call.asked().await?).await),
        "resume_agent_run" => answer(agent_runs::resume(call.app(), call.asked().await?).await),
        "stop_agent_run" => answer(agent_runs::stop(call.app(), call.asked().await?).await),
        "get_agent_run_logs" => answer(logs::get(call.app(), call.asked().await?).await),
        "list_repositories" => answer(repos::list(call.app(), call.asked().await?).await),
        "list_users" => answer(users::list(call.app(), call.asked().await?).await),
        _ => Err(ApiError::not_found("There is no tool of this name.")),
    }
}

fn answer(done: Result<impl IntoResponse, ApiError>) -> Result<Response, ApiError> {
    let done = done.map(IntoResponse::into_response);
    done.map_err(|error| match error {
        ApiError::Invalid(failures) => ApiError::Invalid(failures.into_iter().map(in_arguments).collect()),
        other => other,
    })
}

/// A call under way.
struct Call {
    app: Arc<App>,
    by: InOrg,
    arguments: String,
}

impl Call {
    fn app(&self) -> State<Arc<App>> {
        State(self.app.clone())
    }

    /// The operation's own request, read from the arguments as from its path, query and body.
    async fn asked<I: Input>(self) -> Result<Asked<InOrg, I>, ApiError> {
        let caller = Caller::of(self.by.member.user.clone(), self.by.token.clone(), None);
        // The call itself has taken its place in the answer's headers.
        limits::take(&self.app, &http::Extensions::new(), &caller, Some(self.by.org_id), I::LIMIT).await?;
        let named: Map<String, Value> =
            serde_json::from_str(&self.arguments).map_err(|error| ApiError::internal(&error))?;
        let plain = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
        let texts: HashMap<String, String> =
            named.iter().filter_map(|(key, value)| Some((key.clone(), plain(value)?))).collect();
        let body = (I::BODY > 0).then_some((true, self.arguments.as_bytes()));
        let mut fields = Fields::of_arguments(&self.app, texts, body);
        let input = I::read(&mut fields);
        match input {
            Some(input) if fields.failures.is_empty() => Ok(Asked { by: self.by, input, key: None }),
            _ => Err(ApiError::Invalid(fields.failures.into_iter().map(in_arguments).collect())),
        }
    }
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
