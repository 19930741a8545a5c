//! Endpoints of webhooks, and what was delivered to them.

use std::sync::Arc;

use axum::{Json, extract::State};
use codegen_store::{Delivery, EVENTS, Endpoint, EndpointChange};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::{
    auth::{Asked, Manager},
    body::{Fields, Input},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    page::{Page, Paging, time},
    webhook_tries::{self, DeliveryTry},
    words,
};
use crate::{App, webhooks};

/// Bytes of a body: far more than an address and a few words.
const BODY: usize = 64 << 10;
const LONGEST_DESCRIPTION: usize = 500;
/// Most endpoints of an organization.
const MOST: i64 = 20;
/// Hours in which two secrets are valid after a rotation.
const OVERLAP_H: i64 = 24;
const LONGEST_OVERLAP_H: i64 = 7 * 24;

/// An endpoint that is told of events.
#[derive(Serialize, ToSchema)]
pub struct WebhookResponse {
    id: i64,
    url: String,
    description: String,
    /// Which events; none for all.
    events: Vec<String>,
    enabled: bool,
    /// Why the server turned it off.
    disabled_reason: Option<String>,
    /// Tries in a row that failed.
    failures: i64,
    failing_since: Option<String>,
    /// Until when the secret before the last rotation is signed with, too.
    previous_secret_until: Option<String>,
    created_at: String,
    /// The signing secret; only when it was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl From<Endpoint> for WebhookResponse {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            id: endpoint.id,
            url: endpoint.url,
            description: endpoint.description,
            events: endpoint.events,
            enabled: endpoint.enabled,
            disabled_reason: endpoint.disabled_reason,
            failures: endpoint.failures,
            failing_since: endpoint.failing_since.map(time),
            previous_secret_until: endpoint.previous_until.map(time),
            created_at: time(endpoint.created_at),
            secret: None,
        }
    }
}

impl WebhookResponse {
    fn with_secret(endpoint: Endpoint, secret: &SecretString) -> Self {
        Self { secret: Some(secret.expose_secret().to_owned()), ..endpoint.into() }
    }
}

/// An event for one endpoint.
#[derive(Serialize, ToSchema)]
pub struct DeliveryResponse {
    id: i64,
    event: String,
    agent_run_id: Option<i64>,
    #[schema(schema_with = words::delivery_state)]
    state: String,
    /// Tries so far.
    attempts: i64,
    created_at: String,
    tried_at: Option<String>,
    /// When a pending one is tried next.
    next_try_at: Option<String>,
    duration_ms: Option<i64>,
    request: DeliveryRequest,
    answer: Option<DeliveryAnswer>,
    /// Why the last try failed.
    error: Option<String>,
    /// What came of each try, oldest first; at most the last 20.
    tries: Vec<DeliveryTry>,
}

/// Which deliveries.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct DeliveriesQuery {
    /// Only those that are so far.
    #[param(required = false, schema_with = words::delivery_state)]
    state: Option<String>,
}

/// What is sent.
#[derive(Serialize, ToSchema)]
pub struct DeliveryRequest {
    /// `webhook-id`, the same at each try.
    webhook_id: String,
    /// `webhook-timestamp` of the last try.
    webhook_timestamp: Option<i64>,
    body: String,
}

/// What came back.
#[derive(Serialize, ToSchema)]
pub struct DeliveryAnswer {
    status: i64,
    /// Its first 4096 bytes.
    body: String,
}

impl DeliveryResponse {
    fn new(app: &App, delivery: Delivery) -> Self {
        let (pending, tries) = (delivery.state == "pending", webhook_tries::of(&delivery));
        Self {
            request: DeliveryRequest {
                body: webhooks::body(app, &delivery),
                webhook_id: delivery.message_id,
                webhook_timestamp: delivery.tried_at.map(|at| at / 1000),
            },
            answer: delivery.status.map(|status| DeliveryAnswer { status, body: delivery.answer.unwrap_or_default() }),
            id: delivery.id,
            event: delivery.event,
            agent_run_id: delivery.run_id,
            state: delivery.state,
            attempts: delivery.attempts,
            created_at: time(delivery.created_at),
            tried_at: delivery.tried_at.map(time),
            next_try_at: pending.then(|| time(delivery.next_try_at)),
            duration_ms: delivery.duration_ms,
            error: delivery.error,
            tries,
        }
    }
}

