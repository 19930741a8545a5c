//! Runs put away or removed, and the words on them.

use serde_json::json;

use crate::{
    Change, ChangeKind, Error, Result, RunAnswer, Store, audit,
    dialect::{self, Db, Tx},
    org_data::OF_RUN,
    run_answers::answer,
    run_filter::BLOCK,
};

/// Chunks of blobs, and entries of a log, that go in one commit.
const BLOBS: i64 = 64;
const ENTRIES: i64 = 2000;

impl Store {
    /// Archives a run or takes it back, and sets its tags; what is `None` stays.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_run(
        &self,
        org_id: i64,
        run_id: i64,
        archived: Option<bool>,
        tags: Option<Vec<String>>,
        now: i64,
    ) -> Result<RunAnswer> {
        self.write(move |tx| {
            Box::pin(async move {
                let row: Option<(i64, i64, String)> = sqlx::query_as(
                    "UPDATE runs SET archived = archived WHERE org_id = $1 AND id = $2
                     RETURNING archived, user_id, source_type",
                )
                .bind(org_id)
                .bind(run_id)
                .fetch_optional(&mut tx.conn)
                .await?;
                let (was, user_id, source_type) = row.ok_or(Error::NotFound)?;
                let archived = archived.map(i64::from).filter(|archived| *archived != was);
                if let Some(archived) = archived {
                    sqlx::query("UPDATE runs SET archived = $2 WHERE id = $1")
                        .bind(run_id)
                        .bind(archived)
                        .execute(&mut tx.conn)
                        .await?;
                    count(tx, org_id, user_id, &source_type, run_id, 1 - 2 * archived).await?;
                }
                if let Some(tags) = &tags {
                    sqlx::query("DELETE FROM run_tags WHERE run_id = $1").bind(run_id).execute(&mut tx.conn).await?;
                    sqlx::query("UPDATE run_inputs SET tags = $2 WHERE run_id = $1")
                        .bind(run_id)
                        .bind(json!(tags).to_string())
                        .execute(&mut tx.conn)
                        .await?;
                    tag(tx, org_id, run_id, tags).await?;
                }
                if archived.is_some() || tags.is_some() {
                    let after = json!({ "archived": archived.map(|archived| archived != 0), "tags": tags });
                    audit::record(tx, org_id, audit::Entry::new("run.changed", "run", run_id, after), now).await?;
                    tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunChanged });
                }
                answer(tx, run_id).await
            })
        })
        .await
    }

    /// Removes a run that is done, with all that the database has of it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] where it is not done.
    pub async fn remove_run(&self, org_id: i64, run_id: i64, now: i64) -> Result<()> {
        // The bulk goes in commits of its own, so that others' are not held up. A run that is asked to go on meanwhile has
        // lost its memory; who removes a run means it.
        while self.write(move |tx| Box::pin(remove_part(tx, org_id, run_id))).await? {}
        self.write(move |tx| {
            Box::pin(async move {
                must_be_done(tx, org_id, run_id).await?;
                let row: (i64, i64, String) =
                    sqlx::query_as("SELECT archived, user_id, source_type FROM runs WHERE id = $1")
                        .bind(run_id)
                        .fetch_one(&mut tx.conn)
                        .await?;
                let (archived, user_id, source_type) = row;
                if archived == 0 {
                    count(tx, org_id, user_id, &source_type, run_id, -1).await?;
                }
                dialect::forget(tx, run_id, 0, i64::MAX).await?;
                for sql in OF_RUN {
                    sqlx::query::<Db>(*sql).bind(run_id).execute(&mut tx.conn).await?;
                }
                audit::record(tx, org_id, audit::Entry::new("run.deleted", "run", run_id, json!(null)), now).await?;
                tx.changes.push(Change { org_id, run_id, kind: ChangeKind::RunChanged });
                Ok(())
            })
        })
        .await
    }
}

/// Removes some of a run's blobs or log; says whether there may be more.
async fn remove_part(tx: &mut Tx, org_id: i64, run_id: i64) -> Result<bool> {
    must_be_done(tx, org_id, run_id).await?;
    // What this removes is recorded with the run.
    audit::nothing_changed();
    let blobs = sqlx::query(
        "DELETE FROM blobs WHERE run_id = $1 AND (name, chunk) IN
             (SELECT name, chunk FROM blobs WHERE run_id = $1 LIMIT $2)",
    )
    .bind(run_id)
    .bind(BLOBS)
    .execute(&mut tx.conn)
    .await?
    .rows_affected();
    if blobs > 0 {
        return Ok(true);
    }
    let first: Option<i64> =
        sqlx::query_scalar("SELECT MIN(seq) FROM log WHERE run_id = $1").bind(run_id).fetch_one(&mut tx.conn).await?;
    let Some(first) = first else { return Ok(false) };
    dialect::forget(tx, run_id, first, first + ENTRIES).await?;
    sqlx::query("DELETE FROM log WHERE run_id = $1 AND seq < $2")
        .bind(run_id)
        .bind(first + ENTRIES)
        .execute(&mut tx.conn)
        .await?;
    Ok(true)
}

async fn must_be_done(tx: &mut Tx, org_id: i64, run_id: i64) -> Result<()> {
    let phase: Option<String> =
        sqlx::query_scalar("UPDATE runs SET phase = phase WHERE org_id = $1 AND id = $2 RETURNING phase")
            .bind(org_id)
            .bind(run_id)
            .fetch_optional(&mut tx.conn)
            .await?;
    match phase.ok_or(Error::NotFound)?.as_str() {
        "done" => Ok(()),
        _ => Err(Error::Conflict("The run has not ended.".to_owned())),
    }
}

/// Puts tags on a run that has none.
pub async fn tag(tx: &mut Tx, org_id: i64, run_id: i64, tags: &[String]) -> Result<()> {
    for tag in tags {
        sqlx::query("INSERT INTO run_tags (org_id, tag, run_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(org_id)
            .bind(tag)
            .bind(run_id)
            .execute(&mut tx.conn)
            .await?;
    }
    Ok(())
}

/// Counts runs that lists have, more or fewer.
pub async fn count(tx: &mut Tx, org_id: i64, user_id: i64, source_type: &str, run_id: i64, more: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO run_counts (org_id, user_id, source_type, runs) VALUES ($1, $2, $3, $4)
         ON CONFLICT (org_id, user_id, source_type) DO UPDATE SET runs = run_counts.runs + excluded.runs",
    )
    .bind(org_id)
    .bind(user_id)
    .bind(source_type)
    .bind(more)
    .execute(&mut tx.conn)
    .await?;
    sqlx::query(
        "INSERT INTO run_blocks (org_id, block, runs) VALUES ($1, $2, $3)
         ON CONFLICT (org_id, block) DO UPDATE SET runs = run_blocks.runs + excluded.runs",
    )
    .bind(org_id)
    .bind(run_id / BLOCK)
    .bind(more)
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}
