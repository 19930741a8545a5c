//! Rules of the organization, of its repositories, and of each user: three lists of one shape.

use std::sync::Arc;

use axum::{Json, extract::State};
use codegen_store::{Rule, RuleChange, RuleOwner};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    auth::{Asked, InOrg, Manager},
    body::{Fields, Input},
    error::{ApiError, Refusal, Refusals},
    limits::Limit,
    page::{Page, Paging, time},
};
use crate::App;

/// Bytes of a body: a rule in any spelling of JSON.
const BODY: usize = 256 << 10;
/// Places that rules can be given; one without comes after the last.
const FURTHEST: i64 = 1_000_000_000;
/// Characters of a rule.
const LONGEST: usize = 10_000;

/// A rule for agents.
#[derive(Serialize, ToSchema)]
pub struct RuleResponse {
    id: i64,
    text: String,
    /// Its place among the rules beside it; those of one place go by their ids.
    position: i64,
    enabled: bool,
    created_at: String,
    changed_at: String,
}

impl From<Rule> for RuleResponse {
    fn from(rule: Rule) -> Self {
        Self {
            id: rule.id,
            text: rule.text,
            position: rule.position,
            enabled: rule.enabled,
            created_at: time(rule.created_at),
            changed_at: time(rule.changed_at),
        }
    }
}

/// A rule to add.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct RuleInput {
    /// At most 10,000 characters.
    #[schema(min_length = 1, max_length = 10_000, pattern = r"\S")]
    text: String,
    /// Without one it comes last.
    #[schema(minimum = -1_000_000_000, maximum = 1_000_000_000)]
    position: Option<i64>,
    /// Whether it is followed.
    enabled: Option<bool>,
}

/// A change of a rule; what is absent stays as it is.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documentation")]
pub struct RuleChangeInput {
    #[schema(min_length = 1, max_length = 10_000, pattern = r"\S")]
    text: Option<String>,
    #[schema(minimum = -1_000_000_000, maximum = 1_000_000_000)]
    position: Option<i64>,
    enabled: Option<bool>,
}

fn change(fields: &mut Fields<'_>, text: Option<Option<String>>) -> Option<RuleChange> {
    if let Some(Some(text)) = &text {
        if text.trim().is_empty() {
            fields.fail(&["body", "text"], "string_too_short", "String should have at least 1 character");
        } else if text.chars().count() > LONGEST {
            let sentence = format!("String should have at most {LONGEST} characters");
            fields.fail(&["body", "text"], "string_too_long", sentence);
        }
    }
    let position = fields.optional_int_within("position", -FURTHEST, FURTHEST);
    let enabled = fields.optional_flag("enabled");
    Some(RuleChange { text: text?, position: position?, enabled: enabled? })
}

/// Which list a request is about, as far as its path says: a repository's, or none.
trait Listed: Sized + Send {
    fn read(fields: &mut Fields<'_>) -> Option<Self>;
}

/// A list that the path names by itself.
pub struct Here;

/// The list of a repository.
pub struct OfRepo(i64);

impl Listed for Here {
    fn read(_: &mut Fields<'_>) -> Option<Self> {
        Some(Self)
    }
}

impl Listed for OfRepo {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self(fields.path_id("repo_id")?))
    }
}

/// A page of rules.
pub struct ListRules<L>(L, Paging);
/// A new rule.
pub struct NewRule<L>(L, RuleChange);
/// A changed rule.
pub struct ChangeRule<L>(L, i64, RuleChange);
/// A rule.
pub struct RuleId<L>(L, i64);

impl<L: Listed> Input for ListRules<L> {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (list, paging) = (L::read(fields), fields.page());
        Some(Self(list?, paging?))
    }
}

impl<L: Listed> Input for NewRule<L> {
    const BODY: usize = BODY;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let list = L::read(fields);
        let text = fields.text("text").map(Some);
        let change = change(fields, text);
        Some(Self(list?, change?))
    }
}

impl<L: Listed> Input for ChangeRule<L> {
    const BODY: usize = BODY;
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (list, id) = (L::read(fields), fields.path_id("rule_id"));
        let text = fields.optional_text("text");
        let change = change(fields, text);
        Some(Self(list?, id?, change?))
    }
}

impl<L: Listed> Input for RuleId<L> {
    const LIMIT: Limit = Limit::Write;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (list, id) = (L::read(fields), fields.path_id("rule_id"));
        Some(Self(list?, id?))
    }
}

type Answer = Result<Json<RuleResponse>, ApiError>;
type List = Result<Json<Page<RuleResponse>>, ApiError>;

