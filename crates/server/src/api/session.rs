//! Log-in of the web app: a token, or a name and a password, is traded for a cookie that scripts cannot read.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use codegen_store::{Attempt, AttemptLimits, NewSession};
use secrecy::SecretString;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    address::{Address, network},
    auth::{Asked, Caller, by_token, is_json, read_body},
    body::{Fields, Input},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    page::time,
    users::UserResponse,
};
use crate::{App, config::Config, token};

/// More than a token or a password needs.
const BODY: usize = 64 << 10;
/// Most organizations that are shown to choose from.
const ORGANIZATIONS: i64 = 100;
/// What is kept of a browser's words about itself.
const AGENT: usize = 200;
/// Failed log-ins until the next must wait.
const LIMITS: AttemptLimits = AttemptLimits { within_ms: 15 * 60_000, per_address: 50, per_account: 10 };

/// Who is logged in.
#[derive(Serialize, ToSchema)]
pub struct SessionResponse {
    user: UserResponse,
    organizations: Vec<SessionOrganization>,
    /// When the log-in ends, used or not.
    expires_at: Option<String>,
    /// How they logged in: token, password or oidc; absent where a token came with the request.
    way: Option<String>,
    /// Whether they have a password.
    has_password: bool,
}

/// An organization that the user may act in.
#[derive(Serialize, ToSchema)]
pub struct SessionOrganization {
    id: i64,
    name: String,
    /// ADMIN, MANAGER or MEMBER.
    role: Option<String>,
}

/// What to log in with: a token, or a name and a password.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct LogInInput {
    /// An API token.
    token: Option<String>,
    /// A name or an e-mail address.
    name: Option<String>,
    /// The password that goes with it.
    password: Option<String>,
}

/// Ways to log in that are set up.
#[derive(Serialize, ToSchema)]
pub struct LogInWays {
    /// With an API token; always.
    token: bool,
    /// With a name and a password: somebody has one.
    password: bool,
    /// What the OpenID provider is called; absent without one.
    oidc: Option<String>,
}

/// What is left to do after logging out here.
#[derive(Serialize, ToSchema)]
pub struct LoggedOut {
    /// Where the browser logs out at the provider too.
    url: String,
}

/// No input, asked by pages.
pub struct Viewing;

impl Input for Viewing {
    const LIMIT: Limit = Limit::View;
    fn read(_: &mut Fields<'_>) -> Option<Self> {
        Some(Self)
    }
}

/// `__Host-` ties the cookie to this very host where the connection is encrypted. Cookies do not know ports, so on a
/// laptop the name does.
pub(super) fn cookie_name(config: &Config) -> String {
    if is_secure(config) {
        return "__Host-codegen".to_owned();
    }
    let port = config.public_url.parse::<Uri>().ok().and_then(|uri| uri.port_u16()).unwrap_or(80);
    format!("codegen-{port}")
}

pub(super) fn is_secure(config: &Config) -> bool {
    config.public_url.starts_with("https://")
}

pub(super) fn set_cookie(config: &Config, value: &str, age_s: i64) -> Result<HeaderValue, ApiError> {
    let secure = if is_secure(config) { "; Secure" } else { "" };
    let cookie = format!("{}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}", cookie_name(config));
    HeaderValue::try_from(cookie).map_err(|error| ApiError::internal(&error))
}

/// The value of a cookie.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    pairs.flat_map(|value| value.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    })
}

/// Who the cookie stands for.
pub(super) async fn caller(app: &App, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let value = cookie(headers, &cookie_name(&app.config)).ok_or_else(ApiError::unauthorized)?;
    let idle_ms = app.config.log_in.idle_ms();
    let found = app.store.session_by_hash(&token::hash(value), app.now(), idle_ms).await?;
    let (session, token, user) = found.ok_or_else(ApiError::unauthorized)?;
    Ok(Caller::of(user, token, Some(session)))
}

