//! Agent runs: create, look, continue, stop, and what they changed.

use std::sync::Arc;

use axum::{Json, extract::State, response::Response};
use codegen_agent::OutputSchema;
use codegen_store::{Ask, NewRun, PullRequestAnswer, RunAnswer};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    auth::{Asked, InOrg},
    body::{Fields, Input, USUAL, WITH_IMAGES},
    error::{ApiError, Refusal, Refusals},
    idempotency::{self, KeyHeader},
    images,
    limits::Limit,
    models,
    page::{Page, Paging, time},
    run_edits,
    run_filters::{CursorQuery, Runs, RunsQuery},
};
use crate::App;

const LONGEST_PROMPT: usize = 200_000;
const LARGEST_METADATA: usize = 1 << 20;
pub(super) const SOURCES: [&str; 12] = [
    "LOCAL",
    "SLACK",
    "GITHUB",
    "GITHUB_CHECK_SUITE",
    "GITHUB_PR_REVIEW",
    "LINEAR",
    "API",
    "CHAT",
    "JIRA",
    "CLICKUP",
    "MONDAY",
    "SETUP_COMMANDS",
];

/// Where a run was asked for.
#[derive(ToSchema)]
#[schema(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(dead_code, reason = "documentation")]
pub enum ApiAgentRunSourceType {
    Local,
    Slack,
    Github,
    GithubCheckSuite,
    GithubPrReview,
    Linear,
    Api,
    Chat,
    Jira,
    Clickup,
    Monday,
    SetupCommands,
}

/// A run.
#[derive(Serialize, ToSchema)]
pub struct AgentRunResponse {
    pub id: i64,
    organization_id: i64,
    status: Option<String>,
    created_at: Option<String>,
    web_url: Option<String>,
    result: Option<String>,
    summary: Option<String>,
    #[schema(value_type = Option<ApiAgentRunSourceType>)]
    source_type: Option<String>,
    github_pull_requests: Option<Vec<GithubPullRequestResponse>>,
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    metadata: Option<Box<RawValue>>,
    /// Words on it.
    tags: Vec<String>,
    /// Left out of lists.
    archived: bool,
    /// What [`AgentRunResponse::output`] shall fit.
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    output_schema: Option<Box<RawValue>>,
    /// The structured result; none while there is none, and where the run ended without one.
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<Box<RawValue>>,
    /// Of a continued run: its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_agent_run_id: Option<i64>,
}

/// A pull request of a run.
#[derive(Serialize, ToSchema)]
pub struct GithubPullRequestResponse {
    id: i64,
    title: Option<String>,
    url: Option<String>,
    created_at: String,
    head_branch_name: Option<String>,
    /// `open` or `closed`.
    state: String,
    merged: bool,
    number: i64,
}

impl From<PullRequestAnswer> for GithubPullRequestResponse {
    fn from(pull_request: PullRequestAnswer) -> Self {
        Self {
            id: pull_request.id,
            title: Some(pull_request.title),
            url: Some(pull_request.url),
            created_at: time(pull_request.created_at),
            head_branch_name: Some(pull_request.head_branch),
            state: if matches!(pull_request.state.as_str(), "open" | "draft") { "open" } else { "closed" }.to_owned(),
            merged: pull_request.state == "merged",
            number: pull_request.number,
        }
    }
}

/// The page where people watch a run.
pub fn web_url(app: &App, run_id: i64) -> String {
    format!("{}/runs/{run_id}", app.config.public_url)
}

/// A column of JSON as it came.
pub fn raw(column: &Option<String>) -> serde_json::Result<Option<Box<RawValue>>> {
    column.clone().map(RawValue::from_string).transpose()
}

