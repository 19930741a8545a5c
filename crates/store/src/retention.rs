//! What may be dropped of ended runs, and dropping it in small batches. A run's row, its diff, what people wrote to it and
//! how it ended always stay.

use serde_json::json;
use sqlx::{FromRow, Row as _};

use crate::{
    Change, ChangeKind, Error, Result, Store,
    dialect::{self, Row, Tx},
    log,
};

/// The blob that is never dropped: the run's whole change.
const DIFF: &str = "diff";
/// Chunks of blobs, and entries of a log, that go in one commit.
const BATCH: i64 = 16;
const LOG_BATCH: i64 = 500;

/// Bytes in the database by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Entries of logs.
    pub traces: i64,
    /// Blobs but for diffs.
    pub outputs: i64,
    /// Diffs.
    pub patches: i64,
    /// Pages that hold nothing any more.
    pub free: i64,
}

/// An ended run that has something to drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Which run.
    pub run_id: i64,
    /// When it ended.
    pub ended_at: i64,
    /// How much there is.
    pub bytes: i64,
}

/// What was dropped of a run before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// When its full outputs went.
    pub outputs_dropped_at: Option<i64>,
    /// When its trace went.
    pub trace_dropped_at: Option<i64>,
}

impl FromRow<'_, Row> for Ended {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self { run_id: row.try_get("run_id")?, ended_at: row.try_get("ended_at")?, bytes: row.try_get("bytes")? })
    }
}

impl FromRow<'_, Row> for Dropped {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            outputs_dropped_at: row.try_get("outputs_dropped_at")?,
            trace_dropped_at: row.try_get("trace_dropped_at")?,
        })
    }
}

/// One batch of dropping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Bytes that went.
    pub bytes: i64,
    /// Whether there is no more to drop of this run, or it lives again.
    pub complete: bool,
}

impl Store {
    /// What the database's content takes. Reads every row's length.
    ///
    /// # Errors
    /// The database's.
    pub async fn space(&self) -> Result<Space> {
        let traces = sqlx::query_scalar("SELECT CAST(COALESCE(SUM(OCTET_LENGTH(body)), 0) AS BIGINT) FROM log")
            .fetch_one(&self.readers)
            .await?;
        let (outputs, patches) = sqlx::query_as(
            "SELECT CAST(COALESCE(SUM(CASE WHEN name <> $1 THEN OCTET_LENGTH(bytes) ELSE 0 END), 0) AS BIGINT),
                    CAST(COALESCE(SUM(CASE WHEN name = $1 THEN OCTET_LENGTH(bytes) ELSE 0 END), 0) AS BIGINT) FROM blobs",
        )
        .bind(DIFF)
        .fetch_one(&self.readers)
        .await?;
        Ok(Space { traces, outputs, patches, free: dialect::free_bytes(&self.readers).await? })
    }

    /// Ended runs with outputs to drop, the one that ended first coming first.
    ///
    /// # Errors
    /// The database's.
    pub async fn ended_with_outputs(&self) -> Result<Vec<Ended>> {
        let ended = sqlx::query_as(
            "SELECT runs.id AS run_id, runs.ended_at, CAST(SUM(OCTET_LENGTH(blobs.bytes)) AS BIGINT) AS bytes
             FROM blobs JOIN runs ON runs.id = blobs.run_id
             WHERE blobs.name <> $1 AND runs.phase = 'done' AND runs.ended_at IS NOT NULL
             GROUP BY runs.id, runs.ended_at ORDER BY runs.ended_at, runs.id",
        )
        .bind(DIFF)
        .fetch_all(&self.readers)
        .await?;
        Ok(ended)
    }

    /// Runs that ended before `ended_before` and still have their trace, the one that ended first coming first.
    ///
    /// # Errors
    /// The database's.
    pub async fn ended_with_trace(&self, ended_before: i64) -> Result<Vec<Ended>> {
        let ended = sqlx::query_as(
            "SELECT runs.id AS run_id, runs.ended_at, CAST(SUM(OCTET_LENGTH(log.body)) AS BIGINT) AS bytes
             FROM runs JOIN log ON log.run_id = runs.id LEFT JOIN retention ON retention.run_id = runs.id
             WHERE runs.phase = 'done' AND runs.ended_at < $1
               AND (retention.trace_dropped_at IS NULL OR retention.trace_dropped_at < runs.ended_at)
               AND log.kind NOT IN ('user_message', 'result', 'status', 'branch', 'pull_request')
             GROUP BY runs.id, runs.ended_at ORDER BY runs.ended_at, runs.id",
        )
        .bind(ended_before)
        .fetch_all(&self.readers)
        .await?;
        Ok(ended)
    }

