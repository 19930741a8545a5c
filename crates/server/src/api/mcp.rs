//! `/mcp`: this server's tools for clients that speak the Model Context Protocol, over streamable HTTP.
//!
//! Nothing is kept between messages, so any server of several answers any of them, and a restart ends no session: each
//! message says with its token who asks, and is let in or refused as every other request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    auth::{Access as _, Asked, Caller, InOrg},
    body::{Fields, Input, USUAL},
    error::{ApiError, Loc, Refusals, ValidationError},
    limits::Limit,
    mcp_server::Server,
};
use crate::{App, token};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// Bytes of a refusal that is taken over.
const REFUSAL: usize = 64 << 10;

/// A message of the Model Context Protocol (JSON-RPC 2.0).
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct McpMessage {
    /// `2.0`.
    jsonrpc: String,
    /// Of a request: its number or name, for the answer.
    #[schema(value_type = Option<i64>)]
    id: Option<Value>,
    /// As `tools/call`.
    method: String,
    /// As the method has them.
    params: Option<Map<String, Value>>,
}

/// A message as it came, and what must be known of it before it is answered.
pub struct Message {
    text: String,
    known: Known,
}

#[derive(Default, Deserialize)]
struct Known {
    id: Option<Value>,
    #[serde(default)]
    method: String,
    #[serde(default)]
    params: Params,
}

#[derive(Default, Deserialize)]
struct Params {
    /// Of a call: the tool.
    name: Option<String>,
    /// Of a cancellation: which request.
    #[serde(rename = "requestId")]
    request_id: Option<Value>,
}

impl Input for Message {
    const BODY: usize = USUAL;
    // A client asks several things before its first call, and each call counts against the limit of its operation.
    const LIMIT: Limit = Limit::View;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let text = fields.whole();
        let known = serde_json::from_str(&text).unwrap_or_default();
        Some(Self { text, known })
    }
}

/// Calls under way that their clients can cancel, by token, session and request.
#[derive(Default)]
pub struct Calls(Mutex<HashMap<Key, CancellationToken>>);

type Key = (i64, String, String);

/// A call under way, which can be cancelled until this goes.
pub struct UnderWay {
    app: Arc<App>,
    key: Option<Key>,
    /// By its client.
    pub cancelled: CancellationToken,
}

impl UnderWay {
    fn new(app: Arc<App>, key: Option<Key>) -> Self {
        let cancelled = CancellationToken::new();
        if let Some(key) = &key {
            let calls = &app.requests.calls.0;
            calls.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), cancelled.clone());
        }
        Self { app, key, cancelled }
    }
}

impl Calls {
    fn cancel(&self, key: &Key) {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.get(key).into_iter().for_each(CancellationToken::cancel);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.app.requests.calls.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
    }
}

/// A message of a client that speaks the Model Context Protocol. Its tools are those of `/tools`; in which organization they
/// work, the header `x-organization-id` says, and without it the one that the token's owner is in. `x-repo-id` names the
/// repository of new runs.
#[utoipa::path(post, path = "/mcp", tag = "tools", operation_id = "mcp",
    params(("x-organization-id" = Option<i64>, Header), ("x-repo-id" = Option<i64>, Header)),
    request_body = McpMessage,
    responses((status = 200, description = "The answer, with what is told before it where it is a stream",
            content((serde_json::Map<String, serde_json::Value> = "application/json"), (String = "text/event-stream"))),
        (status = 202, description = "A notification was taken"),
        (status = 400, description = "Not such a message", body = serde_json::Map<String, serde_json::Value>),
        (status = 404, description = "No such method", body = serde_json::Map<String, serde_json::Value>),
        (status = 406, description = "The client does not take what is answered", body = super::error::Refusal), Refusals))]
