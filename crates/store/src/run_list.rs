//! The list of runs as people page through it: newest first, by key, filtered by what an index can find.

use crate::{PullRequest, Result, Run, RunFilter, Store, builder::Builder, dialect::Db};

/// Characters of the prompt in a list of views.
const PROMPT: i64 = 300;

/// A part of the list of runs, newest first.
#[derive(Debug, Clone, Default)]
pub struct RunList {
    /// Only those older than this run.
    pub before: Option<i64>,
    /// Which runs.
    pub filter: RunFilter,
    /// Most runs.
    pub limit: i64,
}

/// Where a page of the list of runs begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// So many from the newest.
    Skip(i64),
    /// With the newest of those older than this run.
    Before(i64),
    /// So that it ends with the oldest of those newer than this run.
    After(i64),
}

impl Store {
    /// An organization's runs, newest first, with the beginning of their prompts and without images and metadata.
    ///
    /// # Errors
    /// The database's.
    pub async fn list_runs(&self, org_id: i64, list: RunList) -> Result<Vec<Run>> {
        let mut query = Builder::new("SELECT runs.*, SUBSTR(run_inputs.prompt, 1, CAST(");
        query.bind(PROMPT)?.push(
            " AS INTEGER)) AS prompt, '[]' AS images, CAST(NULL AS TEXT) AS metadata, run_inputs.tags,
                 CAST(NULL AS TEXT) AS output_schema, CAST(NULL AS TEXT) AS output
             FROM runs JOIN run_inputs ON run_inputs.run_id = runs.id WHERE ",
        );
        list.filter.push(&self.readers, &mut query, org_id)?;
        query.push(" AND runs.id < ").bind(list.before.unwrap_or(i64::MAX))?;
        query.push(" ORDER BY runs.id DESC LIMIT ").bind(list.limit)?;
        Ok(query.query_as::<Run>().fetch_all(&self.readers).await?)
    }

    /// The pull requests of all runs from the one to the other.
    ///
    /// # Errors
    /// The database's.
    pub async fn pull_requests_between(&self, org_id: i64, first: i64, last: i64) -> Result<Vec<PullRequest>> {
        let pull_requests = sqlx::query_as::<Db, PullRequest>(
            "SELECT * FROM pull_requests WHERE org_id = $1 AND run_id BETWEEN $2 AND $3 ORDER BY id",
        )
        .bind(org_id)
        .bind(first)
        .bind(last)
        .fetch_all(&self.readers)
        .await?;
        Ok(pull_requests)
    }
}
