//! What an organization may use, set by its admins, and what it has used this month.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use codegen_store::{OrgLimits, month};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Admin, Asked},
    body::{Fields, Input, USUAL},
    error::{ApiError, Refusals},
    limits::{Limit, OwnLimits, RateLimit},
};
use crate::App;

/// Most that anything is set to.
const MOST: i64 = 1_000_000_000;
/// Longest window, in seconds.
const DAY: i64 = 86_400;

/// What an organization may use, and has used.
#[derive(Serialize, ToSchema)]
pub struct LimitsResponse {
    /// Runs made in a month; null sets no limit.
    runs_per_month: Option<i64>,
    /// US dollars spent in a month.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    cost_per_month: Option<f64>,
    /// Runs at once; others wait, with 0 all of them.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    concurrent_runs: Option<i64>,
    /// Runs at once of each user.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    concurrent_runs_per_user: Option<i64>,
    /// Requests of each token by kind: the organization's own, else the server's.
    rate_limits: BTreeMap<&'static str, RateLimit>,
    /// The server's, which hold for kinds that the organization has not set.
    usual_rate_limits: BTreeMap<&'static str, RateLimit>,
    /// What it has used.
    used: Used,
}

/// What was used in a month.
#[derive(Serialize, ToSchema)]
pub struct Used {
    /// Which month, in UTC, as 2026-11.
    month: String,
    /// Runs made.
    runs: i64,
    /// US dollars spent.
    cost: f64,
}

/// What an organization may use. What is absent or null has no limit, or the server's.
#[derive(ToSchema)]
pub struct LimitsInput {
    /// Runs made in a month.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    runs_per_month: Option<i64>,
    /// US dollars spent in a month.
    cost_per_month: Option<f64>,
    /// Runs at once; others wait, with 0 all of them.
    concurrent_runs: Option<i64>,
    /// Runs at once of each user.
    concurrent_runs_per_user: Option<i64>,
    /// Requests of each token by kind: read, logs, create, setup_commands, analyze_logs, pull_requests, rules, write,
    /// view, session_log.
    #[schema(value_type = Option<BTreeMap<String, RateLimit>>)]
    rate_limits: OwnLimits,
}

/// Nothing but the organization.
pub struct Nothing;

impl Input for Nothing {
    fn read(_: &mut Fields<'_>) -> Option<Self> {
        Some(Self)
    }
}

impl Input for LimitsInput {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let runs_per_month = fields.optional_int_within("runs_per_month", 0, MOST);
        let cost_per_month = fields.optional_number_within("cost_per_month", 0.0, 1e9);
        let concurrent_runs = fields.optional_int_within("concurrent_runs", 0, MOST);
        let concurrent_runs_per_user = fields.optional_int_within("concurrent_runs_per_user", 1, MOST);
        let rate_limits = fields.optional_object("rate_limits").and_then(|text| rates(fields, text));
        Some(Self {
            runs_per_month: runs_per_month?,
            cost_per_month: cost_per_month?,
            concurrent_runs: concurrent_runs?,
            concurrent_runs_per_user: concurrent_runs_per_user?,
            rate_limits: rate_limits?,
        })
    }
}

fn rates(fields: &mut Fields<'_>, text: Option<String>) -> Option<OwnLimits> {
    let Some(text) = text else { return Some(OwnLimits::new()) };
    let mut own = OwnLimits::new();
    let given: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    for (kind, value) in given {
        if value.is_null() {
            continue;
        }
        let known = Limit::ALL.iter().any(|limit| limit.as_str() == kind);
        let rate = serde_json::from_value::<RateLimit>(value).ok();
        let rate = rate.filter(|rate| (1..=MOST).contains(&rate.requests) && (1..=DAY).contains(&rate.seconds));
        match rate {
            Some(rate) if known => {
                own.insert(kind, rate);
            }
            _ => {
                let words: Vec<&str> = Limit::ALL.iter().map(|limit| limit.as_str()).collect();
                let msg = format!(
                    "Value error, a limit is one of {} with requests from 1 to {MOST} in 1 to {DAY} seconds",
                    words.join(", ")
                );
                fields.fail(&["body", "rate_limits", &kind], "value_error", msg);
            }
        }
    }
    Some(own)
}

/// What the organization may use, and has used this month.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/limits", tag = "organizations", operation_id = "get_limits",
    params(("org_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = LimitsResponse), Refusals))]
pub async fn get(State(app): State<Arc<App>>, asked: Asked<Admin, Nothing>) -> Result<Json<LimitsResponse>, ApiError> {
    shown(&app, asked.by.0.org_id).await
}

/// Sets what the organization may use, all of it.
#[utoipa::path(put, path = "/v1/organizations/{org_id}/limits", tag = "organizations", operation_id = "put_limits",
    params(("org_id" = i64, Path)), request_body = LimitsInput,
    responses((status = 200, description = "Successful Response", body = LimitsResponse), Refusals))]
pub async fn put(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, LimitsInput>,
) -> Result<Json<LimitsResponse>, ApiError> {
    let org_id = asked.by.0.org_id;
    let new = asked.input;
    let limits = OrgLimits {
        runs_per_month: new.runs_per_month,
        cost_per_month: new.cost_per_month,
        concurrent_runs: new.concurrent_runs,
        concurrent_runs_per_user: new.concurrent_runs_per_user,
        rate_limits: serde_json::to_string(&new.rate_limits).map_err(|error| ApiError::internal(&error))?,
    };
    app.store.set_org_limits(org_id, limits, app.now()).await?;
    app.requests.limits.forget(org_id);
    shown(&app, org_id).await
}

async fn shown(app: &App, org_id: i64) -> Result<Json<LimitsResponse>, ApiError> {
    let limits = app.store.org_limits(org_id).await?.unwrap_or_default();
    let own: OwnLimits = serde_json::from_str(&limits.rate_limits).unwrap_or_default();
    let now = app.now();
    let used = app.store.org_usage(org_id, now).await?;
    let rate = |limit: &Limit| (limit.as_str(), own.get(limit.as_str()).copied().unwrap_or_else(|| limit.usual()));
    Ok(Json(LimitsResponse {
        runs_per_month: limits.runs_per_month,
        cost_per_month: limits.cost_per_month,
        concurrent_runs: limits.concurrent_runs,
        concurrent_runs_per_user: limits.concurrent_runs_per_user,
        rate_limits: Limit::ALL.iter().map(rate).collect(),
        usual_rate_limits: Limit::ALL.iter().map(|limit| (limit.as_str(), limit.usual())).collect(),
        used: Used { month: month(now), runs: used.runs, cost: used.cost },
    }))
}