pub async fn post(
    State(app): State<Arc<App>>,
    uri: Uri,
    headers: HeaderMap,
    asked: Asked<Caller, Message>,
) -> Result<Response, ApiError> {
    let Asked { by: caller, input: Message { text, known }, key: _ } = asked;
    if caller.session.is_some() {
        // A browser sends its cookie whoever asks.
        return Err(ApiError::unauthorized());
    }
    let org_id = match number(&headers, "x-organization-id")? {
        Some(org_id) => {
            InOrg::admit(&app, caller.clone(), org_id).await?;
            Some(org_id)
        }
        None => only_org(&app, &caller).await?,
    };
    let session = headers.get(SESSION).and_then(|session| session.to_str().ok()).unwrap_or_default();
    let key = |id: &Value| (caller.token.id, session.to_owned(), id.to_string());
    if let ("notifications/cancelled", Some(id)) = (known.method.as_str(), &known.params.request_id) {
        app.requests.calls.cancel(&key(id));
    }
    // Without a session two clients of one token could cancel each other's.
    let call = known.id.as_ref().filter(|_| !session.is_empty()).map(key);
    let server = Server {
        app: app.clone(),
        org_id,
        repo_id: number(&headers, "x-repo-id")?,
        headers: headers.clone(),
        actor: codegen_store::actor(),
        under_way: Arc::new(UnderWay::new(app.clone(), call)),
        caller,
    };
    // What takes long is a stream from its beginning, so that nobody on the way takes it for dead.
    let is_long = known.method == "tools/call" && known.params.name.as_deref() == Some("wait_for_agent_run");
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(!is_long)
        .with_allowed_hosts(hosts(&app))
        .with_allowed_origins(origins(&app))
        .enforce_origin_validation()
        .with_max_request_body_bytes(USUAL);
    let service =
        StreamableHttpService::new(move || Ok(server.clone()), Arc::new(NeverSessionManager::default()), config);
    let mut request = Request::new(Body::from(text));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = accepting(headers);
    let response = service.handle(request).await.map(Body::new);
    let mut response = in_our_words(response).await;
    if known.method == "initialize" {
        let name = HeaderValue::try_from(token::random(22)).map_err(|error| ApiError::internal(&error))?;
        response.headers_mut().insert(SESSION, name);
    }
    Ok(response)
}

/// The organization of someone who is in one.
async fn only_org(app: &App, caller: &Caller) -> Result<Option<i64>, ApiError> {
    if let Some(org_id) = caller.user.service_org_id {
        return Ok(Some(org_id));
    }
    let (orgs, total) = app.store.orgs_of_user(caller.user.id, 0, 1).await?;
    Ok(orgs.first().map(|org| org.id).filter(|_| total == 1))
}

/// A number that a header has; an empty one is how some clients say that they have none.
fn number(headers: &HeaderMap, name: &str) -> Result<Option<i64>, ApiError> {
    let value = headers.get(name).filter(|value| !value.as_bytes().trim_ascii().is_empty());
    let Some(value) = value else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| {
        let loc = vec![Loc::Key("header".to_owned()), Loc::Key(name.to_owned())];
        let msg = "Input should be a valid integer, unable to parse string as an integer".to_owned();
        ApiError::Invalid(vec![ValidationError { loc, msg, r#type: "int_parsing" }])
    })
}

/// Names that this server goes by: a page of another site that had its own name point here would come with that name.
fn hosts(app: &App) -> Vec<String> {
    let public = app.config.public_url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let bound = Some(app.config.addr.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
    public.into_iter().chain(local).chain(bound).collect()
}

/// The one site whose pages may ask; where that is this machine, by each of its names.
fn origins(app: &App) -> Vec<String> {
    let Ok(url) = url::Url::parse(&app.config.public_url) else { return Vec::new() };
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return Vec::new() };
    let own = ["localhost", "127.0.0.1", "[::1]"];
    let hosts = if own.contains(&host) { own.to_vec() } else { vec![host] };
    hosts.into_iter().map(|host| format!("{}://{host}:{port}", url.scheme())).collect()
}

/// Who takes everything, as curl, takes what the protocol wants said by name.
fn accepting(mut headers: HeaderMap) -> HeaderMap {
    let accept = headers.get(header::ACCEPT).map_or(b"*/*".as_slice(), HeaderValue::as_bytes);
    if accept.windows(3).any(|part| part == b"*/*") {
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    }
    headers
}

/// Refusals that are no messages, as all of this server's.
async fn in_our_words(response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE).map_or(b"".as_slice(), HeaderValue::as_bytes);
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) || kind.starts_with(b"application/json") {
        return response;
    }
    let bytes = to_bytes(response.into_body(), REFUSAL).await.unwrap_or_default();
    let mut sentence = String::from_utf8_lossy(&bytes).into_owned();
    if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        // It is JSON, which was looked at before, but no message.
        let refusal = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": sentence}});
        return (StatusCode::BAD_REQUEST, Json(refusal)).into_response();
    }
    if status == StatusCode::FORBIDDEN {
        sentence.push_str("; this server is known by its setting public_url");
    }
    ApiError::Refused(status, sentence).into_response()
}
