//! What differs between databases; nothing else in the crate knows which one it is.

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{BoxFuture, Change, DirLock, Error, Migrated, Result, appends::Append};

mod copy;
mod in_place;
mod postgres;
mod readers;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod schemas;
mod search;
mod space;
mod sqlite;

pub use copy::into_postgres;
pub use in_place::Writing;
pub use readers::Readers;
pub use search::{find, forget, index, push_found};
pub use sqlite::open_beside;

/// The driver: one SQL text is sent to either database. What it cannot carry (arrays, dates, JSON) the schema does without.
pub type Db = sqlx::Any;
/// A connection.
pub type Connection = sqlx::AnyConnection;
/// A row of an answer.
pub type Row = sqlx::any::AnyRow;

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
}

/// A writing connection and what will be announced after its commit.
pub struct Tx {
    /// Inside a transaction.
    pub conn: Writing,
    /// Sent once committed.
    pub changes: Vec<Change>,
    kind: Kind,
}

/// Whom to ask for what is only read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// For anything.
    pub readers: Readers,
    /// For a few rows that an index finds: SQLite is asked in place.
    pub quick: Readers,
}

/// One caller's change.
pub trait Work: Send {
    /// Makes the change within a transaction, and again in another one where the first came to nothing.
    fn run<'t>(&'t mut self, tx: &'t mut Tx) -> BoxFuture<'t, Verdict>;
    /// Told how the commit went; passes on the change's own outcome.
    fn acknowledge(self: Box<Self>, committed: Result<()>);
}

/// What is to become of a job's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Commit them.
    Keep,
    /// Undo them, the job failed.
    Undo,
    /// Undo them, the disk is full.
    Full,
    /// Undo them and try again: the connection was lost, or others were in the way.
    Again,
}

/// Beside whom a change may be made. SQLite takes one writer at a time and knows no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Beside nobody: nothing that it reads changes before its commit.
    Alone,
    /// Beside changes of other rows, but for other claims.
    Claim,
    /// Beside others: it first takes the rows that it relies on, by an update.
    Rows,
}

/// What becomes of a change by its outcome.
pub fn verdict<T>(outcome: &Result<T>) -> Verdict {
    match outcome {
        Ok(_) => Verdict::Keep,
        Err(Error::Full) => Verdict::Full,
        Err(Error::Db(error)) if is_passing(error) => Verdict::Again,
        Err(_) => Verdict::Undo,
    }
}

/// What waits for the writers.
pub struct Inbox {
    requests: mpsc::Receiver<Request>,
    /// Apart, for they are made together, as many as there are.
    appends: mpsc::Receiver<Append>,
}

impl Inbox {
    /// With its entrances.
    pub fn new() -> (mpsc::Sender<Request>, mpsc::Sender<Append>, Self) {
        let ((to_requests, requests), (to_appends, appends)) = (mpsc::channel(1024), mpsc::channel(1024));
        (to_requests, to_appends, Self { requests, appends })
    }
}

/// What the writer is asked.
pub enum Request {
    /// Do this and acknowledge after the commit.
    Write(Box<dyn Work>, Scope),
    /// Write the database anew, without its empty pages.
    Rebuild(oneshot::Sender<Result<()>>),
    /// Bring what waits beside the database's file into it, and give its room back; false where a reader was in the way.
    Fold(oneshot::Sender<Result<bool>>),
    /// Close the database and free the data directory.
    Close(oneshot::Sender<()>),
}

