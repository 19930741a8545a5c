//! Tokens: a person's own, and those of service accounts.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use codegen_store::{NewToken, Token};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Admin, Asked, Caller, Person},
    body::{Fields, Input, USUAL},
    error::{ApiError, Loc, Refusal, Refusals, ValidationError},
    limits::Limit,
    page::{Page, Paging, time},
    rights::Scope,
    words,
};
use crate::{App, token};

const LONGEST_NAME: usize = 200;
const LONGEST_LIFE_DAYS: i64 = 3650;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// A token, without what is secret.
#[derive(Serialize, ToSchema)]
pub struct TokenResponse {
    pub id: i64,
    name: String,
    /// Its beginning.
    hint: String,
    /// What it may do; none where it may do everything that its owner may.
    scopes: Option<Vec<String>>,
    created_at: String,
    expires_at: Option<String>,
    /// To the minute.
    last_used_at: Option<String>,
}

impl From<Token> for TokenResponse {
    fn from(token: Token) -> Self {
        Self {
            id: token.id,
            name: token.name,
            hint: token.hint,
            scopes: token.scopes.map(|scopes| scopes.split_whitespace().map(str::to_owned).collect()),
            created_at: time(token.created_at),
            expires_at: token.expires_at.map(time),
            last_used_at: token.last_used_at.map(time),
        }
    }
}

/// A token that was just made.
#[derive(Serialize, ToSchema)]
pub struct NewTokenResponse {
    #[serde(flatten)]
    pub about: TokenResponse,
    /// The token itself; nobody can show it again.
    pub token: String,
}

/// A token to make.
#[derive(ToSchema)]
pub struct NewTokenInput {
    /// What it is for.
    #[schema(min_length = 1, max_length = 200, pattern = "\\S")]
    name: String,
    /// What it may do, else all that the one who makes it may: `runs:read`, `runs:write`, `repos:read`, ...
    #[schema(schema_with = words::scopes, required = false)]
    scopes: Vec<String>,
    /// When it expires, else never.
    #[schema(minimum = 1, maximum = 3650)]
    expires_in_days: Option<i64>,
}

impl Input for NewTokenInput {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = name(fields, "name");
        let scopes = fields.optional_texts("scopes");
        for (index, word) in scopes.iter().flatten().enumerate() {
            if Scope::parse(word).is_none() {
                let msg = "Value error, no such scope; docs/roles.md has them";
                fields.fail_item("scopes", index, "value_error", msg);
            }
        }
        let expires_in_days = fields.optional_int("expires_in_days");
        if expires_in_days.flatten().is_some_and(|days| !(1..=LONGEST_LIFE_DAYS).contains(&days)) {
            let msg = format!("Value error, a token lives for 1 to {LONGEST_LIFE_DAYS} days");
            fields.fail(&["body", "expires_in_days"], "value_error", msg);
        }
        Some(Self { name: name?, scopes: scopes?, expires_in_days: expires_in_days? })
    }
}

/// A name of something, which has to say something.
pub fn name(fields: &mut Fields<'_>, key: &str) -> Option<String> {
    let name = fields.text(key)?.trim().to_owned();
    if name.is_empty() {
        fields.fail(&["body", key], "string_too_short", "String should have at least 1 character");
        return None;
    }
    if name.chars().count() > LONGEST_NAME {
        let msg = format!("String should have at most {LONGEST_NAME} characters");
        fields.fail(&["body", key], "string_too_long", msg);
        return None;
    }
    Some(name)
}

/// A token's id.
pub struct TokenId(i64);

impl Input for TokenId {
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("token_id")?))
    }
}

/// Makes a token of a user, which may do no more and live no longer than the one that makes it.
async fn make(app: &App, by: &Token, user_id: i64, input: NewTokenInput) -> Result<NewTokenResponse, ApiError> {
    let refused = |word: &str| {
        let loc = vec![Loc::Key("body".to_owned()), Loc::Key("scopes".to_owned())];
        let msg = format!("Value error, the token that asks does not have the scope {word} itself");
        ApiError::Invalid(vec![ValidationError { loc, msg, r#type: "value_error" }])
    };
    for word in &input.scopes {
        if !Scope::parse(word).is_some_and(|scope| scope.is_in(by.scopes.as_deref())) {
            return Err(refused(word));
        }
    }
    let scopes = if input.scopes.is_empty() { by.scopes.clone() } else { Some(input.scopes.join(" ")) };
    let now = app.now();
    let wanted = input.expires_in_days.map(|days| now + days * DAY_MS);
    let expires_at = [wanted, by.expires_at].into_iter().flatten().min();
    let secret = token::new();
    let new = NewToken {
        user_id,
        name: input.name,
        hash: token::hash(&secret),
        hint: token::hint(&secret),
        scopes,
        expires_at,
    };
    let made = app.store.create_token(new, now).await?;
    Ok(NewTokenResponse { about: made.into(), token: secret })
}

fn no_token(error: codegen_store::Error) -> ApiError {
    match error {
        codegen_store::Error::NotFound => ApiError::not_found("Token not found."),
        other => other.into(),
    }
}

/// The caller's tokens.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", operation_id = "list_tokens", params(Paging),
    responses((status = 200, description = "Successful Response", body = Page<TokenResponse>), Refusals))]
pub async fn list(
    State(app): State<Arc<App>>,
    asked: Asked<Caller, Paging>,
) -> Result<Json<Page<TokenResponse>>, ApiError> {
    let paging = asked.input;
    let (tokens, total) = app.store.tokens(asked.by.user.id, paging.skip, paging.limit).await?;
    Ok(Json(paging.page(tokens.into_iter().map(Into::into).collect(), total)))
}

/// Makes a token of the caller's.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", operation_id = "create_token", request_body = NewTokenInput,
    responses((status = 200, description = "Successful Response", body = NewTokenResponse), Refusals))]