/// A run as it is shown.
pub fn shown(app: &App, run: RunAnswer) -> serde_json::Result<AgentRunResponse> {
    Ok(AgentRunResponse {
        id: run.id,
        organization_id: run.org_id,
        status: Some(run.status().to_owned()),
        created_at: Some(time(run.created_at)),
        web_url: Some(web_url(app, run.id)),
        metadata: run.metadata.map(RawValue::from_string).transpose()?,
        output_schema: run.output_schema.map(RawValue::from_string).transpose()?,
        output: run.output.map(RawValue::from_string).transpose()?,
        result: run.result,
        summary: run.summary,
        source_type: Some(run.source_type),
        tags: run.tags,
        archived: run.archived,
        github_pull_requests: Some(run.pull_request.into_iter().map(Into::into).collect()),
        new_agent_run_id: None,
    })
}

/// [`shown`], for a handler.
pub fn response(app: &App, run: RunAnswer) -> Result<AgentRunResponse, ApiError> {
    shown(app, run).map_err(|error| ApiError::internal(&error))
}

/// 404 in the contract's words.
pub fn no_run(error: codegen_store::Error) -> ApiError {
    match error {
        codegen_store::Error::NotFound => ApiError::not_found("Agent run not found."),
        other => other.into(),
    }
}

/// A run to create.
#[derive(ToSchema)]
pub struct CreateAgentRunInput {
    /// What the agent shall do.
    prompt: String,
    /// Images as base64 data URIs.
    #[schema(value_type = Option<Vec<String>>)]
    images: Vec<String>,
    /// Any JSON object; returned as it came.
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    metadata: Option<String>,
    /// In which repository.
    repo_id: Option<i64>,
    /// From which branch of it, else the default one.
    base_branch: Option<String>,
    /// `provider/name`, else the default.
    model: Option<String>,
    /// Which agent, else the default.
    #[schema(value_type = Option<AgentType>)]
    agent_type: Option<String>,
    /// Words to find it by: at most 20, each of at most 64 characters.
    #[schema(value_type = Option<Vec<String>>)]
    tags: Vec<String>,
    /// A JSON schema that the run's `output` shall fit: at most 64 KiB, and everything that it refers to is in it.
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    output_schema: Option<String>,
}

/// An agent.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "documentation")]
pub enum AgentType {
    Codegen,
    ClaudeCode,
}

fn prompt(fields: &mut Fields<'_>) -> Option<String> {
    words(fields, "prompt")
}

/// What a person says to an agent.
fn words(fields: &mut Fields<'_>, key: &str) -> Option<String> {
    let prompt = fields.text(key)?;
    let loc = ["body", key];
    if prompt.trim().is_empty() {
        fields.fail(&loc, "string_too_short", "String should have at least 1 character");
        return None;
    }
    if prompt.chars().count() > LONGEST_PROMPT {
        fields.fail(&loc, "string_too_long", format!("String should have at most {LONGEST_PROMPT} characters"));
        return None;
    }
    Some(prompt)
}

fn output_schema(fields: &mut Fields<'_>) -> Option<Option<String>> {
    let schema = fields.optional_object("output_schema")?;
    if let Some(Err(why)) = schema.as_deref().map(OutputSchema::parse) {
        fields.fail(&["body", "output_schema"], "value_error", format!("Value error, {why}"));
    }
    Some(schema)
}

impl Input for CreateAgentRunInput {
    const BODY: usize = WITH_IMAGES;
    const KEYED: bool = true;
    const LIMIT: Limit = Limit::Create;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let prompt = prompt(fields);
        let images = images::read(fields);
        let metadata = fields.optional_object("metadata");
        if metadata.iter().flatten().any(|text| text.len() > LARGEST_METADATA) {
            fields.fail(&["body", "metadata"], "value_error", "Value error, metadata has at most 1 MB");
        }
        let repo_id = fields.optional_int("repo_id");
        let base_branch = fields.optional_text("base_branch");
        let model = fields.optional_text("model");
        models::refuse_scripts(fields, &model);
        let tags = run_edits::tags(fields);
        let output_schema = output_schema(fields);
        let agent_type = fields.optional_word("agent_type", &["codegen", "claude_code"]);
        if matches!(&agent_type, Some(Some(word)) if word == "claude_code") {
            fields.fail(
                &["body", "agent_type"],
                "value_error",
                "Value error, claude_code is not installed on this server",
            );
        }
        Some(Self {
            prompt: prompt?,
            images: images?,
            metadata: metadata?,
            repo_id: repo_id?,
            base_branch: base_branch?.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()),
            model: model?,
            agent_type: agent_type?,
            tags: tags?,
            output_schema: output_schema?,
        })
    }
}

