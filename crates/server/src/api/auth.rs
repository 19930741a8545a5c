//! Who asks, and whether they may: the one place for authorization. A handler's signature says who may call it.
//!
//! Refusals come in this order: 401, 429, 422, 403; what a handler looks for and does not find is 404.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts as _, MatchedPath, RawPathParams, Request},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
};
use codegen_store::{Actor, Member, Owner, RequestKey, Role, Session, Token, User};
use futures::{Stream, StreamExt as _};

use super::{
    address,
    body::{Fields, Input},
    error::ApiError,
    idempotency, last_use, limits,
    rights::{Who, scope_of},
    session,
};
use crate::{App, token};

/// An open stream's right is looked at anew at least this often, for what other servers changed.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Anyone with a valid token.
#[derive(Clone)]
pub struct Caller {
    /// Who.
    pub user: User,
    /// By which token.
    pub token: Token,
    /// In which log-in of the web app; none where a token came with the request.
    pub session: Option<Session>,
    /// What they are in one organization, where that was read with the token: asking again can be spared.
    known: Option<(i64, Option<Role>)>,
}

impl Caller {
    /// Refuses a token without the scope that a route needs.
    pub(super) fn may(&self, method: &Method, path: &str) -> Result<(), ApiError> {
        match scope_of(method, path).filter(|scope| !scope.is_in(self.token.scopes.as_deref())) {
            None => Ok(()),
            Some(scope) => {
                let sentence = format!("This token does not have the scope {scope}.");
                Err(ApiError::Refused(StatusCode::FORBIDDEN, sentence))
            }
        }
    }

    /// Someone whose place in organizations is still to be read.
    pub(super) fn of(user: User, token: Token, session: Option<Session>) -> Self {
        Self { user, token, session, known: None }
    }
}

/// Anyone with a valid token who is no service account: those belong to one organization and make nothing of their own.
pub struct Person(pub Caller);

/// A member of the organization that the request names.
pub struct InOrg {
    /// Which organization.
    pub org_id: i64,
    /// Who, as what.
    pub member: Member,
    /// By which token.
    pub token: Token,
}

/// A member who may change repositories, integrations and agent settings.
pub struct Manager(pub InOrg);

/// A member who may delete, change roles, and see the audit log and what is paid.
pub struct Admin(pub InOrg);

/// Who may call an operation.
pub trait Access: Sized + Send {
    /// Whether it is an operation of an organization.
    const IN_ORG: bool;
    /// For the route table.
    const WHO: Who;
    /// Lets the caller in or refuses.
    fn admit(app: &App, caller: Caller, org_id: i64) -> impl Future<Output = Result<Self, ApiError>> + Send;
}

impl Access for Caller {
    const IN_ORG: bool = false;
    const WHO: Who = Who::Caller;
    async fn admit(_: &App, caller: Caller, _: i64) -> Result<Self, ApiError> {
        Ok(caller)
    }
}

impl Access for Person {
    const IN_ORG: bool = false;
    const WHO: Who = Who::Person;
    async fn admit(_: &App, caller: Caller, _: i64) -> Result<Self, ApiError> {
        if caller.user.service_org_id.is_none() {
            return Ok(Self(caller));
        }
        Err(ApiError::Refused(StatusCode::FORBIDDEN, "A service account may not do this; a person may.".to_owned()))
    }
}

impl Access for InOrg {
    const IN_ORG: bool = true;
    const WHO: Who = Who::Member;
    async fn admit(app: &App, caller: Caller, org_id: i64) -> Result<Self, ApiError> {
        // An organization that does not exist looks like one of others.
        let role = match caller.known {
            Some((known, role)) if known == org_id => role,
            _ => app.store.org_member(org_id, caller.user.id).await?.map(|member| member.role),
        };
        let member = Member { user: caller.user, role: role.ok_or_else(ApiError::forbidden)? };
        // Where the organization is not in the path, this is where it becomes known.
        codegen_store::act_in(org_id);
        Ok(Self { org_id, member, token: caller.token })
    }
}

impl Access for Manager {
    const IN_ORG: bool = true;
    const WHO: Who = Who::Manager;
    async fn admit(app: &App, caller: Caller, org_id: i64) -> Result<Self, ApiError> {
        let by = InOrg::admit(app, caller, org_id).await?;
        by.at_least(Role::Manager, "Only managers and admins of the organization may do this.").map(Self)
    }
}

