//! The HTTP API: every route on one screen.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::{Next, from_fn, from_fn_with_state, map_request},
    response::{IntoResponse, Response},
};
use tower_http::{
    CompressionLevel,
    catch_panic::CatchPanicLayer,
    compression::{
        CompressionLayer,
        predicate::{NotForContentType, Predicate as _, SizeAbove},
    },
};

mod account;
mod address;
mod agent_runs;
mod audit;
mod auth;
mod body;
mod changes;
mod checks;
mod claude_code;
mod cli_rules;
mod collections;
mod connections;
mod docs;
mod error;
mod events;
mod health;
mod idempotency;
mod images;
mod integrations;
mod last_use;
mod limits;
mod logs;
mod mcp;
mod mcp_context;
mod mcp_server;
mod members;
mod model_providers;
mod models;
mod no_room;
mod oauth;
mod oidc;
mod org_data;
mod org_limits;
mod organizations;
mod page;
mod pull_requests;
mod repos;
mod rights;
mod routes;
mod rules;
mod run_edits;
mod run_filters;
mod run_search;
mod run_views;
mod session;
mod setup;
mod tokens;
mod tool_calls;
mod tools;
mod trace;
mod transcript;
mod users;
mod webhook_tries;
mod webhooks;
mod words;

pub use changes::so_far as changes_so_far;
pub use connections::serve;
pub use docs::openapi;
pub use health::Requests;
pub use no_room::refuse;
pub use page::time;
pub use rights::{Area, SCOPES, Scope, Who};
pub use routes::Route;

use crate::{App, web};
use error::ApiError;
use routes::{Routes, delete, get, open, patch, post, put};

