//! The HTTP API.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;

use crate::App;

/// Counters of requests.
#[derive(Default)]
pub struct Requests;

/// The API document.
pub fn openapi() -> serde_json::Value {
    serde_json::Value::Null
}

pub async fn serve(app: Arc<App>, listener: TcpListener) -> Result<()> {
    let shutdown = app.shutdown.clone();
    axum::serve(listener, axum::Router::new()).with_graceful_shutdown(shutdown.cancelled_owned()).await.context("serving HTTP")
}