impl Access for Admin {
    const IN_ORG: bool = true;
    const WHO: Who = Who::Admin;
    async fn admit(app: &App, caller: Caller, org_id: i64) -> Result<Self, ApiError> {
        let by = InOrg::admit(app, caller, org_id).await?;
        by.at_least(Role::Admin, "Only admins of the organization may do this.").map(Self)
    }
}

impl InOrg {
    /// The same one, for a further operation.
    pub(super) fn into_caller(self) -> Caller {
        let known = Some((self.org_id, Some(self.member.role)));
        Caller { user: self.member.user, token: self.token, session: None, known }
    }

    fn at_least(self, role: Role, sentence: &str) -> Result<Self, ApiError> {
        if self.member.role.includes(role) {
            return Ok(self);
        }
        Err(ApiError::Refused(StatusCode::FORBIDDEN, sentence.to_owned()))
    }
}

/// A request that was let in: by whom, with what.
pub struct Asked<A, I> {
    /// By whom.
    pub by: A,
    /// With what.
    pub input: I,
    /// Under which `Idempotency-Key`, where the operation takes one.
    pub key: Option<RequestKey>,
}

impl<A: Access, I: Input> FromRequest<Arc<App>> for Asked<A, I> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let params = RawPathParams::from_request_parts(&mut parts, app).await;
        let in_path = params.iter().flatten().find(|(key, _)| *key == "org_id");
        let of_org = in_path.and_then(|(_, id)| id.parse().ok());
        let caller = authenticate(app, &parts.method, &parts.headers, of_org).await?;
        if let Some(session) = &caller.session
            && let Err(error) = app.store.session_seen(session, app.now()).await
        {
            // A full disk shall not keep people from reading.
            tracing::warn!(%error, "noting that a session is used");
        }
        let path: HashMap<String, String> = match &params {
            Ok(params) => params.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            Err(_) => return Err(ApiError::not_found("Not found.")),
        };
        limits::take(app, &parts.extensions, &caller, of_org, I::LIMIT).await?;
        let bytes = if I::BODY > 0 { Some(read_body(app, body, &parts.headers, I::BODY).await?) } else { None };
        let body = bytes.as_deref().map(|bytes| (is_json(&parts.headers), bytes));
        let mut fields = Fields::new(app, path, parts.uri.query(), body);
        let org_id = if A::IN_ORG { I::org_id(&mut fields) } else { Some(0) };
        let input = I::read(&mut fields);
        let route = parts.extensions.get::<MatchedPath>();
        let key = match route.filter(|_| I::KEYED) {
            Some(path) => {
                let path = path.as_str().replace("{org_id}", &org_id.unwrap_or_default().to_string());
                let body = bytes.as_deref().unwrap_or_default();
                idempotency::read(&parts.headers, &mut fields, caller.token.id, path, body)
            }
            None => None,
        };
        let (Some(input), Some(org_id), true) = (input, org_id, fields.failures.is_empty()) else {
            return Err(ApiError::Invalid(fields.failures));
        };
        if let Some(route) = route {
            caller.may(&parts.method, route.as_str())?;
        }
        let mut actor = actor(&parts, &caller, params.ok().as_ref(), A::IN_ORG.then_some(org_id), app.now());
        actor.address = address::of(&app.config, &parts.headers, &parts.extensions).map(|address| address.to_string());
        let by = A::admit(app, caller, org_id).await?;
        codegen_store::act_as(actor);
        Ok(Self { by, input, key })
    }
}

/// A request that anyone may make, with what.
pub struct Opened<I>(pub I);

impl<I: Input> FromRequest<Arc<App>> for Opened<I> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        // A page of another site shall not act for a person; a script has no such headers.
        if parts.headers.contains_key(header::ORIGIN) || parts.headers.contains_key("sec-fetch-site") {
            session::check_origin(app, &parts.headers)?;
        }
        let bytes = if I::BODY > 0 { Some(read_body(app, body, &parts.headers, I::BODY).await?) } else { None };
        let body = bytes.as_deref().map(|bytes| (is_json(&parts.headers), bytes));
        let mut fields = Fields::new(app, HashMap::new(), parts.uri.query(), body);
        let input = I::read(&mut fields);
        match input {
            Some(input) if fields.failures.is_empty() => Ok(Self(input)),
            _ => Err(ApiError::Invalid(fields.failures)),
        }
    }
}