/// A run's id.
pub struct RunId(pub i64);

impl Input for RunId {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("agent_run_id")?))
    }
}

/// A follow-up.
#[derive(ToSchema)]
pub struct ResumeAgentRunInput {
    pub(super) agent_run_id: i64,
    /// What the agent shall do next.
    prompt: String,
    /// Images as base64 data URIs.
    #[schema(value_type = Option<Vec<String>>)]
    images: Vec<String>,
    /// Another JSON schema for the run's `output`, where the run has ended; without one, the run's stays.
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    output_schema: Option<String>,
}

impl ResumeAgentRunInput {
    /// One that is words alone, under the key `message`.
    pub(super) fn message(fields: &mut Fields<'_>) -> Option<Self> {
        let agent_run_id = fields.int("agent_run_id");
        let prompt = words(fields, "message");
        Some(Self { agent_run_id: agent_run_id?, prompt: prompt?, images: Vec::new(), output_schema: None })
    }
}

impl Input for ResumeAgentRunInput {
    const BODY: usize = WITH_IMAGES;
    const KEYED: bool = true;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let agent_run_id = fields.int("agent_run_id");
        let prompt = prompt(fields);
        let images = images::read(fields);
        let output_schema = output_schema(fields);
        Some(Self { agent_run_id: agent_run_id?, prompt: prompt?, images: images?, output_schema: output_schema? })
    }
}

/// A run to stop.
#[derive(ToSchema)]
pub struct StopAgentRunInput {
    agent_run_id: i64,
}

impl Input for StopAgentRunInput {
    const BODY: usize = USUAL;
    const KEYED: bool = true;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { agent_run_id: fields.int("agent_run_id")? })
    }
}

/// Queues a run; the work goes on by itself.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/agent/run", tag = "agents",
    operation_id = "create_agent_run_v1_organizations__org_id__agent_run_post", params(("org_id" = i64, Path), KeyHeader),
    request_body = CreateAgentRunInput,
    responses((status = 200, description = "Successful Response", body = AgentRunResponse),
        (status = 402, description = "Payment Required", body = Refusal),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn create(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, CreateAgentRunInput>,
) -> Result<Response, ApiError> {
    let Asked { by, input, key } = asked;
    models::check(&app, by.org_id, input.model.as_deref()).await?;
    let model = match input.model {
        Some(name) => Some(name),
        None => app.default_model(by.org_id).await?,
    };
    let org = app.store.org(by.org_id).await?;
    let out = org.enable_pr_creation && input.repo_id.is_some();
    let new = NewRun {
        user_id: by.member.user.id,
        repo_id: input.repo_id,
        prompt: input.prompt,
        images: input.images,
        metadata: input.metadata,
        model,
        agent_type: input.agent_type,
        tags: input.tags,
        output_schema: input.output_schema,
        base_branch: input.base_branch,
        source_type: "API".to_owned(),
        push: out,
        open_pr: out,
        ..NewRun::default()
    };
    idempotency::ask(&app, by.org_id, key, Ask::Create(new)).await
}

/// A run as it is now.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/run/{agent_run_id}", tag = "agents",
    operation_id = "get_agent_run_v1_organizations__org_id__agent_run__agent_run_id__get",
    params(("agent_run_id" = i64, Path), ("org_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = AgentRunResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn get(State(app): State<Arc<App>>, asked: Asked<InOrg, RunId>) -> Result<Json<AgentRunResponse>, ApiError> {
    let run = app.store.run_answer(asked.by.org_id, asked.input.0).await.map_err(no_run)?;
    Ok(Json(response(&app, run)?))
}

/// Runs, newest first.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/runs", tag = "agents",
    operation_id = "list_agent_runs_v1_organizations__org_id__agent_runs_get",
    params(("org_id" = i64, Path), RunsQuery, CursorQuery, Paging),
    responses((status = 200, description = "Successful Response", body = Page<AgentRunResponse>), Refusals))]
