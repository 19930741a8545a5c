//! What people want agents to keep to: rules of an organization, of its repositories, and of each of its users.

use serde_json::{Value, json};
use sqlx::{FromRow, Row as _};

use crate::{
    Error, Result, Store,
    audit::{self, Entry},
    dialect::{Db, Row, Tx},
    row::flag,
};

/// Most rules of one owner.
pub const MOST: i64 = 100;
/// Characters of all rules of one owner that are on, together: so much is never cut.
pub const TOGETHER: i64 = 30_000;

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleOwner {
    /// The organization's.
    Org,
    /// Those of one of its repositories.
    Repo(i64),
    /// One user's own, in this organization; nobody else sees them.
    User(i64),
}

impl RuleOwner {
    fn repo_id(self) -> Option<i64> {
        match self {
            Self::Repo(id) => Some(id),
            Self::Org | Self::User(_) => None,
        }
    }

    fn user_id(self) -> Option<i64> {
        match self {
            Self::User(id) => Some(id),
            Self::Org | Self::Repo(_) => None,
        }
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Key.
    pub id: i64,
    /// Whose.
    pub owner: RuleOwner,
    /// The words.
    pub text: String,
    /// Its place among those of its owner.
    pub position: i64,
    /// Whether it is followed.
    pub enabled: bool,
    /// When made.
    pub created_at: i64,
    /// When last changed.
    pub changed_at: i64,
}

impl Rule {
    /// As the audit log has it; a user's own words are nobody else's.
    fn told(&self) -> Value {
        let text = (!matches!(self.owner, RuleOwner::User(_))).then_some(&self.text);
        json!({
            "repo_id": self.owner.repo_id(), "user_id": self.owner.user_id(),
            "text": text, "position": self.position, "enabled": self.enabled,
        })
    }
}

impl FromRow<'_, Row> for Rule {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let (repo_id, user_id): (Option<i64>, Option<i64>) = (row.try_get("repo_id")?, row.try_get("user_id")?);
        let owner = match (repo_id, user_id) {
            (Some(id), _) => RuleOwner::Repo(id),
            (None, Some(id)) => RuleOwner::User(id),
            (None, None) => RuleOwner::Org,
        };
        Ok(Self {
            id: row.try_get("id")?,
            owner,
            text: row.try_get("text")?,
            position: row.try_get("position")?,
            enabled: flag(row, "enabled")?,
            created_at: row.try_get("created_at")?,
            changed_at: row.try_get("changed_at")?,
        })
    }
}

/// What can be set of a rule; what is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct RuleChange {
    /// [`Rule::text`].
    pub text: Option<String>,
    /// [`Rule::position`]; a new rule without one comes last.
    pub position: Option<i64>,
    /// [`Rule::enabled`].
    pub enabled: Option<bool>,
}

/// Those of an owner: `$1` organization, `$2` repository or 0, `$3` user or 0.
macro_rules! of_owner {
    () => {
        "org_id = $1 AND COALESCE(repo_id, 0) = $2 AND COALESCE(user_id, 0) = $3"
    };
}