/// Ends a stream at once when the one who asked for it may not see it any more: the token was revoked or has expired,
/// the log-in ended, the member was removed.
pub fn while_allowed<A: Access, S: Stream>(
    app: Arc<App>,
    headers: &HeaderMap,
    org_id: i64,
    stream: S,
) -> impl Stream<Item = S::Item> + use<A, S> {
    let mut who = HeaderMap::new();
    for name in [header::AUTHORIZATION, header::COOKIE] {
        who.extend(headers.get_all(&name).iter().map(|value| (name.clone(), value.clone())));
    }
    stream.take_until(async move {
        let mut changes = app.watches.access_changes();
        loop {
            // The same question as at the beginning, asked again whenever the answer may be another.
            let Ok(caller) = authenticate(&app, &Method::GET, &who, Some(org_id)).await else { return };
            let until = caller.token.expires_at;
            if A::admit(&app, caller, org_id).await.is_err() {
                return;
            }
            let left = until.map_or(ASK_AGAIN, |at| {
                ASK_AGAIN.min(Duration::from_millis(u64::try_from(at - app.now()).unwrap_or(0)))
            });
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(left) => {}
            }
        }
    })
}

/// Who asks for what, for the audit log.
fn actor(parts: &Parts, caller: &Caller, params: Option<&RawPathParams>, org_id: Option<i64>, now: i64) -> Actor {
    let changes = !matches!(parts.method, Method::GET | Method::HEAD);
    let operation = parts.extensions.get::<MatchedPath>().filter(|_| changes).map(|path| {
        let path = path.as_str().trim_start_matches("/v1").trim_start_matches("/organizations/{org_id}");
        let things = params.into_iter().flatten().filter(|(name, _)| *name != "org_id");
        let things: Vec<String> = things
            .map(|(name, id)| format!("{}:{id}", name.trim_end_matches("_id").trim_start_matches("agent_")))
            .collect();
        (format!("{} {path}", parts.method), things.join(" "))
    });
    Actor {
        user_id: caller.user.id,
        user_name: caller.user.github_username.clone(),
        token_id: caller.token.id,
        token_name: caller.token.name.clone(),
        address: None,
        org_id,
        operation,
        at: now,
    }
}

/// By token, or by the web app's cookie. A browser sends a cookie whichever page asks, so what changes something must
/// then come from a page of ours.
async fn authenticate(
    app: &App,
    method: &Method,
    headers: &HeaderMap,
    org_id: Option<i64>,
) -> Result<Caller, ApiError> {
    let caller = if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().ok();
        let (scheme, secret) = value.and_then(|value| value.split_once(' ')).ok_or_else(ApiError::unauthorized)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(ApiError::unauthorized());
        }
        by_token(app, secret, org_id).await?
    } else {
        let caller = session::caller(app, headers).await?;
        if !matches!(*method, Method::GET | Method::HEAD) {
            session::check_origin(app, headers)?;
        }
        caller
    };
    last_use::note(app, &caller.token);
    Ok(caller)
}

/// The owner of a token, with their role in an organization where one is named.
pub(super) async fn by_token(app: &App, secret: &str, org_id: Option<i64>) -> Result<Caller, ApiError> {
    // The search is by hash, so its timing tells nothing about a token.
    let found = app.store.owner_of_token(&token::hash(secret.trim()), org_id, app.now()).await?;
    let Owner { token, user, role } = found.ok_or_else(ApiError::unauthorized)?;
    Ok(Caller { user, token, session: None, known: org_id.map(|org_id| (org_id, role)) })
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads a body, within a size and a time.
pub(super) async fn read_body(app: &App, body: Body, headers: &HeaderMap, limit: usize) -> Result<Vec<u8>, ApiError> {
    let time = Duration::from_secs(app.config.body_s);
    tokio::time::timeout(time, read_in_time(body, headers, limit)).await.unwrap_or_else(|_| {
        let sentence = format!("The body took longer than {} s.", time.as_secs());
        Err(ApiError::Refused(StatusCode::REQUEST_TIMEOUT, sentence))
    })
}

async fn read_in_time(body: Body, headers: &HeaderMap, limit: usize) -> Result<Vec<u8>, ApiError> {
    let too_large = || {
        let sentence = format!("The body is larger than {} MB.", limit >> 20);
        ApiError::Refused(StatusCode::PAYLOAD_TOO_LARGE, sentence)
    };
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| ApiError::Refused(StatusCode::BAD_REQUEST, "The body broke off.".to_owned()))?;
        if bytes.len() + chunk.len() > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
