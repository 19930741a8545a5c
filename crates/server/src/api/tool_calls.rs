//! A tool's call: the operation behind it, asked as the same caller would ask it over HTTP, with its scope, its limit and
//! its rule.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use codegen_store::Phase;
use futures::StreamExt as _;
use serde_json::{Map, Value};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    agent_runs::{self, ResumeAgentRunInput, no_run},
    auth::{Access, Asked, Caller, InOrg, while_allowed},
    body::{Fields, Input, USUAL},
    changes,
    error::ApiError,
    integrations,
    limits::{self, Limit},
    logs, organizations, repos,
    tools::ToolDefinition,
    users,
};
use crate::{App, sse::EventParser};

/// Seconds of a wait that names none: less than the minute after which many clients give a call up.
const USUAL_WAIT: i64 = 50;
/// Most seconds of a wait.
const LONGEST_WAIT: i64 = 3600;
/// One who waits is told how it goes at least this often, so that clients see that it goes.
const TELL_AGAIN: Duration = Duration::from_secs(5);
/// And not more often than this.
const TELL_APART: Duration = Duration::from_secs(1);

/// How far a wait has come.
#[derive(Debug)]
pub struct Waited {
    /// Seconds until now.
    pub seconds: f64,
    /// Seconds at most.
    pub of: f64,
    /// What the run is at.
    pub message: String,
}

/// A call under way.
pub struct Call {
    /// Where.
    pub app: Arc<App>,
    /// By whom.
    pub caller: Caller,
    /// In which organization, where one is known.
    pub org_id: Option<i64>,
    /// A JSON object.
    pub arguments: String,
    /// The request's, which say again who asks, and in which form answers are wanted.
    pub headers: HeaderMap,
    /// Where a wait says how it goes.
    pub tell: Option<mpsc::Sender<Waited>>,
}

impl Call {
    /// The answer of the tool's operation.
    pub async fn of(self, tool: &ToolDefinition) -> Result<Response, ApiError> {
        self.caller.may(&tool.route.0, tool.route.1)?;
        let app = State(self.app.clone());
        match tool.name {
            "create_agent_run" => answer(agent_runs::create(app, self.asked().await?).await),
            "get_agent_run" => answer(agent_runs::get(app, self.asked().await?).await),
            "list_agent_runs" => answer(agent_runs::list(app, self.asked().await?).await),
            "wait_for_agent_run" => {
                let (headers, tell) = (self.headers.clone(), self.tell.clone());
                answer(wait(app, &headers, self.asked().await?, tell).await)
            }
            "resume_agent_run" => answer(agent_runs::resume(app, self.asked().await?).await),
            "send_message" => answer(send_message(app, self.asked().await?).await),
            "stop_agent_run" => answer(agent_runs::stop(app, self.asked().await?).await),
            "get_agent_run_logs" => answer(logs::get(app, self.asked().await?).await),
            "get_agent_run_diff" => {
                let headers = self.headers.clone();
                answer(changes::diff(app, headers, self.asked().await?).await)
            }
            "list_organizations" => answer(organizations::list(app, self.asked().await?).await),
            "list_repositories" => answer(repos::list(app, self.asked().await?).await),
            "list_users" => answer(users::list(app, self.asked().await?).await),
            "list_integrations" => answer(integrations::list(app, self.asked().await?).await),
            _ => Err(ApiError::not_found("There is no tool of this name.")),
        }
    }

    /// The operation's own request, read from the arguments as from its path, query and body.
    pub async fn asked<A: Access, I: Input>(self) -> Result<Asked<A, I>, ApiError> {
        let Self { app, caller, org_id, arguments, headers: _, tell: _ } = self;
        // The request that brought the call has taken its place in the answer's headers.
        limits::take(&app, &http::Extensions::new(), &caller, org_id, I::LIMIT).await?;
        let named: Map<String, Value> = serde_json::from_str(&arguments).map_err(|error| ApiError::internal(&error))?;
        let plain = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
        let texts: HashMap<String, String> =
            named.iter().filter_map(|(key, value)| Some((key.clone(), plain(value)?))).collect();
        let body = (I::BODY > 0).then_some((true, arguments.as_bytes()));
        let mut fields = Fields::of_arguments(&app, texts, body);
        let input = I::read(&mut fields);
        let input = match input {
            Some(input) if fields.failures.is_empty() => input,
            _ => return Err(ApiError::Invalid(fields.failures)),
        };
        let org_id = match org_id {
            Some(org_id) => org_id,
            None if A::IN_ORG => return Err(which_org(&app, &caller).await?),
            None => 0,
        };
        Ok(Asked { by: A::admit(&app, caller, org_id).await?, input, key: None })
    }
}

