//! Sessions of Claude Code on a person's own machine, kept as runs that no worker takes.

use crate::{
    Change, ChangeKind, Error, NewLog, Phase, Reason, Result, Run, Store,
    dialect::Tx,
    log, removal,
    runs::{append_status, end, full_run},
};

/// Where a session is, as its machine says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionStatus {
    /// It works.
    Active,
    /// It ended, for now at least.
    Ended(Reason),
}

/// What a session's machine told of it.
#[derive(Debug, Clone, Default)]
pub struct SessionNews {
    /// Entries of the run's log.
    pub entries: Vec<NewLog>,
    /// What a person asked: replaces the run's prompt while that is only the session's name.
    pub asked: Option<String>,
    /// The agent's newest words: the run's summary, and the result that its end shows.
    pub said: Option<String>,
    /// Answers of the model, more.
    pub steps: i64,
    /// Tokens read, more.
    pub tokens_in: i64,
    /// Tokens written, more.
    pub tokens_out: i64,
    /// US dollars, more.
    pub cost: f64,
    /// From which line of the transcript on, from 0, and how many; `None` where lines come without a number.
    pub lines: Option<(i64, i64)>,
}

/// How a session ends whose machine is not heard of any more; no machine says this word itself.
const STALE: Reason = Reason::Timeout;

impl Store {
    /// The run of a session; made where there is none.
    ///
    /// # Errors
    /// The database's.
    pub async fn claude_session(&self, org_id: i64, user_id: i64, session_id: &str, now: i64) -> Result<Run> {
        let session_id = session_id.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                match heard_of(tx, org_id, &session_id, now).await {
                    Err(Error::NotFound) => create(tx, org_id, user_id, &session_id, now).await,
                    found => full_run(tx, found?).await,
                }
            })
        })
        .await
    }

    /// Sets where a session is. A later word replaces an earlier one, in whichever order they come.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such session in this organization.
    pub async fn set_claude_session_status(
        &self,
        org_id: i64,
        session_id: &str,
        status: SessionStatus,
        now: i64,
    ) -> Result<Run> {
        let session_id = session_id.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let run_id = heard_of(tx, org_id, &session_id, now).await?;
                let run = full_run(tx, run_id).await?;
                match status {
                    SessionStatus::Active if run.phase == Phase::Elsewhere => {}
                    SessionStatus::Ended(reason) if run.phase == Phase::Done && run.reason == Some(reason) => {}
                    SessionStatus::Active => take_up(tx, run_id, now).await?,
                    SessionStatus::Ended(reason) => {
                        end(tx, run_id, reason, run.summary.as_deref().unwrap_or_default(), None, now).await?;
                    }
                }
                tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunChanged });
                full_run(tx, run_id).await
            })
        })
        .await
    }

    /// Appends what a session's machine told of it.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such session in this organization; [`Error::Conflict`] where
    /// [`SessionNews::lines`] do not follow those that are known.
    pub async fn append_claude_session(
        &self,
        org_id: i64,
        session_id: &str,
        news: SessionNews,
        now: i64,
    ) -> Result<()> {
        let session_id = session_id.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let run_id = heard_of(tx, org_id, &session_id, now).await?;
                if let Some((from, count)) = news.lines {
                    let counted = sqlx::query(
                        "UPDATE claude_sessions SET lines = lines + $4 WHERE org_id = $1 AND session_id = $2 AND lines = $3",
                    );
                    let counted = counted.bind(org_id).bind(&session_id).bind(from).bind(count);
                    if counted.execute(&mut tx.conn).await?.rows_affected() == 0 {
                        return Err(Error::Conflict("Other lines of this session came at the same time.".to_owned()));
                    }
                }
                let run = full_run(tx, run_id).await?;
                if run.phase == Phase::Done && run.reason == Some(STALE) {
                    take_up(tx, run_id, now).await?;
                }
                for entry in &news.entries {
                    log::append(tx, run_id, &entry.kind, &entry.body, entry.contract, now).await?;
                }
                if let Some(asked) = news.asked {
                    sqlx::query("UPDATE run_inputs SET prompt = $2 WHERE run_id = $1 AND prompt = $3")
                        .bind(run_id)
                        .bind(asked)
                        .bind(name(&session_id))
                        .execute(&mut tx.conn)
                        .await?;
                }
                sqlx::query(
                    "UPDATE runs SET summary = COALESCE($2, summary), steps = steps + $3,
                         tokens_in = tokens_in + $4, tokens_out = tokens_out + $5, cost = cost + $6,
                         result = CASE WHEN phase = 'done' THEN COALESCE($2, result) ELSE result END WHERE id = $1",
                )
                .bind(run_id)
                .bind(news.said)
                .bind(news.steps)
                .bind(news.tokens_in)
                .bind(news.tokens_out)
                .bind(news.cost)
                .execute(&mut tx.conn)
                .await?;
                tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunChanged });
                Ok(())
            })
        })
        .await
    }

    /// Ends some of the sessions whose machine was last heard of before a time; says how many. A further word of it takes
    /// one up again.
    ///
    /// # Errors
    /// The database's.
    pub async fn end_stale_claude_sessions(&self, before: i64, now: i64) -> Result<usize> {
        self.write(move |tx| {
            Box::pin(async move {
                let stale: Vec<i64> = sqlx::query_scalar(
                    "SELECT s.run_id FROM claude_sessions s JOIN runs r ON r.id = s.run_id
                     WHERE s.heard_at < $1 AND r.phase = 'elsewhere' ORDER BY s.run_id LIMIT 100",
                )
                .bind(before)
                .fetch_all(&mut tx.conn)
                .await?;
                for run_id in &stale {
                    let why = "The session's machine has not been heard of for too long, so it is taken for ended.";
                    let notice = serde_json::json!({ "kind": "notice", "text": why }).to_string();
                    log::append(tx, *run_id, "notice", &notice, false, now).await?;
                    let run = full_run(tx, *run_id).await?;
                    let result = run.summary.filter(|said| !said.is_empty()).unwrap_or_else(|| why.to_owned());
                    end(tx, *run_id, STALE, &result, Some("its machine was not heard of"), now).await?;
                }
                Ok(stale.len())
            })
        })
        .await
    }

    /// The id of a session's run, and how many lines of its transcript are known by their number.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such session in this organization.
    pub async fn claude_session_run(&self, org_id: i64, session_id: &str) -> Result<(i64, i64)> {
        let found: Option<(i64, i64)> =
            sqlx::query_as("SELECT run_id, lines FROM claude_sessions WHERE org_id = $1 AND session_id = $2")
                .bind(org_id)
                .bind(session_id)
                .fetch_optional(&self.quick)
                .await?;
        found.ok_or(Error::NotFound)
    }
}

