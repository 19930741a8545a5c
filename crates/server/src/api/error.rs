//! Refusals, in exactly the contract's bodies. Internal causes are logged once and never sent.

use axum::{
    Json,
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tracing::error;
use utoipa::{IntoResponses, ToSchema};

/// Why a request is refused.
#[derive(Debug)]
pub enum ApiError {
    /// A status and a sentence.
    Refused(StatusCode, String),
    /// Too many requests; seconds to wait.
    TooMany(u64),
    /// Everything that is wrong with the request itself.
    Invalid(Vec<ValidationError>),
}

/// The body of every refusal but 422.
#[derive(Serialize, ToSchema)]
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// The response's status.
    pub status_code: u16,
    /// The message again: older clients read it here.
    pub detail: String,
}

/// The body of 422.
#[derive(Serialize, ToSchema)]
pub struct HTTPValidationError {
    /// Every failure.
    pub detail: Vec<ValidationError>,
}

/// One failure.
#[derive(Debug, Serialize, ToSchema, PartialEq)]
pub struct ValidationError {
    /// `path`, `query`, `header` or `body`, then the key and index.
    pub loc: Vec<Loc>,
    /// For people.
    pub msg: String,
    /// FastAPI's word.
    pub r#type: &'static str,
}

/// A part of a place.
#[derive(Debug, Clone, Serialize, ToSchema, PartialEq)]
#[serde(untagged)]
pub enum Loc {
    /// A key.
    Key(String),
    /// An index or offset.
    Index(i64),
}

/// What every operation of an organization can refuse with.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "documentation")]
pub enum Refusals {
    /// No valid token
    #[response(status = 401)]
    Unauthorized(#[to_schema] Refusal),
    /// Forbidden
    #[response(status = 403)]
    Forbidden(#[to_schema] Refusal),
    /// Too Many Requests
    #[response(status = 429)]
    TooManyRequests(#[to_schema] Refusal),
    /// Validation Error
    #[response(status = 422)]
    Invalid(#[to_schema] HTTPValidationError),
}

impl ApiError {
    /// 401.
    pub fn unauthorized() -> Self {
        Self::Refused(StatusCode::UNAUTHORIZED, "Missing or invalid API token.".to_owned())
    }

    /// 403.
    pub fn forbidden() -> Self {
        Self::Refused(StatusCode::FORBIDDEN, "You do not have access to this organization.".to_owned())
    }

    /// 404 with a sentence.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::Refused(StatusCode::NOT_FOUND, message.into())
    }

    /// 500; the cause is logged here.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        error!(%cause, "a request failed");
        Self::Refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Something went wrong on the server; its log has the cause.".to_owned(),
        )
    }
}

impl From<codegen_store::Error> for ApiError {
    fn from(error: codegen_store::Error) -> Self {
        match error {
            codegen_store::Error::NotFound => Self::not_found("Not found."),
            codegen_store::Error::Conflict(sentence) => Self::Refused(StatusCode::CONFLICT, sentence),
            codegen_store::Error::UsedUp(sentence) => Self::Refused(StatusCode::PAYMENT_REQUIRED, sentence),
            codegen_store::Error::Full => {
                error!("the disk with the database is full");
                Self::Refused(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "The server's disk is full; nothing was changed.".to_owned(),
                )
            }
            other => Self::internal(&format!("{:#}", anyhow::Error::from(other))),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, message, wait) = match self {
            Self::Invalid(detail) => {
                return (StatusCode::UNPROCESSABLE_ENTITY, Json(HTTPValidationError { detail })).into_response();
            }
            Self::Refused(status, message) => (status, message, None),
            Self::TooMany(seconds) => (
                StatusCode::TOO_MANY_REQUESTS,
                format!("Rate limit exceeded; try again in {seconds} s."),
                Some(seconds),
            ),
        };
        let body = Refusal { status_code: status.as_u16(), detail: message.clone(), message };
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = wait {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
