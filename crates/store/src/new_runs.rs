//! Runs that are made.

use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::{
    Change, ChangeKind, Error, Phase, Result, Run, Store,
    audit::{self, Entry},
    dialect::Tx,
    events, limits, log, removal,
    row::unreadable,
    runs::message,
};

/// A run to be queued.
#[derive(Debug, Clone, Default)]
pub struct NewRun {
    /// [`Run::user_id`].
    pub user_id: i64,
    /// [`Run::repo_id`].
    pub repo_id: Option<i64>,
    /// [`Run::prompt`].
    pub prompt: String,
    /// [`Run::images`].
    pub images: Vec<String>,
    /// [`Run::metadata`].
    pub metadata: Option<String>,
    /// [`Run::model`].
    pub model: Option<String>,
    /// [`Run::agent_type`].
    pub agent_type: Option<String>,
    /// [`Run::source_type`].
    pub source_type: String,
    /// [`Run::base_branch`].
    pub base_branch: Option<String>,
    /// [`Run::base_commit`].
    pub base_commit: Option<String>,
    /// [`Run::push`].
    pub push: bool,
    /// [`Run::open_pr`].
    pub open_pr: bool,
    /// [`Run::tags`].
    pub tags: Vec<String>,
    /// [`Run::output_schema`].
    pub output_schema: Option<String>,
}

impl Store {
    /// Queues a run; its prompt is entry 1 of its log.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the repository is not this organization's, [`Error::UsedUp`].
    pub async fn create_run(&self, org_id: i64, new: NewRun, now: i64) -> Result<Run> {
        self.write_rows(move |tx| Box::pin(async move { create(tx, org_id, new, now).await })).await
    }
}

/// Queues a run.
pub async fn create(tx: &mut Tx, org_id: i64, new: NewRun, now: i64) -> Result<Run> {
    let images = serde_json::to_string(&new.images).map_err(|e| Error::Db(unreadable("images", e)))?;
    if let Some(repo_id) = new.repo_id {
        let archived: Option<i64> =
            sqlx::query_scalar("SELECT archived FROM repos WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL")
                .bind(org_id)
                .bind(repo_id)
                .fetch_optional(&mut tx.conn)
                .await?;
        if archived.ok_or(Error::NotFound)? != 0 {
            return Err(Error::Conflict("This repository is archived.".to_owned()));
        }
    }
    limits::count_run(tx, org_id, now).await?;
    let sql = format!(
        "INSERT INTO runs (org_id, user_id, repo_id, model, agent_type, source_type, phase, base_branch, base_commit,
                           push, open_pr, created_at, queued_at, log_seq, message_seq)
         VALUES ($1, $3, $4, $5, $6, $7, 'queued', $8, $9, $10, $11, $12, $12, 1, 1)
         RETURNING id, {}",
        events::IS_WANTED
    );
    let event = "run.created";
    let (run_id, is_wanted): (i64, i64) = sqlx::query_as(AssertSqlSafe(sql))
        .bind(org_id)
        .bind(events::pattern(event))
        .bind(new.user_id)
        .bind(new.repo_id)
        .bind(&new.model)
        .bind(&new.agent_type)
        .bind(&new.source_type)
        .bind(&new.base_branch)
        .bind(&new.base_commit)
        .bind(i64::from(new.push))
        .bind(i64::from(new.open_pr))
        .bind(now)
        .fetch_one(&mut tx.conn)
        .await?;
    sqlx::query(
        "INSERT INTO run_inputs (run_id, prompt, images, metadata, output_schema, tags) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(run_id)
    .bind(&new.prompt)
    .bind(images)
    .bind(&new.metadata)
    .bind(&new.output_schema)
    .bind(json!(new.tags).to_string())
    .execute(&mut tx.conn)
    .await?;
    removal::count(tx, org_id, new.user_id, &new.source_type, run_id, 1).await?;
    removal::tag(tx, org_id, run_id, &new.tags).await?;
    log::first(tx, org_id, run_id, "user_message", &message(&new.prompt, &new.images), now).await?;
    let asked = json!({ "user_id": new.user_id, "repo_id": new.repo_id, "source_type": new.source_type });
    audit::record(tx, org_id, Entry::new("run.created", "run", run_id, asked), now).await?;
    tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunQueued });
    let run = queued(org_id, run_id, new, now);
    if is_wanted != 0 {
        events::write(tx, &run, event, None, now).await?;
    }
    Ok(run)
}

/// A new run as its row has it, which need not be read again.
fn queued(org_id: i64, id: i64, new: NewRun, now: i64) -> Run {
    Run {
        id,
        org_id,
        user_id: new.user_id,
        repo_id: new.repo_id,
        prompt: new.prompt,
        images: new.images,
        metadata: new.metadata,
        model: new.model,
        agent_type: new.agent_type,
        source_type: new.source_type,
        phase: Phase::Queued,
        reason: None,
        result: None,
        summary: None,
        error_cause: None,
        base_branch: new.base_branch,
        base_commit: new.base_commit,
        branch: None,
        sandbox_id: None,
        stop_requested: false,
        attempt: 0,
        crashes: 0,
        worker_id: None,
        steps: 0,
        tokens_in: 0,
        tokens_out: 0,
        cost: 0.0,
        created_at: now,
        started_at: None,
        ended_at: None,
        push: new.push,
        open_pr: new.open_pr,
        diff_stat: None,
        log_seq: 1,
        message_seq: 1,
        tags: new.tags,
        archived: false,
        output_schema: new.output_schema,
        output: None,
    }
}
