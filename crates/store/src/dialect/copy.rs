//! All rows of one database in another one: from SQLite to PostgreSQL, and from PostgreSQL into a new file of SQLite's, which is
//! how a backup of it is kept. What there is to copy is read from the schema of the file.

use std::{collections::HashSet, fmt::Write as _, path::Path};

use futures::TryStreamExt as _;
use sqlx::{
    Arguments as _, AssertSqlSafe, Connection as _, Row as _, ValueRef as _,
    any::{AnyArguments, AnyTypeInfoKind},
    postgres::PgConnection,
};

use super::{Connection, Db, Row, postgres, search::SEQ_BITS, sqlite};
use crate::{Copied, Error, Progress, Result, words};

/// What the search has taken in of which log. Where it is missing, a server makes it again from the logs.
const SEARCHED: &str = "search_state";
/// The words that it has taken in.
const WORDS: &str = "search";
/// Bytes of rows that are sent together.
const CHUNK: usize = 1 << 20;
/// Values of a statement that inserts several rows.
const VALUES: usize = 1000;

/// A table to copy.
struct Table {
    name: String,
    columns: String,
    width: usize,
    /// Whether the database numbers its rows.
    is_numbered: bool,
}

/// Tells how far a copy is.
pub type Tell<'t> = &'t mut (dyn FnMut(Progress<'_>) + Send);

/// The tables of a SQLite database, each after those that it refers to.
async fn tables(conn: &mut Connection) -> Result<Vec<Table>> {
    // The search is a virtual table with its own shadows, and both are left out.
    let mut waiting: Vec<(String, String)> = sqlx::query_as(
        "SELECT list.name, made.sql FROM pragma_table_list AS list JOIN sqlite_schema AS made ON made.name = list.name
         WHERE list.schema = 'main' AND list.type = 'table' AND made.type = 'table' AND list.name <> '_sqlx_migrations'
             AND substr(list.name, 1, 7) <> 'sqlite_'
         ORDER BY list.name",
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut tables = Vec::new();
    let mut there = HashSet::new();
    while !waiting.is_empty() {
        let (before, mut left) = (waiting.len(), Vec::new());
        for (name, sql) in waiting {
            let refers: Vec<String> = sqlx::query_scalar("SELECT DISTINCT \"table\" FROM pragma_foreign_key_list($1)")
                .bind(&name)
                .fetch_all(&mut *conn)
                .await?;
            if refers.iter().any(|other| *other != name && !there.contains(other)) {
                left.push((name, sql));
                continue;
            }
            let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info($1) ORDER BY cid")
                .bind(&name)
                .fetch_all(&mut *conn)
                .await?;
            let width = columns.len();
            let columns = columns.iter().map(|column| format!("\"{column}\"")).collect::<Vec<_>>().join(", ");
            there.insert(name.clone());
            tables.push(Table { name, columns, width, is_numbered: sql.contains("AUTOINCREMENT") });
        }
        if left.len() == before {
            let names: Vec<String> = left.into_iter().map(|(name, _)| name).collect();
            return Err(Error::Conflict(format!("the tables {} refer to each other", names.join(", "))));
        }
        waiting = left;
    }
    Ok(tables)
}

/// Copies a SQLite database of this version into an empty PostgreSQL database, or nothing of it.
pub async fn into_postgres(path: &Path, url: &str, tell: Tell<'_>) -> Result<Vec<Copied>> {
    let mut source = sqlite::read_whole(path).await?;
    let tables = tables(&mut source).await?;
    postgres::migrate_at(url).await?;
    let unreachable = |source| Error::Unreachable { place: postgres::place(url), source };
    let mut target = PgConnection::connect(url).await.map_err(unreachable)?;
    // Whoever else starts on this database waits for the end of this.
    sqlx::raw_sql("BEGIN; SELECT pg_advisory_xact_lock(hashtext(current_schema()), 1)").execute(&mut target).await?;
    for table in &tables {
        let sql = AssertSqlSafe(format!("SELECT COUNT(*) FROM (SELECT 1 FROM {} LIMIT 1) AS found", table.name));
        if sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut target).await? > 0 {
            let place = postgres::place(url);
            return Err(Error::Conflict(format!(
                "the database {place} is not empty, its table {} has rows: name an empty database or schema",
                table.name
            )));
        }
    }
    let mut copied = Vec::new();
    for table in &tables {
        let rows = send(&mut source, &mut target, table, tell)
            .await
            .map_err(|source| Error::Copy { table: table.name.clone(), source })?;
        copied.push(Copied { table: table.name.clone(), rows });
    }
    let rows = send_words(&mut source, &mut target, tell)
        .await
        .map_err(|source| Error::Copy { table: WORDS.to_owned(), source })?;
    copied.push(Copied { table: WORDS.to_owned(), rows });
    for Copied { table, rows } in &copied {
        let count = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        check(table, *rows, sqlx::query_scalar(count).fetch_one(&mut target).await?)?;
    }
    let names: Vec<&str> = copied.iter().map(|copied| copied.table.as_str()).collect();
    let end = format!("COMMIT; ANALYZE {}", names.join(", "));
    sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut target).await?;
    // It is done; whatever the connections say, nothing is left to do on them.
    target.close().await.ok();
    source.close().await.ok();
    Ok(copied)
}

/// Copies one table, and the number that its next row gets.
async fn send(
    source: &mut Connection,
    target: &mut PgConnection,
    table: &Table,
    tell: Tell<'_>,
) -> Result<i64, sqlx::Error> {
    let Table { name, columns, width, .. } = table;
    let of = count(source, name).await?;
    let mut copy = target.copy_in_raw(&format!("COPY {name} ({columns}) FROM STDIN")).await?;
    let select = AssertSqlSafe(format!("SELECT {columns} FROM {name}"));
    let mut found = sqlx::query::<Db>(select).fetch(&mut *source);
    let (mut lines, mut rows) = (String::with_capacity(2 * CHUNK), 0);
    while let Some(row) = found.try_next().await? {
        for column in 0..*width {
            if column > 0 {
                lines.push('\t');
            }
            push_field(&mut lines, &row, column)?;
        }
        lines.push('\n');
        rows += 1;
        if lines.len() >= CHUNK {
            copy.send(lines.as_bytes()).await?;
            lines.clear();
            tell(Progress { what: name, done: rows, of });
        }
    }
    drop(found);
    copy.send(lines.as_bytes()).await?;
    copy.finish().await?;
    tell(Progress { what: name, done: rows, of });
    if table.is_numbered {
        let last: Option<i64> = sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = $1")
            .bind(name)
            .fetch_optional(source)
            .await?;
        if let Some(last) = last.filter(|last| *last > 0) {
            sqlx::query("SELECT setval(pg_get_serial_sequence($1, 'id'), $2)")
                .bind(name)
                .bind(last)
                .execute(target)
                .await?;
        }
    }
    Ok(rows)
}

/// Copies the words of the search, which each database keeps in its own way, so that all is found at once. Gives how many
/// entries of logs they are of.
async fn send_words(source: &mut Connection, target: &mut PgConnection, tell: Tell<'_>) -> Result<i64, sqlx::Error> {
    let of = count(source, WORDS).await?;
    sqlx::raw_sql("CREATE TEMPORARY TABLE sent (run_id BIGINT, seq BIGINT, text TEXT, folded TEXT) ON COMMIT DROP")
        .execute(&mut *target)
        .await?;
    let mut copy = target.copy_in_raw("COPY sent FROM STDIN").await?;
    let select =
        AssertSqlSafe(format!("SELECT rowid >> {SEQ_BITS}, rowid & {}, text FROM {WORDS}", (1_i64 << SEQ_BITS) - 1));
    let mut found = sqlx::query::<Db>(select).fetch(&mut *source);
    let (mut lines, mut rows) = (String::with_capacity(2 * CHUNK), 0);
    while let Some(row) = found.try_next().await? {
        for column in 0..3 {
            push_field(&mut lines, &row, column)?;
            lines.push('\t');
        }
        push_text(&mut lines, &words::folded(row.try_get::<&str, _>(2)?));
        lines.push('\n');
        rows += 1;
        if lines.len() >= CHUNK {
            copy.send(lines.as_bytes()).await?;
            lines.clear();
            tell(Progress { what: WORDS, done: rows, of });
        }
    }
    drop(found);
    copy.send(lines.as_bytes()).await?;
    copy.finish().await?;
    let taken = sqlx::query(
        "INSERT INTO search (run_id, seq, org_id, text, words)
         SELECT sent.run_id, sent.seq, runs.org_id, sent.text, to_tsvector('simple', sent.folded)
         FROM sent JOIN runs ON runs.id = sent.run_id",
    )
    .execute(&mut *target)
    .await?
    .rows_affected();
    tell(Progress { what: WORDS, done: rows, of });
    Ok(i64::try_from(taken).unwrap_or(i64::MAX))
}

/// A value as COPY reads it.
fn push_field(lines: &mut String, row: &Row, column: usize) -> Result<(), sqlx::Error> {
    let value = row.try_get_raw(column)?;
    // Writing to a String cannot fail.
    if value.is_null() {
        lines.push_str("\\N");
        return Ok(());
    }
    match value.type_info().kind() {
        AnyTypeInfoKind::Text => push_text(lines, row.try_get(column)?),
        AnyTypeInfoKind::Double | AnyTypeInfoKind::Real => {
            write!(lines, "{:?}", row.try_get::<f64, _>(column)?).unwrap_or_default();
        }
        AnyTypeInfoKind::Blob => {
            lines.push_str("\\\\x");
            for byte in row.try_get::<&[u8], _>(column)? {
                write!(lines, "{byte:02x}").unwrap_or_default();
            }
        }
        AnyTypeInfoKind::Null | AnyTypeInfoKind::Bool => lines.push_str("\\N"),
        AnyTypeInfoKind::SmallInt | AnyTypeInfoKind::Integer | AnyTypeInfoKind::BigInt => {
            write!(lines, "{}", row.try_get::<i64, _>(column)?).unwrap_or_default();
        }
    }
    Ok(())
}

fn push_text(lines: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => lines.push_str("\\\\"),
            '\t' => lines.push_str("\\t"),
            '\n' => lines.push_str("\\n"),
            '\r' => lines.push_str("\\r"),
            c => lines.push(c),
        }
    }
}

