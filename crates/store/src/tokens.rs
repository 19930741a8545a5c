//! API tokens, of which only the hash is kept.

use sqlx::{FromRow, Row as _};

use crate::{
    Result, Store, User,
    dialect::{Db, Row, Tx},
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

impl Store {
    /// Adds a token by its hash, with all rights of its user; one with the same hash stays and becomes this user's.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_token(&self, user_id: i64, name: &str, hash: &str, now: i64) -> Result<Token> {
        let new = NewToken { user_id, name: name.to_owned(), hash: hash.to_owned(), ..NewToken::default() };
        self.create_token(new, now).await
    }

    /// Adds a token; one with the same hash stays as it is but becomes this user's.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_token(&self, new: NewToken, now: i64) -> Result<Token> {
        self.write(move |tx| Box::pin(async move { insert(tx, new, now).await })).await
    }

    /// The token with this hash and its user, unless it has expired.
    ///
    /// # Errors
    /// The database's.
    pub async fn member_by_token_hash(&self, hash: &str, now: i64) -> Result<Option<(Token, User)>> {
        let token = sqlx::query_as::<Db, Token>(
            "SELECT * FROM tokens WHERE hash = $1 AND (expires_at IS NULL OR expires_at > $2)",
        )
        .bind(hash)
        .bind(now)
        .fetch_optional(&self.readers)
        .await?;
        let Some(token) = token else { return Ok(None) };
        let user = self.user(token.user_id).await?;
        Ok(Some((token, user)))
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
