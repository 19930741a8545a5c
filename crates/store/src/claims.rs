//! What a worker does with a run: claim it, write to it under its fence, end it or give it back.

use serde_json::json;

use crate::{
    Change, ChangeKind, Error, Phase, Reason, Result, Run, Store,
    dialect::{self, Db, Scope, Tx},
    events, limits,
    log::append,
    queue,
    row::without_nul,
    runs::{end, full_run, queue_again},
};

/// A run that lost its worker more often than this without progress is given up: its next attempt only carries its work out.
pub const MAX_CRASHES: i64 = 5;
/// Final words of a run that was given up.
pub const GIVEN_UP: &str = "The run was given up: its worker was lost again and again without progress.";

/// The right to write to a run, until someone claims it anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Which run.
    pub run_id: i64,
    /// [`Run::attempt`] at the claim.
    pub attempt: i64,
}

impl Run {
    /// The claim that this row, as [`Store::claim_run`] returned it, stands for.
    #[must_use]
    pub fn claim(&self) -> Claim {
        Claim { run_id: self.id, attempt: self.attempt }
    }

    /// Whether it lost its worker too often to go on.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.crashes > MAX_CRASHES
    }
}

/// What a worker learned; what is `None` stays as it is, and counters never fall: a trace that they were added up from
/// may have been dropped since.
#[derive(Debug, Clone, Default)]
pub struct RunUpdate {
    /// [`Run::branch`].
    pub branch: Option<String>,
    /// [`Run::base_commit`].
    pub base_commit: Option<String>,
    /// [`Run::base_branch`].
    pub base_branch: Option<String>,
    /// [`Run::sandbox_id`].
    pub sandbox_id: Option<String>,
    /// [`Run::steps`].
    pub steps: Option<i64>,
    /// [`Run::tokens_in`].
    pub tokens_in: Option<i64>,
    /// [`Run::tokens_out`].
    pub tokens_out: Option<i64>,
    /// [`Run::cost`].
    pub cost: Option<f64>,
    /// [`Run::summary`].
    pub summary: Option<String>,
    /// [`Run::diff_stat`].
    pub diff_stat: Option<String>,
}

impl Store {
    /// Claims the next queued run, if one may start: organizations take turns, and within them users do.
    ///
    /// # Errors
    /// The database's.
    pub async fn claim_run(&self, worker_id: &str, now: i64) -> Result<Option<Run>> {
        let worker_id = worker_id.to_owned();
        self.write_within(Scope::Claim, move |tx| {
            Box::pin(async move {
                let Some(run_id) = queue::next(tx).await? else { return Ok(None) };
                take(tx, run_id, &worker_id, now).await
            })
        })
        .await
    }

    /// Claims a queued run that shall stop and only waits for its work to be carried out, if there is one.
    ///
    /// # Errors
    /// The database's.
    pub async fn claim_stopped_run(&self, worker_id: &str, now: i64) -> Result<Option<Run>> {
        let worker_id = worker_id.to_owned();
        self.write_within(Scope::Claim, move |tx| {
            Box::pin(async move {
                let run_id: Option<i64> = sqlx::query_scalar(
                    "SELECT id FROM runs WHERE phase = 'queued' AND stop_requested = 1 ORDER BY id LIMIT 1",
                )
                .fetch_optional(&mut tx.conn)
                .await?;
                let Some(run_id) = run_id else { return Ok(None) };
                take(tx, run_id, &worker_id, now).await
            })
        })
        .await
    }

    /// Claims this run, if it is queued.
    ///
    /// # Errors
    /// The database's.
    pub async fn claim_run_by_id(&self, run_id: i64, worker_id: &str, now: i64) -> Result<Option<Run>> {
        let worker_id = worker_id.to_owned();
        self.write_within(Scope::Claim, move |tx| Box::pin(async move { take(tx, run_id, &worker_id, now).await }))
            .await
    }

    /// One run, of whichever organization; for workers only.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn run_by_id(&self, id: i64) -> Result<Run> {
        sqlx::query_as::<Db, Run>("SELECT * FROM full_runs WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.quick)
            .await?
            .ok_or(Error::NotFound)
    }

    /// Moves a claimed run to another live phase.
    ///
    /// # Errors
    /// [`Error::Fenced`]; [`Error::Conflict`] for the phases that [`Store::release_run`] and [`Store::finish_run`] set.
    pub async fn set_phase(&self, claim: &Claim, phase: Phase) -> Result<()> {
        if matches!(phase, Phase::Queued | Phase::Done) {
            return Err(Error::Conflict(format!("a claimed run is not set to {}", phase.as_str())));
        }
        let claim = *claim;
        self.write_rows(move |tx| {
            Box::pin(async move {
                let org_id = fence(tx, claim).await?;
                sqlx::query("UPDATE runs SET phase = $2 WHERE id = $1")
                    .bind(claim.run_id)
                    .bind(phase.as_str())
                    .execute(&mut tx.conn)
                    .await?;
                tx.changes.push(Change { org_id, run_id: claim.run_id, kind: ChangeKind::RunChanged });
                Ok(())
            })
        })
        .await
    }