/// Copies a PostgreSQL database of this version, as it is at one moment, into a new file of SQLite's, while others write.
pub async fn into_sqlite(url: &str, path: &Path, tell: Tell<'_>) -> Result<Vec<Copied>> {
    postgres::is_current(url).await?;
    sqlx::any::install_default_drivers();
    let mut target = sqlite::make_whole(path).await?;
    let unreachable = |source| Error::Unreachable { place: postgres::place(url), source };
    let mut source = Connection::connect(url).await.map_err(unreachable)?;
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut source).await?;
    let mut copied = Vec::new();
    sqlx::raw_sql("BEGIN").execute(&mut target).await?;
    // Its words are not taken along, so that the file is small.
    for table in tables(&mut target).await?.into_iter().filter(|table| table.name != SEARCHED) {
        let rows = take(&mut source, &mut target, &table, tell)
            .await
            .map_err(|source| Error::Copy { table: table.name.clone(), source })?;
        check(&table.name, rows, count(&mut target, &table.name).await?)?;
        copied.push(Copied { table: table.name, rows });
    }
    sqlx::raw_sql("COMMIT").execute(&mut target).await?;
    let broken: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT \"table\" FROM pragma_foreign_key_check").fetch_all(&mut target).await?;
    if !broken.is_empty() {
        return Err(Error::Conflict(format!("rows of {} refer to rows that are not there", broken.join(", "))));
    }
    target.close().await?;
    // Nothing is left to do on it.
    source.close().await.ok();
    Ok(copied)
}