/// An endpoint to add or change.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct WebhookInput {
    /// https or http.
    #[schema(format = "uri")]
    url: String,
    /// For people.
    description: Option<String>,
    /// Which events; none for all.
    #[schema(schema_with = words::events)]
    events: Option<Vec<String>>,
    /// Whether anything is sent.
    enabled: Option<bool>,
}

/// A change of an endpoint; what is absent stays as it is.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct WebhookChange {
    #[schema(format = "uri")]
    url: Option<String>,
    description: Option<String>,
    #[schema(schema_with = words::events)]
    events: Option<Vec<String>>,
    /// Turned on, an endpoint that the server turned off begins anew; what waited is sent.
    enabled: Option<bool>,
}

/// How a secret is changed.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct RotateWebhookInput {
    /// Hours in which the secret before is valid, too.
    #[schema(minimum = 0, maximum = 168, default = 24)]
    overlap_hours: Option<i64>,
}

fn change(fields: &mut Fields<'_>, url: Option<Option<String>>) -> Option<EndpointChange> {
    if let Some(Some(text)) = &url
        && let Err(why) = fields.app.outside.check(text)
    {
        fields.fail(&["body", "url"], "value_error", format!("Value error, {why}"));
    }
    let description = fields.optional_text("description");
    if description.iter().flatten().any(|text| text.chars().count() > LONGEST_DESCRIPTION) {
        let sentence = format!("String should have at most {LONGEST_DESCRIPTION} characters");
        fields.fail(&["body", "description"], "string_too_long", sentence);
    }
    let given = fields.has("events");
    let events = fields.optional_texts("events");
    for (index, event) in events.iter().flatten().enumerate() {
        if !EVENTS.contains(&event.as_str()) {
            let sentence = format!("Input should be one of {}", EVENTS.join(", "));
            fields.fail_item("events", index, "literal_error", sentence);
        }
    }
    let enabled = fields.optional_flag("enabled");
    Some(EndpointChange {
        url: url?,
        description: description?,
        events: events.map(|events| given.then_some(events))?,
        enabled: enabled?,
    })
}

/// A new endpoint.
pub struct NewWebhook(EndpointChange);

impl Input for NewWebhook {
    const BODY: usize = BODY;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let url = fields.text("url").map(Some);
        Some(Self(change(fields, url)?))
    }
}

/// A changed endpoint.
pub struct ChangeWebhook(i64, EndpointChange);

impl Input for ChangeWebhook {
    const BODY: usize = BODY;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let id = fields.path_id("webhook_id");
        let url = fields.optional_text("url");
        let change = change(fields, url);
        Some(Self(id?, change?))
    }
}

/// An endpoint's id.
pub struct WebhookId(i64);

impl Input for WebhookId {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("webhook_id")?))
    }
}

/// An endpoint that something is done to.
pub struct DoWebhook(i64);

impl Input for DoWebhook {
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("webhook_id")?))
    }
}

/// An endpoint, and hours.
pub struct RotateWebhook(i64, i64);

impl Input for RotateWebhook {
    const BODY: usize = BODY;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let id = fields.path_id("webhook_id");
        let hours = fields.optional_int("overlap_hours").map(|hours| hours.unwrap_or(OVERLAP_H));
        if hours.is_some_and(|hours| !(0..=LONGEST_OVERLAP_H).contains(&hours)) {
            let sentence = format!("Value error, it is between 0 and {LONGEST_OVERLAP_H}");
            fields.fail(&["body", "overlap_hours"], "value_error", sentence);
        }
        Some(Self(id?, hours?))
    }
}

/// Which deliveries.
pub struct Deliveries(i64, Option<String>, Paging);

impl Input for Deliveries {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let id = fields.path_id("webhook_id");
        let state = fields.query_word("state", &words::DELIVERY_STATES);
        let paging = fields.page();
        Some(Self(id?, state?, paging?))
    }
}

/// A delivery's id and its endpoint's.
pub struct DeliveryId(i64, i64);

impl Input for DeliveryId {
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (webhook, delivery) = (fields.path_id("webhook_id"), fields.path_id("delivery_id"));
        Some(Self(webhook?, delivery?))
    }
}

