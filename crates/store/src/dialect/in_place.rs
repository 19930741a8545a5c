//! SQLite asked in place, by the thread that asks. sqlx gives each connection a thread of its own; the ways there and back cost
//! several times what a small statement does.
//!
//! Rows and refusals are those of sqlx, so that nobody else knows the difference. What would read a lot at once does not
//! belong here: it would keep its thread from everything else.

use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    FutureExt as _, StreamExt as _, TryFutureExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use rusqlite::{
    Batch, OpenFlags, Statement,
    fallible_iterator::FallibleIterator as _,
    types::{Null, ValueRef},
};
use sqlx::{
    AnyConnection, Either, Error, Execute, Executor, SqlStr,
    any::{Any, AnyArguments, AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo, AnyTypeInfoKind, AnyValue},
    error::{DatabaseError, ErrorKind},
};
use sqlx_core::{
    any::{AnyColumn, AnyValueKind},
    ext::ustr::UStr,
};

/// Statements that a connection keeps prepared.
const PREPARED: usize = 200;
/// Statements whose columns are remembered; more are forgotten at once.
const REMEMBERED: usize = 500;
/// Reading connections that are kept; there are never more than threads that ask.
const KEPT: usize = 8;

/// A connection to SQLite.
pub struct InPlace {
    conn: rusqlite::Connection,
    /// By statement.
    columns: HashMap<String, Arc<Columns>>,
}

/// The columns of a statement's rows.
struct Columns {
    names: Arc<sqlx_core::HashMap<UStr, usize>>,
    list: Vec<AnyColumn>,
}

/// A statement with its parameters, apart from who asks it.
pub struct Query {
    /// The text.
    pub sql: SqlStr,
    /// What goes in; `None` where it may be several statements.
    pub arguments: Option<AnyArguments>,
    /// Whether it will be asked again.
    pub persistent: bool,
}

impl Query {
    /// Takes a query apart.
    pub fn of<'q>(mut query: impl Execute<'q, Any>) -> Result<Self, Error> {
        let arguments = query.take_arguments().map_err(Error::Encode)?;
        let persistent = query.persistent();
        Ok(Self { sql: query.sql(), arguments, persistent })
    }
}

/// What came of a query.
#[derive(Default)]
struct Found {
    rows: Vec<AnyRow>,
    changed: u64,
}

/// The rows of an answer, then how many it changed.
pub type Steps = BoxStream<'static, Result<Either<AnyQueryResult, AnyRow>, Error>>;

impl Found {
    fn into_steps(self) -> Steps {
        let done = AnyQueryResult { rows_affected: self.changed, last_insert_id: None };
        let steps = self.rows.into_iter().map(Either::Right).chain(std::iter::once(Either::Left(done)));
        stream::iter(steps.map(Ok)).boxed()
    }
}

impl InPlace {
    /// Opens a database that is there, and tells the connection this.
    pub fn open(path: &Path, pragmas: &str) -> Result<Self, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = rusqlite::Connection::open_with_flags(path, flags).map_err(refused)?;
        conn.set_prepared_statement_cache_capacity(PREPARED);
        conn.execute_batch(pragmas).map_err(refused)?;
        Ok(Self { conn, columns: HashMap::new() })
    }

    /// Closes it; where SQLite refuses, it is given up.
    pub fn close(self) -> Result<(), Error> {
        self.conn.close().map_err(|(_, error)| refused(error))
    }

    /// Asks, and reads up to `most` rows.
    fn ask(&mut self, query: &Query, most: usize) -> Result<Found, Error> {
        let sql = query.sql.as_str();
        let Some(arguments) = &query.arguments else { return self.ask_each(sql) };
        let rows = if query.persistent {
            let mut statement = self.conn.prepare_cached(sql).map_err(refused)?;
            let columns = remembered(&mut self.columns, sql, &statement)?;
            rows(&mut statement, arguments, &columns, most)?
        } else {
            let mut statement = self.conn.prepare(sql).map_err(refused)?;
            let columns = Columns::of(&statement)?;
            rows(&mut statement, arguments, &columns, most)?
        };
        Ok(Found { rows, changed: self.conn.changes() })
    }

    /// Several statements, one after the other.
    fn ask_each(&mut self, sql: &str) -> Result<Found, Error> {
        let mut found = Found::default();
        let mut batch = Batch::new(&self.conn, sql);
        while let Some(mut statement) = batch.next().map_err(refused)? {
            let columns = Columns::of(&statement)?;
            found.rows.extend(rows(&mut statement, &AnyArguments::default(), &columns, usize::MAX)?);
            found.changed += self.conn.changes();
        }
        Ok(found)
    }
}

