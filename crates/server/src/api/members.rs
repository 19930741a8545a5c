//! Members of an organization: their roles, invitations, and service accounts.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use codegen_store::{Invitation, Member, NewInvitation, NewToken, NewUser, Role};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Admin, Asked, Caller, Manager, Person},
    body::{Fields, Input, USUAL},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    page::{Page, Paging, time},
    tokens::{name, no_account},
    users::{UserId, UserResponse},
};
use crate::{App, token};

const ROLES: [&str; 3] = ["MEMBER", "MANAGER", "ADMIN"];
const DAY_MS: i64 = 24 * 3600 * 1000;
/// Most days that an invitation holds.
const LONGEST_INVITATION: i64 = 30;

/// A role.
#[derive(ToSchema)]
#[schema(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(dead_code, reason = "documentation")]
pub enum RoleName {
    Member,
    Manager,
    Admin,
}

fn role(fields: &mut Fields<'_>) -> Option<Option<Role>> {
    Some(fields.optional_word("role", &ROLES)?.as_deref().and_then(Role::parse))
}

/// No one grants a role above their own.
fn may_grant(own: Role, granted: Role) -> Result<(), ApiError> {
    if own.includes(granted) {
        return Ok(());
    }
    Err(ApiError::Refused(StatusCode::FORBIDDEN, "No one grants a role above their own.".to_owned()))
}

fn no_member(error: codegen_store::Error) -> ApiError {
    match error {
        codegen_store::Error::NotFound => ApiError::not_found("User not found."),
        other => other.into(),
    }
}

/// A member's new role.
#[derive(ToSchema)]
pub struct RoleInput {
    #[schema(value_type = RoleName)]
    role: Role,
}

/// Which member shall be what.
pub struct ChangedRole(i64, RoleInput);

impl Input for ChangedRole {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let user_id = fields.path_id("user_id");
        let word = fields.text("role");
        let role = word.and_then(|_| role(fields)).flatten();
        Some(Self(user_id?, RoleInput { role: role? }))
    }
}

/// Changes a member's role. The last admin stays one.
#[utoipa::path(patch, path = "/v1/organizations/{org_id}/users/{user_id}", tag = "users", operation_id = "change_role",
    params(("org_id" = i64, Path), ("user_id" = i64, Path)), request_body = RoleInput,
    responses((status = 200, description = "Successful Response", body = UserResponse),
        (status = 404, description = "Not Found", body = Refusal),
        (status = 409, description = "The last admin", body = Refusal), Refusals))]
pub async fn change_role(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, ChangedRole>,
) -> Result<Json<UserResponse>, ApiError> {
    let ChangedRole(user_id, RoleInput { role }) = asked.input;
    may_grant(asked.by.0.member.role, role)?;
    let member = app.store.change_role(asked.by.0.org_id, user_id, role, app.now()).await.map_err(no_member)?;
    Ok(Json(member.into()))
}

/// Takes a member, or a service account, out of the organization. The last admin stays.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}/users/{user_id}", tag = "users", operation_id = "remove_member",
    params(("org_id" = i64, Path), ("user_id" = i64, Path)),
    responses((status = 204, description = "Removed"), (status = 404, description = "Not Found", body = Refusal),
        (status = 409, description = "The last admin", body = Refusal), Refusals))]
pub async fn remove(State(app): State<Arc<App>>, asked: Asked<Admin, UserId>) -> Result<StatusCode, ApiError> {
    app.store.remove_member(asked.by.0.org_id, asked.input.0, app.now()).await.map_err(no_member)?;
    Ok(StatusCode::NO_CONTENT)
}

/// An invitation that nobody has accepted yet.
#[derive(Serialize, ToSchema)]
pub struct InvitationResponse {
    id: i64,
    role: String,
    /// For whom, as a note; nothing is sent.
    email: Option<String>,
    /// Whose it is.
    invited_by: i64,
    created_at: String,
    expires_at: String,
}

impl From<Invitation> for InvitationResponse {
    fn from(invitation: Invitation) -> Self {
        Self {
            id: invitation.id,
            role: invitation.role.as_str().to_owned(),
            email: invitation.email,
            invited_by: invitation.invited_by,
            created_at: time(invitation.created_at),
            expires_at: time(invitation.expires_at),
        }
    }
}

/// An invitation that was just made.
#[derive(Serialize, ToSchema)]
pub struct NewInvitationResponse {
    #[serde(flatten)]
    about: InvitationResponse,
    /// The link, good once; nobody can show it again.
    url: String,
    /// Its secret part, which `POST /v1/invitations/accept` and `/join` take.
    invitation: String,
}

/// Whom to invite.
#[derive(ToSchema)]
pub struct InviteInput {
    /// As what; not above one's own role.
    #[schema(value_type = Option<RoleName>)]
    role: Role,
    /// For whom, as a note; nothing is sent.
    email: Option<String>,
    /// How long the link is good.
    #[schema(minimum = 1, maximum = 30)]
    expires_in_days: Option<i64>,
}