fn no_webhook(error: codegen_store::Error) -> ApiError {
    match error {
        codegen_store::Error::NotFound => ApiError::not_found("Webhook not found."),
        other => other.into(),
    }
}

fn no_delivery(error: codegen_store::Error) -> ApiError {
    match error {
        codegen_store::Error::NotFound => ApiError::not_found("Delivery not found."),
        other => other.into(),
    }
}

fn internal(error: &anyhow::Error) -> ApiError {
    ApiError::internal(&format!("{error:#}"))
}

/// Endpoints of the organization.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/webhooks", tag = "webhooks", operation_id = "list_webhooks",
    params(("org_id" = i64, Path), Paging),
    responses((status = 200, description = "Successful Response", body = Page<WebhookResponse>), Refusals))]
pub async fn list(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, Paging>,
) -> Result<Json<Page<WebhookResponse>>, ApiError> {
    let paging = asked.input;
    let (endpoints, total) = app.store.endpoints(asked.by.0.org_id, paging.skip, paging.limit).await?;
    Ok(Json(paging.page(endpoints.into_iter().map(Into::into).collect(), total)))
}

/// Adds an endpoint; its secret is shown this once.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/webhooks", tag = "webhooks", operation_id = "create_webhook",
    params(("org_id" = i64, Path)), request_body = WebhookInput,
    responses((status = 200, description = "Successful Response", body = WebhookResponse),
        (status = 409, description = "There are too many", body = Refusal), Refusals))]
pub async fn create(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, NewWebhook>,
) -> Result<Json<WebhookResponse>, ApiError> {
    let org_id = asked.by.0.org_id;
    let secret = webhooks::new_secret();
    let (sealing, new) = (app.clone(), secret.clone());
    let seal = move |id| {
        let sealed = sealing.keys.seal(webhooks::secret_place(org_id, id), &new);
        sealed.map_err(|error| codegen_store::Error::Answer(error.into()))
    };
    let endpoint = app.store.create_endpoint(org_id, asked.input.0, MOST, seal, app.now()).await?;
    Ok(Json(WebhookResponse::with_secret(endpoint, &secret)))
}

