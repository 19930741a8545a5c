//! Several processes on one PostgreSQL database, and the loss of it.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use codegen_store::{Change, ChangeKind, Error, Reason, Store};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::broadcast::Receiver,
};

use crate::{Fixture, postgres::new_schema};

async fn two() -> (Fixture, Store) {
    let fixture = Fixture::on(Some(new_schema().await)).await;
    let other = fixture.open_again().await;
    (fixture, other)
}

#[tokio::test]
async fn what_one_process_commits_reaches_another_one() {
    let (fixture, other) = two().await;
    let mut changes = other.subscribe();
    // What is told from now on is heard once the listener says that it may have missed what was before.
    let heard = async |changes: &mut Receiver<Change>, kind| {
        let next = async {
            loop {
                let change = changes.recv().await.unwrap();
                if change.kind == kind {
                    return change;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), next).await.unwrap()
    };
    heard(&mut changes, ChangeKind::Missed).await;
    let run = fixture.queue("task").await;
    let change = heard(&mut changes, ChangeKind::RunQueued).await;
    assert_eq!((change.org_id, change.run_id), (fixture.org.id, run.id));
    let claim = fixture.store.claim_run("w", 20).await.unwrap().unwrap().claim();
    fixture.store.append_log(&claim, "notice", "{}", false, 21).await.unwrap();
    assert_eq!(heard(&mut changes, ChangeKind::LogAppended).await.run_id, run.id);
    assert_eq!(other.run_by_id(run.id).await.unwrap().log_seq, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn claimers_of_several_processes_claim_each_run_once() {
    let (fixture, other) = two().await;
    let mut queued = HashSet::new();
    for n in 0..40 {
        queued.insert(fixture.queue(&format!("task {n}")).await.id);
    }
    let mut claimers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let store = if n % 2 == 0 { fixture.store.clone() } else { other.clone() };
        claimers.spawn(async move {
            let mut mine = Vec::new();
            while let Some(run) = store.claim_run(&format!("w{n}"), 20).await.unwrap() {
                mine.push(run.id);
            }
            mine
        });
    }
    let claimed: Vec<i64> = claimers.join_all().await.into_iter().flatten().collect();
    assert_eq!(claimed.len(), 40);
    assert_eq!(claimed.into_iter().collect::<HashSet<_>>(), queued);
}

#[tokio::test]
async fn a_worker_that_is_silent_by_the_databases_clock_loses_its_runs_and_writes_nothing_more() {
    let (fixture, other) = two().await;
    let run = fixture.queue("task").await;
    let lease = Duration::from_secs(60);
    fixture.store.register_worker("here-1", "http://a", 1).await.unwrap();
    other.register_worker("there-1", "http://b", 1).await.unwrap();
    let old = fixture.store.claim_run("here-1", 2).await.unwrap().unwrap().claim();
    assert!(other.drop_silent_workers(lease).await.unwrap().is_empty());
    assert!(other.requeue_orphans("there-1", &[], 3).await.unwrap().is_empty(), "both live");
    let made_old = "UPDATE workers SET renewed_at = renewed_at - 60001 WHERE id = 'here-1'";
    assert_eq!(fixture.execute(made_old).await.unwrap(), 1);
    assert_eq!(other.drop_silent_workers(lease).await.unwrap(), ["here-1"]);
    assert_eq!(other.requeue_orphans("there-1", &[], 4).await.unwrap()[0].id, run.id);
    let new = other.claim_run("there-1", 5).await.unwrap().unwrap().claim();
    // The first one wakes.
    assert!(!fixture.store.renew_worker("here-1", 6).await.unwrap());
    let refused = fixture.store.append_log(&old, "notice", "{}", false, 6).await;
    assert!(matches!(refused, Err(Error::Fenced)), "{refused:?}");
    assert!(fixture.store.claim_run("here-1", 6).await.unwrap().is_none());
    other.finish_run(&new, Reason::Complete, "done", None, 7).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_starts_again_takes_up_what_its_data_directory_had_and_nothing_else() {
    let (fixture, other) = two().await;
    fixture.store.register_worker("here-1", "http://a", 1).await.unwrap();
    other.register_worker("there-1", "http://b", 1).await.unwrap();
    let (mine, theirs) = (fixture.queue("mine").await, fixture.queue("theirs").await);
    fixture.store.claim_run_by_id(mine.id, "here-1", 2).await.unwrap().unwrap();
    other.claim_run_by_id(theirs.id, "there-1", 2).await.unwrap().unwrap();
    fixture.store.register_worker("here-2", "http://a", 3).await.unwrap();
    let orphans = fixture.store.requeue_orphans("here-2", &[], 4).await.unwrap();
    assert_eq!(orphans.iter().map(|run| run.id).collect::<Vec<_>>(), [mine.id]);
    assert!(other.renew_worker("there-1", 5).await.unwrap());
}

/// Between a store and its database: passes everything on until it is told to break.
struct Relay {
    url: String,
    breaks: Arc<Breaks>,
}

#[derive(Default)]
struct Breaks {
    /// Cuts the next commit's connection once the database has it.
    after_commit: AtomicBool,
    /// Cuts it before.
    before_commit: AtomicBool,
    /// Takes no connection and passes nothing on.
    away: AtomicBool,
}

impl Relay {
    async fn to(url: &str) -> Self {
        let socket = url.split("host=").nth(1).unwrap().split('&').next().unwrap();
        let socket = PathBuf::from(socket).join(".s.PGSQL.5432");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let breaks = Arc::new(Breaks::default());
        let there = breaks.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !there.away.load(Ordering::SeqCst) {
                    tokio::spawn(pass(client, socket.clone(), there.clone()));
                }
            }
        });
        let rest = url.split_once('&').unwrap().1;
        Self { url: format!("postgres://codegen@127.0.0.1:{port}/postgres?{rest}"), breaks }
    }
}

