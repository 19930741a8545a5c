//! Full-text search over what runs were asked, said, did and came to. It is filled from logs some time after they were
//! written, so that writing them waits for nothing.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Result, Store, dialect, log::LogRow, row::without_nul};

/// Entries that one commit takes in.
const BATCH: i64 = 200;
/// Bytes of an entry that can be found: the beginning of a command's output says what it is.
const LONGEST: usize = 8 << 10;
/// Keys whose values nobody looks for.
const UNSEARCHED: [&str; 12] = [
    "kind",
    "images",
    "call_id",
    "id",
    "calls",
    "status",
    "reason",
    "usage",
    "full_output",
    "full_output_blob",
    "stop",
    "model",
];

/// A place in a run's log where the words were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Which entry.
    pub seq: i64,
    /// Words around, with those that were looked for between U+0002 and U+0003.
    pub snippet: String,
}

/// A run that has the words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which run.
    pub run_id: i64,
    /// Where, its first places.
    pub matches: Vec<Match>,
}

impl Store {
    /// Runs whose logs have all these words (or words that begin so), newest first, only those older than `before`. Words
    /// between quotation marks must stand side by side.
    ///
    /// # Errors
    /// The database's.
    pub async fn search(&self, org_id: i64, words: &str, before: Option<i64>, limit: i64) -> Result<Vec<Found>> {
        let rows = dialect::find(&self.readers, org_id, words, before.unwrap_or(i64::MAX), limit).await?;
        let mut found: BTreeMap<i64, Vec<Match>> = BTreeMap::new();
        for (run_id, seq, snippet) in rows {
            found.entry(run_id).or_default().push(Match { seq, snippet });
        }
        Ok(found.into_iter().rev().map(|(run_id, matches)| Found { run_id, matches }).collect())
    }

    /// Takes new entries of a run's log into the search; says whether there are more.
    ///
    /// # Errors
    /// The database's.
    pub async fn index_log(&self, run_id: i64) -> Result<bool> {
        self.write(move |tx| {
            Box::pin(async move {
                let org_id: Option<i64> = sqlx::query_scalar("SELECT org_id FROM runs WHERE id = $1")
                    .bind(run_id)
                    .fetch_optional(&mut tx.conn)
                    .await?;
                let Some(org_id) = org_id else { return Ok(false) };
                // Keeps the row until the commit: of two servers one takes an entry in.
                let seq: i64 = sqlx::query_scalar(
                    "INSERT INTO search_state (run_id, seq) VALUES ($1, 0)
                     ON CONFLICT (run_id) DO UPDATE SET seq = search_state.seq RETURNING seq",
                )
                .bind(run_id)
                .fetch_one(&mut tx.conn)
                .await?;
                let rows = sqlx::query_as::<dialect::Db, LogRow>(
                    "SELECT * FROM log WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
                )
                .bind(run_id)
                .bind(seq)
                .bind(BATCH)
                .fetch_all(&mut tx.conn)
                .await?;
                let Some(last) = rows.last().map(|row| row.seq) else { return Ok(false) };
                for row in &rows {
                    let text = text_of(row);
                    if !text.is_empty() {
                        dialect::index(tx, org_id, run_id, row.seq, &text).await?;
                    }
                }
                sqlx::query("UPDATE search_state SET seq = $2 WHERE run_id = $1")
                    .bind(run_id)
                    .bind(last)
                    .execute(&mut tx.conn)
                    .await?;
                Ok(i64::try_from(rows.len()).is_ok_and(|n| n == BATCH))
            })
        })
        .await
    }

    /// Runs with entries that the search has not taken in, by id, from after one on.
    ///
    /// # Errors
    /// The database's.
    pub async fn unindexed_runs(&self, after: i64, limit: i64) -> Result<Vec<i64>> {
        let ids = sqlx::query_scalar(
            "SELECT runs.id FROM runs LEFT JOIN search_state ON search_state.run_id = runs.id
             WHERE runs.id > $1 AND runs.log_seq > COALESCE(search_state.seq, 0) ORDER BY runs.id LIMIT $2",
        )
        .bind(after)
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        Ok(ids)
    }
}

/// What of an entry can be found.
fn text_of(row: &LogRow) -> String {
    let mut text = String::new();
    if matches!(row.kind.as_str(), "user_message" | "reply" | "call_finished" | "result" | "pull_request") {
        collect(&serde_json::from_str(&row.body).unwrap_or_default(), &mut text);
    }
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
    }
    without_nul(text)
}

fn collect(value: &Value, text: &mut String) {
    if text.len() > LONGEST {
        return;
    }
    match value {
        Value::String(words) => {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(words);
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, text)),
        Value::Object(fields) => {
            for (_, value) in fields.iter().filter(|(key, _)| !UNSEARCHED.contains(&key.as_str())) {
                collect(value, text);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
