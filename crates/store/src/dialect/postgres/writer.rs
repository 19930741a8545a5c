//! One writing connection: a change is a transaction, made again where it came to nothing, and never made twice: when the
//! connection is lost in the middle of a commit, the database is asked afterwards what became of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, Row as _};
use tokio::sync::{Mutex, broadcast, mpsc, oneshot, watch};

use super::PATIENCE;
use crate::{
    Change, Error, Result,
    appends::{Append, Appends},
    dialect::{Connection, Kind, Request, Scope, Tx, Verdict, Work, Writing, is_full, is_lost, is_passing},
    failpoint,
};

/// Pauses between two tries, the shortest and the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A process that was stopped in the middle of a transaction must not hold up the others for long.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '5s'; SET lock_timeout = '10s';
     SET client_min_messages = warning";

// Each begins a transaction and gives its number, by which its fate can be asked for. What is made alone waits for all
// others and keeps them waiting; claims wait for each other.
const ALONE: &str = "BEGIN; SELECT pg_advisory_xact_lock(hashtext(current_schema()), 1);
     SELECT CAST(pg_current_xact_id() AS TEXT) AS xid";
const CLAIM: &str = "BEGIN; SELECT pg_advisory_xact_lock_shared(hashtext(current_schema()), 1);
     SELECT pg_advisory_xact_lock(hashtext(current_schema()), 2);
     SELECT CAST(pg_current_xact_id() AS TEXT) AS xid";
const ROWS: &str = "BEGIN; SELECT pg_advisory_xact_lock_shared(hashtext(current_schema()), 1);
     SELECT CAST(pg_current_xact_id() AS TEXT) AS xid";
// A transaction that an error has broken is committed without a complaint, to nothing; the first statement complains.
const COMMIT: &str = "SELECT 1; COMMIT";

/// What a try came to.
enum Tried {
    /// The change is there.
    Committed(Vec<Change>),
    /// The change was undone for good; its outcome says why.
    Undone,
    /// It may succeed a little later.
    Again(Option<sqlx::Error>),
    /// The database does not keep it.
    Refused(sqlx::Error),
}

/// Carries out requests until there are no more; gives who asked to close, if this one was asked.
pub async fn write(
    url: String,
    inbox: Arc<Mutex<mpsc::Receiver<Request>>>,
    changes: broadcast::Sender<Change>,
    news: mpsc::UnboundedSender<Change>,
) -> Option<oneshot::Sender<()>> {
    let mut conn = None;
    loop {
        let mut inbox = inbox.lock().await;
        let request = inbox.recv().await?;
        if matches!(request, Request::Close(_)) {
            inbox.close();
        }
        drop(inbox);
        match request {
            Request::Write(job, scope) => {
                for change in carry_out(&url, &mut conn, job, scope).await {
                    // Nobody listening is fine.
                    changes.send(change).ok();
                    news.send(change).ok();
                }
            }
            // Whoever asked may have stopped waiting.
            Request::Rebuild(done) => done.send(rebuild(&url).await).unwrap_or_default(),
            Request::Fold(done) => done.send(Ok(true)).unwrap_or_default(),
            Request::Close(done) => return Some(done),
        }
    }
}

/// Appends what waits, all of it by one change, until there is no more or it shall end.
pub async fn append(
    url: String,
    inbox: Arc<Mutex<mpsc::Receiver<Append>>>,
    mut end: watch::Receiver<bool>,
    changes: broadcast::Sender<Change>,
    news: mpsc::UnboundedSender<Change>,
) {
    let mut conn = None;
    loop {
        let mut inbox = inbox.lock().await;
        let append = tokio::select! {
            biased;
            append = inbox.recv() => append,
            // An error means that whoever would say so has gone.
            _ = end.changed() => {
                inbox.close();
                inbox.recv().await
            }
        };
        let Some(append) = append else { return };
        let job = Box::new(Appends::gather(append, &mut inbox));
        drop(inbox);
        for change in carry_out(&url, &mut conn, job, Scope::Rows).await {
            // Nobody listening is fine.
            changes.send(change).ok();
            news.send(change).ok();
        }
    }
}

