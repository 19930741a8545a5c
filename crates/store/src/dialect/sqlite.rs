//! SQLite: opening, and the one writer with group commit.

use std::{os::unix::fs::OpenOptionsExt as _, path::Path, sync::Arc, time::Duration};

use sqlx::{
    Connection as _, SqlSafeStr as _,
    any::{AnyConnectOptions, AnyPoolOptions},
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous},
};
use tokio::sync::broadcast;

use super::{
    Connection, Inbox, Kind, Readers, Reading, Request, Scope, Tx, Verdict, Work, Writing,
    in_place::{InPlace, Quick},
    is_full, space,
};
use crate::{Change, DirLock, Error, Result, appends::Appends, failpoint};

/// Jobs that may share one commit; more would make the first of them wait too long.
const GROUP: usize = 256;

/// Listed by hand: `sqlx::migrate!` would compile SQLite a second time, for the macro.
pub const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "first", include_str!("../../migrations/sqlite/0001_first.sql")),
    (2, "steering", include_str!("../../migrations/sqlite/0002_steering.sql")),
    (3, "retention", include_str!("../../migrations/sqlite/0003_retention.sql")),
    (4, "workers", include_str!("../../migrations/sqlite/0004_workers.sql")),
    (5, "web", include_str!("../../migrations/sqlite/0005_web.sql")),
    (8, "tenants", include_str!("../../migrations/sqlite/0008_tenants.sql")),
    (9, "login", include_str!("../../migrations/sqlite/0009_login.sql")),
    (18, "audit", include_str!("../../migrations/sqlite/0018_audit.sql")),
    (11, "secrets and rules", include_str!("../../migrations/sqlite/0011_secrets_and_rules.sql")),
    (10, "limits", include_str!("../../migrations/sqlite/0010_limits.sql")),
    (21, "webhooks and models", include_str!("../../migrations/sqlite/0021_webhooks_and_models.sql")),
    (20, "runs", include_str!("../../migrations/sqlite/0020_runs.sql")),
    (7, "operations", include_str!("../../migrations/sqlite/0007_operations.sql")),
    (17, "sessions_elsewhere", include_str!("../../migrations/sqlite/0017_sessions_elsewhere.sql")),
    (22, "words", include_str!("../../migrations/sqlite/0022_words.sql")),
    (26, "model keys", include_str!("../../migrations/sqlite/0026_model_keys.sql")),
    (27, "webhook tries", include_str!("../../migrations/sqlite/0027_webhook_tries.sql")),
    (28, "stale sessions", include_str!("../../migrations/sqlite/0028_stale_sessions.sql")),
    (33, "session lines", include_str!("../../migrations/sqlite/0033_session_lines.sql")),
];

/// Why a whole group was not kept.
#[derive(Clone)]
enum Lost {
    Full,
    Db(Arc<sqlx::Error>),
}

impl From<sqlx::Error> for Lost {
    fn from(error: sqlx::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Db(Arc::new(error)) }
    }
}

/// Opens and migrates the database: the readers and the one writer.
pub async fn open(path: &Path) -> Result<(Reading, Writing)> {
    let mut first = make(path).await?;
    migrate(path, &mut first).await?;
    both(path, first).await
}

/// Opens a database that may be new.
async fn make(path: &Path) -> Result<SqliteConnection> {
    let is_new = std::fs::metadata(path).map_or(true, |meta| meta.len() == 0);
    // Only the owner may read it; SQLite gives its other files the mode of this one.
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| Error::Io { operation: "opening the database", path: path.to_owned(), source })?;
    // Takes effect in a new database: its empty pages can be given back a few at a time. Saying it to a database that is there
    // is a write, which needs the writer's turn, and room on the disk.
    let new = if is_new { options(path).auto_vacuum(SqliteAutoVacuum::Incremental) } else { options(path) };
    connect(path, new).await
}

/// Migrates a database; gives the versions that it had.
pub async fn migrate_at(path: &Path) -> Result<Vec<i64>> {
    let mut conn = make(path).await?;
    let before = migrate(path, &mut conn).await?;
    conn.close().await?;
    Ok(before)
}

/// Opens a database that another process may have open, without migrating it.
pub async fn open_beside(path: &Path) -> Result<(Reading, Writing)> {
    both(path, open_current(path).await?).await
}

/// Opens a database that is there and of this version.
async fn open_current(path: &Path) -> Result<SqliteConnection> {
    must_exist(path)?;
    let mut conn = connect(path, options(path)).await?;
    is_current(&path.display().to_string(), &versions(&mut conn).await?)?;
    Ok(conn)
}

