//! The API document, made from the handlers, and a page that shows it.

use std::sync::LazyLock;

use axum::{Json, response::Html};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

use super::{
    account, agent_runs, audit, changes, checks, claude_code, cli_rules, error, events, health, integrations, logs,
    mcp, members, model_providers, models, oauth, oidc, org_data, org_limits, organizations, pull_requests, repos,
    rules, run_edits, run_search, run_views, session, setup, tokens, tools, trace, users, webhooks,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Developer API", description = "API for application developers", version = "1.0.0", license(name = "Apache-2.0")),
    security(("bearer" = [])),
    modifiers(&Bearer),
    components(schemas(error::Refusal, error::HTTPValidationError, error::ValidationError, error::Loc)),
    paths(
        users::me, users::list, users::get,
        organizations::list, organizations::create, organizations::get, organizations::update,
        org_data::export, org_data::delete, repos::get, repos::update, repos::delete,
        members::change_role, members::remove, members::invite, members::invitations, members::withdraw,
        members::accept, members::join,
        members::service_accounts, members::create_service_account, members::remove_service_account,
        tokens::list, tokens::create, tokens::revoke,
        tokens::list_of_account, tokens::create_of_account, tokens::revoke_of_account,
        audit::list, audit::export, org_limits::get, org_limits::put,
        repos::list, repos::list_alias, repos::add, repos::setup_commands, repos::put_setup_commands,
        agent_runs::create, agent_runs::get, agent_runs::list, agent_runs::list_alias,
        agent_runs::resume, agent_runs::resume_beta, agent_runs::stop, agent_runs::stop_beta, changes::diff,
        logs::get, logs::alpha, events::get,
        oidc::begin, oidc::callback, session::get, session::ways, session::create, session::delete,
        account::sessions, account::end_session, account::end_others, account::put_password, models::list, repos::branches,
        models::list_of_org, models::put_default, model_providers::list, model_providers::create, model_providers::get,
        model_providers::update, model_providers::delete, model_providers::test,
        run_edits::edit, run_edits::remove, run_search::search, run_views::list, run_views::get, run_views::changes,
        trace::screen, trace::entries, trace::output, trace::matches,
        rules::list_of_org, rules::add_to_org, rules::edit_of_org, rules::remove_of_org,
        rules::list_of_repo, rules::add_to_repo, rules::edit_of_repo, rules::remove_of_repo,
        rules::list_mine, rules::add_mine, rules::edit_mine, rules::remove_mine, cli_rules::get,
        webhooks::list, webhooks::create, webhooks::get, webhooks::update, webhooks::delete, webhooks::ping,
        webhooks::rotate, webhooks::deliveries, webhooks::delivery, webhooks::replay,
        pull_requests::get, pull_requests::edit, pull_requests::edit_in_repo,
        checks::settings, checks::put_settings, checks::ban, checks::unban, checks::remove,
        setup::generate, setup::analyze, setup::analyze_text,
        integrations::list, integrations::mcp_providers, integrations::oauth_status, integrations::oauth_revoke,
        oauth::connect, oauth::callback,
        integrations::slack_connect, claude_code::create, claude_code::set_status, claude_code::add_log,
        claude_code::add_lines,
        tools::list, tools::execute, mcp::post, health::healthz, health::readyz, health::metrics,
    )
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

static DOCUMENT: LazyLock<serde_json::Value> =
    LazyLock::new(|| serde_json::to_value(Document::openapi()).unwrap_or_default());

/// The API document.
pub fn openapi() -> serde_json::Value {
    DOCUMENT.clone()
}

/// The API document as served.
pub async fn json() -> Json<&'static serde_json::Value> {
    Json(&DOCUMENT)
}

/// The page.
pub async fn page() -> Html<&'static str> {
    Html(include_str!("docs.html"))
}