impl Columns {
    fn of(statement: &Statement<'_>) -> Result<Self, Error> {
        let mut list = Vec::with_capacity(statement.column_count());
        for ordinal in 0..statement.column_count() {
            let name = UStr::new(statement.column_name(ordinal).map_err(refused)?);
            list.push(AnyColumn { ordinal, name, type_info: AnyTypeInfo { kind: AnyTypeInfoKind::Null } });
        }
        let names = list.iter().map(|column| (column.name.clone(), column.ordinal)).collect();
        Ok(Self { names: Arc::new(names), list })
    }

    fn row(&self, row: &rusqlite::Row<'_>) -> Result<AnyRow, Error> {
        let mut values = Vec::with_capacity(self.list.len());
        for ordinal in 0..self.list.len() {
            let kind = match row.get_ref(ordinal).map_err(refused)? {
                ValueRef::Null => AnyValueKind::Null(AnyTypeInfoKind::Null),
                ValueRef::Integer(number) => AnyValueKind::BigInt(number),
                ValueRef::Real(number) => AnyValueKind::Double(number),
                ValueRef::Text(text) => {
                    let text = std::str::from_utf8(text).map_err(|error| Error::Decode(error.into()))?;
                    AnyValueKind::Text(Arc::new(text.to_owned()))
                }
                ValueRef::Blob(bytes) => AnyValueKind::Blob(Arc::new(bytes.to_vec())),
            };
            values.push(AnyValue { kind });
        }
        Ok(AnyRow { column_names: self.names.clone(), columns: self.list.clone(), values })
    }
}

fn remembered(
    all: &mut HashMap<String, Arc<Columns>>,
    sql: &str,
    statement: &Statement<'_>,
) -> Result<Arc<Columns>, Error> {
    if let Some(columns) = all.get(sql).filter(|columns| columns.list.len() == statement.column_count()) {
        return Ok(columns.clone());
    }
    let columns = Arc::new(Columns::of(statement)?);
    if all.len() >= REMEMBERED {
        all.clear();
    }
    all.insert(sql.to_owned(), columns.clone());
    Ok(columns)
}

fn rows(
    statement: &mut Statement<'_>,
    arguments: &AnyArguments,
    columns: &Columns,
    most: usize,
) -> Result<Vec<AnyRow>, Error> {
    bind(statement, arguments)?;
    let mut found = Vec::new();
    let mut rows = statement.raw_query();
    while found.len() < most
        && let Some(row) = rows.next().map_err(refused)?
    {
        found.push(columns.row(row)?);
    }
    Ok(found)
}

/// `$1` is a name to SQLite, which may stand in a statement several times and in any order.
fn bind(statement: &mut Statement<'_>, arguments: &AnyArguments) -> Result<(), Error> {
    for index in 1..=statement.parameter_count() {
        let name = statement.parameter_name(index).and_then(|name| name.strip_prefix('$')?.parse::<usize>().ok());
        let value = name.and_then(|number| arguments.values.0.get(number.checked_sub(1)?));
        let bound = match value {
            Some(AnyValueKind::Null(_)) => statement.raw_bind_parameter(index, Null),
            Some(AnyValueKind::Bool(flag)) => statement.raw_bind_parameter(index, flag),
            Some(AnyValueKind::SmallInt(number)) => statement.raw_bind_parameter(index, number),
            Some(AnyValueKind::Integer(number)) => statement.raw_bind_parameter(index, number),
            Some(AnyValueKind::BigInt(number)) => statement.raw_bind_parameter(index, number),
            Some(AnyValueKind::Real(number)) => statement.raw_bind_parameter(index, number),
            Some(AnyValueKind::Double(number)) => statement.raw_bind_parameter(index, number),
            Some(AnyValueKind::Text(text)) => statement.raw_bind_parameter(index, text.as_str()),
            Some(AnyValueKind::TextSlice(text)) => statement.raw_bind_parameter(index, &**text),
            Some(AnyValueKind::Blob(bytes)) => statement.raw_bind_parameter(index, bytes.as_slice()),
            Some(other) => return Err(Error::Encode(format!("SQLite has no {other:?}").into())),
            None => return Err(Error::Encode(format!("the statement's parameter {index} has no value").into())),
        };
        bound.map_err(refused)?;
    }
    Ok(())
}

