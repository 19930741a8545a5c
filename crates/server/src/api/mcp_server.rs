//! What a client of the Model Context Protocol finds here; `mcp_context` has the prompts and resources.

use std::{pin::pin, sync::Arc};

use axum::{
    body::to_bytes,
    http::{HeaderMap, Method, header},
    response::Response,
};
use codegen_store::Actor;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CacheScope, CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, GetPromptRequestParams,
        GetPromptResponse, Implementation, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult,
        ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, ReadResourceRequestParams,
        ReadResourceResponse, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
    },
    service::RequestContext,
};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::{
    auth::Caller,
    error::{ApiError, Loc, ValidationError},
    mcp::UnderWay,
    mcp_context,
    tool_calls::{Call, Waited},
    tools::{self, ToolDefinition},
};
use crate::App;

const INSTRUCTIONS: &str = "codegen runs code agents. create_agent_run starts one on a repository (list_repositories has \
    their ids); wait_for_agent_run waits for its end, again and again while it is ACTIVE; get_agent_run_diff shows what it \
    changed, and get_agent_run_logs how. resume_agent_run goes on with a run that has ended.";
/// Characters of an answer: more than a model reads.
const LONGEST: usize = 400_000;

/// Answers one message of one caller.
#[derive(Clone)]
pub struct Server {
    /// Where.
    pub app: Arc<App>,
    /// Of whom.
    pub caller: Caller,
    /// In which organization, where one is known.
    pub org_id: Option<i64>,
    /// The repository of new runs that name none.
    pub repo_id: Option<i64>,
    /// The request's.
    pub headers: HeaderMap,
    /// For the audit log.
    pub actor: Option<Arc<Actor>>,
    /// What its client can cancel.
    pub under_way: Arc<UnderWay>,
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_prompts().enable_resources().build();
        let mut info = ServerConfig::new(capabilities).with_instructions(INSTRUCTIONS);
        info.server_info = Implementation::new("codegen", env!("CARGO_PKG_VERSION"));
        info.server_info.website_url = Some(self.app.config.public_url.clone());
        info
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = tools::definitions().into_iter().map(described).collect();
        Ok(ListToolsResult { cache_scope: Some(CacheScope::Private), ..ListToolsResult::with_all_items(tools) })
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(mcp_context::prompts())
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        Ok(self.prompt(&request.name, request.arguments.unwrap_or_default()).await?.into())
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        self.runs(request.and_then(|request| request.cursor).as_deref()).await
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(mcp_context::templates())
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        Ok(self.resource(&request.uri).await?.into())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Ok(tool) = tools::named(&request.name) else {
            return Err(ErrorData::invalid_params(format!("There is no tool {}.", request.name), None));
        };
        let mut arguments = request.arguments.unwrap_or_default();
        if let (Some(repo_id), "create_agent_run") = (self.repo_id, tool.name)
            && arguments.get("repo_id").is_none_or(Value::is_null)
        {
            arguments.insert("repo_id".to_owned(), json!(repo_id));
        }
        let (tell, mut told) = mpsc::channel(1);
        let token = context.meta.get_progress_token();
        let mut work = pin!(self.call(&tool, arguments, Some(tell)));
        loop {
            tokio::select! {
                biased;
                () = context.ct.cancelled() => return Err(cancelled()),
                () = self.under_way.cancelled.cancelled() => return Err(cancelled()),
                Some(waited) = told.recv() => if let Some(token) = &token {
                    let progress = ProgressNotificationParam::new(token.clone(), waited.seconds)
                        .with_total(waited.of)
                        .with_message(waited.message);
                    // One who does not hear it is told again soon.
                    context.peer.notify_progress(progress).await.ok();
                },
                done = &mut work => return Ok(match done {
                    Ok(text) => CallToolResult::success(vec![ContentBlock::text(text)]),
                    Err(error) => CallToolResult::error(vec![ContentBlock::text(sentence(error))]),
                }.into()),
            }
        }
    }
}

impl Server {
    /// Calls a tool as the request's actor, whichever task this is; the answer's text.
    pub async fn call(
        &self,
        tool: &ToolDefinition,
        arguments: Map<String, Value>,
        tell: Option<mpsc::Sender<Waited>>,
    ) -> Result<String, ApiError> {
        codegen_store::serving(async {
            if let Some(actor) = &self.actor {
                let run = arguments.get("agent_run_id").map(|id| format!("run:{id}")).unwrap_or_default();
                let operation = (tool.route.0 != Method::GET).then(|| (format!("POST /mcp {}", tool.name), run));
                codegen_store::act_as(Actor { org_id: self.org_id, operation, ..Actor::clone(actor) });
            }
            text(self.asks(arguments, tell).of(tool).await?).await
        })
        .await
    }

    /// What this caller asks for, with these arguments.
    pub fn asks(&self, arguments: Map<String, Value>, tell: Option<mpsc::Sender<Waited>>) -> Call {
        let mut headers = self.headers.clone();
        headers.remove(header::ACCEPT);
        Call {
            app: self.app.clone(),
            caller: self.caller.clone(),
            org_id: self.org_id,
            arguments: Value::Object(arguments).to_string(),
            headers,
            tell,
        }
    }
}

fn cancelled() -> ErrorData {
    ErrorData::internal_error("The call was cancelled.", None)
}

/// A tool as the protocol describes it.
fn described(tool: ToolDefinition) -> Tool {
    let reads = tool.route.0 == Method::GET;
    let hints = ToolAnnotations::new().read_only(reads).destructive(tool.name == "stop_agent_run").open_world(!reads);
    let schema = match tool.parameters {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    Tool::new(tool.name, tool.description, schema).with_annotations(hints)
}

/// The body of an answer, as much of it as a model reads.
pub async fn text(response: Response) -> Result<String, ApiError> {
    let bytes = to_bytes(response.into_body(), usize::MAX).await.map_err(|error| ApiError::internal(&error))?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        let left = text.len() - end;
        text.truncate(end);
        text.push_str(&format!("\n... {left} bytes more are left out."));
    }
    Ok(text)
}

/// A refusal for a model.
pub fn sentence(error: ApiError) -> String {
    let failure = |failure: ValidationError| {
        let place: Vec<String> = failure
            .loc
            .into_iter()
            .skip(1)
            .map(|part| match part {
                Loc::Key(key) => key,
                Loc::Index(index) => index.to_string(),
            })
            .collect();
        format!("{}: {}", place.join("."), failure.msg)
    };
    match error {
        ApiError::Refused(_, sentence) => sentence,
        ApiError::TooMany(seconds) => format!("Rate limit exceeded; try again in {seconds} s."),
        ApiError::Invalid(failures) => failures.into_iter().map(failure).collect::<Vec<_>>().join("\n"),
    }
}
