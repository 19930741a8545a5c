//! What came of each try of a delivery.

use codegen_store::Delivery;
use serde::Serialize;
use utoipa::ToSchema;

use super::page::time;

/// A try of a delivery.
#[derive(Serialize, ToSchema)]
pub struct DeliveryTry {
    tried_at: Option<String>,
    duration_ms: Option<i64>,
    /// HTTP status of the answer; none where there was none.
    status: Option<i64>,
    /// The answer's first 4096 bytes.
    answer: Option<String>,
    /// Why it failed.
    error: Option<String>,
}

/// The newest tries, oldest first.
pub fn of(delivery: &Delivery) -> Vec<DeliveryTry> {
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let one = |entry: &serde_json::Value| DeliveryTry {
        tried_at: entry["tried_at"].as_i64().map(time),
        duration_ms: entry["duration_ms"].as_i64(),
        status: entry["status"].as_i64(),
        answer: text(&entry["answer"]),
        error: text(&entry["error"]),
    };
    delivery.tries.iter().map(one).collect()
}