/// Refuses what a page of another site makes a browser send. Browsers set these headers and let no script change them;
/// `Sec-Fetch-Site` is missing where the connection is neither encrypted nor local, `Origin` is not.
pub(super) fn check_origin(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let ours = match (text(header::HeaderName::from_static("sec-fetch-site")), text(header::ORIGIN)) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            origin == app.config.public_url.trim_end_matches('/') || (host.is_some() && host == text(header::HOST))
        }
        (None, None) => false,
    };
    if ours {
        return Ok(());
    }
    Err(ApiError::Refused(StatusCode::FORBIDDEN, "This request did not come from a page of this server.".to_owned()))
}

/// Counts a log-in for this account, which need not exist, until it succeeds.
pub(super) async fn attempt(app: &App, address: &Address, account: &str) -> Result<i64, ApiError> {
    match app.store.attempt(&network(address.0).to_string(), &token::hash(account), LIMITS, app.now()).await? {
        Attempt::Counted(id) => Ok(id),
        Attempt::TooMany(ms) => Err(ApiError::TooMany(u64::try_from(ms).unwrap_or(0).div_ceil(1000))),
    }
}

/// Who has this name and password. The answer to a wrong name is that to a wrong password, and takes as long.
pub(super) async fn by_password(
    app: &App,
    address: &Address,
    name: &str,
    password: &str,
) -> Result<codegen_store::Password, ApiError> {
    let attempt = attempt(app, address, &format!("name {}", name.trim().to_lowercase())).await?;
    let found = app.store.password_by_name(name.trim()).await?;
    let hash = found.as_ref().map(|found| found.hash.clone());
    let right = app.requests.passwords.verify(SecretString::from(password), hash).await;
    let right = right.map_err(|error| ApiError::internal(&format!("{error:#}")))?;
    let Some(found) = found.filter(|_| right) else {
        let sentence = "This name and this password do not go together.";
        return Err(ApiError::Refused(StatusCode::UNAUTHORIZED, sentence.to_owned()));
    };
    app.store.attempt_succeeded(attempt).await?;
    Ok(found)
}

/// A session that begins now, and the value of its cookie.
pub(super) fn new_session(app: &App, headers: &HeaderMap, address: &Address, way: &str) -> (NewSession, String) {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let value = token::random(43);
    let session = NewSession {
        hash: token::hash(&value),
        way: way.to_owned(),
        address: address.0.to_string(),
        agent: agent.chars().take(AGENT).collect(),
        expires_at: app.now().saturating_add(app.config.log_in.max_ms()),
        ..NewSession::default()
    };
    (session, value)
}

pub(super) async fn response(app: &App, caller: Caller) -> Result<SessionResponse, ApiError> {
    let (orgs, _) = app.store.orgs_of_user(caller.user.id, 0, ORGANIZATIONS).await?;
    let (mut organizations, mut first_role) = (Vec::with_capacity(orgs.len()), None);
    for org in orgs {
        let role = app.store.org_member(org.id, caller.user.id).await?.map(|member| member.role);
        first_role = first_role.or(role);
        let role = role.map(|role| role.as_str().to_owned());
        organizations.push(SessionOrganization { id: org.id, name: org.name, role });
    }
    let has_password = app.store.password(caller.user.id).await?.is_some();
    let (expires_at, way) = caller.session.map(|session| (time(session.expires_at), session.way)).unzip();
    Ok(SessionResponse {
        user: UserResponse::new(caller.user, first_role),
        organizations,
        expires_at,
        way,
        has_password,
    })
}

/// An answer that logs in.
pub(super) async fn logged_in(app: &App, value: &str, caller: Caller) -> Result<Response, ApiError> {
    let cookie = set_cookie(&app.config, value, app.config.log_in.max_ms() / 1000)?;
    Ok(([(header::SET_COOKIE, cookie)], Json(response(app, caller).await?)).into_response())
}

/// Who is logged in, and where they may act.
#[utoipa::path(get, path = "/v1/session", tag = "web", operation_id = "get_session",
    responses((status = 200, description = "Successful Response", body = SessionResponse), Refusals))]