/// Copies one table, and the number that its next row gets.
async fn take(
    source: &mut Connection,
    target: &mut Connection,
    table: &Table,
    tell: Tell<'_>,
) -> Result<i64, sqlx::Error> {
    let Table { name, columns, width, .. } = table;
    let of = count(source, name).await?;
    let most = (VALUES / width).max(1);
    let select = AssertSqlSafe(format!("SELECT {columns} FROM {name}"));
    let mut found = sqlx::query::<Db>(select).fetch(&mut *source);
    let (mut waiting, mut bytes, mut rows) = (AnyArguments::default(), 0, 0);
    loop {
        let row = found.try_next().await?;
        if let Some(row) = &row {
            for column in 0..*width {
                bytes += push_argument(&mut waiting, row, column)?;
            }
        }
        let gathered = waiting.len() / width;
        if gathered > 0 && (row.is_none() || gathered == most || bytes >= CHUNK) {
            let one = format!("({})", vec!["?"; *width].join(", "));
            let insert = format!("INSERT INTO {name} ({columns}) VALUES {}", vec![one.as_str(); gathered].join(", "));
            sqlx::query_with::<Db, _>(AssertSqlSafe(insert), std::mem::take(&mut waiting))
                .persistent(gathered == most)
                .execute(&mut *target)
                .await?;
            rows += gathered as i64;
            bytes = 0;
            tell(Progress { what: name, done: rows, of });
        }
        if row.is_none() {
            break;
        }
    }
    drop(found);
    if table.is_numbered {
        let last: Option<i64> =
            sqlx::query_scalar("SELECT pg_sequence_last_value(CAST(pg_get_serial_sequence($1, 'id') AS regclass))")
                .bind(name)
                .fetch_one(source)
                .await?;
        // SQLite has noted the highest number that it was given; others may have been given out and removed.
        let noted = sqlx::query("UPDATE sqlite_sequence SET seq = MAX(seq, $2) WHERE name = $1")
            .bind(name)
            .bind(last.unwrap_or(0))
            .execute(&mut *target)
            .await?;
        if noted.rows_affected() == 0 {
            sqlx::query("INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)")
                .bind(name)
                .bind(last.unwrap_or(0))
                .execute(target)
                .await?;
        }
    }
    Ok(rows)
}

