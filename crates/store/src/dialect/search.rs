//! Full-text search: FTS5 of SQLite, text search vectors of PostgreSQL.

use futures::TryStreamExt as _;

use super::{Kind, Readers, Tx};
use crate::{
    Result,
    builder::Builder,
    words::{self, Term},
};

/// Places in a run's log that are shown.
const PLACES: i64 = 3;
/// Bits of an SQLite rowid that are the entry's seq; the others are the run.
pub(super) const SEQ_BITS: u32 = 24;

/// Terms as the database takes them: each of them and, of SQLite, only of this organization. None without any.
fn expression(kind: Kind, org_id: i64, terms: &[Term]) -> Option<String> {
    let each: Vec<String> = terms
        .iter()
        .map(|term| match kind {
            Kind::Sqlite => format!("\"{}\"{}", term.words.join(" "), if term.is_beginning { " *" } else { "" }),
            Kind::Postgres => {
                // Words are letters and digits, so there is nothing in them to escape.
                format!("'{}'{}", term.words.join("' <-> '"), if term.is_beginning { ":*" } else { "" })
            }
        })
        .collect();
    (!each.is_empty()).then(|| match kind {
        Kind::Sqlite => format!("org : \"org{org_id}\" AND text : ({})", each.join(" AND ")),
        Kind::Postgres => each.join(" & "),
    })
}

/// Adds the condition that a run's log has these words to a query over `runs`.
pub fn push_found(readers: &Readers, query: &mut Builder, org_id: i64, words: &str) -> Result<()> {
    let Some(expression) = expression(readers.kind(), org_id, &words::terms(words)) else {
        query.push(" AND 1 = 0");
        return Ok(());
    };
    match readers.kind() {
        Kind::Sqlite => {
            query.push(&format!(" AND runs.id IN (SELECT rowid >> {SEQ_BITS} FROM search WHERE search MATCH "));
            query.bind(expression)?.push(")");
        }
        Kind::Postgres => {
            query.push(" AND runs.id IN (SELECT run_id FROM search WHERE org_id = ").bind(org_id)?;
            query.push(" AND words @@ to_tsquery('simple', ").bind(expression)?.push("))");
        }
    }
    Ok(())
}

/// Runs that have these words, newest first, with the first places: run, seq and the words around.
pub async fn find(
    readers: &Readers,
    org_id: i64,
    words: &str,
    before: i64,
    limit: i64,
) -> Result<Vec<(i64, i64, String)>> {
    let terms = words::terms(words);
    let Some(expression) = expression(readers.kind(), org_id, &terms) else { return Ok(Vec::new()) };
    let mut rows = match readers.kind() {
        Kind::Sqlite => find_in_sqlite(readers, &expression, before, limit).await?,
        Kind::Postgres => {
            sqlx::query_as::<_, (i64, i64, String)>(
                "WITH found AS (
                     SELECT DISTINCT run_id FROM search
                     WHERE org_id = $1 AND words @@ to_tsquery('simple', $2) AND run_id < $3 ORDER BY run_id DESC LIMIT $4
                 ), places AS (
                     SELECT search.run_id, search.seq, search.text,
                            ROW_NUMBER() OVER (PARTITION BY search.run_id ORDER BY search.seq) AS place
                     FROM search JOIN found ON found.run_id = search.run_id
                     WHERE search.org_id = $1 AND search.words @@ to_tsquery('simple', $2)
                 )
                 SELECT run_id, seq, text FROM places WHERE place <= $5 ORDER BY run_id DESC, seq",
            )
            .bind(org_id)
            .bind(expression)
            .bind(before)
            .bind(limit)
            .bind(PLACES)
            .fetch_all(readers)
            .await?
        }
    };
    rows.iter_mut().for_each(|(_, _, text)| *text = words::snippet(text, &terms));
    Ok(rows)
}