pub async fn get(
    State(app): State<Arc<App>>,
    asked: Asked<Caller, Viewing>,
) -> Result<Json<SessionResponse>, ApiError> {
    Ok(Json(response(&app, asked.by).await?))
}

/// Ways to log in that are set up.
#[utoipa::path(get, path = "/v1/session/ways", tag = "web", operation_id = "get_log_in_ways", security(()),
    responses((status = 200, description = "Successful Response", body = LogInWays), Refusals))]
pub async fn ways(State(app): State<Arc<App>>) -> Result<Json<LogInWays>, ApiError> {
    let oidc = app.config.log_in.oidc_issuer.as_ref().map(|_| app.config.log_in.oidc_name.clone());
    Ok(Json(LogInWays { token: true, password: app.store.any_password().await?, oidc }))
}

/// Logs in: sets a cookie that stands for the token, or for the user, from now on.
#[utoipa::path(post, path = "/v1/session", tag = "web", operation_id = "create_session", security(()),
    request_body = LogInInput,
    responses((status = 200, description = "Successful Response", body = SessionResponse),
        (status = 401, description = "No such token, or no such name and password", body = Refusal), Refusals))]
pub async fn create(
    State(app): State<Arc<App>>,
    address: Address,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = read_body(&app, body, &headers, BODY).await?;
    let mut fields = Fields::new(&app, HashMap::new(), None, Some((is_json(&headers), &bytes)));
    let token = fields.optional_text("token").flatten();
    let named = if token.is_none() {
        fields.text("name").zip(fields.text("password"))
    } else {
        // Not looked at, and yet what the document says they are.
        let _ = (fields.optional_text("name"), fields.optional_text("password"));
        None
    };
    if !fields.failures.is_empty() {
        return Err(ApiError::Invalid(fields.failures));
    }
    // A page of another site shall not log a person in as someone else; a script has no such headers and no cookie.
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        check_origin(&app, &headers)?;
    }
    let (user_id, token_id, way) = match (token, named) {
        (Some(secret), _) => {
            let attempt = attempt(&app, &address, &format!("token {secret}")).await?;
            let caller = by_token(&app, &secret, None).await?;
            app.store.attempt_succeeded(attempt).await?;
            (caller.user.id, Some(caller.token.id), "token")
        }
        (None, Some((name, password))) => {
            (by_password(&app, &address, &name, &password).await?.user.id, None, "password")
        }
        (None, None) => return Err(ApiError::unauthorized()),
    };
    let (session, value) = new_session(&app, &headers, &address, way);
    let hash = session.hash.clone();
    app.store.add_session(NewSession { user_id, token_id, ..session }, app.now()).await?;
    let begun = app.store.session_by_hash(&hash, app.now(), app.config.log_in.idle_ms()).await?;
    let (session, token, user) = begun.ok_or_else(ApiError::unauthorized)?;
    logged_in(&app, &value, Caller::of(user, token, Some(session))).await
}

/// Logs out: the cookie stands for nothing any more, and open event streams of the session end. Who came from an OpenID
/// provider is told where to log out there too.
#[utoipa::path(delete, path = "/v1/session", tag = "web", operation_id = "delete_session",
    responses((status = 204, description = "Logged out"),
        (status = 200, description = "Logged out here", body = LoggedOut), Refusals))]
pub async fn delete(State(app): State<Arc<App>>, asked: Asked<Caller, Viewing>) -> Result<Response, ApiError> {
    let gone = [(header::SET_COOKIE, set_cookie(&app.config, "", 0)?)];
    let Some(session) = asked.by.session else { return Ok((StatusCode::NO_CONTENT, gone).into_response()) };
    app.store.end_session(session.user_id, session.id).await?;
    if let (Some(provider), Some(id_token)) = (&app.oidc, &session.id_token)
        && let Some(url) = provider.log_out_url(id_token).await
    {
        return Ok((gone, Json(LoggedOut { url: url.into() })).into_response());
    }
    Ok((StatusCode::NO_CONTENT, gone).into_response())
}