    /// What was dropped of a run.
    ///
    /// # Errors
    /// The database's.
    pub async fn dropped(&self, run_id: i64) -> Result<Dropped> {
        let dropped = sqlx::query_as("SELECT outputs_dropped_at, trace_dropped_at FROM retention WHERE run_id = $1")
            .bind(run_id)
            .fetch_optional(&self.quick)
            .await?;
        Ok(dropped.unwrap_or_default())
    }

    /// Drops some of a run's outputs; with the last of them `notice` is appended to its log. A run that does not stand as
    /// `ended` says is left alone.
    ///
    /// # Errors
    /// The database's.
    pub async fn drop_outputs(&self, ended: Ended, notice: &str, now: i64) -> Result<Batch> {
        let notice = notice.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                if !still_ended(tx, ended).await? {
                    return Ok(Batch { bytes: 0, complete: true });
                }
                let chunks: Vec<(String, i64, i64)> = sqlx::query_as(
                    "SELECT name, chunk, OCTET_LENGTH(bytes) FROM blobs WHERE run_id = $1 AND name <> $2
                     ORDER BY name, chunk LIMIT $3",
                )
                .bind(ended.run_id)
                .bind(DIFF)
                .bind(BATCH)
                .fetch_all(&mut tx.conn)
                .await?;
                for (name, chunk, _) in &chunks {
                    sqlx::query("DELETE FROM blobs WHERE run_id = $1 AND name = $2 AND chunk = $3")
                        .bind(ended.run_id)
                        .bind(name)
                        .bind(chunk)
                        .execute(&mut tx.conn)
                        .await?;
                }
                let left: Option<i64> =
                    sqlx::query_scalar("SELECT chunk FROM blobs WHERE run_id = $1 AND name <> $2 LIMIT 1")
                        .bind(ended.run_id)
                        .bind(DIFF)
                        .fetch_optional(&mut tx.conn)
                        .await?;
                let complete = left.is_none();
                // Another process may have dropped the last of it, and said so.
                if complete && !chunks.is_empty() {
                    sqlx::query(
                        "INSERT INTO retention (run_id, outputs_dropped_at) VALUES ($1, $2)
                         ON CONFLICT (run_id) DO UPDATE SET outputs_dropped_at = excluded.outputs_dropped_at",
                    )
                    .bind(ended.run_id)
                    .bind(now)
                    .execute(&mut tx.conn)
                    .await?;
                    append_notice(tx, ended.run_id, &notice, now).await?;
                }
                Ok(Batch { bytes: chunks.iter().map(|(.., bytes)| bytes).sum(), complete })
            })
        })
        .await
    }

    /// Drops some of a run's trace: all but what people wrote, how it ended, and where its work went. With the last of it
    /// `notice` is appended. A run that does not stand as `ended` says is left alone.
    ///
    /// # Errors
    /// The database's.
    pub async fn drop_trace(&self, ended: Ended, notice: &str, now: i64) -> Result<Batch> {
        let notice = notice.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                if !still_ended(tx, ended).await? {
                    return Ok(Batch { bytes: 0, complete: true });
                }
                let entries: Vec<(i64, i64)> = sqlx::query_as(
                    "DELETE FROM log WHERE run_id = $1 AND seq IN (
                         SELECT seq FROM log WHERE run_id = $1
                           AND kind NOT IN ('user_message', 'result', 'status', 'branch', 'pull_request')
                         ORDER BY seq LIMIT $2)
                     RETURNING seq, OCTET_LENGTH(body)",
                )
                .bind(ended.run_id)
                .bind(LOG_BATCH)
                .fetch_all(&mut tx.conn)
                .await?;
                let left: Option<i64> = sqlx::query_scalar(
                    "SELECT seq FROM log WHERE run_id = $1
                       AND kind NOT IN ('user_message', 'result', 'status', 'branch', 'pull_request') LIMIT 1",
                )
                .bind(ended.run_id)
                .fetch_optional(&mut tx.conn)
                .await?;
                for (seq, _) in &entries {
                    dialect::forget(tx, ended.run_id, *seq, seq + 1).await?;
                }
                let complete = left.is_none();
                // As above.
                if complete && !entries.is_empty() {
                    append_notice(tx, ended.run_id, &notice, now).await?;
                    sqlx::query(
                        "INSERT INTO retention (run_id, trace_dropped_at) VALUES ($1, $2)
                         ON CONFLICT (run_id) DO UPDATE SET trace_dropped_at = excluded.trace_dropped_at",
                    )
                    .bind(ended.run_id)
                    .bind(now)
                    .execute(&mut tx.conn)
                    .await?;
                }
                sqlx::query(
                    "UPDATE runs SET contract_logs = (SELECT COUNT(*) FROM log WHERE run_id = $1 AND contract = 1)
                     WHERE id = $1",
                )
                .bind(ended.run_id)
                .execute(&mut tx.conn)
                .await?;
                Ok(Batch { bytes: entries.iter().map(|(_, bytes)| bytes).sum(), complete })
            })
        })
        .await
    }

    /// Appends a notice to the log of each run that is not done; returns their ids.
    ///
    /// # Errors
    /// The database's.
    pub async fn tell_live_runs(&self, text: &str, now: i64) -> Result<Vec<i64>> {
        let text = text.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let ids: Vec<i64> = sqlx::query_scalar(
                    "SELECT id FROM runs WHERE phase = 'queued'
                     UNION
                     SELECT id FROM runs WHERE phase IN ('preparing', 'running', 'waiting', 'finishing') ORDER BY id",
                )
                .fetch_all(&mut tx.conn)
                .await?;
                for id in &ids {
                    append_notice(tx, *id, &text, now).await?;
                }
                Ok(ids)
            })
        })
        .await
    }

    /// Repositories that a run which is not done works on.
    ///
    /// # Errors
    /// The database's.
    pub async fn repos_in_use(&self) -> Result<Vec<i64>> {
        let ids = sqlx::query_scalar(
            "SELECT repo_id FROM runs WHERE phase = 'queued' AND repo_id IS NOT NULL
             UNION
             SELECT repo_id FROM runs
             WHERE phase IN ('preparing', 'running', 'waiting', 'finishing') AND repo_id IS NOT NULL",
        )
        .fetch_all(&self.readers)
        .await?;
        Ok(ids)
    }

    /// Ids and names of all repositories, of every organization; for the operator only.
    ///
    /// # Errors
    /// The database's.
    pub async fn repo_names(&self) -> Result<Vec<(i64, String)>> {
        Ok(sqlx::query_as("SELECT id, full_name FROM repos ORDER BY id").fetch_all(&self.readers).await?)
    }

    /// Gives up to `pages` empty pages back to the file system and says how many bytes are still empty.
    ///
    /// # Errors
    /// The database's.
    pub async fn shrink(&self, pages: u32) -> Result<i64> {
        self.write(move |tx| Box::pin(async move { dialect::give_back(tx, pages).await })).await?;
        self.free_bytes().await
    }

    /// Bytes of pages that hold nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn free_bytes(&self) -> Result<i64> {
        dialect::free_bytes(&self.readers).await
    }

    /// Whether [`Store::shrink`] can give space back; a database from before that has to be rebuilt once.
    ///
    /// # Errors
    /// The database's.
    pub async fn shrinks(&self) -> Result<bool> {
        self.write(|tx| Box::pin(dialect::gives_back(tx))).await
    }

    /// Brings what was written lately into the database's main file, so that its size is what it holds; false where someone was
    /// reading all the time.
    ///
    /// # Errors
    /// The database's.
    pub async fn fold(&self) -> Result<bool> {
        let (done, folded) = tokio::sync::oneshot::channel();
        self.requests.send(dialect::Request::Fold(done)).await.map_err(|_| Error::Closed)?;
        folded.await.map_err(|_| Error::Closed)?
    }

    /// Writes the whole database anew without its empty pages. Nothing else is written meanwhile, and the disk needs room
    /// for a second copy.
    ///
    /// # Errors
    /// The database's.
    pub async fn rebuild(&self) -> Result<()> {
        let (done, rebuilt) = tokio::sync::oneshot::channel();
        self.requests.send(dialect::Request::Rebuild(done)).await.map_err(|_| Error::Closed)?;
        rebuilt.await.map_err(|_| Error::Closed)?
    }
}

/// Whether the run is as it was when it was looked for; it may have been resumed since.
async fn still_ended(tx: &mut Tx, ended: Ended) -> Result<bool> {
    let found: Option<i64> = sqlx::query_scalar(
        "UPDATE runs SET phase = phase WHERE id = $1 AND phase = 'done' AND ended_at = $2 RETURNING id",
    )
    .bind(ended.run_id)
    .bind(ended.ended_at)
    .fetch_optional(&mut tx.conn)
    .await?;
    Ok(found.is_some())
}

async fn append_notice(tx: &mut Tx, run_id: i64, text: &str, now: i64) -> Result<()> {
    let body = json!({ "kind": "notice", "text": text }).to_string();
    let org_id = log::append(tx, run_id, "notice", &body, true, now).await?;
    tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunChanged });
    Ok(())
}
