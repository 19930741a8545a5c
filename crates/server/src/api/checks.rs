//! What happens when checks of a pull request fail: a repository's settings, and the ban of a pull request.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use codegen_store::{CheckSuiteChange, CheckSuiteSettings};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    agent_runs::no_run,
    auth::{Asked, InOrg, Manager},
    body::{Fields, Input, USUAL},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    repos::no_repo,
};
use crate::App;

/// What to do about failing checks in a repository.
#[derive(Serialize, ToSchema)]
pub struct CheckSuiteSettingsResponse {
    /// Tries of each check.
    check_retry_count: i64,
    /// Checks that nothing is done about.
    ignored_checks: Vec<String>,
    /// Tries of some checks, by name.
    check_retry_counts: BTreeMap<String, i64>,
    /// Words for the agent on some checks, by name.
    custom_prompts: BTreeMap<String, String>,
    /// Apps whose failures are taken up without waiting for the other checks.
    high_priority_apps: Vec<String>,
    /// Checks that are known by name: those that these settings name.
    available_check_suite_names: Vec<String>,
}

impl From<CheckSuiteSettings> for CheckSuiteSettingsResponse {
    fn from(settings: CheckSuiteSettings) -> Self {
        let CheckSuiteSettings {
            check_retry_count,
            ignored_checks,
            check_retry_counts,
            custom_prompts,
            high_priority_apps,
        } = settings;
        let named = ignored_checks.iter().chain(check_retry_counts.keys()).chain(custom_prompts.keys());
        let mut available_check_suite_names: Vec<String> = named.cloned().collect();
        available_check_suite_names.sort();
        available_check_suite_names.dedup();
        Self {
            check_retry_count,
            ignored_checks,
            check_retry_counts,
            custom_prompts,
            high_priority_apps,
            available_check_suite_names,
        }
    }
}

/// New settings; what is absent or null stays.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct CheckSuiteSettingsRequest {
    /// Tries of each check.
    #[schema(minimum = 0, maximum = 10)]
    check_retry_count: Option<i64>,
    /// Checks that nothing is done about.
    ignored_checks: Option<Vec<String>>,
    /// Tries of some checks, by name.
    check_retry_counts: Option<BTreeMap<String, i64>>,
    /// Words for the agent on some checks, by name.
    custom_prompts: Option<BTreeMap<String, String>>,
    /// Apps whose failures are taken up without waiting for the other checks.
    high_priority_apps: Option<Vec<String>>,
}

/// Of which repository.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RepoQuery {
    /// The repository's id.
    repo_id: i64,
}

impl Input for RepoQuery {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { repo_id: fields.query_needed_int("repo_id")? })
    }
}

/// New settings of a repository.
pub struct PutSettings(i64, CheckSuiteChange);

impl Input for PutSettings {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let repo_id = fields.query_needed_int("repo_id");
        let check_retry_count = fields.optional_within("check_retry_count", 0, 10);
        let ignored_checks = fields.optional_list("ignored_checks");
        let check_retry_counts = fields.optional_ints("check_retry_counts");
        let custom_prompts = fields.optional_text_map("custom_prompts");
        let high_priority_apps = fields.optional_list("high_priority_apps");
        let change = CheckSuiteChange {
            check_retry_count: check_retry_count?,
            ignored_checks: ignored_checks?,
            check_retry_counts: check_retry_counts?,
            custom_prompts: custom_prompts?,
            high_priority_apps: high_priority_apps?,
        };
        Some(Self(repo_id?, change))
    }
}

/// The run whose pull request is meant.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation of the reference's own keys")]
pub struct BanInput {
    /// A run that opened the pull request, or works on it.
    agent_run_id: i64,
    /// Places on the hosted service's board; codegen has none and does not look at them.
    before_card_order_id: Option<String>,
    after_card_order_id: Option<String>,
}

impl Input for BanInput {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let agent_run_id = fields.int("agent_run_id");
        let before_card_order_id = fields.optional_text("before_card_order_id");
        let after_card_order_id = fields.optional_text("after_card_order_id");
        Some(Self {
            agent_run_id: agent_run_id?,
            before_card_order_id: before_card_order_id?,
            after_card_order_id: after_card_order_id?,
        })
    }
}