pub async fn create(
    State(app): State<Arc<App>>,
    asked: Asked<Person, NewTokenInput>,
) -> Result<Json<NewTokenResponse>, ApiError> {
    let Caller { user, token, .. } = asked.by.0;
    Ok(Json(make(&app, &token, user.id, asked.input).await?))
}

/// Revokes a token of the caller's, with its log-ins and open streams.
#[utoipa::path(delete, path = "/v1/tokens/{token_id}", tag = "tokens", operation_id = "revoke_token",
    params(("token_id" = i64, Path)),
    responses((status = 204, description = "Revoked"), (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn revoke(State(app): State<Arc<App>>, asked: Asked<Caller, TokenId>) -> Result<StatusCode, ApiError> {
    app.store.revoke_token(asked.by.user.id, asked.input.0, app.now()).await.map_err(no_token)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is asked of a service account.
pub struct OfAccount<I> {
    account_id: i64,
    input: I,
}

impl<I: Input> Input for OfAccount<I> {
    const BODY: usize = I::BODY;
    const LIMIT: Limit = I::LIMIT;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let account_id = fields.path_id("service_account_id");
        let input = I::read(fields);
        Some(Self { account_id: account_id?, input: input? })
    }
}

/// 404 in our words.
pub fn no_account(error: codegen_store::Error) -> ApiError {
    match error {
        codegen_store::Error::NotFound => ApiError::not_found("Service account not found."),
        other => other.into(),
    }
}

/// A service account's tokens.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/service-accounts/{service_account_id}/tokens", tag = "tokens",
    operation_id = "list_service_account_tokens",
    params(("org_id" = i64, Path), ("service_account_id" = i64, Path), Paging),
    responses((status = 200, description = "Successful Response", body = Page<TokenResponse>),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn list_of_account(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, OfAccount<Paging>>,
) -> Result<Json<Page<TokenResponse>>, ApiError> {
    let OfAccount { account_id, input: paging } = asked.input;
    let account = app.store.service_account(asked.by.0.org_id, account_id).await.map_err(no_account)?;
    let (tokens, total) = app.store.tokens(account.user.id, paging.skip, paging.limit).await?;
    Ok(Json(paging.page(tokens.into_iter().map(Into::into).collect(), total)))
}

/// Makes a token of a service account.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/service-accounts/{service_account_id}/tokens", tag = "tokens",
    operation_id = "create_service_account_token",
    params(("org_id" = i64, Path), ("service_account_id" = i64, Path)), request_body = NewTokenInput,
    responses((status = 200, description = "Successful Response", body = NewTokenResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn create_of_account(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, OfAccount<NewTokenInput>>,
) -> Result<Json<NewTokenResponse>, ApiError> {
    let OfAccount { account_id, input } = asked.input;
    let account = app.store.service_account(asked.by.0.org_id, account_id).await.map_err(no_account)?;
    Ok(Json(make(&app, &asked.by.0.token, account.user.id, input).await?))
}

/// Revokes a token of a service account.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}/service-accounts/{service_account_id}/tokens/{token_id}",
    tag = "tokens", operation_id = "revoke_service_account_token",
    params(("org_id" = i64, Path), ("service_account_id" = i64, Path), ("token_id" = i64, Path)),
    responses((status = 204, description = "Revoked"), (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn revoke_of_account(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, OfAccount<TokenId>>,
) -> Result<StatusCode, ApiError> {
    let OfAccount { account_id, input } = asked.input;
    let account = app.store.service_account(asked.by.0.org_id, account_id).await.map_err(no_account)?;
    app.store.revoke_token(account.user.id, input.0, app.now()).await.map_err(no_token)?;
    Ok(StatusCode::NO_CONTENT)
}
