//! Runs, as those who ask for them see them; what a worker does with them is in `claims.rs`.

use serde_json::json;
use sqlx::{FromRow, Row as _};

use crate::{
    Change, ChangeKind, Error, Result, Store,
    audit::{self, Entry},
    claude_sessions,
    dialect::{Db, Row, Tx},
    events, log,
    phase::{Phase, Reason, status},
    row::{flag, unreadable, without_nul, word},
};

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Key.
    pub id: i64,
    /// Whose.
    pub org_id: i64,
    /// Who asked.
    pub user_id: i64,
    /// In which repository.
    pub repo_id: Option<i64>,
    /// What for.
    pub prompt: String,
    /// Images of the prompt, as data URIs.
    pub images: Vec<String>,
    /// The caller's own JSON, byte for byte.
    pub metadata: Option<String>,
    /// `provider/name`.
    pub model: Option<String>,
    /// Which agent.
    pub agent_type: Option<String>,
    /// Where it was asked.
    pub source_type: String,
    /// Where it is.
    pub phase: Phase,
    /// Why it ended.
    pub reason: Option<Reason>,
    /// Final words, for the person.
    pub result: Option<String>,
    /// A line.
    pub summary: Option<String>,
    /// Internal cause of a failure, for the operator.
    pub error_cause: Option<String>,
    /// Branch it started from.
    pub base_branch: Option<String>,
    /// Commit it started from.
    pub base_commit: Option<String>,
    /// Branch of its work.
    pub branch: Option<String>,
    /// Sandbox it has.
    pub sandbox_id: Option<String>,
    /// Shall stop.
    pub stop_requested: bool,
    /// Counts claims; a write by an earlier claim is refused.
    pub attempt: i64,
    /// Workers lost since the last progress.
    pub crashes: i64,
    /// Who has or had it.
    pub worker_id: Option<String>,
    /// Model answers.
    pub steps: i64,
    /// Tokens read.
    pub tokens_in: i64,
    /// Tokens written.
    pub tokens_out: i64,
    /// US dollars.
    pub cost: f64,
    /// When asked.
    pub created_at: i64,
    /// When first claimed.
    pub started_at: Option<i64>,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// Push the branch to the origin.
    pub push: bool,
    /// Open a pull request.
    pub open_pr: bool,
    /// `git diff --stat`.
    pub diff_stat: Option<String>,
    /// Seq of the newest log entry.
    pub log_seq: i64,
    /// Seq of the newest `user_message` entry.
    pub message_seq: i64,
    /// Words on it.
    pub tags: Vec<String>,
    /// Left out of lists.
    pub archived: bool,
    /// JSON Schema that [`Run::output`] shall fit.
    pub output_schema: Option<String>,
    /// Structured result, as JSON.
    pub output: Option<String>,
}

impl Run {
    /// The contract's word for where it is.
    #[must_use]
    pub fn status(&self) -> &'static str {
        status(self.phase, self.reason)
    }
}

impl FromRow<'_, Row> for Run {
    fn from_row(row: &Row) -> sqlx::Result<Self> {
        let images: String = row.try_get("images")?;
        let tags: String = row.try_get("tags")?;
        let reason: Option<String> = row.try_get("reason")?;
        Ok(Self {
            id: row.try_get("id")?,
            org_id: row.try_get("org_id")?,
            user_id: row.try_get("user_id")?,
            repo_id: row.try_get("repo_id")?,
            prompt: row.try_get("prompt")?,
            images: serde_json::from_str(&images).map_err(|error| unreadable("images", error))?,
            metadata: row.try_get("metadata")?,
            model: row.try_get("model")?,
            agent_type: row.try_get("agent_type")?,
            source_type: row.try_get("source_type")?,
            phase: word(row, "phase", Phase::parse)?,
            reason: if reason.is_some() { Some(word(row, "reason", Reason::parse)?) } else { None },
            result: row.try_get("result")?,
            summary: row.try_get("summary")?,
            error_cause: row.try_get("error_cause")?,
            base_branch: row.try_get("base_branch")?,
            base_commit: row.try_get("base_commit")?,
            branch: row.try_get("branch")?,
            sandbox_id: row.try_get("sandbox_id")?,
            stop_requested: flag(row, "stop_requested")?,
            attempt: row.try_get("attempt")?,
            crashes: row.try_get("crashes")?,
            worker_id: row.try_get("worker_id")?,
            steps: row.try_get("steps")?,
            tokens_in: row.try_get("tokens_in")?,
            tokens_out: row.try_get("tokens_out")?,
            cost: row.try_get("cost")?,
            created_at: row.try_get("created_at")?,
            started_at: row.try_get("started_at")?,
            ended_at: row.try_get("ended_at")?,
            push: flag(row, "push")?,
            open_pr: flag(row, "open_pr")?,
            diff_stat: row.try_get("diff_stat")?,
            log_seq: row.try_get("log_seq")?,
            message_seq: row.try_get("message_seq")?,
            tags: serde_json::from_str(&tags).map_err(|error| unreadable("tags", error))?,
            archived: flag(row, "archived")?,
            output_schema: row.try_get("output_schema")?,
            output: row.try_get("output")?,
        })
    }
}

