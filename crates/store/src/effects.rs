//! The journal of effects outside (push, pull request): intend, do, settle. An intended, unsettled effect is probed
//! before it is tried again.

use sqlx::{FromRow, Row as _};

use crate::{
    Claim, Error, Result, Store,
    claims::fence,
    dialect::{Db, Row},
};

/// An effect outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Whose.
    pub run_id: i64,
    /// Unique in the run.
    pub key: String,
    /// What it is, `push` for one.
    pub kind: String,
    /// JSON: what shall happen.
    pub intent: String,
    /// JSON: what came of it.
    pub result: Option<String>,
    /// When intended.
    pub created_at: i64,
    /// When known to have happened.
    pub settled_at: Option<i64>,
}

impl FromRow<'_, Row> for Effect {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            run_id: row.try_get("run_id")?,
            key: row.try_get("key")?,
            kind: row.try_get("kind")?,
            intent: row.try_get("intent")?,
            result: row.try_get("result")?,
            created_at: row.try_get("created_at")?,
            settled_at: row.try_get("settled_at")?,
        })
    }
}

impl Store {
    /// Notes that an effect is about to happen; one with the same key is returned as it is.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub async fn intend(&self, claim: &Claim, key: &str, kind: &str, intent: &str, now: i64) -> Result<Effect> {
        let claim = *claim;
        let (key, kind, intent) = (key.to_owned(), kind.to_owned(), intent.to_owned());
        self.write_rows(move |tx| {
            Box::pin(async move {
                fence(tx, claim).await?;
                // The update changes nothing; it makes RETURNING give the row that was there.
                let effect = sqlx::query_as::<Db, Effect>(
                    "INSERT INTO effects (run_id, key, kind, intent, created_at) VALUES ($1, $2, $3, $4, $5)
                     ON CONFLICT (run_id, key) DO UPDATE SET key = excluded.key RETURNING *",
                )
                .bind(claim.run_id)
                .bind(key)
                .bind(kind)
                .bind(intent)
                .bind(now)
                .fetch_one(&mut tx.conn)
                .await?;
                Ok(effect)
            })
        })
        .await
    }

    /// Notes that an intended effect has happened, and what came of it.
    ///
    /// # Errors
    /// [`Error::Fenced`]; [`Error::NotFound`] when it was not intended.
    pub async fn settle(&self, claim: &Claim, key: &str, result: &str, now: i64) -> Result<()> {
        let claim = *claim;
        let (key, result) = (key.to_owned(), result.to_owned());
        self.write_rows(move |tx| {
            Box::pin(async move {
                fence(tx, claim).await?;
                let settled =
                    sqlx::query("UPDATE effects SET result = $3, settled_at = $4 WHERE run_id = $1 AND key = $2")
                        .bind(claim.run_id)
                        .bind(key)
                        .bind(result)
                        .bind(now)
                        .execute(&mut tx.conn)
                        .await?;
                if settled.rows_affected() == 0 { Err(Error::NotFound) } else { Ok(()) }
            })
        })
        .await
    }

    /// A run's effects, oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn effects(&self, run_id: i64) -> Result<Vec<Effect>> {
        let effects = sqlx::query_as::<Db, Effect>("SELECT * FROM effects WHERE run_id = $1 ORDER BY created_at, key")
            .bind(run_id)
            .fetch_all(&self.readers)
            .await?;
        Ok(effects)
    }
}
