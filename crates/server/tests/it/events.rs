//! A run's events through HTTP: no gap and no repeat, whatever breaks, and nobody is held up by who does not read.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use codegen_agent::Delta;
use codegen_sandbox::{Engine, Error, Fence, Isolation, Sandbox, Spec};
use codegen_store::{Claim, NewRun, Reason, Run};
use futures::StreamExt as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use reqwest::Method;
use tokio::io::AsyncWriteExt as _;

use crate::{
    alone::in_a_process_of_its_own,
    api::{TOKEN, TestApp, answer, failure, failures},
};

/// Never gets done, so the one run that the server's worker takes keeps it from taking more.
struct Endless;

#[async_trait]
impl Engine for Endless {
    fn isolation(&self) -> Isolation {
        Isolation::default()
    }
    async fn create(&self, _: &Spec) -> Result<Arc<dyn Sandbox>, Error> {
        std::future::pending().await
    }
    async fn attach(&self, id: &str, _: Fence) -> Result<Arc<dyn Sandbox>, Error> {
        Err(Error::Gone(id.to_owned()))
    }
    async fn destroy(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }
    async fn inventory(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }
}

/// A server and a run that this test is the worker of.
pub struct Watched {
    pub app: TestApp,
    pub run: Run,
    claim: Claim,
}

impl Watched {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let app = TestApp::on(dir, &[("CODEGEN_MAX_CONCURRENT_RUNS", "1")], Arc::new(Endless)).await;
        let store = &app.app.store;
        let (org, user) = store.first_org_and_admin().await.unwrap();
        let new = || NewRun { user_id: user.id, prompt: "hello".to_owned(), ..NewRun::default() };
        let mut changes = store.subscribe();
        let first = store.create_run(org.id, new(), 1).await.unwrap();
        while store.run(org.id, first.id).await.unwrap().worker_id.is_none() {
            changes.recv().await.ok();
        }
        let run = store.create_run(org.id, new(), 1).await.unwrap();
        let claim = store.claim_run_by_id(run.id, &app.app.worker_id, 1).await.unwrap().unwrap().claim();
        Self { app, run, claim }
    }

    fn path(&self) -> String {
        format!("/v1/organizations/1/agent/run/{}/events", self.run.id)
    }

    pub async fn append(&self, text: &str) -> i64 {
        let body = serde_json::json!({ "kind": "notice", "text": text }).to_string();
        self.app.app.store.append_log(&self.claim, "notice", &body, false, 1).await.unwrap()
    }

    pub async fn finish(&self) {
        self.app.app.store.finish_run(&self.claim, Reason::Complete, "done", None, 1).await.unwrap();
    }
}

