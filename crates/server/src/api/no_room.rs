//! What is answered while there is no room on the disk even to open the database.

use anyhow::{Context as _, Result};
use axum::{Router, http::StatusCode, response::IntoResponse as _, routing::get};
use tokio::net::TcpListener;

use super::{error::ApiError, health::healthz};

/// Refuses every request with what is wrong, until `until` returns.
///
/// # Errors
/// When serving breaks off by itself.
pub async fn refuse(listener: TcpListener, until: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let refused = || async {
        let sentence =
            "There is no room on the server's disk, not even to open the database; it goes on once there is some.";
        ApiError::Refused(StatusCode::SERVICE_UNAVAILABLE, sentence.to_owned()).into_response()
    };
    let router = Router::new().route("/healthz", get(healthz)).fallback(refused);
    axum::serve(listener, router).with_graceful_shutdown(until).await.context("answering that there is no room")
}