/// Gives whole texts.
async fn find_in_sqlite(
    readers: &Readers,
    expression: &str,
    before: i64,
    limit: i64,
) -> Result<Vec<(i64, i64, String)>> {
    let below = before.min(i64::MAX >> SEQ_BITS) << SEQ_BITS;
    let mut runs: Vec<i64> = Vec::new();
    {
        // In the order of the index, so that no more is read than it takes.
        let mut found = sqlx::query_scalar::<super::Db, i64>(
            "SELECT rowid FROM search WHERE search MATCH $1 AND rowid < $2 ORDER BY rowid DESC",
        )
        .bind(expression.to_owned())
        .bind(below)
        .fetch(readers);
        while let Some(rowid) = found.try_next().await? {
            let run = rowid >> SEQ_BITS;
            if runs.last() != Some(&run) {
                if i64::try_from(runs.len()).is_ok_and(|n| n >= limit) {
                    break;
                }
                runs.push(run);
            }
        }
    }
    let mut rows = Vec::new();
    for run in runs {
        let places: Vec<(i64, String)> = sqlx::query_as(
            "SELECT rowid, text FROM search
             WHERE search MATCH $1 AND rowid >= $2 AND rowid < $3 ORDER BY rowid LIMIT $4",
        )
        .bind(expression.to_owned())
        .bind(run << SEQ_BITS)
        .bind((run + 1) << SEQ_BITS)
        .bind(PLACES)
        .fetch_all(readers)
        .await?;
        rows.extend(places.into_iter().map(|(rowid, text)| (run, rowid - (run << SEQ_BITS), text)));
    }
    Ok(rows)
}

/// Takes an entry of a log in.
pub async fn index(tx: &mut Tx, org_id: i64, run_id: i64, seq: i64, text: &str) -> Result<()> {
    match tx.kind {
        Kind::Sqlite if seq >> SEQ_BITS > 0 => {}
        Kind::Sqlite => {
            sqlx::query("INSERT INTO search (rowid, text, org) VALUES ($1, $2, $3)")
                .bind((run_id << SEQ_BITS) + seq)
                .bind(text.to_owned())
                .bind(format!("org{org_id}"))
                .execute(&mut tx.conn)
                .await?;
        }
        Kind::Postgres => {
            sqlx::query("INSERT INTO search (run_id, seq, org_id, text, words) VALUES ($1, $2, $3, $4, to_tsvector('simple', $5))")
                .bind(run_id)
                .bind(seq)
                .bind(org_id)
                .bind(text.to_owned())
                .bind(words::folded(text))
                .execute(&mut tx.conn)
                .await?;
        }
    }
    Ok(())
}

/// Forgets entries of a run's log from one seq to before another.
pub async fn forget(tx: &mut Tx, run_id: i64, from: i64, to: i64) -> Result<()> {
    let most = 1 << SEQ_BITS;
    let (statement, shift) = match tx.kind {
        Kind::Sqlite => ("DELETE FROM search WHERE rowid >= $1 + $2 AND rowid < $1 + $3", SEQ_BITS),
        Kind::Postgres => ("DELETE FROM search WHERE run_id = $1 AND seq >= $2 AND seq < $3", 0),
    };
    sqlx::query(statement)
        .bind(run_id << shift)
        .bind(from.clamp(0, most))
        .bind(to.clamp(0, most))
        .execute(&mut tx.conn)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_words_whatever_they_are_made_of() {
        let of = |kind, text| expression(kind, 7, &words::terms(text));
        assert_eq!(
            of(Kind::Sqlite, "foo OR \"two words\" b*ar").as_deref(),
            Some("org : \"org7\" AND text : (\"foo\" * AND \"or\" * AND \"two words\" AND \"b ar\" *)")
        );
        assert_eq!(of(Kind::Sqlite, " \" - \" ( ) "), None);
        assert_eq!(
            of(Kind::Postgres, "it's \"two words\" a\\b").as_deref(),
            Some("'it' <-> 's':* & 'two' <-> 'words' & 'a' <-> 'b':*")
        );
    }
}
