//! Requests of tokens in their windows of time, which all servers share. A server takes a block of a window's requests at
//! once, so that few requests are a write; blocks get smaller as a window runs out, so that little is left lying at one
//! server while another refuses.

use crate::{Result, Store};

/// Of what is left of a window, a server is given this part, and at least one request.
const PART: i64 = 6;

/// How many requests a token has in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// So many requests, at least one
    pub requests: i64,
    /// in so many milliseconds, from the first of them on.
    pub period_ms: i64,
}

/// What a server was given of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// When the window began.
    pub started_at: i64,
    /// Requests that are this server's to answer; none where the window is used up.
    pub granted: i64,
    /// Requests that no server was given yet.
    pub left: i64,
}

impl Store {
    /// Takes a block of requests out of a token's window, a new one where the last is over.
    ///
    /// # Errors
    /// The database's.
    pub async fn take_requests(&self, token_id: i64, kind: &str, rate: Rate, now: i64) -> Result<Block> {
        // The size is part of the name: a window never changes its size, and where sizes differ by organization those
        // with the same size share one.
        let bucket = format!("{kind} {}/{}", rate.requests, rate.period_ms);
        self.write(move |tx| {
            Box::pin(async move {
                // A window that begins in the far future was begun by a clock that was wrong.
                let (started_at, taken, granted): (i64, i64, i64) = sqlx::query_as(
                    "INSERT INTO rate_windows AS w (token_id, bucket, started_at, taken, granted)
                     VALUES ($1, $2, $3, $6, $6)
                     ON CONFLICT (token_id, bucket) DO UPDATE SET
                         started_at = CASE WHEN $3 - w.started_at BETWEEN -$4 AND $4 - 1 THEN w.started_at ELSE $3 END,
                         granted = CASE
                             WHEN $3 - w.started_at NOT BETWEEN -$4 AND $4 - 1 THEN $6
                             WHEN w.taken >= $5 THEN 0
                             WHEN $5 - w.taken < $7 THEN 1
                             ELSE ($5 - w.taken) / $7 END,
                         taken = CASE
                             WHEN $3 - w.started_at NOT BETWEEN -$4 AND $4 - 1 THEN $6
                             WHEN w.taken >= $5 THEN w.taken
                             WHEN $5 - w.taken < $7 THEN w.taken + 1
                             ELSE w.taken + ($5 - w.taken) / $7 END
                     RETURNING started_at, taken, granted",
                )
                .bind(token_id)
                .bind(bucket)
                .bind(now)
                .bind(rate.period_ms)
                .bind(rate.requests)
                .bind((rate.requests / PART).max(1))
                .bind(PART)
                .fetch_one(&mut tx.conn)
                .await?;
                Ok(Block { started_at, granted, left: rate.requests - taken })
            })
        })
        .await
    }
}
