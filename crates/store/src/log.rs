//! The log of a run: append-only, numbered without gaps.

use futures::TryStreamExt as _;
use sqlx::{FromRow, Row as _};
use tokio::sync::oneshot;

use crate::{
    Change, ChangeKind, Claim, Error, Result, Store,
    appends::Append,
    dialect::{Db, Row, Tx},
    row::flag,
};

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// Whose.
    pub run_id: i64,
    /// From 1, without gaps.
    pub seq: i64,
    /// What it is.
    pub kind: String,
    /// A JSON object with the same `kind`.
    pub body: String,
    /// Whether it counts as a Log of the contract.
    pub contract: bool,
    /// When.
    pub created_at: i64,
}

impl FromRow<'_, Row> for LogRow {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            run_id: row.try_get("run_id")?,
            seq: row.try_get("seq")?,
            kind: row.try_get("kind")?,
            body: row.try_get("body")?,
            contract: flag(row, "contract")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// An entry to be appended.
#[derive(Debug, Clone)]
pub struct NewLog {
    /// [`LogRow::kind`].
    pub kind: String,
    /// [`LogRow::body`].
    pub body: String,
    /// [`LogRow::contract`].
    pub contract: bool,
}

impl Store {
    /// Appends an entry and returns its seq. A `reply` or `call_finished` is progress: it resets the run's crashes.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub async fn append_log(&self, claim: &Claim, kind: &str, body: &str, contract: bool, now: i64) -> Result<i64> {
        let entry = NewLog { kind: kind.to_owned(), body: body.to_owned(), contract };
        self.append_all(claim, vec![entry], now).await
    }

    /// Appends entries in one go and returns their seqs.
    ///
    /// # Errors
    /// [`Error::Fenced`]; then none is appended.
    pub async fn append_log_batch(&self, claim: &Claim, entries: Vec<NewLog>, now: i64) -> Result<Vec<i64>> {
        let count = i64::try_from(entries.len()).unwrap_or(i64::MAX);
        let last = self.append_all(claim, entries, now).await?;
        Ok((last - count + 1..=last).collect())
    }

    /// Gives the seq of the last one. Others' entries may share the statements, so what no database takes is refused here.
    async fn append_all(&self, claim: &Claim, entries: Vec<NewLog>, now: i64) -> Result<i64> {
        if entries.iter().any(|entry| entry.body.contains('\0')) {
            return Err(Error::Conflict("an entry of a log is JSON, which has no NUL".to_owned()));
        }
        let (done, last) = oneshot::channel();
        self.appends.send(Append { claim: *claim, entries, now, done }).await.map_err(|_| Error::Closed)?;
        last.await.map_err(|_| Error::Closed)?
    }

    /// The entries after `after_seq`, oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn log(&self, run_id: i64, after_seq: i64, limit: i64) -> Result<Vec<LogRow>> {
        let rows =
            sqlx::query_as::<Db, LogRow>("SELECT * FROM log WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3")
                .bind(run_id)
                .bind(after_seq)
                .bind(limit)
                .fetch_all(&self.readers)
                .await?;
        Ok(rows)
    }

    /// The entries after `after_seq`, oldest first, as many as it takes to reach `bytes`.
    ///
    /// # Errors
    /// The database's.
    pub async fn log_page(&self, run_id: i64, after_seq: i64, bytes: usize) -> Result<Vec<LogRow>> {
        let mut found = sqlx::query_as::<Db, LogRow>("SELECT * FROM log WHERE run_id = $1 AND seq > $2 ORDER BY seq")
            .bind(run_id)
            .bind(after_seq)
            .fetch(&self.readers);
        let (mut rows, mut size) = (Vec::new(), 0);
        while size < bytes
            && let Some(row) = found.try_next().await?
        {
            size += row.body.len();
            rows.push(row);
        }
        Ok(rows)
    }

    /// A page of the entries between two that count as Logs of the contract, oldest first or, with `reverse`, newest first, and
    /// how many there are in all, not only between them.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the run is not this organization's.
    pub async fn contract_logs(
        &self,
        org_id: i64,
        run_id: i64,
        between: (i64, i64),
        skip: i64,
        limit: i64,
        reverse: bool,
    ) -> Result<(Vec<LogRow>, i64)> {
        let total: Option<i64> = sqlx::query_scalar("SELECT contract_logs FROM runs WHERE org_id = $1 AND id = $2")
            .bind(org_id)
            .bind(run_id)
            .fetch_optional(&self.quick)
            .await?;
        let total = total.ok_or(Error::NotFound)?;
        let rows = sqlx::query_as::<Db, LogRow>(if reverse {
            "SELECT * FROM log WHERE run_id = $1 AND contract = 1 AND seq > $4 AND seq < $5
             ORDER BY seq DESC LIMIT $2 OFFSET $3"
        } else {
            "SELECT * FROM log WHERE run_id = $1 AND contract = 1 AND seq > $4 AND seq < $5
             ORDER BY seq LIMIT $2 OFFSET $3"
        })
        .bind(run_id)
        .bind(limit)
        .bind(skip)
        .bind(between.0)
        .bind(between.1)
        .fetch_all(&self.readers)
        .await?;
        Ok((rows, total))
    }
}

/// Writes the first entry of a run whose row already counts it.
pub async fn first(tx: &mut Tx, org_id: i64, run_id: i64, kind: &str, body: &str, now: i64) -> Result<()> {
    insert(tx, (run_id, 1), kind, body, false, now).await?;
    tx.changes.push(Change { org_id, run_id, kind: ChangeKind::LogAppended });
    Ok(())
}

/// Appends an entry, whoever has the run; gives the run's organization.
pub async fn append(tx: &mut Tx, run_id: i64, kind: &str, body: &str, contract: bool, now: i64) -> Result<i64> {
    let progress = matches!(kind, "reply" | "call_finished");
    let message = kind == "user_message";
    let (org_id, seq): (i64, i64) = sqlx::query_as(
        "UPDATE runs SET log_seq = log_seq + 1, contract_logs = contract_logs + $2,
             crashes = CASE WHEN $3 = 1 THEN 0 ELSE crashes END,
             message_seq = CASE WHEN $4 = 1 THEN log_seq + 1 ELSE message_seq END
         WHERE id = $1 RETURNING org_id, log_seq",
    )
    .bind(run_id)
    .bind(i64::from(contract))
    .bind(i64::from(progress))
    .bind(i64::from(message))
    .fetch_one(&mut tx.conn)
    .await?;
    insert(tx, (run_id, seq), kind, body, contract, now).await?;
    let change = Change { org_id, run_id, kind: ChangeKind::LogAppended };
    if tx.changes.last() != Some(&change) {
        tx.changes.push(change);
    }
    Ok(org_id)
}

async fn insert(
    tx: &mut Tx,
    (run_id, seq): (i64, i64),
    kind: &str,
    body: &str,
    contract: bool,
    now: i64,
) -> Result<()> {
    sqlx::query("INSERT INTO log (run_id, seq, kind, contract, created_at, body) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(run_id)
        .bind(seq)
        .bind(kind)
        .bind(i64::from(contract))
        .bind(now)
        .bind(body)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}
