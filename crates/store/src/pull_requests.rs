//! Pull requests of runs, at a forge or kept by codegen itself.

use serde_json::json;
use sqlx::{FromRow, Row as _};

use crate::{
    Change, ChangeKind, Error, Result, Store,
    dialect::{Db, Row, Tx},
    events,
    row::without_nul,
};

/// A pull request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// Key.
    pub id: i64,
    /// Whose.
    pub org_id: i64,
    /// Into which repository.
    pub repo_id: i64,
    /// By which run; a run has one.
    pub run_id: i64,
    /// At its forge.
    pub number: i64,
    /// Title.
    pub title: String,
    /// Text.
    pub body: String,
    /// Where people see it.
    pub url: String,
    /// Branch with the work.
    pub head_branch: String,
    /// Branch it shall go into.
    pub base_branch: String,
    /// Newest commit.
    pub head_commit: String,
    /// `open`, `draft`, `closed`, `merged`.
    pub state: String,
    /// `local`, `github`.
    pub forge: String,
    /// When.
    pub created_at: i64,
}

/// A pull request to be recorded.
#[derive(Debug, Clone, Default)]
pub struct NewPullRequest {
    /// [`PullRequest::repo_id`].
    pub repo_id: i64,
    /// [`PullRequest::run_id`].
    pub run_id: i64,
    /// [`PullRequest::number`]; without one it gets the next of its repository and forge.
    pub number: Option<i64>,
    /// [`PullRequest::title`].
    pub title: String,
    /// [`PullRequest::body`].
    pub body: String,
    /// [`PullRequest::url`], in which `{id}` and `{number}` are filled in.
    pub url: String,
    /// [`PullRequest::head_branch`].
    pub head_branch: String,
    /// [`PullRequest::base_branch`].
    pub base_branch: String,
    /// [`PullRequest::head_commit`].
    pub head_commit: String,
    /// [`PullRequest::state`].
    pub state: String,
    /// [`PullRequest::forge`].
    pub forge: String,
}

impl FromRow<'_, Row> for PullRequest {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            org_id: row.try_get("org_id")?,
            repo_id: row.try_get("repo_id")?,
            run_id: row.try_get("run_id")?,
            number: row.try_get("number")?,
            title: row.try_get("title")?,
            body: row.try_get("body")?,
            url: row.try_get("url")?,
            head_branch: row.try_get("head_branch")?,
            base_branch: row.try_get("base_branch")?,
            head_commit: row.try_get("head_commit")?,
            state: row.try_get("state")?,
            forge: row.try_get("forge")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

impl Store {
    /// Records the pull request of a run. Where the run has one already, that one is brought up to date and keeps its
    /// id, and its number when none is given.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the run or the repository is not this organization's.
    pub async fn create_pull_request(&self, org_id: i64, new: NewPullRequest, now: i64) -> Result<PullRequest> {
        self.write(move |tx| {
            Box::pin(async move {
                let ours: Option<i64> = sqlx::query_scalar(
                    "SELECT runs.id FROM runs JOIN repos ON repos.org_id = runs.org_id
                     WHERE runs.org_id = $1 AND runs.id = $2 AND repos.id = $3",
                )
                .bind(org_id)
                .bind(new.run_id)
                .bind(new.repo_id)
                .fetch_optional(&mut tx.conn)
                .await?;
                ours.ok_or(Error::NotFound)?;
                let existing: Option<(i64, String)> =
                    sqlx::query_as("SELECT number, state FROM pull_requests WHERE run_id = $1")
                        .bind(new.run_id)
                        .fetch_optional(&mut tx.conn)
                        .await?;
                let number: i64 = match new.number.or(existing.as_ref().map(|(number, _)| *number)) {
                    Some(number) => number,
                    None => {
                        sqlx::query_scalar(
                            "SELECT COALESCE(MAX(number), 0) + 1 FROM pull_requests
                             WHERE repo_id = $1 AND forge = $2",
                        )
                        .bind(new.repo_id)
                        .bind(&new.forge)
                        .fetch_one(&mut tx.conn)
                        .await?
                    }
                };
                let id: i64 = sqlx::query_scalar(
                    "INSERT INTO pull_requests (org_id, repo_id, run_id, number, title, body, url, head_branch,
                                                base_branch, head_commit, state, forge, created_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
                     ON CONFLICT (run_id) DO UPDATE SET repo_id = excluded.repo_id, number = excluded.number,
                         title = excluded.title, body = excluded.body, url = excluded.url,
                         head_branch = excluded.head_branch, base_branch = excluded.base_branch,
                         head_commit = excluded.head_commit, state = excluded.state, forge = excluded.forge
                     RETURNING id",
                )
                .bind(org_id)
                .bind(new.repo_id)
                .bind(new.run_id)
                .bind(number)
                .bind(without_nul(new.title))
                .bind(without_nul(new.body))
                .bind(&new.url)
                .bind(new.head_branch)
                .bind(new.base_branch)
                .bind(new.head_commit)
                .bind(new.state)
                .bind(new.forge)
                .bind(now)
                .fetch_one(&mut tx.conn)
                .await?;
                let url = new.url.replace("{id}", &id.to_string()).replace("{number}", &number.to_string());
                let pull_request =
                    sqlx::query_as::<Db, PullRequest>("UPDATE pull_requests SET url = $2 WHERE id = $1 RETURNING *")
                        .bind(id)
                        .bind(url)
                        .fetch_one(&mut tx.conn)
                        .await?;
                tx.changes.push(Change { org_id, run_id: new.run_id, kind: ChangeKind::RunChanged });
                if existing.is_none_or(|(_, state)| state != pull_request.state) {
                    tell(tx, &pull_request, now).await?;
                }
                Ok(pull_request)
            })
        })
        .await
    }