/// Where a database is.
#[derive(Debug, Clone, Copy)]
pub enum At<'a> {
    /// SQLite's file.
    File(&'a std::path::Path),
    /// PostgreSQL's URL.
    Url(&'a str),
}

/// Opens and migrates the database and starts its writers, which hold the lock on the data directory until they are told to close.
pub async fn open(
    place: At<'_>,
    lock: Option<DirLock>,
    inbox: Inbox,
    changes: broadcast::Sender<Change>,
) -> Result<Reading> {
    match place {
        At::File(path) => {
            let (readers, conn) = sqlite::open(path).await?;
            sqlite::start(conn, lock, inbox, changes)?;
            Ok(readers)
        }
        At::Url(url) => {
            let readers = postgres::open(url).await?;
            tokio::spawn(postgres::write_side_by_side(url.to_owned(), lock, inbox, changes));
            Ok(Reading { quick: readers.clone(), readers })
        }
    }
}

/// Brings a database to this version.
pub async fn migrate(place: At<'_>) -> Result<Migrated> {
    let (database, before) = match place {
        At::File(path) => (path.display().to_string(), sqlite::migrate_at(path).await?),
        At::Url(url) => (postgres::place(url), postgres::migrate_at(url).await?),
    };
    let applied: Vec<i64> =
        sqlite::MIGRATIONS.iter().map(|m| m.0).filter(|version| !before.contains(version)).collect();
    Ok(Migrated { database, from: before.into_iter().max(), to: sqlite::known(), applied })
}

/// Copies a database as it is at one moment into a new file of SQLite's, while others write.
pub async fn backup(place: At<'_>, into: &std::path::Path, tell: copy::Tell<'_>) -> Result<()> {
    match place {
        At::File(path) => sqlite::backup(path, into).await,
        At::Url(url) => copy::into_sqlite(url, into, tell).await.map(drop),
    }
}

/// Starts the writer of an open SQLite database.
pub fn start_beside(conn: Writing, inbox: Inbox, changes: broadcast::Sender<Change>) -> Result<()> {
    sqlite::start(conn, None, inbox, changes)
}

/// Gives up to `pages` empty pages back to the file system. PostgreSQL does so by itself.
pub async fn give_back(tx: &mut Tx, pages: u32) -> Result<()> {
    match tx.kind {
        Kind::Sqlite => space::give_back(tx, pages).await,
        Kind::Postgres => Ok(()),
    }
}

/// Whether [`give_back`] works on this database. Asked of the connection that may have changed it: others do not look again.
pub async fn gives_back(tx: &mut Tx) -> Result<bool> {
    match tx.kind {
        Kind::Sqlite => space::gives_back(tx).await,
        Kind::Postgres => Ok(true),
    }
}

/// Bytes of pages that hold nothing, where the database does not use or free them by itself.
pub async fn free_bytes(readers: &Readers) -> Result<i64> {
    match readers.kind() {
        Kind::Sqlite => space::free_bytes(readers).await,
        Kind::Postgres => Ok(0),
    }
}

/// Whether other processes may use this database at the same time.
pub fn is_shared(readers: &Readers) -> bool {
    readers.kind() == Kind::Postgres
}

/// Whether [`is_shared`] holds of the database that is being written to.
pub fn is_shared_here(tx: &Tx) -> bool {
    tx.kind == Kind::Postgres
}

/// The time by which leases are judged: the database's own, where processes of several machines use it.
pub async fn lease_time(tx: &mut Tx, now: i64) -> Result<i64> {
    match tx.kind {
        Kind::Sqlite => Ok(now),
        Kind::Postgres => postgres::time(tx).await,
    }
}

/// Whether the error says that the disk is full.
pub fn is_full(error: &sqlx::Error) -> bool {
    // SQLITE_FULL; SQLITE_IOERR_SHMSIZE: the index of the write-ahead log could not grow; PostgreSQL's disk_full.
    code(error).is_some_and(|code| matches!(&*code, "13" | "4874" | "53100"))
}

/// Whether the same may succeed a little later: the connection was lost, or others were in the way.
pub fn is_passing(error: &sqlx::Error) -> bool {
    // Serialization failure, deadlock, lock not available.
    is_lost(error) || code(error).is_some_and(|code| matches!(&*code, "40001" | "40P01" | "55P03"))
}

/// Whether the connection is of no more use.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
        // The server goes down, crashed or comes up, or ended this session; has too many; connection exceptions.
        error => code(error).is_some_and(|code| {
            matches!(&*code, "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "53300") || is_connection_class(&code)
        }),
    }
}

fn is_connection_class(code: &str) -> bool {
    code.len() == 5 && code.starts_with("08")
}

fn code(error: &sqlx::Error) -> Option<std::borrow::Cow<'_, str>> {
    error.as_database_error()?.code()
}
