//! Whether the server lives, is ready, and how it does.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    extract::{MatchedPath, Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use codegen_store::Phase;
use serde_json::json;

use super::{error::ApiError, idempotency::UnderWay, last_use::Uses, limits::Limits};
use crate::{App, room};

/// What is counted of requests.
#[derive(Default)]
pub struct Requests {
    /// Buckets of rate limits.
    pub limits: Limits,
    /// Compares passwords.
    pub passwords: crate::password::Hasher,
    /// Requests with an `Idempotency-Key` that are being answered.
    pub under_way: UnderWay,
    /// Held by the one export that is being made.
    pub exports: tokio::sync::Mutex<()>,
    /// When tokens were used.
    pub uses: Uses,
    /// Calls of tools that can be cancelled.
    pub calls: super::mcp::Calls,
    counts: Mutex<BTreeMap<(String, String, u16), u64>>,
}

/// Counts a request by method, route and status.
pub async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    // Foreign method names would make the table grow without end.
    let method = match request.method().as_str() {
        known @ ("GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let response = next.run(request).await;
    let mut counts = app.requests.counts.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry((method, route, response.status().as_u16())).or_default() += 1;
    drop(counts);
    response
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "server", operation_id = "healthz", security(()),
    responses((status = 200, description = "It lives")))]
pub async fn healthz() -> Json<serde_json::Value> {
    Json(json!({"status": "ok"}))
}

/// Requests and runs are taken.
#[utoipa::path(get, path = "/readyz", tag = "server", operation_id = "readyz", security(()),
    responses((status = 200, description = "It is ready"), (status = 503, description = "It is not")))]
pub async fn readyz(State(app): State<Arc<App>>) -> Result<Json<serde_json::Value>, ApiError> {
    let unready = |sentence: &str| ApiError::Refused(StatusCode::SERVICE_UNAVAILABLE, sentence.to_owned());
    if app.shutdown.is_cancelled() {
        return Err(unready("The server is shutting down."));
    }
    app.store.ping().await.map_err(|error| {
        tracing::error!(%error, "the database does not answer");
        unready("The database does not answer.")
    })?;
    if !room::is_there(&app.config.data_dir) {
        return Err(unready("There is no room on the server's disk: what is there can be read, and no run is begun."));
    }
    Ok(Json(json!({"status": "ready", "isolated": app.engine.isolation().isolated()})))
}

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "server", operation_id = "metrics", security(()),
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain")))]
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let mut text = String::from("# HELP codegen_runs Runs that have not ended, by phase.\n# TYPE codegen_runs gauge\n");
    let runs: BTreeMap<&str, i64> =
        app.store.runs_by_phase().await?.into_iter().map(|(phase, n)| (phase.as_str(), n)).collect();
    for phase in [Phase::Queued, Phase::Preparing, Phase::Running, Phase::Waiting, Phase::Finishing] {
        let phase = phase.as_str();
        writeln!(text, "codegen_runs{{phase=\"{phase}\"}} {}", runs.get(phase).unwrap_or(&0)).ok();
    }
    text.push_str("# HELP codegen_http_requests_total Requests, by route and status.\n# TYPE codegen_http_requests_total counter\n");
    for ((method, route, status), n) in app.requests.counts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        writeln!(text, "codegen_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} {n}")
            .ok();
    }
    text.push_str(
        "# HELP codegen_isolated Whether commands run isolated from this host.\n# TYPE codegen_isolated gauge\n",
    );
    writeln!(text, "codegen_isolated {}", u8::from(app.engine.isolation().isolated())).ok();
    if let Ok(sandboxes) = app.engine.inventory().await {
        text.push_str("# HELP codegen_sandboxes Sandboxes there are.\n# TYPE codegen_sandboxes gauge\n");
        writeln!(text, "codegen_sandboxes {}", sandboxes.len()).ok();
    }
    text.push_str("# HELP codegen_uptime_seconds Since the start.\n# TYPE codegen_uptime_seconds gauge\n");
    writeln!(text, "codegen_uptime_seconds {:.3}", app.started.elapsed().as_secs_f64()).ok();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