/// Adds a value; gives its size.
fn push_argument(arguments: &mut AnyArguments, row: &Row, column: usize) -> Result<usize, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    let (is_null, kind) = (value.is_null(), value.type_info().kind());
    let (added, size) = if is_null {
        (arguments.add(None::<i64>), 8)
    } else {
        match kind {
            AnyTypeInfoKind::Text => {
                let text: String = row.try_get(column)?;
                let size = text.len();
                (arguments.add(text), size)
            }
            AnyTypeInfoKind::Blob => {
                let blob: Vec<u8> = row.try_get(column)?;
                let size = blob.len();
                (arguments.add(blob), size)
            }
            AnyTypeInfoKind::Double | AnyTypeInfoKind::Real => (arguments.add(row.try_get::<f64, _>(column)?), 8),
            AnyTypeInfoKind::Null | AnyTypeInfoKind::Bool => (arguments.add(None::<i64>), 8),
            AnyTypeInfoKind::SmallInt | AnyTypeInfoKind::Integer | AnyTypeInfoKind::BigInt => {
                (arguments.add(row.try_get::<i64, _>(column)?), 8)
            }
        }
    };
    added.map_err(sqlx::Error::Encode)?;
    Ok(size)
}

async fn count(conn: &mut Connection, table: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"))).fetch_one(conn).await
}

fn check(table: &str, sent: i64, found: i64) -> Result<()> {
    if sent == found {
        return Ok(());
    }
    Err(Error::Conflict(format!("{sent} rows of {table} were sent and {found} are there: nothing was kept")))
}