impl Store {
    /// One run.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where it is another organization's.
    pub async fn run(&self, org_id: i64, id: i64) -> Result<Run> {
        sqlx::query_as::<Db, Run>("SELECT * FROM full_runs WHERE org_id = $1 AND id = $2")
            .bind(org_id)
            .bind(id)
            .fetch_optional(&self.quick)
            .await?
            .ok_or(Error::NotFound)
    }

    /// How many runs are in each phase but the last; phases without runs may be left out.
    ///
    /// # Errors
    /// The database's.
    pub async fn runs_by_phase(&self) -> Result<Vec<(Phase, i64)>> {
        // In two parts, as each has an index of its own.
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT 'queued', COUNT(*) FROM runs WHERE phase = 'queued'
             UNION ALL
             SELECT phase, COUNT(*) FROM runs WHERE phase IN ('preparing', 'running', 'waiting', 'finishing')
             GROUP BY phase",
        )
        .fetch_all(&self.readers)
        .await?;
        Ok(rows.into_iter().filter_map(|(phase, runs)| Some((Phase::parse(&phase)?, runs))).collect())
    }

    /// Appends a follow-up as a `user_message` entry. A live run gets it at its next step; one that is done is queued
    /// again.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn add_message(&self, org_id: i64, run_id: i64, text: &str, images: &[String], now: i64) -> Result<Run> {
        let (text, images) = (text.to_owned(), images.to_owned());
        self.write_rows(move |tx| {
            Box::pin(async move {
                add_message(tx, org_id, run_id, &text, &images, now).await?;
                full_run(tx, run_id).await
            })
        })
        .await
    }

    /// Asks a run to stop: a queued one ends at once, or by the next worker where an earlier one left a sandbox, a live one
    /// by its worker, one that is done stays as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn request_stop(&self, org_id: i64, run_id: i64, now: i64) -> Result<Run> {
        self.write_rows(move |tx| {
            Box::pin(async move {
                request_stop(tx, org_id, run_id, now).await?;
                full_run(tx, run_id).await
            })
        })
        .await
    }
}

/// Asks a run that has ended for another structured result. A live one's agent has been told of the one before.
pub async fn set_output_schema(tx: &mut Tx, org_id: i64, run_id: i64, schema: &str) -> Result<()> {
    if phase_of(tx, org_id, run_id).await? != Phase::Done {
        let sentence = "This run is not at its end yet; another output_schema can be given once it is.";
        return Err(Error::Conflict(sentence.to_owned()));
    }
    sqlx::query("UPDATE run_inputs SET output_schema = $2 WHERE run_id = $1")
        .bind(run_id)
        .bind(schema)
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

/// Appends a follow-up and queues the run again where it had ended.
pub async fn add_message(tx: &mut Tx, org_id: i64, run_id: i64, text: &str, images: &[String], now: i64) -> Result<()> {
    let phase = phase_of(tx, org_id, run_id).await?;
    let gone: Option<i64> = sqlx::query_scalar(
        "SELECT repos.id FROM repos JOIN runs ON runs.repo_id = repos.id
         WHERE runs.id = $1 AND repos.deleted_at IS NOT NULL",
    )
    .bind(run_id)
    .fetch_optional(&mut tx.conn)
    .await?;
    if gone.is_some() {
        return Err(Error::Conflict("The repository of this run was deleted.".to_owned()));
    }
    claude_sessions::refuse(tx, run_id).await?;
    log::append(tx, run_id, "user_message", &message(text, images), true, now).await?;
    if phase == Phase::Done {
        queue_again(tx, org_id, run_id, now).await?;
    }
    audit::record(tx, org_id, Entry::new("run.resumed", "run", run_id, json!(null)), now).await?;
    tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunChanged });
    Ok(())
}