/// SQLite's refusal.
#[derive(Debug)]
struct Refusal {
    message: String,
    /// The extended result code.
    code: i32,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "(code: {}) {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

impl DatabaseError for Refusal {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Owned(self.code.to_string()))
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        match self.code {
            rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY => {
                ErrorKind::UniqueViolation
            }
            rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY => ErrorKind::ForeignKeyViolation,
            rusqlite::ffi::SQLITE_CONSTRAINT_NOTNULL => ErrorKind::NotNullViolation,
            rusqlite::ffi::SQLITE_CONSTRAINT_CHECK => ErrorKind::CheckViolation,
            _ => ErrorKind::Other,
        }
    }
}

fn refused(error: rusqlite::Error) -> Error {
    let rusqlite::Error::SqliteFailure(failure, message) = &error else { return Error::Decode(error.into()) };
    let (code, message) = (failure.extended_code, message.clone());
    Error::Database(Box::new(Refusal { message: message.unwrap_or_else(|| error.to_string()), code }))
}

/// Reading connections, for any thread that asks.
pub struct Quick {
    path: PathBuf,
    pragmas: &'static str,
    /// Those that nobody uses; `None` once closed.
    idle: Mutex<Option<Vec<InPlace>>>,
}

impl std::fmt::Debug for Quick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quick").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Quick {
    /// Opens none before the first is asked.
    pub fn new(path: &Path, pragmas: &'static str) -> Self {
        Self { path: path.to_owned(), pragmas, idle: Mutex::new(Some(Vec::new())) }
    }

    /// Closes them; later readings fail.
    pub fn close(&self) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn ask(&self, query: &Query, most: usize) -> Result<Found, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(Vec::pop);
        let mut conn = match idle.ok_or(Error::PoolClosed)? {
            Some(conn) => conn,
            None => InPlace::open(&self.path, self.pragmas)?,
        };
        let found = conn.ask(query, most);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(idle) = idle.as_mut().filter(|idle| idle.len() < KEPT) {
            idle.push(conn);
        }
        found
    }

    /// An answer, step by step.
    pub async fn steps(&self, query: Query) -> Result<Steps, Error> {
        Ok(self.ask(&query, usize::MAX)?.into_steps())
    }

    /// The first row of an answer.
    pub async fn first(&self, query: Query) -> Result<Option<AnyRow>, Error> {
        Ok(self.ask(&query, 1)?.rows.pop())
    }
}

/// A connection that changes are made over.
pub enum Writing {
    /// SQLite's.
    InPlace(InPlace),
    /// Any other.
    Any(AnyConnection),
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::InPlace(_)) { "InPlace" } else { "Any" })
    }
}