fn no_rule(owner: RuleOwner) -> impl Fn(codegen_store::Error) -> ApiError {
    move |error| match error {
        codegen_store::Error::NotFound => ApiError::not_found("Rule not found."),
        other => no_repo(owner)(other),
    }
}

fn no_repo(owner: RuleOwner) -> impl Fn(codegen_store::Error) -> ApiError {
    move |error| match (error, owner) {
        (codegen_store::Error::NotFound, RuleOwner::Repo(id)) => {
            ApiError::not_found(format!("Repository {id} not found."))
        }
        (other, _) => other.into(),
    }
}

async fn page(app: &App, org_id: i64, owner: RuleOwner, paging: &Paging) -> List {
    let (rules, total) = app.store.rules(org_id, owner, paging.skip, paging.limit).await.map_err(no_repo(owner))?;
    Ok(Json(paging.page(rules.into_iter().map(Into::into).collect(), total)))
}

async fn add(app: &App, org_id: i64, owner: RuleOwner, new: RuleChange) -> Answer {
    Ok(Json(app.store.create_rule(org_id, owner, new, app.now()).await.map_err(no_repo(owner))?.into()))
}

async fn edit(app: &App, org_id: i64, owner: RuleOwner, id: i64, change: RuleChange) -> Answer {
    Ok(Json(app.store.change_rule(org_id, owner, id, change, app.now()).await.map_err(no_rule(owner))?.into()))
}

async fn remove(app: &App, org_id: i64, owner: RuleOwner, id: i64) -> Answer {
    Ok(Json(app.store.delete_rule(org_id, owner, id, app.now()).await.map_err(no_rule(owner))?.into()))
}

/// Rules of the organization, in their order.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/rules", tag = "rules", operation_id = "list_organization_rules",
    params(("org_id" = i64, Path), Paging),
    responses((status = 200, description = "Successful Response", body = Page<RuleResponse>), Refusals))]
pub async fn list_of_org(State(app): State<Arc<App>>, asked: Asked<InOrg, ListRules<Here>>) -> List {
    page(&app, asked.by.org_id, RuleOwner::Org, &asked.input.1).await
}

/// Adds a rule of the organization.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/rules", tag = "rules", operation_id = "add_organization_rule",
    params(("org_id" = i64, Path)), request_body = RuleInput,
    responses((status = 200, description = "Successful Response", body = RuleResponse),
        (status = 409, description = "There are too many", body = Refusal), Refusals))]
pub async fn add_to_org(State(app): State<Arc<App>>, asked: Asked<Manager, NewRule<Here>>) -> Answer {
    add(&app, asked.by.0.org_id, RuleOwner::Org, asked.input.1).await
}