    /// Writes what the worker learned.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub async fn update_run(&self, claim: &Claim, update: RunUpdate, now: i64) -> Result<()> {
        let claim = *claim;
        self.write_rows(move |tx| {
            Box::pin(async move {
                let org_id = fence(tx, claim).await?;
                if let Some(cost) = update.cost {
                    limits::count_cost(tx, claim.run_id, cost, now).await?;
                }
                sqlx::query(
                    "UPDATE runs SET branch = COALESCE($2, branch), base_commit = COALESCE($3, base_commit),
                         base_branch = COALESCE($4, base_branch), sandbox_id = COALESCE($5, sandbox_id),
                         steps = CASE WHEN $6 > steps THEN $6 ELSE steps END,
                         tokens_in = CASE WHEN $7 > tokens_in THEN $7 ELSE tokens_in END,
                         tokens_out = CASE WHEN $8 > tokens_out THEN $8 ELSE tokens_out END,
                         cost = CASE WHEN $9 > cost THEN $9 ELSE cost END,
                         summary = COALESCE($10, summary), diff_stat = COALESCE($11, diff_stat)
                     WHERE id = $1",
                )
                .bind(claim.run_id)
                .bind(update.branch)
                .bind(update.base_commit)
                .bind(update.base_branch)
                .bind(update.sandbox_id)
                .bind(update.steps)
                .bind(update.tokens_in)
                .bind(update.tokens_out)
                // Any tells PostgreSQL of an absent f64 as if it were a smaller number, and the statement would keep that.
                .bind(update.cost.unwrap_or(-1.0))
                .bind(update.summary.map(without_nul))
                .bind(update.diff_stat.map(without_nul))
                .execute(&mut tx.conn)
                .await?;
                tx.changes.push(Change { org_id, run_id: claim.run_id, kind: ChangeKind::RunChanged });
                Ok(())
            })
        })
        .await
    }

    /// Keeps a claimed run's structured result, as JSON.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub async fn set_output(&self, claim: &Claim, output: &str) -> Result<()> {
        let (claim, output) = (*claim, output.to_owned());
        self.write_rows(move |tx| {
            Box::pin(async move {
                fence(tx, claim).await?;
                sqlx::query("UPDATE run_inputs SET output = $2 WHERE run_id = $1")
                    .bind(claim.run_id)
                    .bind(output)
                    .execute(&mut tx.conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Ends a claimed run and appends its `status` entry. The claim is worth nothing afterwards.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub async fn finish_run(
        &self,
        claim: &Claim,
        reason: Reason,
        result: &str,
        error_cause: Option<&str>,
        now: i64,
    ) -> Result<()> {
        let finished = self.finish(*claim, None, reason, result, error_cause, now).await?;
        debug_assert!(finished, "without a seq there is nothing to compare");
        Ok(())
    }

    /// [`Store::finish_run`], but only when no `user_message` came after entry `seen_seq`; says whether it ended the
    /// run. So a follow-up that comes in at the last moment is answered, not lost.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub async fn finish_run_if_read(
        &self,
        claim: &Claim,
        seen_seq: i64,
        reason: Reason,
        result: &str,
        now: i64,
    ) -> Result<bool> {
        self.finish(*claim, Some(seen_seq), reason, result, None, now).await
    }

    async fn finish(
        &self,
        claim: Claim,
        seen_seq: Option<i64>,
        reason: Reason,
        result: &str,
        error_cause: Option<&str>,
        now: i64,
    ) -> Result<bool> {
        let (result, error_cause) = (result.to_owned(), error_cause.map(str::to_owned));
        self.write_rows(move |tx| {
            Box::pin(async move {
                fence(tx, claim).await?;
                if let Some(seen_seq) = seen_seq {
                    let message_seq: i64 = sqlx::query_scalar("SELECT message_seq FROM runs WHERE id = $1")
                        .bind(claim.run_id)
                        .fetch_one(&mut tx.conn)
                        .await?;
                    if message_seq > seen_seq {
                        return Ok(false);
                    }
                }
                end(tx, claim.run_id, reason, &result, error_cause.as_deref(), now).await?;
                if reason == Reason::Cancelled {
                    // Who wrote after asking for the stop wants the run to go on with that.
                    let meant_for_later: Option<i64> = sqlx::query_scalar(
                        "SELECT org_id FROM runs WHERE id = $1 AND stop_requested = 1 AND message_seq > stop_seq",
                    )
                    .bind(claim.run_id)
                    .fetch_optional(&mut tx.conn)
                    .await?;
                    if let Some(org_id) = meant_for_later {
                        queue_again(tx, org_id, claim.run_id, now).await?;
                    }
                }
                Ok(true)
            })
        })
        .await
    }

    /// Gives a claimed run back to the queue, at its old place, without counting a crash; a `notice` in its log says why.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub async fn release_run(&self, claim: &Claim, why: &str, now: i64) -> Result<()> {
        let (claim, why) = (*claim, why.to_owned());
        self.write_rows(move |tx| {
            Box::pin(async move {
                fence(tx, claim).await?;
                requeue(tx, claim.run_id, 0, Some(&why), now).await
            })
        })
        .await
    }

    /// Gives the runs of workers that are gone back to the queue: on SQLite of any but `live_worker_id`, on PostgreSQL of those
    /// without a row. Counts a crash for each, with a
    /// `notice` in its log, but where its sandbox is one of `lost`: then its next attempt says both. A run that crashed even while it was given up ends as FAILED here. Returns those it touched.
    ///
    /// # Errors
    /// The database's.
    pub async fn requeue_orphans(&self, live_worker_id: &str, lost: &[String], now: i64) -> Result<Vec<Run>> {
        let (live_worker_id, lost) = (live_worker_id.to_owned(), lost.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let orphans: Vec<(i64, i64, Option<String>)> = sqlx::query_as(
                    "SELECT id, crashes, sandbox_id FROM runs
                     WHERE phase IN ('preparing', 'running', 'waiting', 'finishing')
                       AND (worker_id IS NULL OR worker_id <> $1
                            AND ($2 = 0 OR NOT EXISTS (SELECT 1 FROM workers WHERE workers.id = runs.worker_id)))
                     ORDER BY id",
                )
                .bind(live_worker_id)
                .bind(i64::from(dialect::is_shared_here(tx)))
                .fetch_all(&mut tx.conn)
                .await?;
                let mut runs = Vec::with_capacity(orphans.len());
                for (run_id, crashes, sandbox_id) in orphans {
                    let crashes = crashes + 1;
                    let why = if crashes > MAX_CRASHES {
                        Some("codegen was ended without warning once too often; the run is given up, and its work carried out.")
                    } else if sandbox_id.is_some_and(|id| lost.contains(&id)) {
                        None
                    } else {
                        Some("codegen was ended without warning; the run goes on from its last step.")
                    };
                    requeue(tx, run_id, 1, why, now).await?;
                    if crashes > MAX_CRASHES + 1 {
                        let cause = format!("{crashes} crashes without progress");
                        let reason = Reason::Failed.as_str();
                        let note = json!({ "kind": "result", "text": GIVEN_UP, "is_error": true, "reason": reason });
                        append(tx, run_id, "result", &note.to_string(), true, now).await?;
                        end(tx, run_id, Reason::Failed, GIVEN_UP, Some(&cause), now).await?;
                    }
                    runs.push(full_run(tx, run_id).await?);
                }
                Ok(runs)
            })
        })
        .await
    }
}

