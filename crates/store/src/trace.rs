//! The log as a person reads it: from its end, around a place, by a word, and its stages alone.

use crate::{Error, LogRow, Result, Store, dialect::Db};

impl Store {
    /// The last entries before `before`, newest first; from the end where it is none.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the run is not this organization's.
    pub async fn log_before(&self, org_id: i64, run_id: i64, before: Option<i64>, limit: i64) -> Result<Vec<LogRow>> {
        self.our_run(org_id, run_id).await?;
        let rows =
            sqlx::query_as::<Db, LogRow>("SELECT * FROM log WHERE run_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3")
                .bind(run_id)
                .bind(before.unwrap_or(i64::MAX))
                .bind(limit)
                .fetch_all(&self.readers)
                .await?;
        Ok(rows)
    }

    /// One entry.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where the run is another organization's.
    pub async fn log_entry(&self, org_id: i64, run_id: i64, seq: i64) -> Result<LogRow> {
        self.our_run(org_id, run_id).await?;
        sqlx::query_as::<Db, LogRow>("SELECT * FROM log WHERE run_id = $1 AND seq = $2")
            .bind(run_id)
            .bind(seq)
            .fetch_optional(&self.quick)
            .await?
            .ok_or(Error::NotFound)
    }

    /// Numbers of the entries whose body has the text, in either case, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the run is not this organization's.
    pub async fn find_in_log(&self, org_id: i64, run_id: i64, text: &str, limit: i64) -> Result<Vec<i64>> {
        self.our_run(org_id, run_id).await?;
        // Bodies are JSON, so a quote or a line break is looked for as it is written there.
        let json = serde_json::Value::from(text).to_string();
        let inner = json.get(1..json.len() - 1).unwrap_or_default();
        let pattern = inner.replace('!', "!!").replace('%', "!%").replace('_', "!_");
        let seqs = sqlx::query_scalar(
            "SELECT seq FROM log WHERE run_id = $1 AND kind <> 'call_started'
                 AND LOWER(body) LIKE LOWER($2) ESCAPE '!' ORDER BY seq LIMIT $3",
        )
        .bind(run_id)
        .bind(format!("%{pattern}%"))
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        Ok(seqs)
    }

    /// The newest `stage` entries, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the run is not this organization's.
    pub async fn stages(&self, org_id: i64, run_id: i64, limit: i64) -> Result<Vec<LogRow>> {
        self.our_run(org_id, run_id).await?;
        let mut rows = sqlx::query_as::<Db, LogRow>(
            "SELECT * FROM log WHERE run_id = $1 AND kind = 'stage' ORDER BY seq DESC LIMIT $2",
        )
        .bind(run_id)
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        rows.reverse();
        Ok(rows)
    }

    async fn our_run(&self, org_id: i64, run_id: i64) -> Result<()> {
        let ours: Option<i64> = sqlx::query_scalar("SELECT id FROM runs WHERE org_id = $1 AND id = $2")
            .bind(org_id)
            .bind(run_id)
            .fetch_optional(&self.quick)
            .await?;
        ours.map(|_| ()).ok_or(Error::NotFound)
    }
}