fn routes() -> Routes {
    let org = Routes::new()
        .route("/export", get(org_data::export))
        .route("/audit-log", get(audit::list))
        .route("/audit-log/export", get(audit::export))
        .route("/users", get(users::list))
        .route("/limits", get(org_limits::get).put(org_limits::put))
        .route("/users/{user_id}", get(users::get).patch(members::change_role).delete(members::remove))
        .route("/invitations", get(members::invitations).post(members::invite))
        .route("/invitations/{invitation_id}", delete(members::withdraw))
        .route("/service-accounts", get(members::service_accounts).post(members::create_service_account))
        .route("/service-accounts/{service_account_id}", delete(members::remove_service_account))
        .route(
            "/service-accounts/{service_account_id}/tokens",
            get(tokens::list_of_account).post(tokens::create_of_account),
        )
        .route("/service-accounts/{service_account_id}/tokens/{token_id}", delete(tokens::revoke_of_account))
        .route("/repos", get(repos::list).post(repos::add))
        .route("/repositories", get(repos::list_alias))
        .route("/repos/{repo_id}", get(repos::get).patch(repos::update).delete(repos::delete))
        .route("/repos/{repo_id}/setup-commands", get(repos::setup_commands).put(repos::put_setup_commands))
        .route("/repos/{repo_id}/branches", get(repos::branches))
        .route("/rules", get(rules::list_of_org).post(rules::add_to_org))
        .route("/rules/{rule_id}", patch(rules::edit_of_org).delete(rules::remove_of_org))
        .route("/repos/{repo_id}/rules", get(rules::list_of_repo).post(rules::add_to_repo))
        .route("/repos/{repo_id}/rules/{rule_id}", patch(rules::edit_of_repo).delete(rules::remove_of_repo))
        .route("/my-rules", get(rules::list_mine).post(rules::add_mine))
        .route("/my-rules/{rule_id}", patch(rules::edit_mine).delete(rules::remove_mine))
        .route("/models", get(models::list_of_org))
        .route("/default-model", put(models::put_default))
        .route("/model-providers", get(model_providers::list).post(model_providers::create))
        .route(
            "/model-providers/{model_provider_id}",
            get(model_providers::get).patch(model_providers::update).delete(model_providers::delete),
        )
        .route("/model-providers/{model_provider_id}/test", post(model_providers::test))
        .route("/webhooks", get(webhooks::list).post(webhooks::create))
        .route("/webhooks/{webhook_id}", get(webhooks::get).patch(webhooks::update).delete(webhooks::delete))
        .route("/webhooks/{webhook_id}/ping", post(webhooks::ping))
        .route("/webhooks/{webhook_id}/rotate", post(webhooks::rotate))
        .route("/webhooks/{webhook_id}/deliveries", get(webhooks::deliveries))
        .route("/webhooks/{webhook_id}/deliveries/{delivery_id}", get(webhooks::delivery))
        .route("/webhooks/{webhook_id}/deliveries/{delivery_id}/replay", post(webhooks::replay))
        .route("/repos/check-suite-settings", get(checks::settings).put(checks::put_settings))
        .route("/repos/{repo_id}/prs/{pr_id}", patch(pull_requests::edit_in_repo))
        .route("/prs/{pr_id}", get(pull_requests::get).patch(pull_requests::edit))
        .route("/agent/run", post(agent_runs::create).get(agent_runs::list_alias))
        .route("/agent/runs", get(agent_runs::list))
        .route("/agent/runs/views", get(run_views::list))
        .route("/agent/runs/changes", get(run_views::changes))
        .route("/agent/run/resume", post(agent_runs::resume))
        .route("/agent/run/stop", post(agent_runs::stop))
        .route("/agent/runs/search", get(run_search::search))
        .route("/agent/run/ban", post(checks::ban))
        .route("/agent/run/unban", post(checks::unban))
        .route("/agent/run/remove-from-pr", post(checks::remove))
        .route("/agent/run/{agent_run_id}", get(agent_runs::get).patch(run_edits::edit).delete(run_edits::remove))
        .route("/agent/run/{agent_run_id}/diff", get(changes::diff))
        .route("/agent/run/{agent_run_id}/logs", get(logs::get))
        .route("/agent/run/{agent_run_id}/events", get(events::get))
        .route("/agent/run/{agent_run_id}/view", get(run_views::get))
        .route("/agent/run/{agent_run_id}/entries", get(trace::entries))
        .route("/agent/run/{agent_run_id}/entries/{seq}/output", get(trace::output))
        .route("/agent/run/{agent_run_id}/matches", get(trace::matches))
        .route("/setup-commands/generate", post(setup::generate))
        .route("/sandbox/{sandbox_id}/analyze-logs", post(setup::analyze))
        .route("/integrations", get(integrations::list))
        .route("/cli/rules", get(cli_rules::get))
        .route("/claude_code/session", post(claude_code::create))
        .route("/claude_code/session/{session_id}/status", post(claude_code::set_status))
        .route("/claude_code/session/{session_id}/log", post(claude_code::add_log))
        .route("/claude_code/session/{session_id}/lines", post(claude_code::add_lines))
        .route("/tools", get(tools::list))
        .route("/tools/execute", post(tools::execute));
    Routes::new()
        .route("/v1/users/me", get(users::me))
        .route("/v1/users/me/password", put(account::put_password))
        .route("/v1/users/me/sessions", get(account::sessions).delete(account::end_others))
        .route("/v1/users/me/sessions/{login_id}", delete(account::end_session))
        .route("/v1/session/ways", get(open(session::ways)))
        .route("/v1/session/oidc", get(open(oidc::begin)))
        .route("/v1/session/oidc/callback", get(open(oidc::callback)))
        .route("/v1/session", get(session::get).post(open(session::create)).delete(session::delete))
        .route("/v1/models", get(models::list))
        .route("/v1/runs/{agent_run_id}", get(trace::screen))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{token_id}", delete(tokens::revoke))
        .route("/v1/invitations/accept", post(members::accept))
        .route("/v1/invitations/join", post(open(members::join)))
        .route("/v1/organizations", get(organizations::list).post(organizations::create))
        .route(
            "/v1/organizations/{org_id}",
            get(organizations::get).patch(organizations::update).delete(org_data::delete),
        )
        .nest("/v1/organizations/{org_id}", org)
        .route("/v1/beta/organizations/{org_id}/agent/run/resume", post(agent_runs::resume_beta))
        .route("/v1/beta/organizations/{org_id}/agent/run/stop", post(agent_runs::stop_beta))
        .route("/v1/alpha/organizations/{org_id}/agent/run/{agent_run_id}/logs", get(logs::alpha))
        .route("/v1/mcp-providers", get(integrations::mcp_providers))
        .route("/mcp", post(mcp::post))
        .route("/v1/oauth/connect", get(oauth::connect))
        .route("/v1/oauth/callback", get(open(oauth::callback)))
        .route("/v1/oauth/tokens/status", get(integrations::oauth_status))
        .route("/v1/oauth/tokens/revoke", post(integrations::oauth_revoke))
        .route("/v1/slack-connect/generate-token", post(integrations::slack_connect))
        .route("/websites/codegen/analyze_sandbox_logs", post(setup::analyze_text))
        .route("/healthz", get(open(health::healthz)))
        .route("/readyz", get(open(health::readyz)))
        .route("/metrics", get(open(health::metrics)))
        .route("/openapi.json", get(open(docs::json)))
        .route("/docs", get(open(docs::page)))
        .route("/", get(open(web::page)))
        .route("/new", get(open(web::page)))
        .route("/login", get(open(web::page)))
        .route("/account", get(open(web::page)))
        .route("/settings", get(open(web::page)))
        .route("/organization", get(open(web::page)))
        .route("/models", get(open(web::page)))
        .route("/connections", get(open(web::page)))
        .route("/limits", get(open(web::page)))
        .route("/service-accounts", get(open(web::page)))
        .route("/service-accounts/{service_account_id}", get(open(web::page)))
        .route("/tokens", get(open(web::page)))
        .route("/rules", get(open(web::page)))
        .route("/webhooks", get(open(web::page)))
        .route("/webhooks/{webhook_id}", get(open(web::page)))
        .route("/audit", get(open(web::page)))
        .route("/join", get(open(web::page)))
        .route("/repos", get(open(web::page)))
        .route("/runs/{run_id}", get(open(web::page)))
        .route("/pulls/{pr_id}", get(open(web::page)))
        .route("/favicon.svg", get(open(web::file)))
        .route("/_app/{*path}", get(open(web::file)))
}

