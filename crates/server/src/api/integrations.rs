//! Services beside codegen: which are connected, and how people connect their own accounts.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{
    auth::{Asked, Caller, InOrg},
    body::{Fields, Input, USUAL},
    error::{ApiError, Refusals},
    limits::Limit,
    users::Nothing,
};
use crate::{App, oauth, token};

/// Services that clients know, beside GitHub.
const SERVICES: [&str; 10] =
    ["slack", "linear", "notion", "figma", "clickup", "jira", "sentry", "monday", "circleci", "postgres"];
/// How long words for a bot are good.
const CONNECT_MINUTES: i64 = 10;

/// Integrations of an organization.
#[derive(Serialize, ToSchema)]
pub struct OrganizationIntegrationsResponse {
    organization_id: i64,
    organization_name: String,
    integrations: Vec<IntegrationStatus>,
    total_active_integrations: i64,
}

/// One integration.
#[derive(Serialize, ToSchema)]
pub struct IntegrationStatus {
    /// As `github`.
    integration_type: String,
    active: bool,
    /// The account that is connected.
    token_id: Option<i64>,
    installation_id: Option<i64>,
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    metadata: Option<Map<String, Value>>,
}

/// A service that people connect their accounts of.
#[derive(Serialize, ToSchema)]
pub struct OAuthProviderResponse {
    id: i64,
    name: String,
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    #[schema(required)]
    default_scopes: Option<Vec<String>>,
    is_mcp: bool,
    /// Whether this server is a client of it, so that people can connect their accounts.
    can_connect: bool,
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    meta: Option<Map<String, Value>>,
}

/// In which organization.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documentation")]
pub struct OrgQuery {
    /// The organization's id.
    org_id: i64,
}

/// An organization that is named there.
pub struct InQuery;

impl Input for InQuery {
    fn org_id(fields: &mut Fields<'_>) -> Option<i64> {
        fields.query_needed_int("org_id")
    }

    fn read(_: &mut Fields<'_>) -> Option<Self> {
        Some(Self)
    }
}

/// Of which provider.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ProviderQuery {
    /// Its name, as `linear`.
    provider: String,
}

impl Input for ProviderQuery {
    const LIMIT: Limit = Limit::Write;

    fn org_id(fields: &mut Fields<'_>) -> Option<i64> {
        fields.query_needed_int("org_id")
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { provider: fields.query_needed_text("provider")? })
    }
}

/// What ended.
#[derive(Serialize, ToSchema)]
pub struct RevokedResponse {
    provider: String,
    /// Connections that there were.
    revoked: u64,
}

/// In which organization.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct GenerateTokenRequest {
    org_id: i64,
}

/// An organization that is named there.
pub struct InBody;

impl Input for InBody {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn org_id(fields: &mut Fields<'_>) -> Option<i64> {
        fields.int("org_id")
    }

    fn read(_: &mut Fields<'_>) -> Option<Self> {
        Some(Self)
    }
}

/// Words that say to a bot who someone is.
#[derive(Serialize, ToSchema)]
pub struct GenerateTokenResponse {
    token: String,
    message: String,
    expires_in_minutes: i64,
}

/// Which services are connected.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/integrations", tag = "integrations",
    operation_id = "get_organization_integrations_endpoint_v1_organizations__org_id__integrations_get",
    params(("org_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = OrganizationIntegrationsResponse), Refusals))]
pub async fn list(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, Nothing>,
) -> Result<Json<OrganizationIntegrationsResponse>, ApiError> {
    let org = app.store.org(asked.by.org_id).await?;
    let config = &app.config;
    let of_host = |(host, api_url): &(String, String)| {
        let has_token = config.github_host_tokens.iter().any(|(of, _)| of.eq_ignore_ascii_case(host));
        json!({ "host": host, "api_url": api_url, "active": has_token })
    };
    let hosts: Vec<Value> = config.github_hosts.iter().map(of_host).collect();
    let github = IntegrationStatus {
        integration_type: "github".to_owned(),
        active: config.github_token.is_some() || hosts.iter().any(|host| host["active"] == true),
        token_id: None,
        installation_id: None,
        metadata: Some(Map::from_iter([
            ("api_url".to_owned(), json!(config.github_api_url)),
            ("hosts".to_owned(), json!(hosts)),
        ])),
    };
    let tokens = app.store.oauth_tokens(org.id, None).await?;
    let others: Vec<&str> = tokens.iter().map(|token| token.provider.as_str()).collect();
    let mut names: Vec<&str> = SERVICES.into_iter().chain(others).collect();
    names.sort_unstable();
    names.dedup();
    let status = |name: &str| {
        let token = tokens.iter().find(|token| token.provider == name);
        IntegrationStatus {
            integration_type: name.to_owned(),
            active: token.is_some(),
            token_id: token.map(|token| token.id),
            installation_id: None,
            metadata: None,
        }
    };
    let integrations: Vec<IntegrationStatus> = std::iter::once(github).chain(names.into_iter().map(status)).collect();
    let active = integrations.iter().filter(|integration| integration.active).count();
    Ok(Json(OrganizationIntegrationsResponse {
        organization_id: org.id,
        organization_name: org.name,
        total_active_integrations: i64::try_from(active).unwrap_or(i64::MAX),
        integrations,
    }))
}

/// MCP servers that people connect their accounts of, as the settings name them.
#[utoipa::path(get, path = "/v1/mcp-providers", tag = "organizations",
    operation_id = "get_mcp_providers_v1_mcp_providers_get",
    responses((status = 200, description = "Successful Response", body = Vec<OAuthProviderResponse>), Refusals))]
