//! Runs whose server or supervisor is stopped, or ended again and again.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, text},
    server::Server,
};

fn works_for_long() -> Value {
    let works = "echo kept > kept.txt; echo wor''king; sleep 300; echo sle''pt";
    json!([
        {"text": "", "calls": [{"name": "shell", "input": {"command": works}}]},
        {"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]},
    ])
}

fn sandboxes(fixture: &Fixture) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixture.dir.path().join("data/sandboxes")).unwrap().flatten();
    entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).map(|entry| entry.path()).collect()
}

fn supervisor(fixture: &Fixture) -> Pid {
    let process = std::fs::read(sandboxes(fixture).remove(0).join("process.json")).unwrap();
    let process: Value = serde_json::from_slice(&process).unwrap();
    Pid::from_raw(i32::try_from(process["pid"].as_i64().unwrap()).unwrap()).unwrap()
}

/// Durable entries of run 1, by kind.
fn entries(server: &Server<'_>, token: &str, kind: &str) -> Vec<Value> {
    let (code, body) = server.ask("GET", "/v1/organizations/1/agent/run/1/events?until_now=true", token, None);
    assert_eq!(code, 200, "{body}");
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str::<Value>(data).ok()).filter(|entry| entry["kind"] == kind).collect()
}

#[test]
fn a_run_whose_supervisor_was_stopped_is_stopped_in_time_and_its_work_is_committed() {
    let fixture = Fixture::new();
    let model = format!("scripted:{}", fixture.script(&works_for_long()).display());
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model)]);
    let repo = server.add_repo();
    let id = server.run_until(&repo, &["working"]);
    kill_process(supervisor(&fixture), Signal::STOP).unwrap();
    let asked = Instant::now();
    assert!(server.client(&["agent", "--id", &id, "stop"]).status.success());
    let trace = text(&server.client(&["agent", "--id", &id, "--follow"]));
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(3), "a stop has 2 s, and the commands here some more: {took:?}");
    assert!(trace.contains("CANCELLED") && !trace.contains("too large"), "{trace}");
    let diff = text(&server.client(&["agent", "--id", &id, "diff"]));
    assert!(diff.contains("kept.txt"), "{diff}");
}

#[test]
fn a_run_that_is_given_up_has_its_work_carried_out_and_its_result_in_the_trace() {
    let fixture = Fixture::new();
    let model = format!("scripted:{}", fixture.script(&works_for_long()).display());
    let mut server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model)]);
    let token = server.token.clone().unwrap();
    let repo = server.add_repo();
    server.run_until(&repo, &["working"]);
    for crash in 0..6 {
        server.log_in(&token);
        let mut follow = fixture.codegen();
        let mut follow =
            follow.args(["agent", "--id", "1", "--follow", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(follow.stdout.take().unwrap()).lines().map_while(Result::ok);
        let begun = lines.filter(|line| line.contains("\"sandbox\"") && line.contains("\"done\""));
        assert_eq!(begun.take(crash + 1).count(), crash + 1);
        follow.kill().unwrap();
        follow.wait().unwrap();
        drop(server);
        server = Server::start(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model)]);
    }
    server.log_in(&token);
    let trace = text(&server.client(&["agent", "--id", "1", "--follow"]));
    assert!(trace.contains("FAILED"), "{trace}");
    let results = entries(&server, &token, "result");
    assert!(results.len() == 1 && results[0]["text"].as_str().unwrap().contains("given up"), "{results:#?}");
    let diff = text(&server.client(&["agent", "--id", "1", "diff"]));
    assert!(diff.contains("kept.txt"), "{diff}");
}

#[test]
fn a_server_that_was_stopped_for_a_while_and_still_has_its_runs_says_so_in_their_traces() {
    let fixture = Fixture::new();
    let model = format!("scripted:{}", fixture.script(&works_for_long()).display());
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model)]);
    let token = server.token.clone().unwrap();
    let repo = server.add_repo();
    server.run_until(&repo, &["working"]);
    server.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(10));
    server.signal(Signal::CONT);
    let began = Instant::now();
    loop {
        let notices = entries(&server, &token, "notice");
        std::thread::sleep(Duration::from_millis(200));
        if notices.iter().any(|notice| notice["text"].as_str().unwrap().starts_with("codegen was stopped for")) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{notices:#?}");
    }
}
