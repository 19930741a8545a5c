//! Accounts of users elsewhere: which are connected, and the words by which a user says to a bot who they are.

use serde_json::json;

use crate::{
    Result, Store,
    audit::{self, Entry},
    dialect::Tx,
    secrets::{self, Sealed},
};

/// A connected account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthToken {
    /// Key.
    pub id: i64,
    /// Where, as `linear`.
    pub provider: String,
}

impl Store {
    /// Notes that a user has connected their account at a provider; what was connected before is forgotten. Its id is known
    /// before its tokens can be encrypted, so the caller makes those of it.
    ///
    /// # Errors
    /// What `seal` says.
    pub async fn connect_account(
        &self,
        org_id: i64,
        user_id: i64,
        provider: &str,
        seal: impl FnOnce(i64) -> Result<Sealed> + Clone + Send + 'static,
        now: i64,
    ) -> Result<i64> {
        let provider = provider.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                forget(tx, org_id, user_id, Some(&provider)).await?;
                let id: i64 = sqlx::query_scalar(
                    "INSERT INTO oauth_tokens (org_id, user_id, provider, active, created_at)
                     VALUES ($1, $2, $3, 1, $4) RETURNING id",
                )
                .bind(org_id)
                .bind(user_id)
                .bind(&provider)
                .bind(now)
                .fetch_one(&mut tx.conn)
                .await?;
                secrets::put(tx, &seal(id)?, now).await?;
                let told = json!({ "provider": provider });
                audit::record(tx, org_id, Entry::new("account.connected", "user", user_id, told), now).await?;
                Ok(id)
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

    /// Ends all connections of a user to a provider and forgets their tokens; says how many there were.
    ///
    /// # Errors
    /// The database's.
    pub async fn revoke_oauth_tokens(&self, org_id: i64, user_id: i64, provider: &str) -> Result<u64> {
        let provider = provider.to_owned();
        self.write(move |tx| Box::pin(async move { forget(tx, org_id, user_id, Some(&provider)).await })).await
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

/// Ends connections of a user, to one provider or to all, and forgets their tokens.
pub async fn forget(tx: &mut Tx, org_id: i64, user_id: i64, provider: Option<&str>) -> Result<u64> {
    let ended: Vec<i64> = sqlx::query_scalar(
        "UPDATE oauth_tokens SET active = 0
         WHERE org_id = $1 AND user_id = $2 AND (CAST($3 AS TEXT) IS NULL OR provider = $3) AND active = 1 RETURNING id",
    )
    .bind(org_id)
    .bind(user_id)
    .bind(provider)
    .fetch_all(&mut tx.conn)
    .await?;
    for id in &ended {
        secrets::forget(tx, org_id, "oauth_tokens", *id).await?;
    }
    Ok(ended.len() as u64)
}