/// Refuses a claim that is not the run's last one; otherwise keeps the row until the commit and says whose run it is.
pub async fn fence(tx: &mut Tx, claim: Claim) -> Result<i64> {
    let org_id: Option<i64> = sqlx::query_scalar(
        "UPDATE runs SET attempt = attempt
         WHERE id = $1 AND attempt = $2 AND phase NOT IN ('queued', 'done') RETURNING org_id",
    )
    .bind(claim.run_id)
    .bind(claim.attempt)
    .fetch_optional(&mut tx.conn)
    .await?;
    org_id.ok_or(Error::Fenced)
}

/// A worker whose place another one has taken gets nothing.
async fn take(tx: &mut Tx, run_id: i64, worker_id: &str, now: i64) -> Result<Option<Run>> {
    let taken: Option<(i64, i64, i64)> = sqlx::query_as(
        "UPDATE runs SET phase = 'preparing', worker_id = $2, attempt = attempt + 1,
             started_at = COALESCE(started_at, $3)
         WHERE id = $1 AND phase = 'queued'
             AND (EXISTS (SELECT 1 FROM workers WHERE id = $2) OR NOT EXISTS (SELECT 1 FROM workers))
         RETURNING org_id, user_id, attempt",
    )
    .bind(run_id)
    .bind(worker_id)
    .bind(now)
    .fetch_optional(&mut tx.conn)
    .await?;
    let Some((org_id, user_id, attempt)) = taken else { return Ok(None) };
    queue::took_turn(tx, org_id, user_id).await?;
    tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunChanged });
    if attempt == 1 {
        events::emit(tx, run_id, "run.started", None, now).await?;
    }
    full_run(tx, run_id).await.map(Some)
}

async fn requeue(tx: &mut Tx, run_id: i64, crashes: i64, why: Option<&str>, now: i64) -> Result<()> {
    if let Some(why) = why {
        let notice = json!({ "kind": "notice", "text": why });
        append(tx, run_id, "notice", &notice.to_string(), false, now).await?;
    }
    let org_id: i64 = sqlx::query_scalar(
        "UPDATE runs SET phase = 'queued', worker_id = NULL, crashes = crashes + $2 WHERE id = $1 RETURNING org_id",
    )
    .bind(run_id)
    .bind(crashes)
    .fetch_one(&mut tx.conn)
    .await?;
    tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunQueued });
    Ok(())
}