/// The newest migration of this build.
pub fn known() -> i64 {
    MIGRATIONS.iter().map(|m| m.0).max().unwrap_or(0)
}

/// Whether a database that had these migrations is of this version.
pub fn is_current(database: &str, versions: &[i64]) -> Result<()> {
    is_not_newer(database, versions)?;
    // Versions that were in the making at the same time need not have come in their order.
    if versions.len() < MIGRATIONS.len() { Err(Error::OlderDatabase(database.to_owned())) } else { Ok(()) }
}

/// Whether a database that had these migrations can be brought to this version.
pub fn is_not_newer(database: &str, versions: &[i64]) -> Result<()> {
    match versions.iter().max() {
        Some(&found) if found > known() => {
            Err(Error::NewerDatabase { database: database.to_owned(), found, known: known() })
        }
        Some(_) | None => Ok(()),
    }
}

/// A connection that reads a database of this version as it is at one moment.
pub async fn read_whole(path: &Path) -> Result<Connection> {
    let first = open_current(path).await?;
    sqlx::any::install_default_drivers();
    let mut conn = Connection::connect(url(path)?.as_str()).await?;
    sqlx::raw_sql("PRAGMA query_only = ON; BEGIN; SELECT COUNT(*) FROM sqlite_schema").execute(&mut conn).await?;
    first.close().await?;
    Ok(conn)
}

/// A connection that fills a new file, which is nothing until it is closed.
pub async fn make_whole(path: &Path) -> Result<Connection> {
    migrate_at(path).await?;
    sqlx::any::install_default_drivers();
    let mut conn = Connection::connect(url(path)?.as_str()).await?;
    let pragmas = "PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY";
    sqlx::raw_sql(pragmas).execute(&mut conn).await?;
    Ok(conn)
}

/// The connections that the store uses, once the database is there and sound. `first` goes last: the last one to go would
/// remove the write-ahead log.
async fn both(path: &Path, first: SqliteConnection) -> Result<(Reading, Writing)> {
    sqlx::any::install_default_drivers();
    let url = url(path)?;
    let writer = InPlace::open(path, PRAGMAS)?;
    first.close().await?;
    let pool = AnyPoolOptions::new()
        .max_connections(8)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_connect(|conn, _| {
            Box::pin(async move {
                sqlx::raw_sql(READING).execute(conn).await?;
                Ok(())
            })
        })
        .connect_lazy_with(url.parse::<AnyConnectOptions>()?);
    // The file is beside this process: there is nothing to wait for.
    let readers = Readers::new(pool, Kind::Sqlite, Duration::ZERO);
    let quick = readers.answered_by(Arc::new(Quick::new(path, READING)));
    Ok((Reading { readers, quick }, Writing::InPlace(writer)))
}

/// What each connection is told; the rest is kept in the file.
const PRAGMAS: &str = "PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000; PRAGMA synchronous = FULL;
     PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY";
/// What each reading connection is told.
const READING: &str = "PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000; PRAGMA synchronous = FULL;
     PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY; PRAGMA query_only = ON";

/// The file as a URL, in which every byte of its path that could mean something is written as a number.
fn url(path: &Path) -> Result<String> {
    let absolute = path.canonicalize().map_err(|source| Error::Io {
        operation: "opening the database",
        path: path.to_owned(),
        source,
    })?;
    let mut url = "sqlite://".to_owned();
    for byte in absolute.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' => url.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => url.push(char::from(*byte)),
            byte => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url.push_str("?mode=rw");
    Ok(url)
}

async fn connect(path: &Path, options: SqliteConnectOptions) -> Result<SqliteConnection> {
    SqliteConnection::connect_with(&options).await.map_err(|source| {
        let code = source.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
        // The lowest byte says what happened, the rest where: SQLITE_CORRUPT and SQLITE_NOTADB.
        match code.map(|code| code & 0xff) {
            Some(11 | 26) => Error::NotADatabase { path: path.to_owned(), source },
            _ => source.into(),
        }
    })
}

fn must_exist(path: &Path) -> Result<()> {
    let found = std::fs::metadata(path);
    found.map(drop).map_err(|source| Error::Io { operation: "opening the database", path: path.to_owned(), source })
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-16384")
        .pragma("temp_store", "MEMORY")
}

/// The migrations that a database had.
async fn versions(conn: &mut SqliteConnection) -> Result<Vec<i64>> {
    let migrated: Option<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations'")
            .fetch_optional(&mut *conn)
            .await?;
    if migrated.is_none() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version").fetch_all(&mut *conn).await?)
}

