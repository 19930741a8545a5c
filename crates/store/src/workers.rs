//! Who works on runs, and whether that is still so.

use std::time::Duration;

use crate::{Result, Store, dialect};

impl Store {
    /// Makes this process a worker, in place of those that had its data directory before: the lock on it shows that they have
    /// ended, or have lost it. On SQLite those are all others, on PostgreSQL those whose id is the same up to the dash.
    ///
    /// # Errors
    /// The database's.
    pub async fn register_worker(&self, id: &str, url: &str, now: i64) -> Result<()> {
        let (id, url) = (id.to_owned(), url.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let now = dialect::lease_time(tx, now).await?;
                let replaced = match id.split_once('-') {
                    _ if !dialect::is_shared_here(tx) => String::new(),
                    Some((place, _)) => format!("{place}-"),
                    None => id.clone(),
                };
                sqlx::query("DELETE FROM workers WHERE id <> $1 AND SUBSTR(id, 1, CAST($3 AS INTEGER)) = $2")
                    .bind(&id)
                    .bind(&replaced)
                    .bind(i64::try_from(replaced.chars().count()).unwrap_or_default())
                    .execute(&mut tx.conn)
                    .await?;
                sqlx::query(
                    "INSERT INTO workers (id, url, started_at, renewed_at) VALUES ($1, $2, $3, $3)
                     ON CONFLICT (id) DO UPDATE SET url = excluded.url, renewed_at = excluded.renewed_at",
                )
                .bind(id)
                .bind(url)
                .bind(now)
                .execute(&mut tx.conn)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// Says that this worker lives; false when another one has taken its place.
    ///
    /// # Errors
    /// The database's.
    pub async fn renew_worker(&self, id: &str, now: i64) -> Result<bool> {
        let id = id.to_owned();
        self.write_rows(move |tx| {
            Box::pin(async move {
                let now = dialect::lease_time(tx, now).await?;
                let renewed = sqlx::query("UPDATE workers SET renewed_at = $2 WHERE id = $1")
                    .bind(id)
                    .bind(now)
                    .execute(&mut tx.conn)
                    .await?;
                Ok(renewed.rows_affected() == 1)
            })
        })
        .await
    }

    /// Takes workers for dead that have not renewed their row for so long by the database's clock, and gives their ids.
    /// [`Store::requeue_orphans`] then finds their runs. On SQLite there is one worker, and none to judge it.
    ///
    /// # Errors
    /// The database's.
    pub async fn drop_silent_workers(&self, lease: Duration) -> Result<Vec<String>> {
        if !self.is_shared() {
            return Ok(Vec::new());
        }
        let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        self.write_rows(move |tx| {
            Box::pin(async move {
                let now = dialect::lease_time(tx, 0).await?;
                let ids = sqlx::query_scalar("DELETE FROM workers WHERE renewed_at < $1 RETURNING id")
                    .bind(now.saturating_sub(lease))
                    .fetch_all(&mut tx.conn)
                    .await?;
                Ok(ids)
            })
        })
        .await
    }

    /// The worker that has a run now, and where other processes ask it.
    ///
    /// # Errors
    /// The database's.
    pub async fn worker_of(&self, run_id: i64) -> Result<Option<(String, String)>> {
        let worker = sqlx::query_as(
            "SELECT workers.id, workers.url FROM runs JOIN workers ON workers.id = runs.worker_id
             WHERE runs.id = $1 AND runs.phase NOT IN ('queued', 'done')",
        )
        .bind(run_id)
        .fetch_optional(&self.quick)
        .await?;
        Ok(worker)
    }
}
