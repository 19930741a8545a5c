//! A run's events as they happen (SSE): the durable log from `Last-Event-ID`, then live, without gaps.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use utoipa::ToSchema;

use super::{
    agent_runs::no_run,
    auth::{Asked, InOrg, while_allowed},
    body::{Fields, Input},
    error::{ApiError, Loc, Refusal, Refusals, ValidationError},
};
use crate::App;

/// An event of a stream.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct StreamedEvent {
    /// Where to go on from, where one can.
    id: Option<String>,
    event: String,
    /// JSON.
    data: String,
}

/// Which run, from where.
pub struct Events {
    run_id: i64,
    last_event_id: Option<i64>,
    until_now: bool,
}

impl Input for Events {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let run_id = fields.path_id("agent_run_id");
        let last_event_id = fields.query_int("last_event_id");
        let until_now = fields.query_flag("until_now");
        Some(Self { run_id: run_id?, last_event_id: last_event_id?, until_now: until_now? })
    }
}

/// Events of a run, from the entry after `Last-Event-ID`, also taken as `last_event_id` from clients that cannot set
/// headers; ends with `event: end`, or with `until_now` at the last entry that there is.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/agent/run/{agent_run_id}/events", tag = "agents",
    operation_id = "get_agent_run_events_v1_organizations__org_id__agent_run__agent_run_id__events_get",
    params(("agent_run_id" = i64, Path), ("org_id" = i64, Path), ("Last-Event-ID" = Option<i64>, Header),
        ("last_event_id" = Option<i64>, Query),
        ("until_now" = Option<bool>, Query)),
    responses((status = 200, description = "Server-sent events", body = StreamedEvent, content_type = "text/event-stream"),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn get(
    State(app): State<Arc<App>>,
    asked_with: HeaderMap,
    asked: Asked<InOrg, Events>,
) -> Result<Response, ApiError> {
    // The header is of a later moment: a browser that reconnects keeps the address it began with.
    // An empty one is how some clients say that they have none.
    let header = asked_with.get("last-event-id").filter(|value| !value.as_bytes().trim_ascii().is_empty());
    let seen = match header.map(|value| value.to_str().ok().and_then(|text| text.trim().parse().ok())) {
        None => asked.input.last_event_id.unwrap_or(0),
        Some(Some(seen)) => seen,
        Some(None) => {
            let loc = vec![Loc::Key("header".to_owned()), Loc::Key("last-event-id".to_owned())];
            let msg = "Input should be a valid integer, unable to parse string as an integer".to_owned();
            return Err(ApiError::Invalid(vec![ValidationError { loc, msg, r#type: "int_parsing" }]));
        }
    };
    let run = app.store.run(asked.by.org_id, asked.input.run_id).await.map_err(no_run)?;
    let mut viewer = app.watches.view(&run, seen);
    if asked.input.until_now {
        viewer.until_now();
    }
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Nginx holds answers back otherwise.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let events = while_allowed::<InOrg, _>(app, &asked_with, asked.by.org_id, viewer.stream());
    Ok((headers, Body::from_stream(events)).into_response())
}