/// Changes a rule of the organization.
#[utoipa::path(patch, path = "/v1/organizations/{org_id}/rules/{rule_id}", tag = "rules",
    operation_id = "edit_organization_rule", params(("org_id" = i64, Path), ("rule_id" = i64, Path)),
    request_body = RuleChangeInput,
    responses((status = 200, description = "Successful Response", body = RuleResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn edit_of_org(State(app): State<Arc<App>>, asked: Asked<Manager, ChangeRule<Here>>) -> Answer {
    let ChangeRule(Here, id, change) = asked.input;
    edit(&app, asked.by.0.org_id, RuleOwner::Org, id, change).await
}

/// Removes a rule of the organization; answers with what it was.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}/rules/{rule_id}", tag = "rules",
    operation_id = "remove_organization_rule", params(("org_id" = i64, Path), ("rule_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = RuleResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn remove_of_org(State(app): State<Arc<App>>, asked: Asked<Manager, RuleId<Here>>) -> Answer {
    remove(&app, asked.by.0.org_id, RuleOwner::Org, asked.input.1).await
}

/// Rules of a repository, in their order; those that its files hold are not among them.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/repos/{repo_id}/rules", tag = "rules",
    operation_id = "list_repository_rules", params(("org_id" = i64, Path), ("repo_id" = i64, Path), Paging),
    responses((status = 200, description = "Successful Response", body = Page<RuleResponse>),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn list_of_repo(State(app): State<Arc<App>>, asked: Asked<InOrg, ListRules<OfRepo>>) -> List {
    let ListRules(OfRepo(repo_id), paging) = asked.input;
    page(&app, asked.by.org_id, RuleOwner::Repo(repo_id), &paging).await
}

/// Adds a rule of a repository.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/repos/{repo_id}/rules", tag = "rules",
    operation_id = "add_repository_rule", params(("org_id" = i64, Path), ("repo_id" = i64, Path)),
    request_body = RuleInput,
    responses((status = 200, description = "Successful Response", body = RuleResponse),
        (status = 404, description = "Not Found", body = Refusal),
        (status = 409, description = "There are too many", body = Refusal), Refusals))]
pub async fn add_to_repo(State(app): State<Arc<App>>, asked: Asked<Manager, NewRule<OfRepo>>) -> Answer {
    let NewRule(OfRepo(repo_id), new) = asked.input;
    add(&app, asked.by.0.org_id, RuleOwner::Repo(repo_id), new).await
}

/// Changes a rule of a repository.
#[utoipa::path(patch, path = "/v1/organizations/{org_id}/repos/{repo_id}/rules/{rule_id}", tag = "rules",
    operation_id = "edit_repository_rule",
    params(("org_id" = i64, Path), ("repo_id" = i64, Path), ("rule_id" = i64, Path)), request_body = RuleChangeInput,
    responses((status = 200, description = "Successful Response", body = RuleResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn edit_of_repo(State(app): State<Arc<App>>, asked: Asked<Manager, ChangeRule<OfRepo>>) -> Answer {
    let ChangeRule(OfRepo(repo_id), id, change) = asked.input;
    edit(&app, asked.by.0.org_id, RuleOwner::Repo(repo_id), id, change).await
}

/// Removes a rule of a repository; answers with what it was.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}/repos/{repo_id}/rules/{rule_id}", tag = "rules",
    operation_id = "remove_repository_rule",
    params(("org_id" = i64, Path), ("repo_id" = i64, Path), ("rule_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = RuleResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn remove_of_repo(State(app): State<Arc<App>>, asked: Asked<Manager, RuleId<OfRepo>>) -> Answer {
    let RuleId(OfRepo(repo_id), id) = asked.input;
    remove(&app, asked.by.0.org_id, RuleOwner::Repo(repo_id), id).await
}

/// The caller's own rules in this organization, in their order; nobody else sees them.
#[utoipa::path(get, path = "/v1/organizations/{org_id}/my-rules", tag = "rules", operation_id = "list_my_rules",
    params(("org_id" = i64, Path), Paging),
    responses((status = 200, description = "Successful Response", body = Page<RuleResponse>), Refusals))]
pub async fn list_mine(State(app): State<Arc<App>>, asked: Asked<InOrg, ListRules<Here>>) -> List {
    page(&app, asked.by.org_id, RuleOwner::User(asked.by.member.user.id), &asked.input.1).await
}

/// Adds a rule of the caller's own.
#[utoipa::path(post, path = "/v1/organizations/{org_id}/my-rules", tag = "rules", operation_id = "add_my_rule",
    params(("org_id" = i64, Path)), request_body = RuleInput,
    responses((status = 200, description = "Successful Response", body = RuleResponse),
        (status = 409, description = "There are too many", body = Refusal), Refusals))]
pub async fn add_mine(State(app): State<Arc<App>>, asked: Asked<InOrg, NewRule<Here>>) -> Answer {
    add(&app, asked.by.org_id, RuleOwner::User(asked.by.member.user.id), asked.input.1).await
}

/// Changes a rule of the caller's own.
#[utoipa::path(patch, path = "/v1/organizations/{org_id}/my-rules/{rule_id}", tag = "rules",
    operation_id = "edit_my_rule", params(("org_id" = i64, Path), ("rule_id" = i64, Path)),
    request_body = RuleChangeInput,
    responses((status = 200, description = "Successful Response", body = RuleResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn edit_mine(State(app): State<Arc<App>>, asked: Asked<InOrg, ChangeRule<Here>>) -> Answer {
    let ChangeRule(Here, id, change) = asked.input;
    edit(&app, asked.by.org_id, RuleOwner::User(asked.by.member.user.id), id, change).await
}

/// Removes a rule of the caller's own; answers with what it was.
#[utoipa::path(delete, path = "/v1/organizations/{org_id}/my-rules/{rule_id}", tag = "rules",
    operation_id = "remove_my_rule", params(("org_id" = i64, Path), ("rule_id" = i64, Path)),
    responses((status = 200, description = "Successful Response", body = RuleResponse),
        (status = 404, description = "Not Found", body = Refusal), Refusals))]
pub async fn remove_mine(State(app): State<Arc<App>>, asked: Asked<InOrg, RuleId<Here>>) -> Answer {
    remove(&app, asked.by.org_id, RuleOwner::User(asked.by.member.user.id), asked.input.1).await
}