/// Goes on with a session that has ended.
async fn take_up(tx: &mut Tx, run_id: i64, now: i64) -> Result<()> {
    sqlx::query(
        "UPDATE runs SET phase = 'elsewhere', reason = NULL, result = NULL, error_cause = NULL, ended_at = NULL
         WHERE id = $1",
    )
    .bind(run_id)
    .execute(&mut tx.conn)
    .await?;
    append_status(tx, run_id, Phase::Elsewhere, None, now).await?;
    Ok(())
}

/// The prompt of a session that has not said what it was asked.
fn name(session_id: &str) -> String {
    format!("Claude Code session {session_id}")
}

async fn create(tx: &mut Tx, org_id: i64, user_id: i64, session_id: &str, now: i64) -> Result<Run> {
    let run_id: i64 = sqlx::query_scalar(
        "INSERT INTO runs (org_id, user_id, agent_type, source_type, phase, push, open_pr, created_at, queued_at,
                           started_at)
         VALUES ($1, $2, 'claude_code', 'LOCAL', 'elsewhere', 0, 0, $3, $3, $3) RETURNING id",
    )
    .bind(org_id)
    .bind(user_id)
    .bind(now)
    .fetch_one(&mut tx.conn)
    .await?;
    sqlx::query("INSERT INTO run_inputs (run_id, prompt, images, metadata) VALUES ($1, $2, '[]', $3)")
        .bind(run_id)
        .bind(name(session_id))
        .bind(serde_json::json!({ "session_id": session_id }).to_string())
        .execute(&mut tx.conn)
        .await?;
    removal::count(tx, org_id, user_id, "LOCAL", run_id, 1).await?;
    sqlx::query("INSERT INTO claude_sessions (org_id, session_id, run_id, heard_at) VALUES ($1, $2, $3, $4)")
        .bind(org_id)
        .bind(session_id)
        .bind(run_id)
        .bind(now)
        .execute(&mut tx.conn)
        .await?;
    append_status(tx, run_id, Phase::Elsewhere, None, now).await?;
    tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunChanged });
    full_run(tx, run_id).await
}

/// The run of a session that something was heard of just now.
async fn heard_of(tx: &mut Tx, org_id: i64, session_id: &str, now: i64) -> Result<i64> {
    // The update keeps the row from others until the commit, on every database.
    let run_id: Option<i64> = sqlx::query_scalar(
        "UPDATE claude_sessions SET heard_at = $3 WHERE org_id = $1 AND session_id = $2 RETURNING run_id",
    )
    .bind(org_id)
    .bind(session_id)
    .bind(now)
    .fetch_optional(&mut tx.conn)
    .await?;
    run_id.ok_or(Error::NotFound)
}

/// Refuses to steer a run that is a session on a person's own machine.
pub async fn refuse(tx: &mut Tx, run_id: i64) -> Result<()> {
    let session: Option<i64> = sqlx::query_scalar("SELECT run_id FROM claude_sessions WHERE run_id = $1")
        .bind(run_id)
        .fetch_optional(&mut tx.conn)
        .await?;
    match session {
        None => Ok(()),
        Some(_) => Err(Error::Conflict(
            "This run is a session on someone's own machine; it is continued and stopped there.".to_owned(),
        )),
    }
}
