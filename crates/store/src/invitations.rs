//! Links that make whoever opens them a member, once, for a time.

use serde_json::json;
use sqlx::{FromRow, Row as _};

use crate::{
    Error, NewToken, NewUser, Org, Result, Role, Store, Token, User,
    audit::{self, Entry},
    dialect::{Db, Row, Tx},
    members,
    row::word,
    tokens,
};

/// An invitation that nobody has accepted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Key.
    pub id: i64,
    /// Into which organization.
    pub org_id: i64,
    /// As what.
    pub role: Role,
    /// For whom, as a note.
    pub email: Option<String>,
    /// By whom.
    pub invited_by: i64,
    /// When.
    pub created_at: i64,
    /// Until when.
    pub expires_at: i64,
}

impl FromRow<'_, Row> for Invitation {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            org_id: row.try_get("org_id")?,
            role: word(row, "role", Role::parse)?,
            email: row.try_get("email")?,
            invited_by: row.try_get("invited_by")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
        })
    }
}

/// An invitation to be made.
#[derive(Debug, Clone)]
pub struct NewInvitation {
    /// What is kept of the link's secret.
    pub hash: String,
    /// [`Invitation::role`].
    pub role: Role,
    /// [`Invitation::email`].
    pub email: Option<String>,
    /// [`Invitation::invited_by`].
    pub invited_by: i64,
    /// [`Invitation::expires_at`].
    pub expires_at: i64,
}

impl Store {
    /// Invites; invitations that have expired are dropped.
    ///
    /// # Errors
    /// The database's.
    pub async fn invite(&self, org_id: i64, new: NewInvitation, now: i64) -> Result<Invitation> {
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM invitations WHERE org_id = $1 AND expires_at <= $2")
                    .bind(org_id)
                    .bind(now)
                    .execute(&mut tx.conn)
                    .await?;
                let made = sqlx::query_as::<Db, Invitation>(
                    "INSERT INTO invitations (org_id, hash, role, email, invited_by, created_at, expires_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *",
                )
                .bind(org_id)
                .bind(new.hash)
                .bind(new.role.as_str())
                .bind(new.email)
                .bind(new.invited_by)
                .bind(now)
                .bind(new.expires_at)
                .fetch_one(&mut tx.conn)
                .await?;
                let after = json!({ "role": made.role.as_str(), "email": made.email });
                let entry = Entry::new("invitation.created", "invitation", made.id, after);
                audit::record(tx, org_id, entry, now).await?;
                Ok(made)
            })
        })
        .await
    }

    /// A page of an organization's open invitations, oldest first, and how many there are in all.
    ///
    /// # Errors
    /// The database's.
    pub async fn invitations(&self, org_id: i64, now: i64, skip: i64, limit: i64) -> Result<(Vec<Invitation>, i64)> {
        let open = sqlx::query_as::<Db, Invitation>(
            "SELECT * FROM invitations WHERE org_id = $1 AND expires_at > $2 ORDER BY id LIMIT $3 OFFSET $4",
        )
        .bind(org_id)
        .bind(now)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.readers)
        .await?;
        let total = sqlx::query_scalar("SELECT COUNT(*) FROM invitations WHERE org_id = $1 AND expires_at > $2")
            .bind(org_id)
            .bind(now)
            .fetch_one(&self.readers)
            .await?;
        Ok((open, total))
    }

    /// Takes an invitation back.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn withdraw_invitation(&self, org_id: i64, id: i64, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let gone = sqlx::query("DELETE FROM invitations WHERE org_id = $1 AND id = $2")
                    .bind(org_id)
                    .bind(id)
                    .execute(&mut tx.conn)
                    .await?;
                if gone.rows_affected() == 0 {
                    return Err(Error::NotFound);
                }
                let entry = Entry::new("invitation.withdrawn", "invitation", id, json!(null));
                audit::record(tx, org_id, entry, now).await
            })
        })
        .await
    }

    /// Makes a user a member by an invitation, which is used up.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is none, has expired, or whoever made it may not give this role any more;
    /// [`Error::Conflict`] where the user is a member already.
    pub async fn accept_invitation(&self, hash: &str, user_id: i64, now: i64) -> Result<(Org, Role)> {
        let hash = hash.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let invitation = take(tx, &hash, now).await?;
                match members::member(tx, invitation.org_id, user_id).await {
                    Err(Error::NotFound) => {}
                    Err(error) => return Err(error),
                    Ok(_) => return Err(Error::Conflict("You are a member of this organization already.".to_owned())),
                }
                members::join(tx, invitation.org_id, user_id, invitation.role, now).await?;
                Ok((org(tx, invitation.org_id).await?, invitation.role))
            })
        })
        .await
    }

    /// Makes a new person, with a token, a member by an invitation, which is used up.
    ///
    /// # Errors
    /// As [`Store::accept_invitation`].
    pub async fn join_by_invitation(
        &self,
        hash: &str,
        new: NewUser,
        token: NewToken,
        now: i64,
    ) -> Result<(Org, Role, User, Token)> {
        let hash = hash.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let invitation = take(tx, &hash, now).await?;
                let user_id: i64 = sqlx::query_scalar(
                    "INSERT INTO users (github_user_id, github_username, email, full_name, avatar_url, created_at)
                     VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
                )
                .bind(new.github_user_id)
                .bind(new.github_username)
                .bind(new.email.or(invitation.email))
                .bind(new.full_name)
                .bind(new.avatar_url)
                .bind(now)
                .fetch_one(&mut tx.conn)
                .await?;
                let user = members::join(tx, invitation.org_id, user_id, invitation.role, now).await?;
                let token = tokens::insert(tx, NewToken { user_id, ..token }, now).await?;
                Ok((org(tx, invitation.org_id).await?, invitation.role, user, token))
            })
        })
        .await
    }
}

async fn org(tx: &mut Tx, org_id: i64) -> Result<Org> {
    let org = sqlx::query_as::<Db, Org>("SELECT * FROM orgs WHERE id = $1 AND deleted_at IS NULL")
        .bind(org_id)
        .fetch_optional(&mut tx.conn)
        .await?;
    org.ok_or(Error::NotFound)
}

/// Uses an invitation up.
async fn take(tx: &mut Tx, hash: &str, now: i64) -> Result<Invitation> {
    let taken =
        sqlx::query_as::<Db, Invitation>("DELETE FROM invitations WHERE hash = $1 AND expires_at > $2 RETURNING *")
            .bind(hash)
            .bind(now)
            .fetch_optional(&mut tx.conn)
            .await?;
    let invitation = taken.ok_or(Error::NotFound)?;
    // Who has lost a role gives it to nobody, also not by a link of earlier.
    let inviter = members::member(tx, invitation.org_id, invitation.invited_by).await?;
    if !inviter.role.includes(Role::Manager) || !inviter.role.includes(invitation.role) {
        return Err(Error::NotFound);
    }
    Ok(invitation)
}
