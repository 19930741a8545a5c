//! What a client of the Model Context Protocol can lay before its model: rules as prompts, and runs as resources.

use std::fmt::Write as _;

use axum::{extract::State, http::Method, response::IntoResponse as _};
use rmcp::{
    ErrorData,
    model::{
        CacheScope, GetPromptResult, JsonObject, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult,
        Prompt, PromptArgument, PromptMessage, ReadResourceResult, Resource, ResourceContents, ResourceTemplate, Role,
    },
};
use serde_json::{Map, Value, json};

use super::{
    cli_rules,
    error::ApiError,
    mcp_server::{Server, sentence, text},
    rules, tools,
};

const ORG_RULES: &str = "organization_rules";
const REPO_RULES: &str = "repository_rules";
const MY_RULES: &str = "my_rules";
/// Runs on a page of resources.
const PAGE: i64 = 50;
/// Pages of a log that are put together; what comes after them is named.
const LOG_PAGES: i64 = 10;
/// Entries on each.
const LOG_PAGE: i64 = 100;

/// Lists of rules.
pub fn prompts() -> ListPromptsResult {
    let repo = PromptArgument::new("repo_id").with_description("Which repository; else that of x-repo-id");
    let prompts = vec![
        Prompt::new(ORG_RULES, Some("Rules of the organization, which its agents keep to"), None),
        Prompt::new(REPO_RULES, Some("Rules that people gave for a repository"), Some(vec![repo])),
        Prompt::new(MY_RULES, Some("Your own rules"), None),
    ];
    ListPromptsResult { cache_scope: Some(CacheScope::Private), ..ListPromptsResult::with_all_items(prompts) }
}

/// Addresses of what a run has.
pub fn templates() -> ListResourceTemplatesResult {
    let template = |tail: &str, name: &str, about: &str, kind: &str| {
        ResourceTemplate::new(format!("codegen://runs/{{agent_run_id}}{tail}"), name)
            .with_description(about)
            .with_mime_type(kind)
    };
    ListResourceTemplatesResult::with_all_items(vec![
        template("", "run", "A run as it is now, with its result and pull requests", "application/json"),
        template("/log", "run log", "What a run did, entry by entry", "text/plain"),
        template("/diff", "run diff", "What a run changed, as a patch", "text/x-diff"),
    ])
}