fn ids(text: &str) -> Vec<i64> {
    text.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_that_loses_its_connection_again_and_again_sees_each_entry_once_and_in_order() {
    for seed in 0..12 {
        let watched = Watched::new().await;
        let mut chance = StdRng::seed_from_u64(seed);
        let entries = chance.random_range(50..400);
        let append = async {
            let mut chance = StdRng::seed_from_u64(seed + 1000);
            for n in 0..entries {
                watched.append(&"x".repeat(chance.random_range(0..3000))).await;
                watched.app.app.watches.delta(watched.run.id, &Delta::Text { text: format!("word {n} ") });
            }
            watched.finish().await;
        };
        let view = async {
            let mut seen: Vec<i64> = Vec::new();
            loop {
                let last = seen.last().copied().unwrap_or(0);
                let by_query = chance.random_bool(0.5);
                let path = if by_query { format!("{}?last_event_id={last}", watched.path()) } else { watched.path() };
                let mut request = watched.app.asks(Method::GET, &path, Some(TOKEN));
                if !by_query {
                    request = request.header("last-event-id", last.to_string());
                }
                let mut bytes = request.send().await.unwrap().bytes_stream();
                let (mut text, mut left) = (String::new(), chance.random_range(1..60_000_usize));
                while left > 0
                    && let Some(chunk) = bytes.next().await
                {
                    let chunk = chunk.unwrap();
                    let taken = chunk.len().min(left);
                    text.push_str(std::str::from_utf8(&chunk[..taken]).unwrap());
                    left -= taken;
                }
                // What came whole counts, as in a browser.
                let whole = text.rfind("\n\n").map_or("", |end| &text[..end + 2]);
                seen.extend(ids(whole));
                if whole.contains("event: end\n") {
                    return seen;
                }
            }
        };
        let ((), seen) = tokio::join!(append, view);
        let log_seq = watched.app.app.store.run_by_id(watched.run.id).await.unwrap().log_seq;
        assert_eq!(seen, (1..=log_seq).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn two_hundred_viewers_that_do_not_read_neither_slow_the_run_nor_fill_the_memory() {
    // The memory of this one is every test's that runs in it.
    in_a_process_of_its_own("events::two_hundred_viewers_alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other half of the test above, which runs it in a process of its own"]
async fn two_hundred_viewers_alone() {
    let watched = Watched::new().await;
    let big = "x".repeat(30_000);
    let pace = async || {
        let began = Instant::now();
        for _ in 0..300 {
            watched.append(&big).await;
        }
        began.elapsed()
    };
    let alone = pace().await;
    let address = watched.app.base.strip_prefix("http://").unwrap().to_owned();
    let mut stalled = Vec::new();
    for _ in 0..200 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let asks = format!(
            "GET {}?last_event_id=300 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
            watched.path()
        );
        stream.write_all(asks.as_bytes()).await.unwrap();
        // The first byte of the answer; from then on nothing is read.
        stream.readable().await.unwrap();
        stalled.push(stream);
    }
    let reader = watched.app.asks(Method::GET, &watched.path(), Some(TOKEN)).send();
    let reader = tokio::spawn(async { reader.await.unwrap().text().await.unwrap() });
    let before = resident_kib();
    let watched_by_stalled = pace().await;
    watched.finish().await;
    let seen = ids(&reader.await.unwrap());
    assert_eq!(seen, (1..=602).collect::<Vec<_>>(), "the one that reads has all");
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 200 * 250, "{grown} KiB for 200 viewers that each miss 9 MB");
    let waiting = sent_and_not_taken(&address);
    // Twice 128 KiB, and the piece that was let in last.
    assert!(waiting < 200 * (320 << 10), "{waiting} bytes wait in the kernel for 200 viewers that do not read");
    assert!(
        watched_by_stalled < alone * 4 + Duration::from_secs(2),
        "300 entries took {alone:?} alone and {watched_by_stalled:?} under 200 viewers that do not read"
    );
    drop(stalled);
}

/// Bytes in the kernel that clients of this address have not taken.
fn sent_and_not_taken(address: &str) -> u64 {
    let (_, port) = address.rsplit_once(':').unwrap();
    let local = format!(":{:04X}", port.parse::<u16>().unwrap());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = lines.filter(|line| line[1].ends_with(&local));
    ours.map(|line| u64::from_str_radix(line[4].split(':').next().unwrap(), 16).unwrap()).sum()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn live_words_come_between_the_entries_where_they_were_said() {
    let watched = Watched::new().await;
    let sent = watched.app.asks(Method::GET, &watched.path(), Some(TOKEN)).send().await.unwrap();
    assert_eq!(sent.headers()["cache-control"], "no-cache");
    let mut bytes = sent.bytes_stream();
    let mut text = String::new();
    let mut until = async |words: &str| {
        while !text.contains(words) {
            text.push_str(std::str::from_utf8(&bytes.next().await.unwrap().unwrap()).unwrap());
        }
        text.clone()
    };
    until("event: user_message").await;
    let (watches, id) = (&watched.app.app.watches, watched.run.id);
    watched.append("first").await;
    until("first").await;
    // A viewer that is still reading the log is shown nothing live.
    loop {
        watches.delta(id, &Delta::Text { text: "between ".to_owned() });
        if tokio::time::timeout(Duration::from_millis(100), until("between ")).await.is_ok() {
            break;
        }
    }
    watched.append("second").await;
    watches.grown(id);
    watches.delta(id, &Delta::Output { call_id: "c".to_owned(), text: "after".to_owned() });
    let all = until("\"after\"").await;
    let place = |words: &str| all.find(words).unwrap_or_else(|| panic!("{words} in {all}"));
    assert!(place("between ") < place("second") && place("second") < place("\"after\""), "{all}");
    assert!(!ids(&all).is_empty() && all.contains("event: text\ndata: {\"kind\":\"text\""), "{all}");
}

#[tokio::test]
async fn a_bad_last_event_id_in_the_query_is_refused() {
    let watched = Watched::new().await;
    let path = format!("{}?last_event_id=x", watched.path());
    let (status, body) = answer(watched.app.asks(Method::GET, &path, Some(TOKEN)).send().await.unwrap()).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("query.last_event_id", "int_parsing")]));
}