pub async fn mcp_providers(
    State(app): State<Arc<App>>,
    _asked: Asked<Caller, Nothing>,
) -> Result<Json<Vec<OAuthProviderResponse>>, ApiError> {
    let shown = app.config.mcp_providers.iter().zip(1..).map(|(provider, id)| OAuthProviderResponse {
        id,
        name: provider.name.clone(),
        issuer: provider.issuer.clone(),
        authorization_endpoint: provider.authorization_endpoint.clone(),
        token_endpoint: provider.token_endpoint.clone(),
        default_scopes: provider.default_scopes.clone(),
        is_mcp: true,
        can_connect: provider.client_id.is_some(),
        meta: provider.meta.clone(),
    });
    Ok(Json(shown.collect()))
}

/// Names of the providers that the caller's accounts are connected of.
#[utoipa::path(get, path = "/v1/oauth/tokens/status", tag = "organizations",
    operation_id = "get_oauth_token_status_v1_oauth_tokens_status_get", params(OrgQuery),
    responses((status = 200, description = "Successful Response", body = Vec<String>), Refusals))]
pub async fn oauth_status(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, InQuery>,
) -> Result<Json<Vec<String>>, ApiError> {
    let tokens = app.store.oauth_tokens(asked.by.org_id, Some(asked.by.member.user.id)).await?;
    let mut names: Vec<String> = tokens.into_iter().map(|token| token.provider).collect();
    names.dedup();
    Ok(Json(names))
}

/// Ends the caller's connections of a provider: the tokens are forgotten, and the provider is told where it has a place
/// for that.
#[utoipa::path(post, path = "/v1/oauth/tokens/revoke", tag = "organizations",
    operation_id = "revoke_oauth_token_v1_oauth_tokens_revoke_post", params(ProviderQuery, OrgQuery),
    responses((status = 200, description = "Successful Response", body = RevokedResponse), Refusals))]
pub async fn oauth_revoke(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, ProviderQuery>,
) -> Result<Json<RevokedResponse>, ApiError> {
    let provider = asked.input.provider;
    let (org_id, user_id) = (asked.by.org_id, asked.by.member.user.id);
    let mut kept = Vec::new();
    for connection in app.store.oauth_tokens(org_id, Some(user_id)).await? {
        if connection.provider == provider {
            kept.push(app.secret(&oauth::token_place(org_id, connection.id)).await);
        }
    }
    let revoked = app.store.revoke_oauth_tokens(org_id, user_id, &provider).await?;
    // They are forgotten here, whatever becomes of this.
    for tokens in kept {
        let told = match tokens {
            Ok(Some(tokens)) => app.tell_revoked(&provider, &tokens).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::warn!(org.id = org_id, error = format!("{error:#}"), "telling {provider} that tokens are revoked");
        }
    }
    Ok(Json(RevokedResponse { provider, revoked }))
}

/// Makes words that say to the organization's Slack bot who the caller is; good once, for ten minutes.
#[utoipa::path(post, path = "/v1/slack-connect/generate-token", tag = "slack-connect",
    operation_id = "generate_slack_connect_token_endpoint_v1_slack_connect_generate_token_post",
    request_body = GenerateTokenRequest,
    responses((status = 200, description = "Successful Response", body = GenerateTokenResponse), Refusals))]
pub async fn slack_connect(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, InBody>,
) -> Result<Json<GenerateTokenResponse>, ApiError> {
    let (words, now) = (token::random(32), app.now());
    let (org_id, user_id) = (asked.by.org_id, asked.by.member.user.id);
    app.store.add_connect_token(org_id, user_id, &token::hash(&words), now, now + CONNECT_MINUTES * 60_000).await?;
    let connected = app.store.oauth_tokens(org_id, None).await?.iter().any(|token| token.provider == "slack");
    let message = if connected {
        format!("Send this to the codegen bot as a direct message: Connect my account: {words}")
    } else {
        "No Slack is connected to this organization yet; once one is, and within ten minutes, send the codegen bot \
         the direct message \"Connect my account: \" followed by the token."
            .to_owned()
    };
    Ok(Json(GenerateTokenResponse { token: words, message, expires_in_minutes: CONNECT_MINUTES }))
}