/// Makes one change and acknowledges it; gives what to announce.
async fn carry_out(url: &str, conn: &mut Option<Writing>, mut job: Box<dyn Work>, scope: Scope) -> Vec<Change> {
    let give_up = Instant::now() + PATIENCE;
    let mut pause = PAUSE;
    loop {
        let outcome = match try_once(url, conn, job.as_mut(), scope, give_up).await {
            Tried::Committed(announced) => {
                job.acknowledge(Ok(()));
                return announced;
            }
            Tried::Undone => Ok(()),
            Tried::Again(cause) if Instant::now() < give_up => {
                if let Some(cause) = cause {
                    tracing::warn!(error = %cause, "writing to the database; it is tried again");
                }
                // Others that are in the same way take another while.
                tokio::time::sleep(pause.mul_f64(0.5 + f64::from(rand::random::<u8>()) / 255.0)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
            Tried::Again(Some(cause)) | Tried::Refused(cause) => Err(cause),
            Tried::Again(None) => Ok(()),
        };
        job.acknowledge(
            outcome.map_err(|cause| if is_full(&cause) { Error::Full } else { Error::Commit(Arc::new(cause)) }),
        );
        return Vec::new();
    }
}

async fn try_once(url: &str, conn: &mut Option<Writing>, job: &mut dyn Work, scope: Scope, give_up: Instant) -> Tried {
    let (mut tx, xid) = match begin(url, conn.take(), scope).await {
        Ok(begun) => begun,
        Err(error) if is_passing(&error) => return Tried::Again(Some(error)),
        Err(error) => return Tried::Refused(error),
    };
    let verdict = job.run(&mut tx).await;
    let Tx { conn: mut open, changes, .. } = tx;
    if verdict != Verdict::Keep {
        // A connection that cannot even undo is given up; the database undoes by itself.
        if sqlx::raw_sql("ROLLBACK").execute(&mut open).await.is_ok() {
            *conn = Some(open);
        }
        return if verdict == Verdict::Again { Tried::Again(None) } else { Tried::Undone };
    }
    failpoint::hit("commit.before");
    let committed = sqlx::raw_sql(COMMIT).execute(&mut open).await;
    failpoint::hit("commit.after");
    match committed {
        Ok(_) => {
            *conn = Some(open);
            Tried::Committed(changes)
        }
        Err(error) if is_lost(&error) => {
            tracing::warn!(%error, "the database went away during a commit; asking what became of it");
            match fate(url, &xid, give_up).await {
                Ok(true) => Tried::Committed(changes),
                Ok(false) => Tried::Again(None),
                Err(error) => Tried::Refused(error),
            }
        }
        Err(error) => {
            // As above.
            if sqlx::raw_sql("ROLLBACK").execute(&mut open).await.is_ok() {
                *conn = Some(open);
            }
            if is_passing(&error) { Tried::Again(Some(error)) } else { Tried::Refused(error) }
        }
    }
}

/// A transaction and its number.
async fn begin(url: &str, conn: Option<Writing>, scope: Scope) -> Result<(Tx, String), sqlx::Error> {
    let mut conn = match conn {
        Some(conn) => conn,
        None => connect(url).await?,
    };
    let begin = match scope {
        Scope::Alone => ALONE,
        Scope::Claim => CLAIM,
        Scope::Rows => ROWS,
    };
    let begun = sqlx::raw_sql(begin).fetch_all(&mut conn).await?;
    let xid = begun.last().ok_or(sqlx::Error::RowNotFound)?.try_get("xid")?;
    Ok((Tx { conn, changes: Vec::new(), kind: Kind::Postgres }, xid))
}

async fn connect(url: &str) -> Result<Writing, sqlx::Error> {
    let mut conn = Connection::connect(url).await?;
    sqlx::raw_sql(SESSION).execute(&mut conn).await?;
    Ok(Writing::Any(conn))
}

/// Whether a transaction was committed, as soon as the database can be asked and knows.
async fn fate(url: &str, xid: &str, give_up: Instant) -> Result<bool, sqlx::Error> {
    loop {
        let error = match status(url, xid).await {
            Ok(Some(status)) if status == "committed" => return Ok(true),
            Ok(Some(status)) if status == "aborted" => return Ok(false),
            // In progress: the database has not noticed yet that nobody is there.
            Ok(_) => sqlx::Error::PoolTimedOut,
            Err(error) if is_passing(&error) => error,
            Err(error) => return Err(error),
        };
        if Instant::now() >= give_up {
            return Err(error);
        }
        tokio::time::sleep(LONGEST_PAUSE / 4).await;
    }
}

async fn status(url: &str, xid: &str) -> Result<Option<String>, sqlx::Error> {
    let mut conn = Connection::connect(url).await?;
    sqlx::query_scalar("SELECT pg_xact_status(CAST(CAST($1 AS TEXT) AS xid8))").bind(xid).fetch_one(&mut conn).await
}

/// Writes codegen's own tables anew: others may have some in the same database, and its catalogs are everybody's.
async fn rebuild(url: &str) -> Result<()> {
    let mut conn = Connection::connect(url).await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT quote_ident(table_name) FROM information_schema.tables
         WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY table_name",
    )
    .fetch_all(&mut conn)
    .await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("VACUUM FULL {}", tables.join(", ")))).execute(&mut conn).await?;
    Ok(())
}