/// Gives the versions that the database had.
async fn migrate(path: &Path, conn: &mut SqliteConnection) -> Result<Vec<i64>> {
    let migrations: Vec<Migration> = MIGRATIONS
        .iter()
        .map(|&(version, name, sql)| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        })
        .collect();
    let before = versions(conn).await?;
    is_not_newer(&path.display().to_string(), &before)?;
    Migrator::with_migrations(migrations).run_direct(None, conn, false).await?;
    Ok(before)
}

/// Gives the writer a thread of its own: it waits for the disk, and for nothing else.
pub fn start(conn: Writing, lock: Option<DirLock>, inbox: Inbox, changes: broadcast::Sender<Change>) -> Result<()> {
    let refused =
        |source| Error::Io { operation: "starting the thread that writes to", path: "the database".into(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(refused)?;
    let writer = std::thread::Builder::new().name("codegen-writer".to_owned());
    let serve = move || runtime.block_on(write_in_groups(conn, lock, inbox, changes));
    writer.spawn(serve).map(drop).map_err(refused)
}

/// Serves write requests until closed: takes what is waiting, up to [`GROUP`], into one transaction (one fsync), each
/// job under its own savepoint, and acknowledges them after the commit. Holds the lock on the data directory.
async fn write_in_groups(conn: Writing, lock: Option<DirLock>, mut inbox: Inbox, changes: broadcast::Sender<Change>) {
    let mut tx = Tx { conn, changes: Vec::new(), kind: Kind::Sqlite };
    let mut closing = None;
    let mut put_off = None;
    loop {
        let request = match put_off.take() {
            Some(request) => request,
            // Appends first: what was asked after one is done after it. Others get into the same transaction.
            None => tokio::select! {
                biased;
                Some(append) = inbox.appends.recv() => {
                    Request::Write(Box::new(Appends::gather(append, &mut inbox.appends)), Scope::Rows)
                }
                request = inbox.requests.recv() => match request {
                    Some(request) => request,
                    None => break,
                },
            },
        };
        let first = match request {
            Request::Write(job, _) => job,
            Request::Rebuild(done) => {
                // Whoever asked may have stopped waiting.
                done.send(space::rebuild(&mut tx.conn).await).ok();
                continue;
            }
            Request::Fold(done) => {
                // As above.
                done.send(space::fold(&mut tx.conn).await).ok();
                continue;
            }
            Request::Close(done) => {
                closing = Some(done);
                break;
            }
        };
        let mut jobs = Vec::new();
        let outcome = group(&mut tx, first, &mut inbox, &mut jobs, &mut put_off).await;
        if outcome.is_err() {
            // SQLite may have rolled back by itself, then this one has nothing to do.
            sqlx::query("ROLLBACK").execute(&mut tx.conn).await.ok();
            tx.changes.clear();
        }
        for change in tx.changes.drain(..) {
            // Nobody listening is fine.
            changes.send(change).ok();
        }
        for job in jobs {
            job.acknowledge(match &outcome {
                Ok(()) => Ok(()),
                Err(Lost::Full) => Err(Error::Full),
                Err(Lost::Db(error)) => Err(Error::Commit(error.clone())),
            });
        }
    }
    let closed = match tx.conn {
        Writing::InPlace(conn) => conn.close(),
        Writing::Any(conn) => conn.close().await,
    };
    if let Err(error) = closed {
        tracing::error!(%error, "closing the database");
    }
    drop(lock);
    if let Some(done) = closing {
        // The closer may have stopped waiting.
        done.send(()).ok();
    }
}

async fn group(
    tx: &mut Tx,
    first: Box<dyn Work>,
    inbox: &mut Inbox,
    jobs: &mut Vec<Box<dyn Work>>,
    put_off: &mut Option<Request>,
) -> Result<(), Lost> {
    // Two statements in one: each is a way to the database's thread and back. The commit releases the last savepoint.
    let mut begin = "BEGIN IMMEDIATE; SAVEPOINT job";
    let mut next = Some(first);
    while let Some(job) = next.take() {
        jobs.push(job);
        sqlx::raw_sql(begin).execute(&mut tx.conn).await?;
        begin = "RELEASE job; SAVEPOINT job";
        let announced = tx.changes.len();
        let Some(job) = jobs.last_mut() else { break };
        let verdict = job.run(tx).await;
        match verdict {
            Verdict::Keep => {}
            Verdict::Undo | Verdict::Full | Verdict::Again => {
                tx.changes.truncate(announced);
                if let Err(error) = sqlx::query("ROLLBACK TO job").execute(&mut tx.conn).await {
                    // On a full disk SQLite may undo the whole transaction, the savepoint with it.
                    return Err(if verdict == Verdict::Full { Lost::Full } else { error.into() });
                }
            }
        }
        if jobs.len() < GROUP {
            if let Ok(append) = inbox.appends.try_recv() {
                next = Some(Box::new(Appends::gather(append, &mut inbox.appends)));
                continue;
            }
            match inbox.requests.try_recv() {
                Ok(Request::Write(job, _)) => next = Some(job),
                // Not within a transaction.
                Ok(other @ (Request::Rebuild(_) | Request::Fold(_) | Request::Close(_))) => *put_off = Some(other),
                // Empty, or every sender has gone.
                Err(_) => {}
            }
        }
    }
    failpoint::hit("commit.before");
    sqlx::query("COMMIT").execute(&mut tx.conn).await?;
    failpoint::hit("commit.after");
    Ok(())
}

/// Copies the database as it is at one moment into a new file, while others write.
pub async fn backup(path: &Path, into: &Path) -> Result<()> {
    must_exist(path)?;
    let mut conn = connect(path, options(path)).await?;
    let copied = sqlx::query("VACUUM INTO $1").bind(into.to_string_lossy().into_owned()).execute(&mut conn).await;
    // What was asked for is done or not; the connection has nothing left to write.
    conn.close().await.ok();
    copied?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{NewRun, NewUser, Store};

    #[tokio::test]
    async fn who_only_reads_needs_no_turn_to_write_and_so_no_room_on_the_disk() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("codegen.db");
        let (Reading { readers, .. }, mut writer) = open(&path).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut writer).await.unwrap();
        // Each needs a connection of its own, which is opened now.
        let mut open_now = Vec::new();
        for _ in 0..4 {
            let mut reader = readers.pool().acquire().await.unwrap();
            let orgs: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM orgs").fetch_one(&mut *reader).await.unwrap();
            open_now.push((reader, orgs));
        }
        sqlx::query("ROLLBACK").execute(&mut writer).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_is_said_so_and_nothing_acknowledged_is_lost() {
        let dir = tempfile::TempDir::new().unwrap();
        let (Reading { readers, quick }, mut conn) = open(&dir.path().join("codegen.db")).await.unwrap();
        // SQLite answers at its page limit as at a full disk.
        let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut conn).await.unwrap();
        let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {}", pages + 20));
        sqlx::query(limit).execute(&mut conn).await.unwrap();
        let (requests, appends, inbox) = Inbox::new();
        let (changes, _) = broadcast::channel(64);
        start(conn, Some(DirLock::take(dir.path()).unwrap()), inbox, changes.clone()).unwrap();
        let store = Store { readers, quick, requests, appends, changes };
        let (org, user) = store.bootstrap("Acme", NewUser::default(), "hash", 1).await.unwrap().unwrap();

        let asks = |prompt: String| NewRun { user_id: user.id, prompt, ..NewRun::default() };
        let run = store.create_run(org.id, asks("small".to_owned()), 2).await.unwrap();
        let refused = store.create_run(org.id, asks("x".repeat(1 << 20)), 3).await;
        assert!(matches!(refused, Err(Error::Full)), "{refused:?}");
        assert_eq!(store.run(org.id, run.id).await.unwrap(), run);
        let claimed = store.claim_run("w", 4).await.unwrap().unwrap();
        assert_eq!(claimed.id, run.id, "small changes go on");
        assert!(store.claim_run("w", 5).await.unwrap().is_none(), "the refused run is not there");
    }

    #[tokio::test]
    async fn a_claim_steps_through_indexes_and_looks_at_no_run_that_is_not_queued_or_live() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("codegen.db");
        open(&path).await.unwrap();
        // Takes statements without their parameters.
        let mut conn = Connection::connect(url(&path).unwrap().as_str()).await.unwrap();
        for sql in [crate::queue::ORGS, crate::queue::RUN] {
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
                    .fetch_all(&mut conn)
                    .await
                    .unwrap();
            let of_runs: Vec<&str> =
                plan.iter().map(|row| row.3.as_str()).filter(|step| step.contains(" runs")).collect();
            assert!(of_runs.len() >= 3, "{plan:?}");
            for step in of_runs {
                let quick = ["runs_queued", "runs_live", "runs_org_phase"].iter().any(|index| step.contains(index));
                assert!(step.starts_with("SEARCH runs") && quick, "{step}");
            }
        }
    }
}
