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

    /// Every row of an answer.
    pub async fn all(&self, query: Query) -> Result<Vec<AnyRow>, Error> {
        Ok(self.ask(&query, usize::MAX)?.rows)
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
        let asked = async move {
            let Found { rows, changed } = conn.ask(&query?, usize::MAX)?;
            let done = AnyQueryResult { rows_affected: changed, last_insert_id: None };
            let steps = rows.into_iter().map(Either::Right).chain(std::iter::once(Either::Left(done)));
            Ok::<_, Error>(stream::iter(steps.map(Ok)))
        };
        asked.try_flatten_stream().boxed()
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match self {
            Writing::Any(conn) => conn.fetch_all(query),
            Writing::InPlace(conn) => {
                let query = Query::of(query);
                async move { Ok(conn.ask(&query?, usize::MAX)?.rows) }.boxed()
            }
        }
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
