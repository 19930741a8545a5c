//! Log-in of the web app: a token is traded for a cookie that scripts cannot read.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Asked, Caller, by_token, is_json, read_body},
    body::{Fields, Input},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    page::time,
    users::UserResponse,
};
use crate::{App, config::Config, token};

/// How long a log-in holds.
const LIFETIME_S: i64 = 30 * 24 * 3600;
/// More than a token needs.
const BODY: usize = 64 << 10;
/// Most organizations that are shown to choose from.
const ORGANIZATIONS: i64 = 100;

/// Who is logged in.
#[derive(Serialize, ToSchema)]
pub struct SessionResponse {
    user: UserResponse,
    organizations: Vec<SessionOrganization>,
    /// When the log-in made by this request ends.
    expires_at: Option<String>,
}

/// An organization that the user may act in.
#[derive(Serialize, ToSchema)]
pub struct SessionOrganization {
    id: i64,
    name: String,
    /// ADMIN, MANAGER or MEMBER.
    role: Option<String>,
}

/// A token to log in with.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct LogInInput {
    /// An API token.
    token: String,
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
fn cookie_name(config: &Config) -> String {
    if is_secure(config) {
        return "__Host-codegen".to_owned();
    }
    let port = config.public_url.parse::<Uri>().ok().and_then(|uri| uri.port_u16()).unwrap_or(80);
    format!("codegen-{port}")
}

fn is_secure(config: &Config) -> bool {
    config.public_url.starts_with("https://")
}

fn set_cookie(config: &Config, value: &str, age_s: i64) -> Result<HeaderValue, ApiError> {
    let secure = if is_secure(config) { "; Secure" } else { "" };
    let cookie = format!("{}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}", cookie_name(config));
    HeaderValue::try_from(cookie).map_err(|error| ApiError::internal(&error))
}

/// The value of our cookie.
fn cookie<'h>(config: &Config, headers: &'h HeaderMap) -> Option<&'h str> {
    let name = cookie_name(config);
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    pairs.flat_map(|value| value.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    })
}

/// Who the cookie stands for.
pub(super) async fn caller(app: &App, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let value = cookie(&app.config, headers).ok_or_else(ApiError::unauthorized)?;
    let found = app.store.member_by_session_hash(&token::hash(value), app.now()).await?;
    let (token, user) = found.ok_or_else(ApiError::unauthorized)?;
    Ok(Caller { user, token })
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

async fn response(app: &App, caller: Caller, expires_at: Option<i64>) -> Result<SessionResponse, ApiError> {
    let (orgs, _) = app.store.orgs_of_user(caller.user.id, 0, ORGANIZATIONS).await?;
    let (mut organizations, mut first_role) = (Vec::with_capacity(orgs.len()), None);
    for org in orgs {
        let role = app.store.org_member(org.id, caller.user.id).await?.map(|member| member.role);
        first_role = first_role.or(role);
        let role = role.map(|role| role.as_str().to_owned());
        organizations.push(SessionOrganization { id: org.id, name: org.name, role });
    }
    let user = UserResponse::new(caller.user, first_role);
    Ok(SessionResponse { user, organizations, expires_at: expires_at.map(time) })
}

/// Who is logged in, and where they may act.
#[utoipa::path(get, path = "/v1/session", tag = "web", operation_id = "get_session",
    responses((status = 200, description = "Successful Response", body = SessionResponse), Refusals))]
pub async fn get(
    State(app): State<Arc<App>>,
    asked: Asked<Caller, Viewing>,
) -> Result<Json<SessionResponse>, ApiError> {
    Ok(Json(response(&app, asked.by, None).await?))
}

/// Logs in: sets a cookie that stands for the token from now on.
#[utoipa::path(post, path = "/v1/session", tag = "web", operation_id = "create_session", security(()),
    request_body = LogInInput,
    responses((status = 200, description = "Successful Response", body = SessionResponse),
        (status = 401, description = "No such token", body = Refusal), Refusals))]
pub async fn create(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let bytes = read_body(body, &headers, BODY).await?;
    let mut fields = Fields::new(&app, HashMap::new(), None, Some((is_json(&headers), &bytes)));
    let Some(secret) = fields.text("token") else { return Err(ApiError::Invalid(fields.failures)) };
    // A page of another site shall not log a person in as someone else; a script has no such headers and no cookie.
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        check_origin(&app, &headers)?;
    }
    let caller = by_token(&app, &secret).await?;
    let (value, now) = (token::random(43), app.now());
    let expires_at = now + LIFETIME_S * 1000;
    app.store.add_session(caller.token.id, &token::hash(&value), now, expires_at).await?;
    let cookie = set_cookie(&app.config, &value, LIFETIME_S)?;
    Ok(([(header::SET_COOKIE, cookie)], Json(response(&app, caller, Some(expires_at)).await?)).into_response())
}

/// Logs out: the cookie stands for nothing any more.
#[utoipa::path(delete, path = "/v1/session", tag = "web", operation_id = "delete_session",
    responses((status = 204, description = "Logged out"), Refusals))]
pub async fn delete(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    _asked: Asked<Caller, Viewing>,
) -> Result<Response, ApiError> {
    if let Some(value) = cookie(&app.config, &headers) {
        app.store.end_session(&token::hash(value)).await?;
    }
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, set_cookie(&app.config, "", 0)?)]).into_response())
}
