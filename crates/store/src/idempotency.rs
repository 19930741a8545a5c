//! Requests that have their effect once, however often they are sent: the answer is kept in the transaction of the effect.

use std::sync::Arc;

use crate::{
    Error, NewRun, Result, RunAnswer, Store, audit, dialect::Tx, new_runs, run_answers::answer as answer_of, runs,
};

/// How long an answer is kept, in milliseconds.
pub const KEPT_MS: i64 = 24 * 3600 * 1000;

/// One request among those of its token and path.
#[derive(Debug, Clone)]
pub struct RequestKey {
    /// Whose request.
    pub token_id: i64,
    /// To which operation.
    pub path: String,
    /// The caller's word for it.
    pub key: String,
    /// Tells bodies apart.
    pub body_hash: String,
}

/// What shall be done to a run, once.
#[derive(Debug, Clone)]
pub enum Ask {
    /// [`Store::create_run`].
    Create(NewRun),
    /// [`Store::add_message`].
    Message {
        /// To which run.
        run_id: i64,
        /// The words.
        text: String,
        /// Images, as data URIs.
        images: Vec<String>,
        /// Replaces [`Run::output_schema`](crate::Run::output_schema), where the run has ended.
        output_schema: Option<String>,
    },
    /// [`Store::request_stop`].
    Stop {
        /// Which run.
        run_id: i64,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// It was done now; the answer that was made.
    Now(String),
    /// It was done before; the answer of then.
    Before(String),
    /// The key was used for another body.
    OtherBody,
}

/// Makes the answer from the run as it is after the effect.
pub type Answer = Arc<dyn Fn(RunAnswer) -> Result<String, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

impl Store {
    /// Does what is asked.
    ///
    /// # Errors
    /// Those of what is asked.
    pub async fn ask(&self, org_id: i64, ask: Ask, now: i64) -> Result<RunAnswer> {
        self.write_rows(move |tx| Box::pin(async move { done(tx, org_id, ask, now).await })).await
    }

    /// Does what is asked unless this key did it within the last 24 hours.
    ///
    /// # Errors
    /// Those of what is asked; then nothing is kept and the key is free.
    pub async fn ask_once(&self, org_id: i64, key: RequestKey, ask: Ask, answer: Answer, now: i64) -> Result<Answered> {
        self.write(move |tx| Box::pin(async move { ask_once(tx, org_id, key, ask, answer, now).await })).await
    }
}

async fn done(tx: &mut Tx, org_id: i64, ask: Ask, now: i64) -> Result<RunAnswer> {
    let run_id = match ask {
        Ask::Create(new) => return Ok(RunAnswer::of_new(new_runs::create(tx, org_id, new, now).await?)),
        Ask::Message { run_id, text, images, output_schema } => {
            if let Some(schema) = output_schema {
                runs::set_output_schema(tx, org_id, run_id, &schema).await?;
            }
            runs::add_message(tx, org_id, run_id, &text, &images, now).await?;
            run_id
        }
        Ask::Stop { run_id } => {
            runs::request_stop(tx, org_id, run_id, now).await?;
            run_id
        }
    };
    answer_of(tx, run_id).await
}

async fn ask_once(tx: &mut Tx, org_id: i64, key: RequestKey, ask: Ask, answer: Answer, now: i64) -> Result<Answered> {
    sqlx::query("DELETE FROM idempotency_keys WHERE created_at <= $1")
        .bind(now - KEPT_MS)
        .execute(&mut tx.conn)
        .await?;
    let before: Option<(String, String)> =
        sqlx::query_as("SELECT body_hash, answer FROM idempotency_keys WHERE token_id = $1 AND path = $2 AND key = $3")
            .bind(key.token_id)
            .bind(&key.path)
            .bind(&key.key)
            .fetch_optional(&mut tx.conn)
            .await?;
    match before {
        Some((body_hash, _)) if body_hash != key.body_hash => {
            audit::nothing_changed();
            return Ok(Answered::OtherBody);
        }
        Some((_, answer)) => {
            audit::nothing_changed();
            return Ok(Answered::Before(answer));
        }
        None => {}
    }
    let run = done(tx, org_id, ask, now).await?;
    let answer = answer(run).map_err(Error::Answer)?;
    sqlx::query(
        "INSERT INTO idempotency_keys (token_id, path, key, body_hash, answer, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(key.token_id)
    .bind(&key.path)
    .bind(&key.key)
    .bind(&key.body_hash)
    .bind(&answer)
    .bind(now)
    .execute(&mut tx.conn)
    .await?;
    Ok(Answered::Now(answer))
}
