//! Deliveries of webhooks as their sender sees them: due, claimed for a while, settled.

use serde_json::{Value, json};

use crate::{
    Result, Store,
    dialect::Db,
    webhooks::{Delivery, Tried},
};

/// Tries of a delivery that are kept: those of one that is given up, and some of its replays.
const TRIES: usize = 20;

/// What a delivery must be to be sent now; `$1` is the time. Who has claimed one and is gone does not have it any more.
macro_rules! due {
    () => {
        "d.state = 'pending' AND d.next_try_at <= $1
         AND (d.claimed_by IS NULL OR d.claimed_until <= $1
              OR NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = d.claimed_by))"
    };
}

impl Store {
    /// Endpoints that something is due for.
    ///
    /// # Errors
    /// The database's.
    pub async fn endpoints_due(&self, now: i64) -> Result<Vec<i64>> {
        let due = sqlx::query_scalar(concat!(
            "SELECT e.id FROM webhook_endpoints e WHERE e.enabled = 1
             AND EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.endpoint_id = e.id AND ",
            due!(),
            ") ORDER BY e.id"
        ))
        .bind(now)
        .fetch_all(&self.readers)
        .await?;
        Ok(due)
    }

    /// When the next delivery is due that is not yet.
    ///
    /// # Errors
    /// The database's.
    pub async fn next_delivery_at(&self, now: i64) -> Result<Option<i64>> {
        let next = sqlx::query_scalar(
            "SELECT MIN(d.next_try_at) FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
             WHERE e.enabled = 1 AND d.state = 'pending' AND d.next_try_at > $1",
        )
        .bind(now)
        .fetch_one(&self.readers)
        .await?;
        Ok(next)
    }

    /// Claims the delivery to an endpoint that has been due for the longest time. Its `attempts` is the claim's fence.
    ///
    /// # Errors
    /// The database's.
    pub async fn claim_delivery(
        &self,
        endpoint_id: i64,
        worker_id: &str,
        lease_ms: i64,
        now: i64,
    ) -> Result<Option<Delivery>> {
        let worker_id = worker_id.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                // The condition stands twice: another server may have claimed the row while this one waited for it.
                let claimed = sqlx::query_as::<Db, Delivery>(concat!(
                    "UPDATE webhook_deliveries AS d
                     SET claimed_by = $3, claimed_until = $1 + $4, attempts = attempts + 1, tried_at = $1,
                         duration_ms = NULL, status = NULL, answer = NULL, error = NULL
                     WHERE d.id = (SELECT d.id FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
                                   WHERE d.endpoint_id = $2 AND e.enabled = 1 AND ",
                    due!(),
                    " ORDER BY d.next_try_at, d.id LIMIT 1) AND ",
                    due!(),
                    " RETURNING *"
                ))
                .bind(now)
                .bind(endpoint_id)
                .bind(worker_id)
                .bind(lease_ms)
                .fetch_optional(&mut tx.conn)
                .await?;
                Ok(claimed)
            })
        })
        .await
    }

    /// Records how a claimed try went; false where the claim is another's by now.
    ///
    /// # Errors
    /// The database's.
    pub async fn settle_delivery(&self, claimed: &Delivery, tried: Tried, now: i64) -> Result<bool> {
        let (id, endpoint_id, attempts) = (claimed.id, claimed.endpoint_id, claimed.attempts);
        let mut tries = claimed.tries.clone();
        tries.push(json!({
            "tried_at": claimed.tried_at, "duration_ms": tried.duration_ms, "status": tried.status,
            "answer": tried.answer, "error": tried.error,
        }));
        let tries = Value::from(tries.split_off(tries.len().saturating_sub(TRIES))).to_string();
        self.write(move |tx| {
            Box::pin(async move {
                let taken = tried.error.is_none();
                let state = match (taken, tried.next_try_at) {
                    (true, _) => "delivered",
                    (false, Some(_)) => "pending",
                    (false, None) => "failed",
                };
                let settled = sqlx::query(
                    "UPDATE webhook_deliveries SET state = $3, next_try_at = COALESCE($4, next_try_at),
                         claimed_by = NULL, claimed_until = NULL, duration_ms = $5, status = $6, answer = $7, error = $8,
                         tries = $9
                     WHERE id = $1 AND attempts = $2 AND state = 'pending' AND claimed_by IS NOT NULL",
                )
                .bind(id)
                .bind(attempts)
                .bind(state)
                .bind(tried.next_try_at)
                .bind(tried.duration_ms)
                .bind(tried.status)
                .bind(tried.answer)
                .bind(tried.error)
                .bind(tries)
                .execute(&mut tx.conn)
                .await?;
                if settled.rows_affected() == 0 {
                    return Ok(false);
                }
                let counted = if taken {
                    "UPDATE webhook_endpoints SET failures = 0, failing_since = NULL
                     WHERE id = $1 AND failures > 0 AND $2 = $2"
                } else {
                    "UPDATE webhook_endpoints SET failures = failures + 1, failing_since = COALESCE(failing_since, $2)
                     WHERE id = $1"
                };
                sqlx::query(counted).bind(endpoint_id).bind(now).execute(&mut tx.conn).await?;
                if let Some(why) = tried.disable {
                    sqlx::query("UPDATE webhook_endpoints SET enabled = 0, disabled_reason = $2 WHERE id = $1")
                        .bind(endpoint_id)
                        .bind(why)
                        .execute(&mut tx.conn)
                        .await?;
                }
                Ok(true)
            })
        })
        .await
    }

    /// Forgets some deliveries from before a time that wait for nothing, and secrets whose overlap is over; returns how
    /// many deliveries.
    ///
    /// # Errors
    /// The database's.
    pub async fn drop_deliveries(&self, before: i64, now: i64) -> Result<u64> {
        self.write(move |tx| {
            Box::pin(async move {
                sqlx::query(
                    "DELETE FROM secrets WHERE table_name = 'webhook_endpoints' AND column_name = 'previous_secret'
                         AND row_id IN (SELECT id FROM webhook_endpoints WHERE previous_until <= $1)",
                )
                .bind(now)
                .execute(&mut tx.conn)
                .await?;
                let dropped = sqlx::query(
                    "DELETE FROM webhook_deliveries WHERE id IN (
                         SELECT id FROM webhook_deliveries WHERE created_at < $1 ORDER BY created_at LIMIT 1000)",
                )
                .bind(before)
                .execute(&mut tx.conn)
                .await?;
                Ok(dropped.rows_affected())
            })
        })
        .await
    }
}