/// Queues a run that has ended, with its `status` entry.
pub async fn queue_again(tx: &mut Tx, org_id: i64, run_id: i64, now: i64) -> Result<()> {
    sqlx::query(
        "UPDATE runs SET phase = 'queued', reason = NULL, result = NULL, error_cause = NULL,
             ended_at = NULL, stop_requested = 0, crashes = 0, queued_at = $2 WHERE id = $1",
    )
    .bind(run_id)
    .bind(now)
    .execute(&mut tx.conn)
    .await?;
    sqlx::query("UPDATE run_inputs SET output = NULL WHERE run_id = $1 AND output IS NOT NULL")
        .bind(run_id)
        .execute(&mut tx.conn)
        .await?;
    append_status(tx, run_id, Phase::Queued, None, now).await?;
    tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunQueued });
    events::emit(tx, run_id, "run.resumed", None, now).await
}

/// Ends a queued run that has no sandbox of an earlier attempt, asks for a worker to end any other.
pub async fn request_stop(tx: &mut Tx, org_id: i64, run_id: i64, now: i64) -> Result<()> {
    let phase = phase_of(tx, org_id, run_id).await?;
    audit::record(tx, org_id, Entry::new("run.stopped", "run", run_id, json!(null)), now).await?;
    match phase {
        Phase::Done => {}
        Phase::Elsewhere => claude_sessions::refuse(tx, run_id).await?,
        Phase::Queued => {
            let marked = sqlx::query(
                "UPDATE runs SET stop_requested = 1, stop_seq = message_seq WHERE id = $1 AND sandbox_id IS NOT NULL",
            )
            .bind(run_id)
            .execute(&mut tx.conn)
            .await?;
            if marked.rows_affected() == 0 {
                end(tx, run_id, Reason::Cancelled, "Stopped before it began.", None, now).await?;
            } else {
                // Its sandbox may hold work, which a worker has to carry out.
                tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunQueued });
            }
        }
        Phase::Preparing | Phase::Running | Phase::Waiting | Phase::Finishing => {
            sqlx::query("UPDATE runs SET stop_requested = 1, stop_seq = message_seq WHERE id = $1")
                .bind(run_id)
                .execute(&mut tx.conn)
                .await?;
            tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunChanged });
        }
    }
    Ok(())
}

/// The run with what it was asked.
pub async fn full_run(tx: &mut Tx, run_id: i64) -> Result<Run> {
    let run =
        sqlx::query_as::<Db, Run>("SELECT * FROM full_runs WHERE id = $1").bind(run_id).fetch_one(&mut tx.conn).await?;
    Ok(run)
}

/// Ends a run, with its `status` entry, whoever has it.
pub async fn end(
    tx: &mut Tx,
    run_id: i64,
    reason: Reason,
    result: &str,
    error_cause: Option<&str>,
    now: i64,
) -> Result<()> {
    sqlx::query(
        "UPDATE runs SET phase = 'done', reason = $2, result = $3, error_cause = $4, ended_at = $5, sandbox_id = NULL WHERE id = $1",
    )
    .bind(run_id)
    .bind(reason.as_str())
    .bind(without_nul(result))
    .bind(error_cause.map(without_nul))
    .bind(now)
    .execute(&mut tx.conn)
    .await?;
    let org_id = append_status(tx, run_id, Phase::Done, Some(reason), now).await?;
    tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunChanged });
    let event = match reason {
        Reason::Complete => "run.completed",
        Reason::Cancelled => "run.stopped",
        Reason::Error | Reason::Failed | Reason::Timeout | Reason::MaxIterations | Reason::OutOfTokens => "run.failed",
    };
    events::emit(tx, run_id, event, None, now).await
}

/// Appends the `status` entry; returns the run's organization.
pub async fn append_status(tx: &mut Tx, run_id: i64, phase: Phase, reason: Option<Reason>, now: i64) -> Result<i64> {
    let body = json!({ "kind": "status", "status": status(phase, reason), "reason": reason.map(Reason::as_str) });
    log::append(tx, run_id, "status", &body.to_string(), false, now).await
}

async fn phase_of(tx: &mut Tx, org_id: i64, run_id: i64) -> Result<Phase> {
    // An update that changes nothing: it keeps the row from others until the commit, on every database.
    let phase: Option<String> =
        sqlx::query_scalar("UPDATE runs SET phase = phase WHERE org_id = $1 AND id = $2 RETURNING phase")
            .bind(org_id)
            .bind(run_id)
            .fetch_optional(&mut tx.conn)
            .await?;
    let phase = phase.ok_or(Error::NotFound)?;
    Phase::parse(&phase).ok_or_else(|| Error::Db(unreadable("phase", phase)))
}

/// The body of a `user_message` entry.
pub fn message(text: &str, images: &[String]) -> String {
    if images.is_empty() {
        json!({ "kind": "user_message", "text": text }).to_string()
    } else {
        json!({ "kind": "user_message", "text": text, "images": images }).to_string()
    }
}