impl<'c> Executor<'c> for &'c mut Writing {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let conn = match self {
            Writing::Any(conn) => return conn.fetch_many(query),
            Writing::InPlace(conn) => conn,
        };
        let query = Query::of(query);
        async move { Ok::<_, Error>(conn.ask(&query?, usize::MAX)?.into_steps()) }.try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match self {
            Writing::Any(conn) => conn.fetch_optional(query),
            Writing::InPlace(conn) => {
                let query = Query::of(query);
                async move { Ok(conn.ask(&query?, 1)?.rows.pop()) }.boxed()
            }
        }
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [AnyTypeInfo]) -> BoxFuture<'e, Result<AnyStatement, Error>>
    where
        'c: 'e,
    {
        match self {
            Writing::Any(conn) => conn.prepare_with(sql, parameters),
            Writing::InPlace(_) => {
                let none = Error::Configuration("statements are not prepared apart from being asked".into());
                std::future::ready(Err(none)).boxed()
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use sqlx::{Row as _, query, query_as};

    use super::*;

    async fn writing() -> (tempfile::TempDir, Writing) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        std::fs::File::create(&path).unwrap();
        let mut conn = Writing::InPlace(InPlace::open(&path, "PRAGMA journal_mode = WAL").unwrap());
        let made = "CREATE TABLE t (a BIGINT PRIMARY KEY, b TEXT NOT NULL); INSERT INTO t VALUES (1, 'x'), (2, 'y')";
        sqlx::raw_sql(made).execute(&mut conn).await.unwrap();
        (dir, conn)
    }

    #[tokio::test]
    async fn parameters_go_by_their_number_however_often_and_in_which_order_they_stand() {
        let (_dir, mut conn) = writing().await;
        let asked = query_as::<Any, (String, i64, String, Option<i64>, f64, Vec<u8>)>("SELECT $2, $1, $2, $3, $4, $5");
        let row = asked.bind(7_i64).bind("ä").bind(None::<i64>).bind(0.5).bind(&[0_u8, 255][..]);
        let row = row.fetch_one(&mut conn).await.unwrap();
        assert_eq!(row, ("ä".to_owned(), 7, "ä".to_owned(), None, 0.5, vec![0, 255]));
        assert!(query::<Any>("SELECT $1, $2").bind(1_i64).fetch_one(&mut conn).await.is_err(), "one has no value");
    }

    #[tokio::test]
    async fn a_change_says_how_many_rows_and_gives_those_that_it_returns() {
        let (_dir, mut conn) = writing().await;
        let changed = query::<Any>("UPDATE t SET b = 'z'").execute(&mut conn).await.unwrap();
        assert_eq!(changed.rows_affected(), 2);
        let rows = query::<Any>("DELETE FROM t RETURNING a, b").fetch_all(&mut conn).await.unwrap();
        let rows: Vec<(i64, String)> = rows.iter().map(|row| (row.get("a"), row.get(1))).collect();
        assert_eq!(rows, [(1, "z".to_owned()), (2, "z".to_owned())]);
    }

    #[tokio::test]
    async fn a_refusal_has_the_kind_and_code_that_sqlx_gives_it() {
        let (dir, mut conn) = writing().await;
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        sqlx::any::install_default_drivers();
        let mut theirs = <AnyConnection as sqlx::Connection>::connect(&url).await.unwrap();
        for sql in ["INSERT INTO t VALUES (1, 'again')", "INSERT INTO t VALUES (3, NULL)", "SELECT nothing"] {
            let told = |error: Error| {
                let error = error.into_database_error().unwrap();
                (format!("{:?}", error.kind()), error.code().unwrap().into_owned(), error.message().to_owned())
            };
            let ours = told(query::<Any>(sql).execute(&mut conn).await.unwrap_err());
            assert_eq!(ours, told(query::<Any>(sql).execute(&mut theirs).await.unwrap_err()), "{sql}");
        }
    }

    #[tokio::test]
    async fn quick_readings_see_what_is_committed_change_nothing_and_end_with_the_store() {
        let (dir, mut conn) = writing().await;
        let quick = Quick::new(&dir.path().join("test.db"), "PRAGMA query_only = ON");
        let count = async || quick.first(Query::of(query::<Any>("SELECT COUNT(*) FROM t"))?).await;
        assert_eq!(count().await.unwrap().unwrap().get::<i64, _>(0), 2);
        query::<Any>("DELETE FROM t WHERE a = 1").execute(&mut conn).await.unwrap();
        assert_eq!(count().await.unwrap().unwrap().get::<i64, _>(0), 1);
        assert!(quick.first(Query::of(query::<Any>("DELETE FROM t")).unwrap()).await.is_err());
        quick.close();
        assert!(matches!(count().await, Err(Error::PoolClosed)));
    }
}
