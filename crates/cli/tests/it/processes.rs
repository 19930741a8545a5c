//! Several processes on one PostgreSQL database, and that SQLite has one.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Worker, until},
    fixture::{Fixture, git, text},
    server::Server,
};

fn shell(command: &str) -> Value {
    json!({"text": "", "calls": [{"name": "shell", "input": {"command": command}}]})
}

fn finish(summary: &str) -> Value {
    json!({"text": "", "calls": [{"name": "finish", "input": {"summary": summary, "success": true}}]})
}

fn ask_for_a_run(server: &Server<'_>, repo: &str) -> String {
    server.json(&["agent", "--prompt", "Go.", "--repo-id", repo])["id"].to_string()
}

fn status(server: &Server<'_>, id: &str) -> String {
    server.json(&["agent", "--id", id])["status"].as_str().unwrap().to_owned()
}

/// Follows a run to its end.
fn until_ended(server: &Server<'_>, id: &str) -> String {
    let path = format!("/v1/organizations/1/agent/run/{id}/events");
    let (code, body) = server.ask("GET", &path, server.token.as_deref().unwrap(), None);
    assert_eq!(code, 200, "{body}");
    status(server, id)
}

/// Durable entries of a run's trace, by kind.
fn entries(server: &Server<'_>, id: &str, kind: &str) -> Vec<Value> {
    let path = format!("/v1/organizations/1/agent/run/{id}/events?until_now=true");
    let (code, body) = server.ask("GET", &path, server.token.as_deref().unwrap(), None);
    assert_eq!(code, 200, "{body}");
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str::<Value>(data).ok()).filter(|entry| entry["kind"] == kind).collect()
}

#[test]
fn each_run_is_claimed_once_by_one_of_several_workers() {
    let cluster = Cluster::new(&json!([shell("sleep 0.5"), finish("done")]), &[("CODEGEN_MAX_CONCURRENT_RUNS", "1")]);
    let server = cluster.first_server("api");
    let workers = [cluster.worker("one"), cluster.worker("two")];
    let repo = server.add_repo();
    let runs: Vec<String> = (0..6).map(|_| ask_for_a_run(&server, &repo)).collect();
    for id in &runs {
        assert_eq!(until_ended(&server, id), "COMPLETE");
    }
    let claimed: Vec<String> = workers.iter().flat_map(Worker::claimed).collect();
    assert_eq!(claimed.len(), runs.len(), "{claimed:?}");
    assert_eq!(claimed.iter().collect::<BTreeSet<_>>(), runs.iter().collect::<BTreeSet<_>>());
    assert!(workers.iter().all(|worker| !worker.claimed().is_empty()), "both work: {claimed:?}");
}

#[test]
fn a_worker_that_is_stopped_past_its_lease_loses_its_run_and_once_awake_changes_nothing_and_says_why() {
    let lease = Duration::from_secs(6);
    let replies = json!([
        shell("echo begun; if [ ! -e /tmp/second ]; then sleep 300; fi"),
        shell("echo more > more.txt"),
        finish("done"),
    ]);
    let cluster = Cluster::new(&replies, &[("CODEGEN_WORKER_LEASE_S", "6")]);
    let server = cluster.first_server("api");
    let mut first = cluster.worker("first");
    let repo = server.add_repo();
    let id = server.run_until(&repo, &["begun", "call_started"]);
    assert_eq!(first.claimed(), [id.as_str()]);
    let second = cluster.worker("second");
    first.signal(Signal::STOP);
    let stopped = Instant::now();
    until("another worker takes the run over", lease + Duration::from_secs(5), || !second.claimed().is_empty());
    eprintln!("taken over after {:?} with a lease of {lease:?}", stopped.elapsed());
    // The command went with its sandbox, the script goes on.
    assert_eq!(until_ended(&server, &id), "COMPLETE");
    let before = entries(&server, &id, "status").len();
    let branches = || git(&cluster.fixture.origin(), &["for-each-ref", "--format=%(refname) %(objectname)"]);
    let pushed = branches();
    assert_eq!(pushed.lines().count(), 2, "{pushed}");

    first.signal(Signal::CONT);
    let ended = first.process.wait().unwrap();
    assert!(!ended.success());
    assert!(first.said().contains("another codegen has taken over the runs of this one"), "{}", first.said());
    assert_eq!((status(&server, &id).as_str(), entries(&server, &id, "status").len()), ("COMPLETE", before));
    assert_eq!(branches(), pushed);
    assert_eq!((first.claimed(), second.claimed()), (vec![id.clone()], vec![id]));
}

