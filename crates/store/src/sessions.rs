//! Log-ins of the web app: a random value, of which only the hash is kept, in place of a token until a time.

use crate::{Result, Store, Token, User, dialect::Db, members};

impl Store {
    /// Adds a session of this token; those that have expired are dropped.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_session(&self, token_id: i64, hash: &str, now: i64, expires_at: i64) -> Result<()> {
        let hash = hash.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM sessions WHERE expires_at <= $1").bind(now).execute(&mut tx.conn).await?;
                sqlx::query("INSERT INTO sessions (hash, token_id, created_at, expires_at) VALUES ($1, $2, $3, $4)")
                    .bind(hash)
                    .bind(token_id)
                    .bind(now)
                    .bind(expires_at)
                    .execute(&mut tx.conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// The token and user of the session with this hash, unless it has expired.
    ///
    /// # Errors
    /// The database's.
    pub async fn member_by_session_hash(&self, hash: &str, now: i64) -> Result<Option<(Token, User)>> {
        let token = sqlx::query_as::<Db, Token>(
            "SELECT tokens.* FROM sessions JOIN tokens ON tokens.id = sessions.token_id
             WHERE sessions.hash = $1 AND sessions.expires_at > $2
               AND (tokens.expires_at IS NULL OR tokens.expires_at > $2)",
        )
        .bind(hash)
        .bind(now)
        .fetch_optional(&self.readers)
        .await?;
        let Some(token) = token else { return Ok(None) };
        let user = self.user(token.user_id).await?;
        Ok(Some((token, user)))
    }

    /// Ends the session with this hash, if there is one.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_session(&self, hash: &str) -> Result<()> {
        let hash = hash.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM sessions WHERE hash = $1").bind(hash).execute(&mut tx.conn).await?;
                members::access_changed(tx, 0);
                Ok(())
            })
        })
        .await
    }
}