/// What became of a ban.
#[derive(Serialize, ToSchema)]
pub struct BanResponse {
    /// The run that opened the pull request, or may yet open it.
    agent_run_id: i64,
    /// Whether failing checks start no runs for it.
    banned: bool,
    /// Runs that were at work on it and were told to stop.
    stopped_agent_run_ids: Vec<i64>,
}

/// What to do about failing checks in a repository.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/repos/check-suite-settings", tag = "repositories",
    operation_id = "get_check_suite_settings_v1_organizations__org_id__repos_check_suite_settings_get",
    params(("org_id" = i64, Path), RepoQuery),
    responses((status = 200, description = "Successful Response", body = CheckSuiteSettingsResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn settings(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, RepoQuery>,
) -> Result<Json<CheckSuiteSettingsResponse>, ApiError> {
    let id = asked.input.repo_id;
    Ok(Json(app.store.check_suite_settings(asked.by.org_id, id).await.map_err(no_repo(id))?.into()))
}

/// Changes what to do about failing checks in a repository.
#[utoipa::path(put, path = "/v1/organizations/{org_id}/repos/check-suite-settings", tag = "repositories",
    operation_id = "update_check_suite_settings_v1_organizations__org_id__repos_check_suite_settings_put",
    params(("org_id" = i64, Path), RepoQuery), request_body = CheckSuiteSettingsRequest,
    responses((status = 200, description = "Successful Response", body = CheckSuiteSettingsResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn put_settings(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, PutSettings>,
) -> Result<Json<CheckSuiteSettingsResponse>, ApiError> {
    let PutSettings(id, change) = asked.input;
    let settings = app.store.change_check_suite_settings(asked.by.0.org_id, id, change).await;
    Ok(Json(settings.map_err(no_repo(id))?.into()))
}

/// Stops all runs of a run's pull request; failing checks start none for it any more.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/agent/run/ban", tag = "agents",
    operation_id = "ban_all_checks_for_agent_run_v1_organizations__org_id__agent_run_ban_post",
    params(("org_id" = i64, Path)), request_body = BanInput,
    responses((status = 200, description = "Successful Response", body = BanResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn ban(State(app): State<Arc<App>>, asked: Asked<InOrg, BanInput>) -> Result<Json<BanResponse>, ApiError> {
    let (by, id) = (asked.by, asked.input.agent_run_id);
    let banned = app.store.ban_checks(by.org_id, id, by.member.user.id, app.now()).await.map_err(no_run)?;
    Ok(Json(BanResponse { agent_run_id: banned.opener_id, banned: true, stopped_agent_run_ids: banned.stopped }))
}

/// The same by another name.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/agent/run/remove-from-pr", tag = "agents",
    operation_id = "remove_codegen_from_pr_v1_organizations__org_id__agent_run_remove_from_pr_post",
    params(("org_id" = i64, Path)), request_body = BanInput,
    responses((status = 200, description = "Successful Response", body = BanResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn remove(app: State<Arc<App>>, asked: Asked<InOrg, BanInput>) -> Result<Json<BanResponse>, ApiError> {
    ban(app, asked).await
}

/// Lets failing checks start runs for a run's pull request again.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/agent/run/unban", tag = "agents",
    operation_id = "unban_all_checks_for_agent_run_v1_organizations__org_id__agent_run_unban_post",
    params(("org_id" = i64, Path)), request_body = BanInput,
    responses((status = 200, description = "Successful Response", body = BanResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn unban(State(app): State<Arc<App>>, asked: Asked<InOrg, BanInput>) -> Result<Json<BanResponse>, ApiError> {
    let id = asked.input.agent_run_id;
    let opener_id = app.store.unban_checks(asked.by.org_id, id).await.map_err(no_run)?.opener_id;
    Ok(Json(BanResponse { agent_run_id: opener_id, banned: false, stopped_agent_run_ids: Vec::new() }))
}
