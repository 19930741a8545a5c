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
    /// When.
    pub created_at: i64,
}

impl FromRow<'_, Row> for Token {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            user_id: row.try_get("user_id")?,
            name: row.try_get("name")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

impl Store {
    /// Adds a token by its hash; one with the same hash stays and becomes this user's.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_token(&self, user_id: i64, name: &str, hash: &str, now: i64) -> Result<Token> {
        let (name, hash) = (name.to_owned(), hash.to_owned());
        self.write(move |tx| Box::pin(async move { insert(tx, user_id, &name, &hash, now).await })).await
    }

    /// The token with this hash and its user.
    ///
    /// # Errors
    /// The database's.
    pub async fn member_by_token_hash(&self, hash: &str) -> Result<Option<(Token, User)>> {
        let token = sqlx::query_as::<Db, Token>("SELECT * FROM tokens WHERE hash = $1")
            .bind(hash)
            .fetch_optional(&self.readers)
            .await?;
        let Some(token) = token else { return Ok(None) };
        let user = self.user(token.user_id).await?;
        Ok(Some((token, user)))
    }
}

/// Adds a token.
pub async fn insert(tx: &mut Tx, user_id: i64, name: &str, hash: &str, now: i64) -> Result<Token> {
    let token = sqlx::query_as::<Db, Token>(
        "INSERT INTO tokens (user_id, name, hash, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (hash) DO UPDATE SET user_id = excluded.user_id RETURNING *",
    )
    .bind(user_id)
    .bind(name)
    .bind(hash)
    .bind(now)
    .fetch_one(&mut tx.conn)
    .await?;
    Ok(token)
}