/// `CODEGEN_OUTAGE_S=60` makes it as long as that.
#[test]
fn a_database_that_is_away_for_longer_than_a_lease_loses_nothing_and_repeats_nothing() {
    let outage = std::env::var("CODEGEN_OUTAGE_S").map_or(10, |seconds| seconds.parse().unwrap());
    let mut replies: Vec<Value> = (0..8).map(|n| shell(&format!("echo {n} >> steps.txt; sleep 0.3"))).collect();
    replies.push(finish("done"));
    let lease = (outage * 3 / 5).max(5).to_string();
    let cluster = Cluster::new(&json!(replies), &[("CODEGEN_WORKER_LEASE_S", &lease)]);
    let server = cluster.first_server("api");
    let workers = [cluster.worker("one"), cluster.worker("two")];
    let repo = server.add_repo();
    let id = server.run_until(&repo, &["\"call_finished\""]);
    let token = server.token.as_deref().unwrap();
    let (created, cut) = std::thread::scope(|scope| {
        let cut = scope.spawn(|| cluster.relay.cut_for(Duration::from_secs(outage)));
        let body = json!({"prompt": "Go, too.", "repo_id": repo.parse::<i64>().unwrap()});
        let created = server.ask("POST", "/v1/organizations/1/agent/run", token, Some(&body));
        (created, cut.join())
    });
    cut.unwrap();
    assert_eq!(created.0, 200, "asked while the database was away: {}", created.1);
    let other = serde_json::from_str::<Value>(&created.1).unwrap()["id"].to_string();
    for id in [&id, &other] {
        assert_eq!(until_ended(&server, id), "COMPLETE");
        let diff = server.client(&["agent", "--id", id, "diff"]);
        let lines: Vec<String> = text(&diff).lines().filter(|l| l.starts_with('+')).map(str::to_owned).collect();
        assert_eq!(lines[1..], ["+0", "+1", "+2", "+3", "+4", "+5", "+6", "+7"], "each step once");
        assert_eq!(entries(&server, id, "call_finished").len(), 9);
    }
    let mut claimed: Vec<String> = workers.iter().flat_map(Worker::claimed).collect();
    claimed.sort();
    assert_eq!(claimed, [id, other], "nobody took anything over");
}

#[test]
fn a_server_shows_what_a_worker_elsewhere_says_live_and_what_changed_there_and_nobody_else_is_answered() {
    let replies = json!([
        {"text": "", "calls": [{"name": "write", "input": {"path": "early.txt", "content": "early\n"}}]},
        shell("echo live words; sleep 300"),
    ]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let cluster = Cluster::new(&replies, &[("CODEGEN_WORKER_ADDR", &free)]);
    let server = cluster.first_server("api");
    let _worker = cluster.worker("one");
    let repo = server.add_repo();
    // Its command does not end, so that no entry of the trace has them.
    let id = server.run_until(&repo, &["live words\\n"]);
    until("the diff so far is shown", Duration::from_secs(60), || {
        text(&server.client(&["agent", "--id", &id, "diff"])).contains("+early")
    });
    for path in ["events", "changes"] {
        let path = format!("/runs/{id}/{path}");
        for proof in ["", "x-codegen-proof: 1:AAAA\r\n"] {
            let answer = plain_http(&free, &path, proof);
            assert!(answer.starts_with("HTTP/1.0 401") || answer.starts_with("HTTP/1.1 401"), "{answer}");
        }
    }
    assert!(server.client(&["agent", "--id", &id, "stop", "--follow"]).status.success());
}

fn plain_http(address: &str, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n{header}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn limits_hold_across_servers_and_workers() {
    let settings = [("CODEGEN_RATE_LIMITS", "on")];
    let cluster = Cluster::new(&json!([shell("sleep 0.3"), finish("done")]), &settings);
    let server = cluster.first_server("api");
    let beside = cluster.server("beside");
    let token = server.token.as_deref().unwrap();
    let repo = server.add_repo();
    let limits = json!({"concurrent_runs": 1});
    assert_eq!(server.ask("PUT", "/v1/organizations/1/limits", token, Some(&limits)).0, 200);
    let body = json!({"prompt": "Go.", "repo_id": repo.parse::<i64>().unwrap()});
    let mut runs = Vec::new();
    let mut refused = [0, 0];
    for n in 0..40 {
        let asked = if n % 2 == 0 { &server } else { &beside };
        match asked.ask("POST", "/v1/organizations/1/agent/run", token, Some(&body)) {
            (200, run) => runs.push(serde_json::from_str::<Value>(&run).unwrap()["id"].to_string()),
            (429, _) => refused[n % 2] += 1,
            (status, answer) => panic!("{status}: {answer}"),
        }
    }
    assert!((3..=10).contains(&runs.len()), "10 in a minute, by however many servers: {}", runs.len());
    assert!(refused.iter().all(|refused| *refused > 0), "{refused:?}");

    let _workers = [cluster.worker("one"), cluster.worker("two")];
    let mut spans = Vec::new();
    for id in runs {
        assert_eq!(until_ended(&server, &id), "COMPLETE");
        let stages = entries(&server, &id, "stage");
        let times = stages.iter().flat_map(|stage| [&stage["started_at"], &stage["ended_at"]]);
        let times: Vec<&str> = times.filter_map(Value::as_str).collect();
        spans.push((times.iter().min().unwrap().to_string(), times.iter().max().unwrap().to_string()));
    }
    spans.sort();
    assert!(spans.windows(2).all(|two| two[0].1 < two[1].0), "one at a time: {spans:?}");
}

#[test]
fn sqlite_has_one_process_and_the_others_are_refused_with_a_sentence() {
    let fixture = Fixture::new();
    for args in [&["worker"][..], &["serve", "--no-worker", "--addr", "127.0.0.1:0"]] {
        let refused = fixture.codegen().env_remove("DATABASE_URL").args(args).stdin(Stdio::null()).output().unwrap();
        assert!(!refused.status.success());
        assert!(text(&refused).contains("only on PostgreSQL: set DATABASE_URL"), "{}", text(&refused));
    }
    let _server = Server::first(&fixture, &[]);
    let second = fixture.codegen().args(["serve", "--addr", "127.0.0.1:0"]).output().unwrap();
    assert!(!second.status.success());
    assert!(text(&second).contains("another codegen is using"), "{}", text(&second));
}
