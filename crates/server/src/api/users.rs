//! Users.

use std::sync::Arc;

use axum::{Json, extract::State};
use codegen_store::{Member, Role, User};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Asked, Caller, InOrg},
    body::{Fields, Input},
    error::{ApiError, Refusal, Refusals},
    page::{Page, Paging},
};
use crate::App;

/// A user.
#[derive(Serialize, ToSchema)]
pub struct UserResponse {
    id: i64,
    email: Option<String>,
    github_user_id: String,
    github_username: String,
    avatar_url: Option<String>,
    full_name: Option<String>,
    /// ADMIN, MANAGER or MEMBER of the organization.
    role: Option<String>,
    /// As `role` says.
    is_admin: Option<bool>,
}

impl UserResponse {
    pub(super) fn new(user: User, role: Option<Role>) -> Self {
        Self {
            id: user.id,
            email: user.email,
            github_user_id: user.github_user_id,
            github_username: user.github_username,
            avatar_url: user.avatar_url,
            full_name: user.full_name,
            role: role.map(|role| role.as_str().to_owned()),
            is_admin: role.map(|role| role == Role::Admin),
        }
    }
}

impl From<Member> for UserResponse {
    fn from(member: Member) -> Self {
        Self::new(member.user, Some(member.role))
    }
}

/// No input.
pub struct Nothing;

impl Input for Nothing {
    fn read(_: &mut Fields<'_>) -> Option<Self> {
        Some(Self)
    }
}

impl Input for Paging {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.page()
    }
}

/// A user's id.
pub struct UserId(pub i64);

impl Input for UserId {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("user_id")?))
    }
}

/// The token's owner.
#[utoipa::path(get, path = "/v1/users/me", tag = "users", operation_id = "get_current_user_info_v1_users_me_get",
    responses((status = 200, description = "Successful Response", body = UserResponse), Refusals))]
pub async fn me(State(app): State<Arc<App>>, asked: Asked<Caller, Nothing>) -> Result<Json<UserResponse>, ApiError> {
    let user = asked.by.user;
    let (orgs, _) = app.store.orgs_of_user(user.id, 0, 1).await?;
    let role = match orgs.first() {
        Some(org) => app.store.org_member(org.id, user.id).await?.map(|member| member.role),
        None => None,
    };
    Ok(Json(UserResponse::new(user, role)))
}

/// Members of the organization.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/users", tag = "users",
    operation_id = "get_users_v1_organizations__org_id__users_get", params(("org_id" = i64, Path), Paging),
    responses((status = 200, description = "Successful Response", body = Page<UserResponse>), Refusals))]
pub async fn list(
    State(app): State<Arc<App>>,
    asked: Asked<InOrg, Paging>,
) -> Result<Json<Page<UserResponse>>, ApiError> {
    let paging = asked.input;
    let (members, total) = app.store.org_members(asked.by.org_id, paging.skip, paging.limit).await?;
    Ok(Json(paging.page(members.into_iter().map(Into::into).collect(), total)))
}

/// One member of the organization.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/users/{user_id}", tag = "users",
    operation_id = "get_user_v1_organizations__org_id__users__user_id__get",
    params(("org_id" = i64, Path), ("user_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = UserResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn get(State(app): State<Arc<App>>, asked: Asked<InOrg, UserId>) -> Result<Json<UserResponse>, ApiError> {
    let member = app.store.org_member(asked.by.org_id, asked.input.0).await?;
    Ok(Json(member.ok_or_else(|| ApiError::not_found("User not found."))?.into()))
}
