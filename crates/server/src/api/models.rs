//! Models to choose from.

use std::sync::Arc;

use axum::{Json, extract::State};
use codegen_agent::models::prices;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Asked, Caller},
    error::{ApiError, Refusals},
    session::Viewing,
};
use crate::App;

/// Models to choose from; others may be named too.
#[derive(Serialize, ToSchema)]
pub struct ModelsResponse {
    /// The one of runs that name none.
    default_model: Option<String>,
    /// Those whose price is known.
    models: Vec<String>,
}

/// Models to choose from.
#[utoipa::path(get, path = "/v1/models", tag = "web", operation_id = "list_models",
    responses((status = 200, description = "Successful Response", body = ModelsResponse), Refusals))]
pub async fn list(
    State(app): State<Arc<App>>,
    _asked: Asked<Caller, Viewing>,
) -> Result<Json<ModelsResponse>, ApiError> {
    let models = prices::listed().map(str::to_owned).collect();
    Ok(Json(ModelsResponse { default_model: app.config.default_model(), models }))
}