impl Input for InviteInput {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let role = role(fields);
        let email = fields.optional_text("email");
        let expires_in_days = fields.optional_int("expires_in_days");
        if expires_in_days.flatten().is_some_and(|days| !(1..=LONGEST_INVITATION).contains(&days)) {
            let msg = format!("Value error, an invitation holds for 1 to {LONGEST_INVITATION} days");
            fields.fail(&["body", "expires_in_days"], "value_error", msg);
        }
        let role = role?.unwrap_or(Role::Member);
        Some(Self { role, email: email?, expires_in_days: expires_in_days? })
    }
}

/// Makes a link that makes whoever opens it a member, once.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/invitations", tag = "users", operation_id = "invite",
    params(("org_id" = i64, Path)), request_body = InviteInput,
    responses((status = 200, description = "Successful Response", body = NewInvitationResponse), Refusals))]
pub async fn invite(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, InviteInput>,
) -> Result<Json<NewInvitationResponse>, ApiError> {
    let (by, input) = (asked.by.0, asked.input);
    may_grant(by.member.role, input.role)?;
    let (secret, now) = (token::of_invitation(), app.now());
    let new = NewInvitation {
        hash: token::hash(&secret),
        role: input.role,
        email: input.email,
        invited_by: by.member.user.id,
        expires_at: now + input.expires_in_days.unwrap_or(7) * DAY_MS,
    };
    let made = app.store.invite(by.org_id, new, now).await?;
    // After the `#`: browsers do not send it, so it is in no server's log.
    let url = format!("{}/join#{secret}", app.config.public_url);
    Ok(Json(NewInvitationResponse { about: made.into(), url, invitation: secret }))
}

/// Open invitations of the organization.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/invitations", tag = "users", operation_id = "list_invitations",
    params(("org_id" = i64, Path), Paging),
    responses((status = 200, description = "Successful Response", body = Page<InvitationResponse>), Refusals))]
pub async fn invitations(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, Paging>,
) -> Result<Json<Page<InvitationResponse>>, ApiError> {
    let paging = asked.input;
    let (open, total) = app.store.invitations(asked.by.0.org_id, app.now(), paging.skip, paging.limit).await?;
    Ok(Json(paging.page(open.into_iter().map(Into::into).collect(), total)))
}

/// An invitation's id.
pub struct InvitationId(i64);

impl Input for InvitationId {
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("invitation_id")?))
    }
}

fn no_invitation(error: codegen_store::Error) -> ApiError {
    match error {
        codegen_store::Error::NotFound => {
            ApiError::not_found("This invitation does not hold: it was used, withdrawn, or its time is over.")
        }
        other => other.into(),
    }
}

/// Takes an invitation back.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}/invitations/{invitation_id}", tag = "users",
    operation_id = "withdraw_invitation", params(("org_id" = i64, Path), ("invitation_id" = i64, Path)),
    responses((status = 204, description = "Withdrawn"), (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn withdraw(
    State(app): State<Arc<App>>,
    asked: Asked<Manager, InvitationId>,
) -> Result<StatusCode, ApiError> {
    let gone = app.store.withdraw_invitation(asked.by.0.org_id, asked.input.0, app.now()).await;
    gone.map_err(no_invitation)?;
    Ok(StatusCode::NO_CONTENT)
}

/// An invitation that someone opened.
#[derive(ToSchema)]
pub struct AcceptInput {
    /// What is after the `#` of its link.
    invitation: String,
}

impl Input for AcceptInput {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { invitation: fields.text("invitation")? })
    }
}

/// What one has become.
#[derive(Serialize, ToSchema)]
pub struct JoinedResponse {
    organization_id: i64,
    organization_name: String,
    role: String,
}

/// Makes the caller a member, by an invitation.
#[utoipa::path(post, path = "/v1/invitations/accept", tag = "users", operation_id = "accept_invitation",
    request_body = AcceptInput,
    responses((status = 200, description = "Successful Response", body = JoinedResponse),
        (status = 404, description = "It does not hold", body = Refusal),
        (status = 409, description = "A member already", body = Refusal), Refusals))]
pub async fn accept(
    State(app): State<Arc<App>>,
    asked: Asked<Person, AcceptInput>,
) -> Result<Json<JoinedResponse>, ApiError> {
    let Caller { user, .. } = asked.by.0;
    let hash = token::hash(asked.input.invitation.trim());
    let (org, role) = app.store.accept_invitation(&hash, user.id, app.now()).await.map_err(no_invitation)?;
    let role = role.as_str().to_owned();
    Ok(Json(JoinedResponse { organization_id: org.id, organization_name: org.name, role }))
}

/// Who joins.
#[derive(ToSchema)]
pub struct JoinInput {
    /// What is after the `#` of the link.
    invitation: String,
    /// What others see.
    #[schema(min_length = 1, max_length = 200, pattern = "\\S")]
    name: String,
    /// An address.
    email: Option<String>,
}

