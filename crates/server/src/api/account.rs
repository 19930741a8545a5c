//! One's own account: the password, and where one is logged in.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use codegen_store::{NewSession, Session};
use secrecy::SecretString;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    address::Address,
    auth::{Asked, Caller},
    body::{Fields, Input},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    page::{Page, Paging, time},
    session::{attempt, logged_in, new_session},
};
use crate::{App, password};

/// A log-in of the web app.
#[derive(Serialize, ToSchema)]
pub struct LogInSession {
    id: i64,
    /// token, password or oidc.
    way: String,
    /// The address it was made from.
    address: String,
    /// The browser's words about itself.
    user_agent: String,
    created_at: String,
    /// To the minute.
    last_seen_at: String,
    expires_at: String,
    /// Whether this request came with it.
    current: bool,
}

/// How many ended.
#[derive(Serialize, ToSchema)]
pub struct EndedSessions {
    ended: u64,
}

/// Which session.
pub struct SessionId(i64);

impl Input for SessionId {
    const LIMIT: Limit = Limit::Write;
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("login_id")?))
    }
}

/// No input, for a change.
pub struct Changing;

impl Input for Changing {
    const LIMIT: Limit = Limit::Write;
    fn read(_: &mut Fields<'_>) -> Option<Self> {
        Some(Self)
    }
}

/// The password as it is and as it shall be.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct PasswordInput {
    /// As it is.
    current_password: String,
    /// 12 to 256 characters.
    #[schema(min_length = 12, max_length = 256)]
    password: String,
}

/// The same, read.
pub struct NewPassword {
    current: String,
    new: String,
}

impl Input for NewPassword {
    const BODY: usize = 64 << 10;
    const LIMIT: Limit = Limit::Write;
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (current, new) = (fields.text("current_password"), fields.text("password"));
        if let Some(sentence) = new.as_deref().and_then(password::refuse) {
            fields.fail(&["body", "password"], "value_error", format!("Value error, {sentence}"));
            return None;
        }
        Some(Self { current: current?, new: new? })
    }
}

/// Where the caller is logged in, newest first.
#[utoipa::path(get, path = "/v1/users/me/sessions", tag = "web", operation_id = "list_sessions", params(Paging),
    responses((status = 200, description = "Successful Response", body = Page<LogInSession>), Refusals))]
pub async fn sessions(
    State(app): State<Arc<App>>,
    asked: Asked<Caller, Paging>,
) -> Result<Json<Page<LogInSession>>, ApiError> {
    let (paging, by) = (asked.input, asked.by);
    let idle_ms = app.config.log_in.idle_ms();
    let (sessions, total) =
        app.store.sessions_of_user(by.user.id, app.now(), idle_ms, paging.skip, paging.limit).await?;
    let current = by.session.map(|session| session.id);
    let shown = |session: Session| LogInSession {
        current: Some(session.id) == current,
        id: session.id,
        way: session.way,
        address: session.address,
        user_agent: session.agent,
        created_at: time(session.created_at),
        last_seen_at: time(session.seen_at),
        expires_at: time(session.expires_at),
    };
    Ok(Json(paging.page(sessions.into_iter().map(shown).collect(), total)))
}

/// Ends one log-in of the caller's, and its open event streams.
#[utoipa::path(delete, path = "/v1/users/me/sessions/{login_id}", tag = "web", operation_id = "end_session",
    params(("login_id" = i64, Path)),
    responses((status = 204, description = "It has ended"),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn end_session(State(app): State<Arc<App>>, asked: Asked<Caller, SessionId>) -> Result<StatusCode, ApiError> {
    if app.store.end_session(asked.by.user.id, asked.input.0).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(ApiError::not_found("Session not found."))
}

/// Ends all log-ins of the caller's but the one that asks.
#[utoipa::path(delete, path = "/v1/users/me/sessions", tag = "web", operation_id = "end_other_sessions",
    responses((status = 200, description = "They have ended", body = EndedSessions), Refusals))]
pub async fn end_others(
    State(app): State<Arc<App>>,
    asked: Asked<Caller, Changing>,
) -> Result<Json<EndedSessions>, ApiError> {
    let stays = asked.by.session.map(|session| session.id);
    let ended = app.store.end_sessions(asked.by.user.id, stays).await?;
    Ok(Json(EndedSessions { ended }))
}

/// Changes one's own password. All log-ins of the user end; this answer sets the cookie of a new one.
#[utoipa::path(put, path = "/v1/users/me/password", tag = "web", operation_id = "change_password",
    request_body = PasswordInput,
    responses((status = 200, description = "Changed", body = super::session::SessionResponse),
        (status = 400, description = "Not the password", body = Refusal),
        (status = 409, description = "There is none to change", body = Refusal), Refusals))]
pub async fn put_password(
    State(app): State<Arc<App>>,
    address: Address,
    headers: HeaderMap,
    asked: Asked<Caller, NewPassword>,
) -> Result<Response, ApiError> {
    let (by, input) = (asked.by, asked.input);
    // The first one is the operator's to give: else a stolen token would get in for ever.
    let Some(known) = app.store.password(by.user.id).await? else {
        let sentence = "You have no password; the operator gives you one with `codegen user password`.";
        return Err(ApiError::Refused(StatusCode::CONFLICT, sentence.to_owned()));
    };
    let attempt = attempt(&app, &address, &format!("user {}", by.user.id)).await?;
    let passwords = &app.requests.passwords;
    let internal = |error: anyhow::Error| ApiError::internal(&format!("{error:#}"));
    let right =
        passwords.verify(SecretString::from(input.current), Some(known.hash.clone())).await.map_err(internal)?;
    if !right {
        return Err(ApiError::Refused(StatusCode::BAD_REQUEST, "This is not your password.".to_owned()));
    }
    app.store.attempt_succeeded(attempt).await?;
    let hash = passwords.hash(SecretString::from(input.new)).await.map_err(internal)?;
    let (session, value) = new_session(&app, &headers, &address, "password");
    let session = NewSession { user_id: by.user.id, ..session };
    let session = app.store.change_password(&known.hash, &hash, session, app.now()).await?;
    logged_in(&app, &value, Caller::of(by.user, by.token, Some(session))).await
}
