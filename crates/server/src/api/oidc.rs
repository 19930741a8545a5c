//! Log-in at an OpenID provider: the browser is sent there, comes back, and gets a session.
//!
//! What the log-in must be ended with stays in a cookie of the browser that began it, so that it can be ended there only.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use codegen_store::{Entered, GivenRole, Identity, NewSession, NewUser, Role};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    address::Address,
    error::{ApiError, Refusal, Refusals},
    session::{attempt, cookie, cookie_name, is_secure, new_session, set_cookie},
};
use crate::{
    App,
    config::LogIn,
    oidc::{Answer, Failed, Pending, Person, Provider},
    token,
};

/// Time that a person has at the provider.
const PENDING_S: i64 = 600;

/// Where to go after the log-in.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Next {
    /// A path of the app.
    next: Option<String>,
}

/// Only to a place here.
pub(super) fn local(path: Option<String>) -> String {
    let fits = |path: &String| {
        path.starts_with('/')
            && !path.starts_with("//")
            && !path.contains('\\')
            && path.bytes().all(|b| b.is_ascii_graphic())
    };
    path.filter(fits).unwrap_or_else(|| "/".to_owned())
}

fn provider(app: &App) -> Result<&Provider, ApiError> {
    app.oidc.as_ref().ok_or_else(|| ApiError::not_found("No OpenID provider is set up."))
}

fn pending_name(app: &App) -> String {
    format!("{}-oidc", cookie_name(&app.config))
}

/// Lax: the browser comes back by a link of another site.
fn set_pending(app: &App, value: &str, age_s: i64) -> Result<HeaderValue, ApiError> {
    let secure = if is_secure(&app.config) { "; Secure" } else { "" };
    let cookie = format!("{}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Lax{secure}", pending_name(app));
    HeaderValue::try_from(cookie).map_err(|error| ApiError::internal(&error))
}

pub(super) fn redirect(to: &str, cookies: Vec<HeaderValue>) -> Result<Response, ApiError> {
    let place = HeaderValue::try_from(to).map_err(|error| ApiError::internal(&error))?;
    let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The address of the callback has the code.
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Sends the browser to the OpenID provider.
#[utoipa::path(get, path = "/v1/session/oidc", tag = "web", operation_id = "begin_oidc", security(()), params(Next),
    responses((status = 303, description = "To the provider, or to the log-in page where it is away"),
        (status = 404, description = "None is set up", body = Refusal), Refusals))]
pub async fn begin(State(app): State<Arc<App>>, Query(next): Query<Next>) -> Result<Response, ApiError> {
    match provider(&app)?.begin(local(next.next)).await {
        Ok((url, pending)) => {
            let pending = serde_json::to_vec(&pending).map_err(|error| ApiError::internal(&error))?;
            redirect(url.as_str(), vec![set_pending(&app, &BASE64_URL_SAFE_NO_PAD.encode(pending), PENDING_S)?])
        }
        Err(failed) => to_log_in(&app, &failed),
    }
}

/// Logs in whom the provider sends back.
#[utoipa::path(get, path = "/v1/session/oidc/callback", tag = "web", operation_id = "end_oidc", security(()),
    params(("code" = Option<String>, Query), ("state" = Option<String>, Query), ("iss" = Option<String>, Query),
        ("error" = Option<String>, Query)),
    responses((status = 303, description = "Into the app, or to the log-in page with the reason"),
        (status = 404, description = "None is set up", body = Refusal), Refusals))]