impl Input for JoinInput {
    const BODY: usize = 64 << 10;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let invitation = fields.text("invitation");
        let name = name(fields, "name");
        let email = fields.optional_text("email");
        Some(Self { invitation: invitation?, name: name?, email: email? })
    }
}

/// Who one is now.
#[derive(Serialize, ToSchema)]
pub struct WelcomeResponse {
    user: UserResponse,
    organization_id: i64,
    organization_name: String,
    /// To log in with; nobody can show it again.
    token: String,
}

/// Makes a new person a member, by an invitation, which is all they need.
#[utoipa::path(post, path = "/v1/invitations/join", tag = "users", operation_id = "join", security(()),
    request_body = JoinInput,
    responses((status = 200, description = "Successful Response", body = WelcomeResponse),
        (status = 404, description = "It does not hold", body = Refusal), Refusals))]
pub async fn join(
    State(app): State<Arc<App>>,
    super::auth::Opened(input): super::auth::Opened<JoinInput>,
) -> Result<Json<WelcomeResponse>, ApiError> {
    let new = NewUser {
        github_user_id: format!("local:{}", token::random(16)),
        github_username: input.name.clone(),
        full_name: Some(input.name),
        email: input.email,
        ..NewUser::default()
    };
    let secret = token::new();
    let first = NewToken {
        name: "first".to_owned(),
        hash: token::hash(&secret),
        hint: token::hint(&secret),
        ..NewToken::default()
    };
    let hash = token::hash(input.invitation.trim());
    let (org, role, user, _) =
        app.store.join_by_invitation(&hash, new, first, app.now()).await.map_err(no_invitation)?;
    Ok(Json(WelcomeResponse {
        user: UserResponse::new(user, Some(role)),
        organization_id: org.id,
        organization_name: org.name,
        token: secret,
    }))
}

/// A service account: a member that is no person.
#[derive(Serialize, ToSchema)]
pub struct ServiceAccountResponse {
    id: i64,
    name: String,
    role: String,
    created_at: String,
}

impl From<Member> for ServiceAccountResponse {
    fn from(member: Member) -> Self {
        Self {
            id: member.user.id,
            name: member.user.github_username,
            role: member.role.as_str().to_owned(),
            created_at: time(member.user.created_at),
        }
    }
}

/// A service account to make.
#[derive(ToSchema)]
pub struct NewServiceAccountInput {
    /// What it is for.
    #[schema(min_length = 1, max_length = 200, pattern = "\\S")]
    name: String,
    /// What it may do.
    #[schema(value_type = Option<RoleName>)]
    role: Role,
}

impl Input for NewServiceAccountInput {
    const BODY: usize = USUAL;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = name(fields, "name");
        let role = role(fields);
        Some(Self { name: name?, role: role?.unwrap_or(Role::Member) })
    }
}

/// Service accounts of the organization.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/service-accounts", tag = "tokens",
    operation_id = "list_service_accounts", params(("org_id" = i64, Path), Paging),
    responses((status = 200, description = "Successful Response", body = Page<ServiceAccountResponse>), Refusals))]
pub async fn service_accounts(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, Paging>,
) -> Result<Json<Page<ServiceAccountResponse>>, ApiError> {
    let paging = asked.input;
    let (accounts, total) = app.store.service_accounts(asked.by.0.org_id, paging.skip, paging.limit).await?;
    Ok(Json(paging.page(accounts.into_iter().map(Into::into).collect(), total)))
}

/// Makes a service account.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/service-accounts", tag = "tokens",
    operation_id = "create_service_account", params(("org_id" = i64, Path)), request_body = NewServiceAccountInput,
    responses((status = 200, description = "Successful Response", body = ServiceAccountResponse), Refusals))]
pub async fn create_service_account(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, NewServiceAccountInput>,
) -> Result<Json<ServiceAccountResponse>, ApiError> {
    let (by, NewServiceAccountInput { name, role }) = (asked.by.0, asked.input);
    may_grant(by.member.role, role)?;
    let key = format!("service:{}", token::random(16));
    Ok(Json(app.store.create_service_account(by.org_id, &key, &name, role, app.now()).await?.into()))
}

/// A service account's id.
pub struct AccountId(i64);

impl Input for AccountId {
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("service_account_id")?))
    }
}

/// Removes a service account and revokes its tokens.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}/service-accounts/{service_account_id}", tag = "tokens",
    operation_id = "remove_service_account", params(("org_id" = i64, Path), ("service_account_id" = i64, Path)),
    responses((status = 204, description = "Removed"), (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn remove_service_account(
    State(app): State<Arc<App>>,
    asked: Asked<Admin, AccountId>,
) -> Result<StatusCode, ApiError> {
    let org_id = asked.by.0.org_id;
    let account = app.store.service_account(org_id, asked.input.0).await.map_err(no_account)?;
    app.store.remove_member(org_id, account.user.id, app.now()).await.map_err(no_account)?;
    Ok(StatusCode::NO_CONTENT)
}
