//! Runs as the contract tells of them: few columns, each run's pull request beside it, read in one go.

use sqlx::{FromRow, Row as _};

use crate::{
    Cursor, Error, PullRequest, Result, Run, RunFilter, Store,
    builder::Builder,
    dialect::{Row, Tx},
    phase::{Phase, Reason, status},
    row::{flag, unreadable, word},
};

/// What the contract tells of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunAnswer {
    /// [`Run::id`].
    pub id: i64,
    /// [`Run::org_id`].
    pub org_id: i64,
    /// [`Run::phase`].
    pub phase: Phase,
    /// [`Run::reason`].
    pub reason: Option<Reason>,
    /// [`Run::created_at`].
    pub created_at: i64,
    /// [`Run::result`].
    pub result: Option<String>,
    /// [`Run::summary`].
    pub summary: Option<String>,
    /// [`Run::source_type`].
    pub source_type: String,
    /// [`Run::metadata`].
    pub metadata: Option<String>,
    /// [`Run::tags`].
    pub tags: Vec<String>,
    /// [`Run::archived`].
    pub archived: bool,
    /// [`Run::output_schema`].
    pub output_schema: Option<String>,
    /// [`Run::output`].
    pub output: Option<String>,
    /// The one it has, if it has one.
    pub pull_request: Option<PullRequestAnswer>,
}

/// What the contract tells of a pull request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequestAnswer {
    /// [`PullRequest::id`].
    pub id: i64,
    /// [`PullRequest::number`].
    pub number: i64,
    /// [`PullRequest::title`].
    pub title: String,
    /// [`PullRequest::url`].
    pub url: String,
    /// [`PullRequest::head_branch`].
    pub head_branch: String,
    /// [`PullRequest::state`].
    pub state: String,
    /// [`PullRequest::created_at`].
    pub created_at: i64,
}

/// Reads [`RunAnswer`]s; a condition follows.
const SELECT: &str = "SELECT runs.id, runs.org_id, runs.phase, runs.reason, runs.created_at, runs.result, runs.summary,
     runs.source_type, runs.archived, run_inputs.metadata, run_inputs.tags, run_inputs.output_schema, run_inputs.output,
     pull.id AS pull_id, pull.number AS pull_number, pull.title AS pull_title, pull.url AS pull_url,
     pull.head_branch AS pull_head_branch, pull.state AS pull_state, pull.created_at AS pull_created_at
     FROM runs JOIN run_inputs ON run_inputs.run_id = runs.id LEFT JOIN pull_requests AS pull ON pull.run_id = runs.id
     WHERE ";

impl RunAnswer {
    /// The contract's word for where it is.
    #[must_use]
    pub fn status(&self) -> &'static str {
        status(self.phase, self.reason)
    }

    /// Of a run that has no pull request yet.
    pub(crate) fn of_new(run: Run) -> Self {
        Self {
            id: run.id,
            org_id: run.org_id,
            phase: run.phase,
            reason: run.reason,
            created_at: run.created_at,
            result: run.result,
            summary: run.summary,
            source_type: run.source_type,
            metadata: run.metadata,
            tags: run.tags,
            archived: run.archived,
            output_schema: run.output_schema,
            output: run.output,
            pull_request: None,
        }
    }
}

impl From<PullRequest> for PullRequestAnswer {
    fn from(pull: PullRequest) -> Self {
        Self {
            id: pull.id,
            number: pull.number,
            title: pull.title,
            url: pull.url,
            head_branch: pull.head_branch,
            state: pull.state,
            created_at: pull.created_at,
        }
    }
}

impl FromRow<'_, Row> for RunAnswer {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let tags: String = row.try_get("tags")?;
        let reason: Option<String> = row.try_get("reason")?;
        let pull_request = match row.try_get::<Option<i64>, _>("pull_id")? {
            Some(id) => Some(PullRequestAnswer {
                id,
                number: row.try_get("pull_number")?,
                title: row.try_get("pull_title")?,
                url: row.try_get("pull_url")?,
                head_branch: row.try_get("pull_head_branch")?,
                state: row.try_get("pull_state")?,
                created_at: row.try_get("pull_created_at")?,
            }),
            None => None,
        };
        Ok(Self {
            id: row.try_get("id")?,
            org_id: row.try_get("org_id")?,
            phase: word(row, "phase", Phase::parse)?,
            reason: if reason.is_some() { Some(word(row, "reason", Reason::parse)?) } else { None },
            created_at: row.try_get("created_at")?,
            result: row.try_get("result")?,
            summary: row.try_get("summary")?,
            source_type: row.try_get("source_type")?,
            metadata: row.try_get("metadata")?,
            tags: serde_json::from_str(&tags).map_err(|error| unreadable("tags", error))?,
            archived: flag(row, "archived")?,
            output_schema: row.try_get("output_schema")?,
            output: row.try_get("output")?,
            pull_request,
        })
    }
}

impl Store {
    /// One run.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is another organization's.
    pub async fn run_answer(&self, org_id: i64, id: i64) -> Result<RunAnswer> {
        let mut query = Builder::new(SELECT);
        query.push("runs.org_id = ").bind(org_id)?.push(" AND runs.id = ").bind(id)?;
        query.query_as().fetch_optional(&self.quick).await?.ok_or(Error::NotFound)
    }

    /// A page of an organization's runs, newest first, and how many there are in all.
    ///
    /// # Errors
    /// The database's.
    pub async fn runs(
        &self,
        org_id: i64,
        filter: &RunFilter,
        from: Cursor,
        limit: i64,
    ) -> Result<(Vec<RunAnswer>, i64)> {
        // Keys first, from an index alone; then the runs of the page.
        let mut query = Builder::new(SELECT);
        query.push("runs.id IN (SELECT runs.id FROM runs WHERE ");
        filter.push(&self.readers, &mut query, org_id)?;
        let (below, skip) = match from {
            Cursor::Skip(skip) => self.skip_runs(org_id, filter, skip).await?,
            Cursor::Before(id) => (id, 0),
            Cursor::After(id) => {
                query.push(" AND runs.id > ").bind(id)?;
                (i64::MAX, 0)
            }
        };
        if below < i64::MAX {
            query.push(" AND runs.id < ").bind(below)?;
        }
        let order = if matches!(from, Cursor::After(_)) { "ASC" } else { "DESC" };
        query.push(&format!(" ORDER BY runs.id {order} LIMIT ")).bind(limit)?;
        query.push(" OFFSET ").bind(skip)?.push(") ORDER BY runs.id DESC");
        // Steps through one index, where the filter asks for no more.
        let readers = if filter.is_counted() { &self.quick } else { &self.readers };
        let runs = query.query_as().fetch_all(readers).await?;
        Ok((runs, self.count_runs(org_id, filter).await?))
    }
}

/// A run as it is within a change.
pub async fn answer(tx: &mut Tx, run_id: i64) -> Result<RunAnswer> {
    let mut query = Builder::new(SELECT);
    query.push("runs.id = ").bind(run_id)?;
    Ok(query.query_as::<RunAnswer>().fetch_one(&mut tx.conn).await?)
}