pub async fn callback(
    State(app): State<Arc<App>>,
    address: Address,
    headers: HeaderMap,
    Query(answer): Query<Answer>,
) -> Result<Response, ApiError> {
    let provider = provider(&app)?;
    let pending = cookie(&headers, &pending_name(&app)).and_then(|value| BASE64_URL_SAFE_NO_PAD.decode(value).ok());
    let Some(pending) = pending.and_then(|bytes| serde_json::from_slice::<Pending>(&bytes).ok()) else {
        return to_log_in(&app, &Failed::Other);
    };
    // Each of its own account: only those of the address count.
    let attempt = attempt(&app, &address, &token::random(20)).await?;
    let next = local(Some(pending.next.clone()));
    let person = match provider.finish(pending, answer).await {
        Ok(person) => person,
        Err(failed) => return to_log_in(&app, &failed),
    };
    app.store.attempt_succeeded(attempt).await?;
    let settings = &app.config.log_in;
    let Some(email) = email(settings, &person) else { return refused(&app, "domain") };
    let org_id = match settings.oidc_org {
        Some(id) => id,
        None => app.store.first_org_and_admin().await?.0.id,
    };
    let key = token::hash(&format!("{}\n{}", provider.issuer(), person.subject));
    let name = person.text("preferred_username").or_else(|| person.text("nickname"));
    let local_part = || email.as_ref().and_then(|email| email.split_once('@')).map(|(name, _)| name.to_owned());
    let user = NewUser {
        github_user_id: format!("oidc-{}", key.get(..32).unwrap_or(&key)),
        github_username: name.or_else(local_part).unwrap_or_else(|| person.subject.clone()),
        full_name: person.text("name"),
        avatar_url: person.text("picture").filter(|url| url.starts_with("https://")),
        email,
    };
    let identity = Identity {
        issuer: provider.issuer().to_owned(),
        role: role(settings, &person),
        subject: person.subject,
        user,
        org_id,
    };
    let (session, value) = new_session(&app, &headers, &address, "oidc");
    let session = NewSession { id_token: Some(person.id_token), ..session };
    match app.store.enter(identity, session, app.now()).await? {
        Entered::In(..) => {
            let cookie = set_cookie(&app.config, &value, settings.max_ms() / 1000)?;
            redirect(&next, vec![set_pending(&app, "", 0)?, cookie])
        }
        Entered::NoRole => refused(&app, "role"),
    }
}

/// Their e-mail address, where one of this domain may log in. Where domains are asked for, only a verified one counts.
#[allow(clippy::option_option, reason = "the outer one is the refusal")]
fn email(settings: &LogIn, person: &Person) -> Option<Option<String>> {
    let verified = person.email_verified();
    let email = person.text("email").filter(|_| verified != Some(false));
    if settings.oidc_email_domains.is_empty() {
        return Some(email);
    }
    let domain = email.as_ref().and_then(|email| email.rsplit_once('@')).map(|(_, domain)| domain.to_lowercase());
    let fits = verified == Some(true) && domain.is_some_and(|domain| settings.oidc_email_domains.contains(&domain));
    fits.then_some(email)
}

/// The highest role that a group of theirs gives.
fn role(settings: &LogIn, person: &Person) -> GivenRole {
    if settings.oidc_group_roles.is_empty() {
        return settings.oidc_default_role.map_or(GivenRole::None, GivenRole::AtFirst);
    }
    let groups = person.groups(&settings.oidc_group_claim);
    let given = settings.oidc_group_roles.iter().filter(|(group, _)| groups.contains(&group.as_str()));
    let higher = |a: Role, b: Role| if a.includes(b) { a } else { b };
    let highest = given.map(|(_, role)| *role).reduce(higher);
    highest.or(settings.oidc_default_role).map_or(GivenRole::None, GivenRole::Always)
}

fn to_log_in(app: &App, failed: &Failed) -> Result<Response, ApiError> {
    tracing::warn!(error = chain(failed), "a log-in at the OpenID provider failed");
    refused(app, failed.word())
}

fn refused(app: &App, word: &str) -> Result<Response, ApiError> {
    redirect(&format!("/login?failed={word}"), vec![set_pending(app, "", 0)?])
}

/// An error with its causes.
fn chain(failed: &Failed) -> String {
    let mut words = failed.to_string();
    let mut cause = std::error::Error::source(failed);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_in_leads_nowhere_else() {
        for (path, to) in [
            (Some("/runs/1?a=b"), "/runs/1?a=b"),
            (None, "/"),
            (Some("https://evil.example"), "/"),
            (Some("//evil.example"), "/"),
            (Some("/\\evil.example"), "/"),
            (Some("/a\r\nSet-Cookie: b"), "/"),
        ] {
            assert_eq!(local(path.map(str::to_owned)), to);
        }
    }
}
