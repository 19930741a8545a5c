//! Accounts of users elsewhere: which are connected, and the words by which a user says to a bot who they are.

use crate::{Result, Store};

/// A connected account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthToken {
    /// Key.
    pub id: i64,
    /// Where, as `linear`.
    pub provider: String,
}

impl Store {
    /// Notes that a user has connected their account at a provider.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_oauth_token(&self, org_id: i64, user_id: i64, provider: &str, now: i64) -> Result<i64> {
        let provider = provider.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                Ok(sqlx::query_scalar(
                    "INSERT INTO oauth_tokens (org_id, user_id, provider, active, created_at)
                     VALUES ($1, $2, $3, 1, $4) RETURNING id",
                )
                .bind(org_id)
                .bind(user_id)
                .bind(provider)
                .bind(now)
                .fetch_one(&mut tx.conn)
                .await?)
            })
        })
        .await
    }

    /// The accounts that are connected in an organization, of one user or of all, by provider.
    ///
    /// # Errors
    /// The database's.
    pub async fn oauth_tokens(&self, org_id: i64, user_id: Option<i64>) -> Result<Vec<OAuthToken>> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT id, provider FROM oauth_tokens
             WHERE org_id = $1 AND active = 1 AND (CAST($2 AS BIGINT) IS NULL OR user_id = $2) ORDER BY provider, id",
        )
        .bind(org_id)
        .bind(user_id)
        .fetch_all(&self.readers)
        .await?;
        Ok(rows.into_iter().map(|(id, provider)| OAuthToken { id, provider }).collect())
    }

    /// Ends all connections of a user to a provider; says how many there were.
    ///
    /// # Errors
    /// The database's.
    pub async fn revoke_oauth_tokens(&self, org_id: i64, user_id: i64, provider: &str) -> Result<u64> {
        let provider = provider.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let revoked = sqlx::query(
                    "UPDATE oauth_tokens SET active = 0
                     WHERE org_id = $1 AND user_id = $2 AND provider = $3 AND active = 1",
                )
                .bind(org_id)
                .bind(user_id)
                .bind(provider)
                .execute(&mut tx.conn)
                .await?;
                Ok(revoked.rows_affected())
            })
        })
        .await
    }

    /// Keeps the hash of words that stand for a user once, until a time.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_connect_token(
        &self,
        org_id: i64,
        user_id: i64,
        hash: &str,
        now: i64,
        expires_at: i64,
    ) -> Result<()> {
        let hash = hash.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM connect_tokens WHERE expires_at <= $1")
                    .bind(now)
                    .execute(&mut tx.conn)
                    .await?;
                sqlx::query("INSERT INTO connect_tokens (hash, org_id, user_id, expires_at) VALUES ($1, $2, $3, $4)")
                    .bind(hash)
                    .bind(org_id)
                    .bind(user_id)
                    .bind(expires_at)
                    .execute(&mut tx.conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// The organization and user that the words stand for, which then stand for nobody any more.
    ///
    /// # Errors
    /// The database's.
    pub async fn redeem_connect_token(&self, hash: &str, now: i64) -> Result<Option<(i64, i64)>> {
        let hash = hash.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                Ok(sqlx::query_as(
                    "DELETE FROM connect_tokens WHERE hash = $1 AND expires_at > $2 RETURNING org_id, user_id",
                )
                .bind(hash)
                .bind(now)
                .fetch_optional(&mut tx.conn)
                .await?)
            })
        })
        .await
    }
}