impl Store {
    /// A page of an owner's rules in their order, and how many there are in all.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the repository is not this organization's.
    pub async fn rules(&self, org_id: i64, owner: RuleOwner, skip: i64, limit: i64) -> Result<(Vec<Rule>, i64)> {
        if let RuleOwner::Repo(id) = owner {
            self.repo(org_id, id).await?;
        }
        let (repo, user) = (owner.repo_id().unwrap_or(0), owner.user_id().unwrap_or(0));
        let rules = sqlx::query_as::<Db, Rule>(concat!(
            "SELECT * FROM rules WHERE ",
            of_owner!(),
            " ORDER BY position, id LIMIT $4 OFFSET $5"
        ))
        .bind(org_id)
        .bind(repo)
        .bind(user)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.readers)
        .await?;
        let total = sqlx::query_scalar(concat!("SELECT COUNT(*) FROM rules WHERE ", of_owner!()))
            .bind(org_id)
            .bind(repo)
            .bind(user)
            .fetch_one(&self.readers)
            .await?;
        Ok((rules, total))
    }

    /// The rules that a run of this user in this repository follows: the organization's, the repository's, the user's,
    /// each in their order.
    ///
    /// # Errors
    /// The database's.
    pub async fn rules_in_force(&self, org_id: i64, repo_id: Option<i64>, user_id: i64) -> Result<Vec<Rule>> {
        let rules = sqlx::query_as::<Db, Rule>(
            "SELECT * FROM rules
             WHERE org_id = $1 AND enabled = 1 AND (repo_id IS NULL OR repo_id = $2) AND (user_id IS NULL OR user_id = $3)
             ORDER BY position, id",
        )
        .bind(org_id)
        .bind(repo_id.unwrap_or(0))
        .bind(user_id)
        .fetch_all(&self.readers)
        .await?;
        Ok(rules)
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the repository is not this organization's; [`Error::Conflict`] where it would be too much.
    pub async fn create_rule(&self, org_id: i64, owner: RuleOwner, new: RuleChange, now: i64) -> Result<Rule> {
        self.write(move |tx| {
            Box::pin(async move {
                if let RuleOwner::Repo(id) = owner {
                    let ours: Option<i64> = sqlx::query_scalar("SELECT id FROM repos WHERE org_id = $1 AND id = $2")
                        .bind(org_id)
                        .bind(id)
                        .fetch_optional(&mut tx.conn)
                        .await?;
                    ours.ok_or(Error::NotFound)?;
                }
                let rule = sqlx::query_as::<Db, Rule>(
                    "INSERT INTO rules (org_id, repo_id, user_id, text, position, enabled, created_at, changed_at)
                     VALUES ($1, $2, $3, $4, COALESCE($5, (SELECT COALESCE(MAX(position), 0) + 1 FROM rules
                         WHERE org_id = $1 AND COALESCE(repo_id, 0) = $8 AND COALESCE(user_id, 0) = $9)), $6, $7, $7)
                     RETURNING *",
                )
                .bind(org_id)
                .bind(owner.repo_id())
                .bind(owner.user_id())
                .bind(new.text.unwrap_or_default())
                .bind(new.position)
                .bind(i64::from(new.enabled.unwrap_or(true)))
                .bind(now)
                .bind(owner.repo_id().unwrap_or(0))
                .bind(owner.user_id().unwrap_or(0))
                .fetch_one(&mut tx.conn)
                .await?;
                bounded(tx, org_id, owner).await?;
                audit::record(tx, org_id, Entry::new("rule.created", "rule", rule.id, rule.told()), now).await?;
                Ok(rule)
            })
        })
        .await
    }

    /// Changes a rule.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is another owner's; [`Error::Conflict`] where it would be too much.
    pub async fn change_rule(
        &self,
        org_id: i64,
        owner: RuleOwner,
        id: i64,
        change: RuleChange,
        now: i64,
    ) -> Result<Rule> {
        self.write(move |tx| {
            Box::pin(async move {
                let before = read(tx, org_id, owner, id).await?.told();
                let rule = sqlx::query_as::<Db, Rule>(
                    "UPDATE rules SET text = COALESCE($2, text), position = COALESCE($3, position),
                         enabled = COALESCE($4, enabled), changed_at = $5 WHERE id = $1 RETURNING *",
                )
                .bind(id)
                .bind(change.text)
                .bind(change.position)
                .bind(change.enabled.map(i64::from))
                .bind(now)
                .fetch_one(&mut tx.conn)
                .await?;
                bounded(tx, org_id, owner).await?;
                let entry = Entry { before, ..Entry::new("rule.changed", "rule", id, rule.told()) };
                audit::record(tx, org_id, entry, now).await?;
                Ok(rule)
            })
        })
        .await
    }

    /// Removes a rule and returns it.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is another owner's.
    pub async fn delete_rule(&self, org_id: i64, owner: RuleOwner, id: i64, now: i64) -> Result<Rule> {
        self.write(move |tx| {
            Box::pin(async move {
                let rule = read(tx, org_id, owner, id).await?;
                sqlx::query("DELETE FROM rules WHERE id = $1").bind(id).execute(&mut tx.conn).await?;
                let entry = Entry { before: rule.told(), ..Entry::new("rule.deleted", "rule", id, Value::Null) };
                audit::record(tx, org_id, entry, now).await?;
                Ok(rule)
            })
        })
        .await
    }
}

async fn read(tx: &mut Tx, org_id: i64, owner: RuleOwner, id: i64) -> Result<Rule> {
    sqlx::query_as::<Db, Rule>(concat!("SELECT * FROM rules WHERE ", of_owner!(), " AND id = $4"))
        .bind(org_id)
        .bind(owner.repo_id().unwrap_or(0))
        .bind(owner.user_id().unwrap_or(0))
        .bind(id)
        .fetch_optional(&mut tx.conn)
        .await?
        .ok_or(Error::NotFound)
}

/// Refuses more than a run would be shown.
async fn bounded(tx: &mut Tx, org_id: i64, owner: RuleOwner) -> Result<()> {
    let (rules, characters): (i64, i64) = sqlx::query_as(concat!(
        "SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN enabled = 1 THEN LENGTH(text) ELSE 0 END), 0) AS BIGINT)
         FROM rules WHERE ",
        of_owner!()
    ))
    .bind(org_id)
    .bind(owner.repo_id().unwrap_or(0))
    .bind(owner.user_id().unwrap_or(0))
    .fetch_one(&mut tx.conn)
    .await?;
    if rules > MOST {
        return Err(Error::Conflict(format!("There are {MOST} rules here, and no more are taken.")));
    }
    if characters > TOGETHER {
        return Err(Error::Conflict(format!(
            "The rules that are on here would have {characters} characters together; {TOGETHER} are taken."
        )));
    }
    Ok(())
}
