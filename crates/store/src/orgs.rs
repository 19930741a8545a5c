//! Organizations, and the first one.

use serde_json::{Value, json};
use sqlx::{FromRow, Row as _};

use crate::{
    Error, NewToken, NewUser, Result, Role, Store, User,
    audit::{self, Entry},
    dialect::{Db, Row, Tx},
    row::flag,
    tokens, users,
};

/// An organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Org {
    /// Key.
    pub id: i64,
    /// For people.
    pub name: String,
    /// Whether runs may push branches and open pull requests.
    pub enable_pr_creation: bool,
    /// Whether rule files of the repository are read.
    pub enable_rules_detection: bool,
    /// When.
    pub created_at: i64,
}

/// What to change of an organization; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct OrgChange {
    /// [`Org::name`].
    pub name: Option<String>,
    /// [`Org::enable_pr_creation`].
    pub enable_pr_creation: Option<bool>,
    /// [`Org::enable_rules_detection`].
    pub enable_rules_detection: Option<bool>,
}

impl Org {
    /// As the audit log has it.
    fn told(&self) -> Value {
        json!({
            "name": self.name,
            "enable_pr_creation": self.enable_pr_creation,
            "enable_rules_detection": self.enable_rules_detection,
        })
    }
}

impl FromRow<'_, Row> for Org {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            enable_pr_creation: flag(row, "enable_pr_creation")?,
            enable_rules_detection: flag(row, "enable_rules_detection")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

impl Store {
    /// Sets up the first organization with its admin and a token; none when there is one already.
    ///
    /// # Errors
    /// The database's.
    pub async fn bootstrap(
        &self,
        org_name: &str,
        admin: NewUser,
        token_hash: &str,
        now: i64,
    ) -> Result<Option<(Org, User)>> {
        let (org_name, token_hash) = (org_name.to_owned(), token_hash.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let exists: Option<i64> = sqlx::query_scalar("SELECT id FROM orgs WHERE deleted_at IS NULL LIMIT 1")
                    .fetch_optional(&mut tx.conn)
                    .await?;
                if exists.is_some() {
                    return Ok(None);
                }
                let org = insert(tx, &org_name, now).await?;
                let user = users::insert(tx, org.id, admin, Role::Admin, now).await?;
                let token =
                    NewToken { user_id: user.id, name: "first".to_owned(), hash: token_hash, ..NewToken::default() };
                tokens::insert(tx, token, now).await?;
                Ok(Some((org, user)))
            })
        })
        .await
    }

    /// The organization that [`Store::bootstrap`] made and its admin.
    ///
    /// # Errors
    /// [`Error::NotFound`] before the set-up.
    pub async fn first_org_and_admin(&self) -> Result<(Org, User)> {
        let org = sqlx::query_as::<Db, Org>("SELECT * FROM orgs WHERE deleted_at IS NULL ORDER BY id LIMIT 1")
            .fetch_optional(&self.quick)
            .await?
            .ok_or(Error::NotFound)?;
        let user = sqlx::query_as::<Db, User>(
            "SELECT users.* FROM users JOIN members ON members.user_id = users.id
             WHERE members.org_id = $1 AND members.role = 'ADMIN' ORDER BY users.id LIMIT 1",
        )
        .bind(org.id)
        .fetch_optional(&self.quick)
        .await?
        .ok_or(Error::NotFound)?;
        Ok((org, user))
    }

    /// Makes a further organization, without members.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_org(&self, name: &str, now: i64) -> Result<Org> {
        let name = name.to_owned();
        self.write(move |tx| Box::pin(async move { insert(tx, &name, now).await })).await
    }

    /// One organization.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn org(&self, org_id: i64) -> Result<Org> {
        sqlx::query_as::<Db, Org>("SELECT * FROM orgs WHERE id = $1")
            .bind(org_id)
            .fetch_optional(&self.quick)
            .await?
            .ok_or(Error::NotFound)
    }

    /// Changes an organization's name and settings.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn update_org(&self, org_id: i64, change: OrgChange, now: i64) -> Result<Org> {
        self.write(move |tx| {
            Box::pin(async move {
                let sql = "SELECT * FROM orgs WHERE id = $1";
                let before = sqlx::query_as::<Db, Org>(sql).bind(org_id).fetch_optional(&mut tx.conn).await?;
                let before = before.ok_or(Error::NotFound)?;
                let after = sqlx::query_as::<Db, Org>(
                    "UPDATE orgs SET enable_pr_creation = COALESCE($2, enable_pr_creation),
                     enable_rules_detection = COALESCE($3, enable_rules_detection),
                     name = COALESCE($4, name) WHERE id = $1 RETURNING *",
                )
                .bind(org_id)
                .bind(change.enable_pr_creation.map(i64::from))
                .bind(change.enable_rules_detection.map(i64::from))
                .bind(change.name)
                .fetch_one(&mut tx.conn)
                .await?;
                let entry = Entry {
                    before: before.told(),
                    ..Entry::new("organization.updated", "organization", org_id, after.told())
                };
                audit::record(tx, org_id, entry, now).await?;
                Ok(after)
            })
        })
        .await
    }

    /// A page of the organizations that a user is a member of, oldest first, and how many there are in all.
    ///
    /// # Errors
    /// The database's.
    pub async fn orgs_of_user(&self, user_id: i64, skip: i64, limit: i64) -> Result<(Vec<Org>, i64)> {
        let orgs = sqlx::query_as::<Db, Org>(
            "SELECT orgs.* FROM orgs JOIN members ON members.org_id = orgs.id
             WHERE members.user_id = $1 ORDER BY orgs.id LIMIT $2 OFFSET $3",
        )
        .bind(user_id)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.readers)
        .await?;
        let total = sqlx::query_scalar("SELECT COUNT(*) FROM members WHERE user_id = $1")
            .bind(user_id)
            .fetch_one(&self.readers)
            .await?;
        Ok((orgs, total))
    }
}

pub(crate) async fn insert(tx: &mut Tx, name: &str, now: i64) -> Result<Org> {
    let org = sqlx::query_as::<Db, Org>("INSERT INTO orgs (name, created_at) VALUES ($1, $2) RETURNING *")
        .bind(name)
        .bind(now)
        .fetch_one(&mut tx.conn)
        .await?;
    audit::record(tx, org.id, Entry::new("organization.created", "organization", org.id, org.told()), now).await?;
    Ok(org)
}