    /// The pull requests of a run.
    ///
    /// # Errors
    /// The database's.
    pub async fn pull_requests_of_run(&self, org_id: i64, run_id: i64) -> Result<Vec<PullRequest>> {
        let pull_requests = sqlx::query_as::<Db, PullRequest>(
            "SELECT * FROM pull_requests WHERE org_id = $1 AND run_id = $2 ORDER BY id",
        )
        .bind(org_id)
        .bind(run_id)
        .fetch_all(&self.readers)
        .await?;
        Ok(pull_requests)
    }

    /// One pull request.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is another organization's.
    pub async fn pull_request(&self, org_id: i64, id: i64) -> Result<PullRequest> {
        sqlx::query_as::<Db, PullRequest>("SELECT * FROM pull_requests WHERE org_id = $1 AND id = $2")
            .bind(org_id)
            .bind(id)
            .fetch_optional(&self.quick)
            .await?
            .ok_or(Error::NotFound)
    }

    /// Sets whether it is `open`, `closed` or `merged`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_pull_request_state(&self, org_id: i64, id: i64, state: &str, now: i64) -> Result<PullRequest> {
        let state = state.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let was: Option<String> =
                    sqlx::query_scalar("SELECT state FROM pull_requests WHERE org_id = $1 AND id = $2")
                        .bind(org_id)
                        .bind(id)
                        .fetch_optional(&mut tx.conn)
                        .await?;
                let pull_request = sqlx::query_as::<Db, PullRequest>(
                    "UPDATE pull_requests SET state = $3 WHERE org_id = $1 AND id = $2 RETURNING *",
                )
                .bind(org_id)
                .bind(id)
                .bind(state)
                .fetch_optional(&mut tx.conn)
                .await?
                .ok_or(Error::NotFound)?;
                let run_id = pull_request.run_id;
                tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunChanged });
                if was.is_some_and(|was| was != pull_request.state) {
                    tell(tx, &pull_request, now).await?;
                }
                Ok(pull_request)
            })
        })
        .await
    }
}

/// Tells webhooks what has become of a pull request.
async fn tell(tx: &mut Tx, pull_request: &PullRequest, now: i64) -> Result<()> {
    let about = json!({
        "id": pull_request.id,
        "number": pull_request.number,
        "title": pull_request.title,
        "url": pull_request.url,
        "state": pull_request.state,
        "head_branch": pull_request.head_branch,
        "base_branch": pull_request.base_branch,
    });
    let event = match pull_request.state.as_str() {
        "merged" => "pull_request.merged",
        "closed" => "pull_request.closed",
        _ => "pull_request.opened",
    };
    events::emit(tx, pull_request.run_id, event, Some(("pull_request", about)), now).await
}
