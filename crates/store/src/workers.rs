//! Who works on runs, and whether that is still so.

use crate::{Result, Store};

impl Store {
    /// Makes this process the only worker: the lock on the data directory shows that every other one has ended, or has lost it.
    ///
    /// # Errors
    /// The database's.
    pub async fn register_worker(&self, id: &str, url: &str, now: i64) -> Result<()> {
        let (id, url) = (id.to_owned(), url.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM workers WHERE id <> $1").bind(&id).execute(&mut tx.conn).await?;
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
        self.write(move |tx| {
            Box::pin(async move {
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
}
