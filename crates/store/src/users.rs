//! Users and their membership in organizations.

use serde_json::json;
use sqlx::{FromRow, Row as _};

use crate::{
    Error, Result, Store,
    audit::{self, Entry},
    dialect::{Db, Row, Tx},
    row::word,
};

/// A person or a service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Key.
    pub id: i64,
    /// Their id at GitHub, or one of our own making.
    pub github_user_id: String,
    /// Their name at GitHub.
    pub github_username: String,
    /// Address.
    pub email: Option<String>,
    /// For people.
    pub full_name: Option<String>,
    /// Picture.
    pub avatar_url: Option<String>,
    /// Of a service account, which is no person: whose it is.
    pub service_org_id: Option<i64>,
    /// When.
    pub created_at: i64,
}

/// A user to be made.
#[derive(Debug, Clone, Default)]
pub struct NewUser {
    /// [`User::github_user_id`].
    pub github_user_id: String,
    /// [`User::github_username`].
    pub github_username: String,
    /// [`User::email`].
    pub email: Option<String>,
    /// [`User::full_name`].
    pub full_name: Option<String>,
    /// [`User::avatar_url`].
    pub avatar_url: Option<String>,
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Also repositories, integrations and settings.
    Manager,
    /// Runs.
    Member,
}

impl Role {
    /// The contract's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "ADMIN",
            Self::Manager => "MANAGER",
            Self::Member => "MEMBER",
        }
    }

    /// Whether it may do all that the other may.
    #[must_use]
    pub fn includes(self, other: Self) -> bool {
        let rank = |role| match role {
            Self::Admin => 2,
            Self::Manager => 1,
            Self::Member => 0,
        };
        rank(self) >= rank(other)
    }

    /// The role of the contract's word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Admin, Self::Manager, Self::Member].into_iter().find(|role| role.as_str() == text)
    }
}

/// A user within an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: User,
    /// As what.
    pub role: Role,
}

impl FromRow<'_, Row> for User {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            github_user_id: row.try_get("github_user_id")?,
            github_username: row.try_get("github_username")?,
            email: row.try_get("email")?,
            full_name: row.try_get("full_name")?,
            avatar_url: row.try_get("avatar_url")?,
            service_org_id: row.try_get("service_org_id")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

impl FromRow<'_, Row> for Member {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self { user: User::from_row(row)?, role: word(row, "role", Role::parse)? })
    }
}

impl Store {
    /// Makes a user, or finds the one with this `github_user_id`, and makes them a member with this role.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_member(&self, org_id: i64, user: NewUser, role: Role, now: i64) -> Result<User> {
        self.write(move |tx| Box::pin(async move { insert(tx, org_id, user, role, now).await })).await
    }

    /// One member, if the user is one.
    ///
    /// # Errors
    /// The database's.
    pub async fn org_member(&self, org_id: i64, user_id: i64) -> Result<Option<Member>> {
        let member = sqlx::query_as::<Db, Member>(
            "SELECT users.*, members.role FROM users JOIN members ON members.user_id = users.id
             WHERE members.org_id = $1 AND members.user_id = $2",
        )
        .bind(org_id)
        .bind(user_id)
        .fetch_optional(&self.quick)
        .await?;
        Ok(member)
    }

    /// A page of the people of an organization, oldest first, and how many there are in all.
    ///
    /// # Errors
    /// The database's.
    pub async fn org_members(&self, org_id: i64, skip: i64, limit: i64) -> Result<(Vec<Member>, i64)> {
        let members = sqlx::query_as::<Db, Member>(
            "SELECT users.*, members.role FROM users JOIN members ON members.user_id = users.id
             WHERE members.org_id = $1 AND users.service_org_id IS NULL ORDER BY users.id LIMIT $2 OFFSET $3",
        )
        .bind(org_id)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.readers)
        .await?;
        let total = sqlx::query_scalar(
            "SELECT COUNT(*) FROM users JOIN members ON members.user_id = users.id
             WHERE members.org_id = $1 AND users.service_org_id IS NULL",
        )
        .bind(org_id)
        .fetch_one(&self.readers)
        .await?;
        Ok((members, total))
    }

    /// One user.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn user(&self, id: i64) -> Result<User> {
        sqlx::query_as::<Db, User>("SELECT * FROM users WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.quick)
            .await?
            .ok_or(Error::NotFound)
    }
}

/// Makes or finds the user and makes them a member.
pub async fn insert(tx: &mut Tx, org_id: i64, new: NewUser, role: Role, now: i64) -> Result<User> {
    let user = sqlx::query_as::<Db, User>(
        "INSERT INTO users (github_user_id, github_username, email, full_name, avatar_url, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (github_user_id) DO UPDATE SET github_username = excluded.github_username RETURNING *",
    )
    .bind(new.github_user_id)
    .bind(new.github_username)
    .bind(new.email)
    .bind(new.full_name)
    .bind(new.avatar_url)
    .bind(now)
    .fetch_one(&mut tx.conn)
    .await?;
    let before: Option<String> = sqlx::query_scalar("SELECT role FROM members WHERE org_id = $1 AND user_id = $2")
        .bind(org_id)
        .bind(user.id)
        .fetch_optional(&mut tx.conn)
        .await?;
    match before {
        Some(before) if before == role.as_str() => {}
        Some(before) => {
            // Whoever maps people to roles from outside shall not leave an organization without an admin.
            if before != Role::Admin.as_str() || admins(tx, org_id).await? > 1 {
                set_role(tx, org_id, user.id, role).await?;
                let entry = Entry {
                    before: json!({ "role": before }),
                    ..Entry::new("member.role_changed", "user", user.id, json!({ "role": role.as_str() }))
                };
                audit::record(tx, org_id, entry, now).await?;
            }
        }
        None => {
            sqlx::query("INSERT INTO members (org_id, user_id, role) VALUES ($1, $2, $3)")
                .bind(org_id)
                .bind(user.id)
                .bind(role.as_str())
                .execute(&mut tx.conn)
                .await?;
            let after = json!({ "name": user.github_username, "role": role.as_str() });
            audit::record(tx, org_id, Entry::new("member.added", "user", user.id, after), now).await?;
        }
    }
    Ok(user)
}

/// Changes a member's role.
pub async fn set_role(tx: &mut Tx, org_id: i64, user_id: i64, role: Role) -> Result<()> {
    sqlx::query("UPDATE members SET role = $3 WHERE org_id = $1 AND user_id = $2")
        .bind(org_id)
        .bind(user_id)
        .bind(role.as_str())
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

/// How many people are admins of an organization. Its row is kept from others until the commit.
pub async fn admins(tx: &mut Tx, org_id: i64) -> Result<i64> {
    sqlx::query("UPDATE orgs SET name = name WHERE id = $1").bind(org_id).execute(&mut tx.conn).await?;
    let admins = sqlx::query_scalar(
        "SELECT COUNT(*) FROM members JOIN users ON users.id = members.user_id
         WHERE members.org_id = $1 AND members.role = 'ADMIN' AND users.service_org_id IS NULL",
    )
    .bind(org_id)
    .fetch_one(&mut tx.conn)
    .await?;
    Ok(admins)
}