/// Every route, and who may use it.
pub fn route_table() -> Vec<Route> {
    routes().into_table()
}

fn router(app: Arc<App>) -> Router {
    let routes = routes()
        .router
        .method_not_allowed_fallback(|| async {
            ApiError::Refused(StatusCode::METHOD_NOT_ALLOWED, "This path has no such method.".to_owned())
        })
        .fallback(nothing)
        .layer(from_fn(|request: Request, next: Next| codegen_store::serving(next.run(request))))
        .layer(from_fn_with_state(app.clone(), limits::guard))
        .layer(from_fn_with_state(app.clone(), health::count))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(
            // An event that waits for others to be packed with comes late; files of the app are packed already.
            SizeAbove::new(1024).and(NotForContentType::SSE),
        ))
        .with_state(app);
    // A layer of a router runs after its routing, so the rewriting one has a router of its own around.
    Router::new()
        .fallback_service(routes)
        .layer(map_request(collapse_slashes))
        .layer(CatchPanicLayer::custom(|_| -> Response { ApiError::internal(&"a handler panicked").into_response() }))
}

/// No route: programs are told in the contract's words, and a person at a browser by the app.
async fn nothing(uri: Uri, headers: HeaderMap) -> Response {
    let page = headers.get(header::ACCEPT).is_some_and(|kinds| kinds.as_bytes().starts_with(b"text/html"));
    if !page || uri.path().starts_with("/v1/") {
        return ApiError::not_found("Not found.").into_response();
    }
    let mut response = web::page(headers).await;
    if response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
}

/// The Python SDK sends `//v1/...` where its base URL ends with a slash.
async fn collapse_slashes(mut request: Request) -> Request {
    let path = request.uri().path();
    if !path.contains("//") {
        return request;
    }
    let mut plain = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !plain.ends_with('/') {
            plain.push(c);
        }
    }
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    if let Ok(uri) = format!("{plain}{query}").parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    request
}
