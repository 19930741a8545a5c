//! What one process commits, told to the others: NOTIFY, at most once in [`GATHER`], since each one costs a commit. What is
//! lost on the way is found by those who look at the rows again; they are told when that may be so.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use sqlx::{
    Connection as _,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::sync::{broadcast, mpsc};

use crate::{Change, ChangeKind, dialect::Connection};

/// Between two notifications.
const GATHER: Duration = Duration::from_millis(20);
/// Before a lost connection is made again.
const PAUSE: Duration = Duration::from_millis(500);
/// PostgreSQL takes payloads of less than 8,000 bytes.
const PAYLOAD: usize = 7_000;

/// A name for this opening of the database, so that it does not listen to itself.
pub fn instance() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// Tells what comes in, until no more can come.
pub async fn tell(url: String, instance: String, mut told: mpsc::UnboundedReceiver<Change>) {
    let mut conn = None;
    while let Some(first) = told.recv().await {
        let mut waiting = BTreeSet::from([words(first)]);
        if !told.is_closed() {
            tokio::time::sleep(GATHER).await;
        }
        while let Ok(change) = told.try_recv() {
            waiting.insert(words(change));
        }
        for payload in payloads(&instance, &waiting) {
            while let Err(error) = send(&url, &mut conn, &payload).await {
                conn = None;
                if told.is_closed() {
                    return;
                }
                tracing::warn!(%error, "telling other processes of changes; it is tried again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn send(url: &str, conn: &mut Option<Connection>, payload: &str) -> Result<(), sqlx::Error> {
    let conn = match conn {
        Some(conn) => conn,
        none => none.insert(Connection::connect(url).await?),
    };
    sqlx::query("SELECT pg_notify('codegen_' || current_schema(), $1)").bind(payload).execute(conn).await?;
    Ok(())
}

/// Hands on what other processes tell, for as long as it is polled.
pub async fn listen(url: String, instance: String, changes: broadcast::Sender<Change>) {
    loop {
        if let Err(error) = follow(&url, &instance, &changes).await {
            tracing::warn!(%error, "listening to other processes; it is tried again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns when the connection is lost.
async fn follow(url: &str, instance: &str, changes: &broadcast::Sender<Change>) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
    let schema: Option<String> = sqlx::query_scalar("SELECT current_schema()").fetch_one(&pool).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(&format!("codegen_{}", schema.unwrap_or_default())).await?;
    // Whatever was told before this was not heard.
    changes.send(Change::MISSED).ok();
    while let Some(notification) = listener.try_recv().await? {
        let mut words = notification.payload().split(' ');
        if words.next() == Some(instance) {
            continue;
        }
        for change in words.filter_map(read) {
            // Nobody listening is fine.
            changes.send(change).ok();
        }
    }
    Ok(())
}

/// A change as `KIND:ORG:RUN`.
fn words(change: Change) -> String {
    let kind = match change.kind {
        ChangeKind::RunQueued => 'q',
        ChangeKind::RunChanged => 'c',
        ChangeKind::LogAppended => 'l',
        ChangeKind::AccessChanged => 'a',
        ChangeKind::EventQueued => 'e',
        ChangeKind::Missed => 'm',
    };
    format!("{kind}:{}:{}", change.org_id, change.run_id)
}

/// None for what a newer codegen may say.
fn read(words: &str) -> Option<Change> {
    let mut parts = words.split(':');
    let kind = match parts.next()? {
        "q" => ChangeKind::RunQueued,
        "c" => ChangeKind::RunChanged,
        "l" => ChangeKind::LogAppended,
        "a" => ChangeKind::AccessChanged,
        "e" => ChangeKind::EventQueued,
        "m" => ChangeKind::Missed,
        _ => return None,
    };
    Some(Change { kind, org_id: parts.next()?.parse().ok()?, run_id: parts.next()?.parse().ok()? })
}

/// The changes in as few payloads as they fit in, each after the name of who tells.
fn payloads(instance: &str, changes: &BTreeSet<String>) -> Vec<String> {
    let mut payloads: Vec<String> = Vec::new();
    for change in changes {
        match payloads.last_mut().filter(|last| last.len() + change.len() < PAYLOAD) {
            // Writing to a String cannot fail.
            Some(last) => write!(last, " {change}").unwrap_or_default(),
            None => payloads.push(format!("{instance} {change}")),
        }
    }
    payloads
}