fn answer(done: Result<impl IntoResponse, ApiError>) -> Result<Response, ApiError> {
    done.map(IntoResponse::into_response)
}

/// The refusal of someone who is in several organizations and named none.
async fn which_org(app: &App, caller: &Caller) -> Result<ApiError, ApiError> {
    let (orgs, _) = app.store.orgs_of_user(caller.user.id, 0, 20).await?;
    let names: Vec<String> = orgs.iter().map(|org| format!("{} ({})", org.id, org.name)).collect();
    let sentence = if names.is_empty() {
        "You belong to no organization.".to_owned()
    } else {
        format!("Say which organization with the header x-organization-id: {}.", names.join(", "))
    };
    Ok(ApiError::Refused(StatusCode::BAD_REQUEST, sentence))
}

/// A run to tell something.
struct Message(ResumeAgentRunInput);

impl Input for Message {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        ResumeAgentRunInput::message(fields).map(Self)
    }
}

async fn send_message(app: State<Arc<App>>, asked: Asked<InOrg, Message>) -> Result<Response, ApiError> {
    let Asked { by, input: Message(input), key } = asked;
    let run = app.store.run(by.org_id, input.agent_run_id).await.map_err(no_run)?;
    if run.phase == Phase::Done {
        let sentence = "This run has ended; resume_agent_run lets it go on.".to_owned();
        return Err(ApiError::Refused(StatusCode::CONFLICT, sentence));
    }
    agent_runs::resume(app, Asked { by, input, key }).await
}

/// A run to wait for.
struct Wait {
    run_id: i64,
    timeout: Duration,
}

impl Input for Wait {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let run_id = fields.path_id("agent_run_id");
        let seconds = fields.query_within("timeout_seconds", USUAL_WAIT, 1, LONGEST_WAIT);
        Some(Self { run_id: run_id?, timeout: Duration::from_secs(seconds?.unsigned_abs()) })
    }
}

/// The run once it has ended, or when the time is over. Waiting is watching: it holds no connection to the database, and ends
/// when the one who waits may not see the run any more.
async fn wait(
    State(app): State<Arc<App>>,
    headers: &HeaderMap,
    asked: Asked<InOrg, Wait>,
    tell: Option<mpsc::Sender<Waited>>,
) -> Result<Json<agent_runs::AgentRunResponse>, ApiError> {
    let Asked { by, input: Wait { run_id, timeout }, key: _ } = asked;
    let run = app.store.run(by.org_id, run_id).await.map_err(no_run)?;
    let viewer = app.watches.view(&run, run.log_seq);
    let mut events = pin!(while_allowed::<InOrg, _>(app.clone(), headers, by.org_id, viewer.stream()));
    let (began, mut parser) = (Instant::now(), EventParser::default());
    let mut again = interval(TELL_AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut message, mut told_at) = (format!("{}, {} entries", run.status(), run.log_seq), None);
    let mut has_ended = false;
    while !has_ended {
        tokio::select! {
            bytes = events.next() => {
                let Some(bytes) = bytes else {
                    // The server goes down, or the right to look has ended.
                    return Err(if app.shutdown.is_cancelled() {
                        let sentence = "The server is going down; ask again.".to_owned();
                        ApiError::Refused(StatusCode::SERVICE_UNAVAILABLE, sentence)
                    } else {
                        ApiError::unauthorized()
                    });
                };
                for event in parser.push(&bytes?) {
                    has_ended |= event.kind == "end";
                    if let Some(seq) = event.id {
                        message = format!("{}, {seq} entries; now {}", run.status(), event.kind.replace('_', " "));
                    }
                }
            }
            _ = again.tick() => {}
            () = sleep_until(began + timeout) => break,
        }
        if let Some(tell) = &tell
            && told_at.is_none_or(|at: Instant| at.elapsed() >= TELL_APART)
        {
            told_at = Some(Instant::now());
            let waited =
                Waited { seconds: began.elapsed().as_secs_f64(), of: timeout.as_secs_f64(), message: message.clone() };
            // One that is not sent on yet says enough.
            tell.try_send(waited).ok();
        }
    }
    let run = app.store.run_answer(by.org_id, run_id).await.map_err(no_run)?;
    Ok(Json(agent_runs::response(&app, run)?))
}