pub async fn list(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, Runs>,
) -> Result<Json<Page<AgentRunResponse>>, ApiError> {
    let Runs { filter, paging, from } = asked.input;
    let (runs, total) = app.store.runs(asked.by.org_id, &filter, from, paging.limit).await?;
    let full = i64::try_from(runs.len()).is_ok_and(|n| n == paging.limit);
    let next = runs.last().map(|run| run.id).filter(|_| full);
    let items = runs.into_iter().map(|run| response(&app, run)).collect::<Result<_, _>>()?;
    Ok(Json(Page { next, ..paging.page(items, total) }))
}

/// The same, where the documentation's examples look for it.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/run", tag = "agents",
    operation_id = "list_agent_runs_v1_organizations__org_id__agent_run_get",
    params(("org_id" = i64, Path), RunsQuery, CursorQuery, Paging),
    responses((status = 200, description = "Successful Response", body = Page<AgentRunResponse>), Refusals))]
pub async fn list_alias(
    app: State<Arc<App>>,
    asked: Asked<InOrg, Runs>,
) -> Result<Json<Page<AgentRunResponse>>, ApiError> {
    list(app, asked).await
}

/// Continues a run with a follow-up; a live one gets it at its next step.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/agent/run/resume", tag = "agents",
    operation_id = "resume_agent_run_v1_organizations__org_id__agent_run_resume_post", params(("org_id" = i64, Path), KeyHeader),
    request_body = ResumeAgentRunInput,
    responses((status = 200, description = "Successful Response", body = AgentRunResponse),
        (status = 404, description = "Not Found", body = Refusal),
        (status = 409, description = "Its state does not allow it", body = Refusal), Refusals))]
pub async fn resume(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, ResumeAgentRunInput>,
) -> Result<Response, ApiError> {
    let ResumeAgentRunInput { agent_run_id, prompt, images, output_schema } = asked.input;
    let message = Ask::Message { run_id: agent_run_id, text: prompt, images, output_schema };
    idempotency::ask(&app, asked.by.org_id, asked.key, message).await
}

/// The same under `/v1/beta`.
#[utoipa::path(post, path = "/v1/beta/organizations/{org_id}/agent/run/resume", tag = "agents",
    operation_id = "resume_agent_run_v1_beta_organizations__org_id__agent_run_resume_post", params(("org_id" = i64, Path), KeyHeader),
    request_body = ResumeAgentRunInput,
    responses((status = 200, description = "Successful Response", body = AgentRunResponse),
        (status = 404, description = "Not Found", body = Refusal),
        (status = 409, description = "Its state does not allow it", body = Refusal), Refusals))]
pub async fn resume_beta(app: State<Arc<App>>, asked: Asked<InOrg, ResumeAgentRunInput>) -> Result<Response, ApiError> {
    resume(app, asked).await
}

/// Stops a run; its work is kept.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/agent/run/stop", tag = "agents",
    operation_id = "stop_agent_run_v1_organizations__org_id__agent_run_stop_post", params(("org_id" = i64, Path), KeyHeader),
    request_body = StopAgentRunInput,
    responses((status = 200, description = "Successful Response", body = AgentRunResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn stop(State(app): State<Arc<App>>, asked: Asked<InOrg, StopAgentRunInput>) -> Result<Response, ApiError> {
    idempotency::ask(&app, asked.by.org_id, asked.key, Ask::Stop { run_id: asked.input.agent_run_id }).await
}

/// The same under `/v1/beta`.
#[utoipa::path(post, path = "/v1/beta/organizations/{org_id}/agent/run/stop", tag = "agents",
    operation_id = "stop_agent_run_v1_beta_organizations__org_id__agent_run_stop_post", params(("org_id" = i64, Path), KeyHeader),
    request_body = StopAgentRunInput,
    responses((status = 200, description = "Successful Response", body = AgentRunResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn stop_beta(app: State<Arc<App>>, asked: Asked<InOrg, StopAgentRunInput>) -> Result<Response, ApiError> {
    stop(app, asked).await
}
