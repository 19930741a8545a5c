//! The list of runs as people page through it: newest first, by key, filtered by what an index can find.

use crate::{PullRequest, Result, Run, Store, builder::Builder, dialect::Db};

/// Characters of the prompt in a list.
const PROMPT: i64 = 300;

/// Which runs to list; what is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct RunList {
    /// Only those older than this run.
    pub before: Option<i64>,
    /// The contract's word, see [`Run::status`]; an unknown one finds nothing.
    pub status: Option<String>,
    /// [`Run::repo_id`].
    pub repo_id: Option<i64>,
    /// [`Run::user_id`].
    pub user_id: Option<i64>,
    /// [`Run::source_type`].
    pub source_type: Option<String>,
    /// Most runs.
    pub limit: i64,
}

impl Store {
    /// An organization's runs, newest first, with the beginning of their prompts and without images and metadata.
    ///
    /// # Errors
    /// The database's.
    pub async fn list_runs(&self, org_id: i64, list: RunList) -> Result<Vec<Run>> {
        let mut query = Builder::new("SELECT runs.*, SUBSTR(run_inputs.prompt, 1, CAST(");
        query
            .bind(PROMPT)?
            .push(
                " AS INTEGER)) AS prompt, '[]' AS images, CAST(NULL AS TEXT) AS metadata
                 FROM runs JOIN run_inputs ON run_inputs.run_id = runs.id WHERE runs.org_id = ",
            )
            .bind(org_id)?;
        match list.status.as_deref() {
            None => {}
            Some("ACTIVE") => {
                query.push(" AND runs.phase IN ('queued', 'preparing', 'running', 'finishing')");
            }
            Some("PAUSED") => {
                query.push(" AND runs.phase = 'waiting'");
            }
            Some(ended) => {
                query.push(" AND runs.phase = 'done' AND runs.reason = ").bind(reason(ended))?;
            }
        }
        if let Some(repo_id) = list.repo_id {
            query.push(" AND runs.repo_id = ").bind(repo_id)?;
        }
        if let Some(user_id) = list.user_id {
            query.push(" AND runs.user_id = ").bind(user_id)?;
        }
        if let Some(source_type) = list.source_type {
            query.push(" AND runs.source_type = ").bind(source_type)?;
        }
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

/// Our word for the contract's status of a run that has ended.
fn reason(status: &str) -> String {
    match status {
        "MAX_ITERATIONS_REACHED" => "max_iterations".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}
