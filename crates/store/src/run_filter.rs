//! Which runs a list has, as conditions that an index can find.

use crate::{
    Result, Store,
    builder::Builder,
    dialect::{self, Readers},
};

/// Ids of runs that one row of `run_blocks` counts.
pub const BLOCK: i64 = 4096;

/// Which runs to list; what is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// [`Run::user_id`](crate::Run::user_id).
    pub user_id: Option<i64>,
    /// [`Run::source_type`](crate::Run::source_type).
    pub source_type: Option<String>,
    /// The contract's word, see [`Run::status`](crate::Run::status); an unknown one finds nothing.
    pub status: Option<String>,
    /// [`Run::repo_id`](crate::Run::repo_id).
    pub repo_id: Option<i64>,
    /// One of [`Run::tags`](crate::Run::tags).
    pub tag: Option<String>,
    /// Made at this time or later.
    pub since: Option<i64>,
    /// Made before this time.
    pub until: Option<i64>,
    /// Words that its log has, as [`Store::search`] takes them.
    pub text: Option<String>,
    /// Those that are archived, in place of the others.
    pub archived: bool,
}

impl RunFilter {
    /// Adds the conditions, the organization's first, to a query over `runs`.
    pub(crate) fn push(&self, readers: &Readers, query: &mut Builder, org_id: i64) -> Result<()> {
        query.push("runs.org_id = ").bind(org_id)?;
        query.push(" AND runs.archived = ").bind(i64::from(self.archived))?;
        match self.status.as_deref() {
            None => {}
            Some("ACTIVE") => {
                query.push(" AND runs.phase IN ('queued', 'preparing', 'running', 'finishing', 'elsewhere')");
            }
            Some("PAUSED") => {
                query.push(" AND runs.phase = 'waiting'");
            }
            Some(ended) => {
                query.push(" AND runs.phase = 'done' AND runs.reason = ").bind(reason(ended))?;
            }
        }
        if let Some(repo_id) = self.repo_id {
            query.push(" AND runs.repo_id = ").bind(repo_id)?;
        }
        if let Some(user_id) = self.user_id {
            query.push(" AND runs.user_id = ").bind(user_id)?;
        }
        if let Some(source_type) = &self.source_type {
            query.push(" AND runs.source_type = ").bind(source_type.clone())?;
        }
        if let Some(tag) = &self.tag {
            query.push(" AND runs.id IN (SELECT run_id FROM run_tags WHERE org_id = ").bind(org_id)?;
            query.push(" AND tag = ").bind(tag.clone())?.push(")");
        }
        if let Some(since) = self.since {
            query.push(" AND runs.created_at >= ").bind(since)?;
        }
        if let Some(until) = self.until {
            query.push(" AND runs.created_at < ").bind(until)?;
        }
        if let Some(text) = &self.text {
            dialect::push_found(readers, query, org_id, text)?;
        }
        Ok(())
    }

    /// Whether `run_counts` knows how many there are.
    pub(crate) fn is_counted(&self) -> bool {
        let Self { user_id: _, source_type: _, status, repo_id, tag, since, until, text, archived } = self;
        let others = status.is_some() || repo_id.is_some() || tag.is_some() || text.is_some();
        !others && since.is_none() && until.is_none() && !archived
    }

    fn is_everything(&self) -> bool {
        self.is_counted() && self.user_id.is_none() && self.source_type.is_none()
    }
}

/// Our word for the contract's status of a run that has ended.
fn reason(status: &str) -> String {
    match status {
        "MAX_ITERATIONS_REACHED" => "max_iterations".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

impl Store {
    /// How many runs there are.
    pub(crate) async fn count_runs(&self, org_id: i64, filter: &RunFilter) -> Result<i64> {
        if filter.is_counted() {
            let total = sqlx::query_scalar(
                "SELECT CAST(COALESCE(SUM(runs), 0) AS BIGINT) FROM run_counts
                 WHERE org_id = $1 AND (CAST($2 AS BIGINT) IS NULL OR user_id = $2)
                   AND (CAST($3 AS TEXT) IS NULL OR source_type = $3)",
            )
            .bind(org_id)
            .bind(filter.user_id)
            .bind(&filter.source_type)
            .fetch_one(&self.quick)
            .await?;
            return Ok(total);
        }
        let mut query = Builder::new("SELECT COUNT(*) FROM runs WHERE ");
        filter.push(&self.readers, &mut query, org_id)?;
        let (total,): (i64,) = query.query_as().fetch_one(&self.readers).await?;
        Ok(total)
    }

    /// Where to go on instead of skipping runs one by one: below which id, and how many are still to be skipped there.
    pub(crate) async fn skip_runs(&self, org_id: i64, filter: &RunFilter, skip: i64) -> Result<(i64, i64)> {
        if skip < BLOCK || !filter.is_everything() {
            return Ok((i64::MAX, skip));
        }
        let blocks: Vec<(i64, i64)> =
            sqlx::query_as("SELECT block, runs FROM run_blocks WHERE org_id = $1 ORDER BY block DESC")
                .bind(org_id)
                .fetch_all(&self.quick)
                .await?;
        let mut left = skip;
        for (block, runs) in blocks {
            if left < runs {
                return Ok(((block + 1) * BLOCK, left));
            }
            left -= runs;
        }
        // Beyond the last one.
        Ok((0, 0))
    }
}