impl Server {
    /// The rules of a list, as one message.
    pub async fn prompt(&self, name: &str, arguments: JsonObject) -> Result<GetPromptResult, ErrorData> {
        let found = self.rules(name, arguments).await;
        let Some(rules) = found.map_err(|error| ErrorData::invalid_params(sentence(error), None))? else {
            return Err(ErrorData::invalid_params(format!("There is no prompt {name}."), None));
        };
        let words = if rules.is_empty() { "There are no such rules.".to_owned() } else { rules };
        Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, words)]))
    }

    async fn rules(&self, name: &str, arguments: JsonObject) -> Result<Option<String>, ApiError> {
        let app = State(self.app.clone());
        if name == REPO_RULES {
            let repo_id = arguments.get("repo_id").cloned().or(self.repo_id.map(Value::from));
            let arguments = repo_id.map(|id| ("repo_id".to_owned(), id)).into_iter().collect();
            let call = self.asks(arguments, None);
            call.caller.may(&Method::GET, "/v1/organizations/{org_id}/repos/{repo_id}/rules")?;
            let page = rules::list_of_repo(app, call.asked().await?).await?;
            let page: Value = serde_json::from_str(&text(page.into_response()).await?).unwrap_or_default();
            let rules = page["items"].as_array().into_iter().flatten().filter(|rule| rule["enabled"] == true);
            let texts: Vec<&str> = rules.filter_map(|rule| rule["text"].as_str()).collect();
            return Ok(Some(texts.join("\n\n")));
        }
        let key = match name {
            ORG_RULES => "organization_rules",
            MY_RULES => "user_custom_prompt",
            _ => return Ok(None),
        };
        let call = self.asks(Map::new(), None);
        call.caller.may(&Method::GET, "/v1/organizations/{org_id}/cli/rules")?;
        let both = cli_rules::get(app, call.asked().await?).await?;
        let both: Value = serde_json::from_str(&text(both.into_response()).await?).unwrap_or_default();
        Ok(Some(both[key].as_str().unwrap_or_default().to_owned()))
    }

    /// Logs of runs, newest first; the cursor is how many were listed before.
    pub async fn runs(&self, cursor: Option<&str>) -> Result<ListResourcesResult, ErrorData> {
        let skip = cursor.map_or(Ok(0), str::parse::<i64>);
        let skip = skip.map_err(|_| ErrorData::invalid_params("This cursor is not of this server.", None))?;
        let page = self.tool("list_agent_runs", json!({"skip": skip, "limit": PAGE})).await?;
        let page: Value = serde_json::from_str(&page).unwrap_or_default();
        let resource = |run: &Value| {
            let (id, status) = (&run["id"], run["status"].as_str().unwrap_or_default());
            let title =
                run["summary"].as_str().map_or_else(|| format!("Run {id}"), |words| format!("Run {id}: {words}"));
            Resource::new(format!("codegen://runs/{id}/log"), format!("run {id}"))
                .with_title(title)
                .with_description(format!("What run {id} did; it is {status}"))
                .with_mime_type("text/plain")
        };
        let runs: Vec<Resource> = page["items"].as_array().into_iter().flatten().map(resource).collect();
        let listed = skip + PAGE;
        let next_cursor = page["total"].as_i64().filter(|total| *total > listed).map(|_| listed.to_string());
        let cache_scope = Some(CacheScope::Private);
        Ok(ListResourcesResult { next_cursor, cache_scope, ..ListResourcesResult::with_all_items(runs) })
    }

    /// What an address stands for.
    pub async fn resource(&self, uri: &str) -> Result<ReadResourceResult, ErrorData> {
        let missing = || ErrorData::resource_not_found(format!("There is nothing at {uri}."), None);
        let rest = uri.strip_prefix("codegen://runs/").ok_or_else(missing)?;
        let (id, part) = rest.split_once('/').unwrap_or((rest, ""));
        let run_id: i64 = id.parse().map_err(|_| missing())?;
        let (words, kind) = match part {
            "" => (self.tool("get_agent_run", json!({"agent_run_id": run_id})).await?, "application/json"),
            "log" => (self.log(run_id).await?, "text/plain"),
            "diff" => (self.tool("get_agent_run_diff", json!({"agent_run_id": run_id})).await?, "text/x-diff"),
            _ => return Err(missing()),
        };
        let mut result = ReadResourceResult::new(vec![ResourceContents::text(words, uri).with_mime_type(kind)]);
        result.cache_scope = Some(CacheScope::Private);
        Ok(result)
    }

    async fn log(&self, run_id: i64) -> Result<String, ErrorData> {
        let mut words = String::new();
        for page in 0..LOG_PAGES {
            let arguments = json!({"agent_run_id": run_id, "skip": page * LOG_PAGE, "limit": LOG_PAGE});
            let logs: Value =
                serde_json::from_str(&self.tool("get_agent_run_logs", arguments).await?).unwrap_or_default();
            for entry in logs["logs"].as_array().into_iter().flatten() {
                write_entry(&mut words, entry);
            }
            if logs["total_logs"].as_i64().is_none_or(|total| total <= (page + 1) * LOG_PAGE) {
                return Ok(words);
            }
        }
        let shown = LOG_PAGES * LOG_PAGE;
        // Writing to a String cannot fail.
        writeln!(words, "What comes after these {shown} entries, get_agent_run_logs has with skip={shown}.").ok();
        Ok(words)
    }

    /// A tool's answer, where a refusal is one of the protocol.
    async fn tool(&self, name: &str, arguments: Value) -> Result<String, ErrorData> {
        let arguments = arguments.as_object().cloned().unwrap_or_default();
        let tool = tools::named(name).map_err(|error| ErrorData::internal_error(sentence(error), None))?;
        self.call(&tool, arguments, None).await.map_err(|error| match error {
            ApiError::Refused(axum::http::StatusCode::NOT_FOUND, words) => ErrorData::resource_not_found(words, None),
            error => ErrorData::invalid_params(sentence(error), None),
        })
    }
}

fn write_entry(words: &mut String, entry: &Value) {
    let (seq, kind) = (&entry["seq"], entry["message_type"].as_str().unwrap_or_default());
    writeln!(words, "## {seq} {kind} {}", entry["tool_name"].as_str().unwrap_or_default()).ok();
    let output = if entry["tool_output"].is_null() { "observation" } else { "tool_output" };
    for key in ["thought", "tool_input", output] {
        match &entry[key] {
            Value::Null => {}
            Value::String(text) => drop(writeln!(words, "{text}")),
            value => drop(writeln!(words, "{value}")),
        }
    }
    words.push('\n');
}
