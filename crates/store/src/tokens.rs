//! API tokens, of which only the hash is kept.

use serde_json::json;
use sqlx::{FromRow, Row as _};

use crate::{
    Error, Result, Role, Store, User,
    audit::{self, Entry},
    dialect::{Db, Row, Tx},
    members,
    row::word,
};

/// An API token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Key.
    pub id: i64,
    /// Whose.
    pub user_id: i64,
    /// For people.
    pub name: String,
    /// Its beginning.
    pub hint: String,
    /// Words, separated by blanks; `None` where it may do everything that its user may.
    pub scopes: Option<String>,
    /// When.
    pub created_at: i64,
    /// Until when it counts.
    pub expires_at: Option<i64>,
    /// When it last counted, to the minute.
    pub last_used_at: Option<i64>,
}

/// A token to be made.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    /// [`Token::user_id`].
    pub user_id: i64,
    /// [`Token::name`].
    pub name: String,
    /// What is kept of it.
    pub hash: String,
    /// [`Token::hint`].
    pub hint: String,
    /// [`Token::scopes`].
    pub scopes: Option<String>,
    /// [`Token::expires_at`].
    pub expires_at: Option<i64>,
}

impl FromRow<'_, Row> for Token {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            user_id: row.try_get("user_id")?,
            name: row.try_get("name")?,
            hint: row.try_get("hint")?,
            scopes: row.try_get("scopes")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            last_used_at: row.try_get("last_used_at")?,
        })
    }
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The token.
    pub token: Token,
    /// Its user.
    pub user: User,
    /// What they are in the organization that was asked about; `None` where they are no member of it.
    pub role: Option<Role>,
}

impl FromRow<'_, Row> for Owner {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let user = User::from_row(row)?;
        let token = Token {
            id: row.try_get("token_id")?,
            user_id: user.id,
            name: row.try_get("name")?,
            hint: row.try_get("hint")?,
            scopes: row.try_get("scopes")?,
            created_at: row.try_get("token_created_at")?,
            expires_at: row.try_get("expires_at")?,
            last_used_at: row.try_get("last_used_at")?,
        };
        let role: Option<String> = row.try_get("role")?;
        Ok(Self { token, user, role: if role.is_some() { Some(word(row, "role", Role::parse)?) } else { None } })
    }
}

