//! The audit log of an organization: listed, and exported as JSON lines.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use codegen_store::{AuditEntry, AuditFilter, Store};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{
    auth::{Admin, Asked},
    body::{Fields, Input},
    error::{ApiError, Refusals},
    page::time,
};
use crate::App;

/// Entries that are read at a time.
const PAGE: i64 = 500;

/// A change, or the start of a run.
#[derive(Serialize, ToSchema)]
pub struct AuditEntryResponse {
    id: i64,
    created_at: String,
    /// Who; none where codegen did it by itself.
    user_id: Option<i64>,
    /// Their name then.
    user_name: Option<String>,
    /// By which token.
    token_id: Option<i64>,
    /// Its name then.
    token_name: Option<String>,
    /// From where.
    address: Option<String>,
    /// `run.created`, `member.removed`; the request where it has no name of its own.
    action: String,
    /// `run:17`.
    target: String,
    /// What was, without secrets.
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    before: Option<Box<RawValue>>,
    /// What is, without secrets.
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    after: Option<Box<RawValue>>,
}

impl AuditEntryResponse {
    fn new(entry: AuditEntry) -> serde_json::Result<Self> {
        Ok(Self {
            id: entry.id,
            created_at: time(entry.at),
            user_id: entry.user_id,
            user_name: entry.user_name,
            token_id: entry.token_id,
            token_name: entry.token_name,
            address: entry.address,
            action: entry.action,
            target: entry.target,
            before: entry.before.map(RawValue::from_string).transpose()?,
            after: entry.after.map(RawValue::from_string).transpose()?,
        })
    }
}

/// Entries, newest first.
#[derive(Serialize, ToSchema)]
pub struct AuditEntries {
    items: Vec<AuditEntryResponse>,
    /// What to give as `before` for the next part; none at the end.
    next: Option<i64>,
}

/// Which entries.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct AuditQuery {
    /// Only those of this user.
    #[param(required = false)]
    user_id: Option<i64>,
    /// Only those whose action begins so: `run.` for all about runs.
    #[param(required = false)]
    action: Option<String>,
    /// Only those of this thing: `repo:5`.
    #[param(required = false)]
    target: Option<String>,
    /// Not older than this time, ISO 8601; without a time of day its day's beginning in UTC.
    #[param(required = false, format = DateTime)]
    since: Option<String>,
    /// Older than this time.
    #[param(required = false, format = DateTime)]
    until: Option<String>,
}

/// Which part of a list that goes by key.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct Before {
    /// Only those older than this entry.
    #[param(required = false)]
    before: Option<i64>,
    /// Most entries.
    #[param(required = false, minimum = 1, maximum = 100, default = 50)]
    limit: i64,
}

impl Input for AuditFilter {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let user_id = fields.query_int("user_id");
        let (since, until) = (fields.query_time("since"), fields.query_time("until"));
        Some(Self {
            user_id: user_id?,
            action: fields.query_text("action"),
            target: fields.query_text("target"),
            since: since?,
            until: until?,
        })
    }
}

/// Which entries, from where.
pub struct AuditList {
    filter: AuditFilter,
    before: Option<i64>,
    limit: i64,
}

impl Input for AuditList {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let filter = AuditFilter::read(fields);
        let before = fields.query_int("before");
        let limit = fields.query_within("limit", 50, 1, 100);
        Some(Self { filter: filter?, before: before?, limit: limit? })
    }
}

/// The organization's audit log, newest first.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/audit-log", tag = "organizations", operation_id = "list_audit_log",
    params(("org_id" = i64, Path), AuditQuery, Before),
    responses((status = 200, description = "Successful Response", body = AuditEntries), Refusals))]
pub async fn list(State(app): State<Arc<App>>, asked: Asked<Admin, AuditList>) -> Result<Json<AuditEntries>, ApiError> {
    let AuditList { filter, before, limit } = asked.input;
    let entries = app.store.audit_before(asked.by.0.org_id, &filter, before, limit).await?;
    let full = i64::try_from(entries.len()).is_ok_and(|n| n == limit);
    let next = entries.last().map(|entry| entry.id).filter(|_| full);
    let items = entries.into_iter().map(AuditEntryResponse::new).collect::<serde_json::Result<_>>();
    Ok(Json(AuditEntries { items: items.map_err(|error| ApiError::internal(&error))?, next }))
}

/// All of the organization's audit log, oldest first, one JSON object a line.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/audit-log/export", tag = "organizations",
    operation_id = "export_audit_log", params(("org_id" = i64, Path), AuditQuery),
    responses((status = 200, description = "JSON lines", body = String, content_type = "application/x-ndjson"), Refusals))]
pub async fn export(State(app): State<Arc<App>>, asked: Asked<Admin, AuditFilter>) -> Result<Response, ApiError> {
    let (org_id, filter, store) = (asked.by.0.org_id, asked.input, app.store.clone());
    let lines = futures::stream::try_unfold((store, filter, Some(0)), move |(store, filter, after)| async move {
        let Some(after) = after else { return Ok(None) };
        let (lines, last) = lines_after(&store, org_id, &filter, after).await?;
        Ok::<_, anyhow::Error>(Some((lines, (store, filter, last))))
    });
    let name = format!("attachment; filename=\"audit-log-{org_id}.jsonl\"");
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson".to_owned()), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// The next lines, and after which entry there may be more.
async fn lines_after(
    store: &Store,
    org_id: i64,
    filter: &AuditFilter,
    after: i64,
) -> anyhow::Result<(Bytes, Option<i64>)> {
    let entries = store.audit_after(org_id, filter, after, PAGE).await?;
    let full = i64::try_from(entries.len()).is_ok_and(|n| n == PAGE);
    let last = entries.last().map(|entry| entry.id).filter(|_| full);
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, &AuditEntryResponse::new(entry)?)?;
        lines.push(b'\n');
    }
    Ok((lines.into(), last))
}