async fn pass(client: TcpStream, socket: PathBuf, breaks: Arc<Breaks>) {
    let server = UnixStream::connect(socket).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let back = async { tokio::io::copy(&mut from_server, &mut to_client).await.map(drop) };
    let there = async {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let count = from_client.read(&mut bytes).await?;
            let sent = &bytes[..count];
            let commits = sent.windows(6).any(|word| word == b"COMMIT");
            if count == 0
                || breaks.away.load(Ordering::SeqCst)
                || commits && breaks.before_commit.swap(false, Ordering::SeqCst)
            {
                return std::io::Result::Ok(());
            }
            to_server.write_all(sent).await?;
            if commits && breaks.after_commit.swap(false, Ordering::SeqCst) {
                return Ok(());
            }
        }
    };
    tokio::select! {
        // Either end may go.
        ended = back => ended.ok(),
        ended = there => ended.ok(),
    };
}

#[tokio::test]
async fn a_change_whose_connection_breaks_at_the_commit_is_made_once() {
    let fixture = Fixture::on(Some(new_schema().await)).await;
    let relay = Relay::to(fixture.url.as_ref().unwrap()).await;
    let store = Store::connect(&relay.url, None).await.unwrap();
    let mut seqs = Vec::new();
    let run = fixture.queue("task").await;
    let claim = store.claim_run("w", 20).await.unwrap().unwrap().claim();
    for break_at in [None, Some(&relay.breaks.after_commit), Some(&relay.breaks.before_commit), None] {
        if let Some(break_at) = break_at {
            break_at.store(true, Ordering::SeqCst);
        }
        seqs.push(store.append_log(&claim, "notice", "{}", false, 21).await.unwrap());
        assert!(break_at.is_none_or(|at| !at.load(Ordering::SeqCst)), "it broke");
    }
    assert_eq!(seqs, [2, 3, 4, 5]);
    assert_eq!(fixture.store.log(run.id, 0, 100).await.unwrap().len(), 5, "once each");
}

#[tokio::test]
async fn readings_and_changes_outlast_a_database_that_is_away() {
    let fixture = Fixture::on(Some(new_schema().await)).await;
    let relay = Relay::to(fixture.url.as_ref().unwrap()).await;
    let store = Store::connect(&relay.url, None).await.unwrap();
    let run = fixture.queue("task").await;
    let claim = store.claim_run("w", 20).await.unwrap().unwrap().claim();
    relay.breaks.away.store(true, Ordering::SeqCst);
    let (appended, read, listed, ()) = tokio::join!(
        store.append_log(&claim, "notice", "{}", false, 21),
        store.run_by_id(run.id),
        store.log_page(run.id, 0, 1 << 20),
        async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            relay.breaks.away.store(false, Ordering::SeqCst);
        }
    );
    assert_eq!((appended.unwrap(), read.unwrap().id), (2, run.id));
    assert!(!listed.unwrap().is_empty());
    assert_eq!(fixture.store.log(run.id, 0, 100).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_the_server_ends_lose_nothing_and_repeat_nothing() {
    let schema = new_schema().await;
    let url = format!("{schema}&application_name={}", schema.rsplit('=').next().unwrap());
    let fixture = Fixture::on(Some(url)).await;
    let mut claims = Vec::new();
    for n in 0..8 {
        fixture.queue(&format!("task {n}")).await;
        claims.push(fixture.store.claim_run("w", 20).await.unwrap().unwrap().claim());
    }
    let mut changes = fixture.store.subscribe();
    let mut writers = tokio::task::JoinSet::new();
    for claim in &claims {
        let (store, claim) = (fixture.store.clone(), *claim);
        writers.spawn(async move {
            for n in 0..30 {
                let body = format!("{{\"n\":{n}}}");
                store.append_log(&claim, "notice", &body, false, 21).await.unwrap();
                store.run_by_id(claim.run_id).await.unwrap();
            }
        });
    }
    for _ in 0..5 {
        for _ in 0..10 {
            changes.recv().await.unwrap();
        }
        fixture
            .execute(
                "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid()",
            )
            .await
            .unwrap();
    }
    writers.join_all().await;
    for claim in claims {
        let log = fixture.store.log(claim.run_id, 0, 100).await.unwrap();
        let bodies: Vec<_> = log.iter().skip(1).map(|row| row.body.clone()).collect();
        assert_eq!(bodies, (0..30).map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>());
    }
}