impl Store {
    /// Adds a token by its hash, with all rights of its user; one with the same hash stays and becomes this user's.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_token(&self, user_id: i64, name: &str, hash: &str, now: i64) -> Result<Token> {
        let new = NewToken { user_id, name: name.to_owned(), hash: hash.to_owned(), ..NewToken::default() };
        self.write(move |tx| Box::pin(async move { insert(tx, new, now).await })).await
    }

    /// Adds a token.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_token(&self, new: NewToken, now: i64) -> Result<Token> {
        self.write(move |tx| {
            Box::pin(async move {
                let token = insert(tx, new, now).await?;
                let after = json!({
                    "name": token.name,
                    "hint": token.hint,
                    "scopes": token.scopes,
                    "expires_at": token.expires_at,
                    "user_id": token.user_id,
                });
                let entry = Entry::new("token.created", "token", token.id, after);
                audit::record_of_user(tx, token.user_id, entry, now).await?;
                Ok(token)
            })
        })
        .await
    }

    /// A page of a user's tokens, oldest first, and how many there are in all.
    ///
    /// # Errors
    /// The database's.
    pub async fn tokens(&self, user_id: i64, skip: i64, limit: i64) -> Result<(Vec<Token>, i64)> {
        let tokens = sqlx::query_as::<Db, Token>(
            "SELECT * FROM tokens WHERE user_id = $1 AND of_logins = 0 ORDER BY id LIMIT $2 OFFSET $3",
        )
        .bind(user_id)
        .bind(limit)
        .bind(skip)
        .fetch_all(&self.readers)
        .await?;
        let total = sqlx::query_scalar("SELECT COUNT(*) FROM tokens WHERE user_id = $1 AND of_logins = 0")
            .bind(user_id)
            .fetch_one(&self.readers)
            .await?;
        Ok((tokens, total))
    }

    /// Revokes a token of a user's: it counts for nothing any more, and neither do the log-ins made with it.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is another user's.
    pub async fn revoke_token(&self, user_id: i64, id: i64, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                let token = sqlx::query_as::<Db, Token>(
                    "SELECT * FROM tokens WHERE user_id = $1 AND id = $2 AND of_logins = 0",
                )
                .bind(user_id)
                .bind(id)
                .fetch_optional(&mut tx.conn)
                .await?
                .ok_or(Error::NotFound)?;
                for sql in [
                    "DELETE FROM sessions WHERE token_id = $1",
                    "DELETE FROM idempotency_keys WHERE token_id = $1",
                    "DELETE FROM tokens WHERE id = $1",
                ] {
                    sqlx::query(sql).bind(id).execute(&mut tx.conn).await?;
                }
                let was = json!({ "name": token.name, "hint": token.hint, "user_id": user_id });
                let entry = Entry { before: was, ..Entry::new("token.revoked", "token", id, json!(null)) };
                audit::record_of_user(tx, user_id, entry, now).await?;
                members::access_changed(tx, 0);
                Ok(())
            })
        })
        .await
    }

    /// Notes that a token counted.
    ///
    /// # Errors
    /// The database's.
    pub async fn note_token_use(&self, id: i64, now: i64) -> Result<()> {
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query("UPDATE tokens SET last_used_at = $2 WHERE id = $1")
                    .bind(id)
                    .bind(now)
                    .execute(&mut tx.conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// The token with this hash and whose it is, unless it has expired; with the user's role in an organization, where one is
    /// given.
    ///
    /// # Errors
    /// The database's.
    pub async fn owner_of_token(&self, hash: &str, org_id: Option<i64>, now: i64) -> Result<Option<Owner>> {
        let owner = sqlx::query_as::<Db, Owner>(
            "SELECT users.*, members.role, tokens.id AS token_id, tokens.name, tokens.hint, tokens.scopes,
                 tokens.created_at AS token_created_at, tokens.expires_at, tokens.last_used_at
             FROM tokens JOIN users ON users.id = tokens.user_id
                 LEFT JOIN members ON members.user_id = users.id AND members.org_id = $3
             WHERE tokens.hash = $1 AND (tokens.expires_at IS NULL OR tokens.expires_at > $2)",
        )
        .bind(hash)
        .bind(now)
        .bind(org_id)
        .fetch_optional(&self.quick)
        .await?;
        Ok(owner)
    }
}

/// Adds a token.
pub async fn insert(tx: &mut Tx, new: NewToken, now: i64) -> Result<Token> {
    let token = sqlx::query_as::<Db, Token>(
        "INSERT INTO tokens (user_id, name, hash, hint, scopes, expires_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (hash) DO UPDATE SET user_id = excluded.user_id RETURNING *",
    )
    .bind(new.user_id)
    .bind(new.name)
    .bind(new.hash)
    .bind(new.hint)
    .bind(new.scopes)
    .bind(new.expires_at)
    .bind(now)
    .fetch_one(&mut tx.conn)
    .await?;
    Ok(token)
}

/// Revokes all tokens of a user.
pub async fn delete_of_user(tx: &mut Tx, user_id: i64) -> Result<()> {
    for sql in [
        "DELETE FROM sessions WHERE token_id IN (SELECT id FROM tokens WHERE user_id = $1)",
        "DELETE FROM idempotency_keys WHERE token_id IN (SELECT id FROM tokens WHERE user_id = $1)",
        "DELETE FROM tokens WHERE user_id = $1",
    ] {
        sqlx::query(sql).bind(user_id).execute(&mut tx.conn).await?;
    }
    Ok(())
}
