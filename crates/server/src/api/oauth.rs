//! People connect their accounts elsewhere: the browser is sent to the provider and comes back with a code.
//!
//! What the connection is ended with stays, sealed, in a cookie of the browser that began it, so that nobody's account is
//! connected for somebody else.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use utoipa::IntoParams;

use super::{
    auth::{Asked, InOrg},
    body::{Fields, Input},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    oidc::{local, redirect},
    session::{cookie, cookie_name, is_secure},
};
use crate::{
    App,
    oauth::{self, PENDING_MS, Pending, Wanted},
};

/// A connection to begin.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Connect {
    /// The provider's name, as `/v1/mcp-providers` has it.
    #[param(min_length = 1)]
    provider: String,
    /// A path of the app to go to afterwards.
    next: Option<String>,
}

impl Input for Connect {
    const LIMIT: Limit = Limit::Write;

    fn org_id(fields: &mut Fields<'_>) -> Option<i64> {
        fields.query_needed_int("org_id")
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { provider: fields.query_needed_text("provider")?, next: fields.query_text("next") })
    }
}

/// What a provider sends the browser back with.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Answer {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
}

fn pending_name(app: &App) -> String {
    format!("{}-connect", cookie_name(&app.config))
}

/// Lax: the browser comes back by a link of another site.
fn set_pending(app: &App, value: &str, age_s: i64) -> Result<HeaderValue, ApiError> {
    let secure = if is_secure(&app.config) { "; Secure" } else { "" };
    let cookie = format!("{}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Lax{secure}", pending_name(app));
    HeaderValue::try_from(cookie).map_err(|error| ApiError::internal(&error))
}

fn seal(app: &App, pending: &Pending) -> anyhow::Result<String> {
    let text = serde_json::to_string(pending)?;
    let sealed = app.keys.seal(oauth::pending_place(), &text.into())?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(sealed.ciphertext))
}

fn unseal(app: &App, value: &str) -> Option<Pending> {
    let ciphertext = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(value).ok()?).ok()?;
    let text = app.keys.unseal(&oauth::pending_place(), &ciphertext).ok()?;
    serde_json::from_str(text.expose_secret()).ok()
}

/// Sends the browser to a provider, where the caller agrees to connect their account.
#[utoipa::path(get, path = "/v1/oauth/connect", tag = "organizations", operation_id = "begin_oauth_connection",
    params(Connect, ("org_id" = i64, Query)),
    responses((status = 303, description = "To the provider"),
        (status = 404, description = "There is no such provider", body = Refusal),
        (status = 409, description = "The server is not set up as a client of it", body = Refusal), Refusals))]
pub async fn connect(State(app): State<Arc<App>>, asked: Asked<InOrg, Connect>) -> Result<Response, ApiError> {
    let Connect { provider: name, next } = asked.input;
    let provider = app.oauth_provider(&name).ok_or_else(|| ApiError::not_found("There is no such provider."))?;
    let Some(client_id) = &provider.client_id else {
        let sentence =
            format!("This server is no client of {name}: its setting mcp_providers has no client_id for it.");
        return Err(codegen_store::Error::Conflict(sentence).into());
    };
    let wanted = Wanted { org_id: asked.by.org_id, user_id: asked.by.member.user.id, next: local(next) };
    let begun = app.begin_connection(provider, client_id, wanted);
    let (url, pending) = begun.map_err(|error| ApiError::internal(&format!("{error:#}")))?;
    let value = seal(&app, &pending).map_err(|error| ApiError::internal(&format!("{error:#}")))?;
    redirect(url.as_str(), vec![set_pending(&app, &value, PENDING_MS / 1000)?])
}

/// Connects the account of whom a provider sends back.
#[utoipa::path(get, path = "/v1/oauth/callback", tag = "organizations", operation_id = "end_oauth_connection", security(()),
    params(Answer),
    responses((status = 303, description = "Back into the app, with `connected` or `failed` in the query"), Refusals))]
pub async fn callback(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Query(answer): Query<Answer>,
) -> Result<Response, ApiError> {
    let begun = cookie(&headers, &pending_name(&app)).and_then(|value| unseal(&app, value));
    let Some(pending) = begun.filter(|pending| pending.expires_at > app.now()) else {
        return back(&app, "/", "failed", "expired");
    };
    let same = |state: &String| bool::from(state.as_bytes().ct_eq(pending.state.as_bytes()));
    if !answer.state.as_ref().is_some_and(same) {
        return back(&app, &pending.next, "failed", "state");
    }
    let Some(code) = answer.code.filter(|_| answer.error.is_none()) else {
        return back(&app, &pending.next, "failed", "refused");
    };
    let Pending { org_id, user_id, provider: name, next, .. } = &pending;
    let member = app.store.org_member(*org_id, *user_id).await?;
    let provider = app.oauth_provider(name).filter(|_| member.is_some());
    let Some(provider) = provider else { return back(&app, next, "failed", "gone") };
    let kept = match app.trade_code(provider, &pending, &code).await {
        Ok(kept) => kept,
        Err(error) => {
            tracing::warn!(org.id = org_id, error = format!("{error:#}"), "connecting an account");
            return back(&app, next, "failed", "provider");
        }
    };
    let (sealing, org) = (app.clone(), *org_id);
    let seal = move |id| {
        let sealed = sealing.keys.seal(oauth::token_place(org, id), &kept);
        sealed.map_err(|error| codegen_store::Error::Answer(error.into()))
    };
    app.store.connect_account(*org_id, *user_id, name, seal, app.now()).await?;
    back(&app, next, "connected", name)
}

fn back(app: &App, to: &str, key: &str, word: &str) -> Result<Response, ApiError> {
    let word: String = url::form_urlencoded::byte_serialize(word.as_bytes()).collect();
    let joint = if to.contains('?') { '&' } else { '?' };
    redirect(&format!("{to}{joint}{key}={word}"), vec![set_pending(app, "", 0)?])
}
