//! Rules that agents on people's own machines shall follow.

use std::sync::Arc;

use axum::{Json, extract::State};
use codegen_store::{Rule, RuleOwner};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Asked, InOrg},
    body::{Fields, Input},
    error::{ApiError, Refusals},
    limits::Limit,
};
use crate::App;

/// Rules of the organization and of the user; none where there are none.
#[derive(Serialize, ToSchema)]
pub struct CLIRulesResponse {
    #[schema(required)]
    organization_rules: Option<String>,
    #[schema(required)]
    user_custom_prompt: Option<String>,
}

/// No input.
pub struct CliRules;

impl Input for CliRules {
    const LIMIT: Limit = Limit::Rules;
    fn read(_: &mut Fields<'_>) -> Option<Self> {
        Some(Self)
    }
}

/// Rules that agents on people's own machines shall follow.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/cli/rules", tag = "cli-rules",
    operation_id = "get_cli_rules_v1_organizations__org_id__cli_rules_get", params(("org_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = CLIRulesResponse), Refusals))]
pub async fn get(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, CliRules>,
) -> Result<Json<CLIRulesResponse>, ApiError> {
    let rules = app.store.rules_in_force(asked.by.org_id, None, asked.by.member.user.id).await?;
    let (of_user, of_org): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|rule| matches!(rule.owner, RuleOwner::User(_)));
    Ok(Json(CLIRulesResponse { organization_rules: joined(&of_org), user_custom_prompt: joined(&of_user) }))
}

fn joined(rules: &[Rule]) -> Option<String> {
    let texts: Vec<&str> = rules.iter().map(|rule| rule.text.trim()).collect();
    (!texts.is_empty()).then(|| texts.join("\n\n"))
}