/// One endpoint.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/webhooks/{webhook_id}", tag = "webhooks",
    operation_id = "get_webhook", params(("org_id" = i64, Path), ("webhook_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = WebhookResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn get(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, WebhookId>,
) -> Result<Json<WebhookResponse>, ApiError> {
    let endpoint = app.store.endpoint(asked.by.0.org_id, asked.input.0).await.map_err(no_webhook)?;
    Ok(Json(endpoint.into()))
}

/// Changes an endpoint.
#[utoipa::path(patch, path = "/v1/organizations/{org_id}/webhooks/{webhook_id}", tag = "webhooks",
    operation_id = "update_webhook", params(("org_id" = i64, Path), ("webhook_id" = i64, Path)),
    request_body = WebhookChange,
    responses((status = 200, description = "Successful Response", body = WebhookResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn update(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, ChangeWebhook>,
) -> Result<Json<WebhookResponse>, ApiError> {
    let ChangeWebhook(id, change) = asked.input;
    let endpoint = app.store.change_endpoint(asked.by.0.org_id, id, change, app.now()).await.map_err(no_webhook)?;
    Ok(Json(endpoint.into()))
}

/// Removes an endpoint with its deliveries; answers with what it was.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}/webhooks/{webhook_id}", tag = "webhooks",
    operation_id = "delete_webhook", params(("org_id" = i64, Path), ("webhook_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = WebhookResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn delete(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, DoWebhook>,
) -> Result<Json<WebhookResponse>, ApiError> {
    let (org_id, id) = (asked.by.0.org_id, asked.input.0);
    let endpoint = app.store.endpoint(org_id, id).await.map_err(no_webhook)?;
    app.store.delete_endpoint(org_id, id, app.now()).await.map_err(no_webhook)?;
    Ok(Json(endpoint.into()))
}

/// Sends a `ping` to an endpoint, whichever events it wants.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/webhooks/{webhook_id}/ping", tag = "webhooks",
    operation_id = "ping_webhook", params(("org_id" = i64, Path), ("webhook_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = DeliveryResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn ping(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, DoWebhook>,
) -> Result<Json<DeliveryResponse>, ApiError> {
    let (org_id, id) = (asked.by.0.org_id, asked.input.0);
    let data = json!({ "organization_id": org_id, "webhook_id": id });
    let delivery = app.store.send_to_endpoint(org_id, id, "ping", data, app.now()).await.map_err(no_webhook)?;
    Ok(Json(DeliveryResponse::new(&app, delivery)))
}

/// Makes a new secret, shown this once. The one before is signed with, too, for some hours.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/webhooks/{webhook_id}/rotate", tag = "webhooks",
    operation_id = "rotate_webhook", params(("org_id" = i64, Path), ("webhook_id" = i64, Path)),
    request_body = RotateWebhookInput,
    responses((status = 200, description = "Successful Response", body = WebhookResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn rotate(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, RotateWebhook>,
) -> Result<Json<WebhookResponse>, ApiError> {
    let (org_id, RotateWebhook(id, hours)) = (asked.by.0.org_id, asked.input);
    app.store.endpoint(org_id, id).await.map_err(no_webhook)?;
    let place = webhooks::secret_place(org_id, id);
    // One that cannot be read any more is replaced by the new one alone.
    let old = app.secret(&place).await.unwrap_or_else(|error| {
        tracing::warn!(webhook.id = id, error = format!("{error:#}"), "reading the secret that is being replaced");
        None
    });
    let new = webhooks::new_secret();
    let until = app.now().saturating_add(if old.is_some() { hours * 3_600_000 } else { 0 });
    let seal = |place, secret: &SecretString| app.keys.seal(place, secret).map_err(|error| internal(&error));
    let previous = seal(webhooks::previous_place(org_id, id), old.as_ref().unwrap_or(&new))?;
    let sealed = seal(place, &new)?;
    let endpoint =
        app.store.rotate_endpoint(org_id, id, sealed, previous, until, app.now()).await.map_err(no_webhook)?;
    Ok(Json(WebhookResponse::with_secret(endpoint, &new)))
}

/// What was, and will be, delivered to an endpoint, newest first.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/webhooks/{webhook_id}/deliveries", tag = "webhooks",
    operation_id = "list_deliveries",
    params(("org_id" = i64, Path), ("webhook_id" = i64, Path),
        DeliveriesQuery, Paging),
    responses((status = 200, description = "Successful Response", body = Page<DeliveryResponse>),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn deliveries(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, Deliveries>,
) -> Result<Json<Page<DeliveryResponse>>, ApiError> {
    let (org_id, Deliveries(id, state, paging)) = (asked.by.0.org_id, asked.input);
    app.store.endpoint(org_id, id).await.map_err(no_webhook)?;
    let (deliveries, total) = app.store.deliveries(org_id, id, state, paging.skip, paging.limit).await?;
    Ok(Json(paging.page(deliveries.into_iter().map(|row| DeliveryResponse::new(&app, row)).collect(), total)))
}

/// One delivery.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/webhooks/{webhook_id}/deliveries/{delivery_id}", tag = "webhooks",
    operation_id = "get_delivery",
    params(("org_id" = i64, Path), ("webhook_id" = i64, Path), ("delivery_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = DeliveryResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn delivery(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, DeliveryId>,
) -> Result<Json<DeliveryResponse>, ApiError> {
    let DeliveryId(webhook, id) = asked.input;
    let delivery = app.store.delivery(asked.by.0.org_id, webhook, id).await.map_err(no_delivery)?;
    Ok(Json(DeliveryResponse::new(&app, delivery)))
}

/// Sends a delivery again, with its own id; one that waits for its next try is tried now.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/webhooks/{webhook_id}/deliveries/{delivery_id}/replay",
    tag = "webhooks", operation_id = "replay_delivery",
    params(("org_id" = i64, Path), ("webhook_id" = i64, Path), ("delivery_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = DeliveryResponse),
        (status = 404, description = "Not Found", body = Refusal),
        (status = 409, description = "It is being tried now", body = Refusal), Refusals))]
pub async fn replay(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, DeliveryId>,
) -> Result<Json<DeliveryResponse>, ApiError> {
    let DeliveryId(webhook, id) = asked.input;
    let replayed = app.store.replay_delivery(asked.by.0.org_id, webhook, id, app.now()).await.map_err(no_delivery)?;
    Ok(Json(DeliveryResponse::new(&app, replayed)))
}
