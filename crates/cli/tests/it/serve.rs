//! `codegen serve` and the commands that talk to it.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, git, text},
    server::Server,
};

#[test]
fn a_new_server_is_logged_in_to_given_a_repository_and_asked_for_a_run() {
    let fixture = Fixture::new();
    let model = format!("scripted:{}", fixture.mending().display());
    let server = Server::first(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model)]);
    let token = server.token.clone().unwrap();
    let bad = server.client(&["login", "--token", "wrong", "--url", &server.url]);
    assert!(!bad.status.success());
    let login = server.client(&["login", "--token", &token, "--url", &server.url]);
    assert!(login.status.success(), "{}", text(&login));
    let added = server.client(&["repo", "add", fixture.origin().to_str().unwrap(), "--json"]);
    let repo: Value = serde_json::from_slice(&added.stdout).unwrap_or_else(|_| panic!("{}", text(&added)));
    let id = repo["id"].to_string();
    let run = server.client(&["agent", "--prompt", "Mend it.", "--repo-id", &id, "--follow"]);
    assert!(run.status.success(), "{}", text(&run));
    let branches = git(&fixture.origin(), &["branch", "--list", "codegen/*", "--format=%(refname:short)"]);
    assert_eq!(
        git(&fixture.origin(), &["show", &format!("{branches}:total.py")]),
        "def total(xs):\n    return sum(xs)"
    );
    let list = server.client(&["agents", "--json"]);
    let page: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(page["items"][0]["status"], "COMPLETE");
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_server_that_is_asked_to_end_ends_without_a_line_of_error() {
    let fixture = Fixture::new();
    let log = fixture.dir.path().join("log");
    let mut token = None;
    for _ in 0..6 {
        let said = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = fixture.codegen();
        command.args(["serve", "--addr", "127.0.0.1:0"]).env("CODEGEN_ALLOW_PRIVATE_ADDRESSES", "on").stderr(said);
        let mut server = Server::spawn(&fixture, command);
        if token.is_none() {
            server.read_token();
            token = server.token.clone();
            server.log_in(token.as_deref().unwrap());
            let hook = server.client(&["webhooks", "add", "http://127.0.0.1:9/hooks"]);
            assert!(hook.status.success(), "{}", text(&hook));
        }
        // What is to be sent is looked for once more while the server goes.
        for _ in 0..3 {
            server.post("/v1/organizations/1/webhooks/1/ping", token.as_deref().unwrap(), &json!({}));
        }
        assert_eq!(server.terminate(), Some(0));
    }
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("asked to end") && !said.contains("ERROR") && !said.contains("closed"), "{said}");
}

#[test]
fn a_second_server_on_the_same_data_directory_is_refused() {
    let fixture = Fixture::new();
    let _server = Server::first(&fixture, &[]);
    let second = fixture.codegen().args(["serve", "--addr", "127.0.0.1:0"]).output().unwrap();
    assert!(!second.status.success());
    assert!(text(&second).contains("another"), "{}", text(&second));
}

#[test]
fn a_port_in_use_is_named() {
    let fixture = Fixture::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = fixture.codegen().args(["serve", "--addr", &addr]).output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output).contains(&addr), "{}", text(&output));
}

#[test]
fn the_token_is_shown_once_and_outlives_a_restart() {
    let fixture = Fixture::new();
    let mut server = Server::first(&fixture, &[]);
    let token = server.token.take().unwrap();
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start(&fixture, &[]);
    let login = server.client(&["login", "--token", &token, "--url", &server.url]);
    assert!(login.status.success(), "{}", text(&login));
}

#[test]
fn commands_end_in_silence_when_nobody_reads_and_with_a_sentence_when_the_disk_is_full() {
    let fixture = Fixture::new();
    let script = fixture.script(&serde_json::json!([
        {"text": "", "calls": [{"name": "finish", "input": {"summary": "\u{1b}]0;title\u{7}done", "success": true}}]},
    ]));
    let model = format!("scripted:{}", script.display());
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model)]);
    let repo = server.add_repo();
    let followed = server.client(&["agent", "--prompt", "Go.", "--repo-id", &repo, "--follow"]);
    assert!(followed.status.success(), "{}", text(&followed));
    let id = server.json(&["agents"])["items"][0]["id"].to_string();
    for args in [
        &["agent", "--id", &id][..],
        &["agent", "--id", &id, "--json"],
        &["agent", "--id", &id, "logs"],
        &["agents"],
        &["agents", "--json"],
        &["repo", "list"],
        &["config", "show"],
        &["df"],
        &["completion", "bash"],
    ] {
        let shown = server.client(args);
        assert!(shown.status.success() && !shown.stdout.is_empty(), "{args:?}: {}", text(&shown));
        assert!(!text(&shown).contains(['\u{1b}', '\u{7}']), "{args:?} shows what a terminal obeys");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = fixture.codegen().args(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert!(closed.status.success() && closed.stderr.is_empty(), "{args:?}: {}", text(&closed));
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let full = fixture.codegen().args(["agents"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert!(text(&full).contains("writing to standard output: No space left"), "{}", text(&full));
}

#[test]
fn a_run_that_a_killed_server_left_goes_on_at_the_next_start() {
    let fixture = Fixture::new();
    let script = fixture.script(&serde_json::json!([
        {"text": "one", "calls": [{"name": "shell", "input": {"command": "echo once >> log.txt; sleep 2; echo went on >> log.txt; echo picked up"}}]},
        {"text": "two", "expect": "picked up", "calls": [{"name": "shell", "input": {"command": "echo twice >> log.txt"}}]},
        {"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]},
    ]));
    let model = format!("scripted:{}", script.display());
    let env = [("CODEGEN_DEFAULT_MODEL", model.as_str())];
    let mut server = Server::first(&fixture, &env);
    let token = server.token.take().unwrap();
    assert!(server.client(&["login", "--token", &token, "--url", &server.url]).status.success());
    let added = server.client(&["repo", "add", fixture.origin().to_str().unwrap(), "--json"]);
    let repo: Value = serde_json::from_slice(&added.stdout).unwrap();
    let started = server.client(&["agent", "--prompt", "Go.", "--repo-id", &repo["id"].to_string(), "--json"]);
    let id = serde_json::from_slice::<Value>(&started.stdout).unwrap()["id"].to_string();
    let mut follow =
        fixture.codegen().args(["agent", "--id", &id, "--follow", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let events = BufReader::new(follow.stdout.take().unwrap()).lines();
    events
        .map_while(Result::ok)
        .find(|line| line.contains("\"kind\":\"call\"") || line.contains("call_started"))
        .unwrap();
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    follow.kill().unwrap();
    follow.wait().unwrap();
    drop(server);
    let server = Server::start(&fixture, &env);
    assert!(server.client(&["login", "--token", &token, "--url", &server.url]).status.success());
    let run = server.client(&["agent", "--id", &id, "--follow"]);
    assert!(run.status.success(), "{}", text(&run));
    let text = text(&run);
    assert_eq!(text.matches("ended without warning; the run goes on").count(), 1, "{text}");
    assert!(!text.contains("interrupted"), "the command went on, and its result is picked up: {text}");
    assert_eq!(git(&fixture.origin(), &["show", "codegen/1-go:log.txt"]), "once\nwent on\ntwice", "{text}");
}

#[test]
fn a_command_of_a_lost_sandbox_is_not_run_again_in_the_next_one_though_its_server_dies_too() {
    let fixture = Fixture::new();
    let script = fixture.script(&json!([
        {"text": "", "calls": [{"name": "shell", "input": {"command": "echo begun; sleep 60"}}]},
        {"text": "", "expect": "interrupted", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]},
    ]));
    let model = format!("scripted:{}", script.display());
    let env = [("CODEGEN_DEFAULT_MODEL", model.as_str())];
    let mut server = Server::logged_in(&fixture, &env);
    let run = server.run_until(&server.add_repo(), &["\"text\":\"begun"]);
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    let sandboxes = fixture.dir.path().join("data/sandboxes");
    for state in std::fs::read_dir(sandboxes)
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("process.json")).ok())
    {
        let state: Value = serde_json::from_slice(&state).unwrap();
        let supervisor = Pid::from_raw(i32::try_from(state["pid"].as_i64().unwrap()).unwrap()).unwrap();
        kill_process(supervisor, Signal::KILL).unwrap();
    }
    let addr = server.url.strip_prefix("http://").unwrap().to_owned();
    drop(server);
    let mut between = Server::start_at(&fixture, &[env[0], ("FAILPOINT", "prepared.after=1")], &addr);
    assert!(!between.process.wait().unwrap().success(), "it ends when the next sandbox is the run's");
    drop(between);
    let server = Server::start_at(&fixture, &env, &addr);
    let follow = server.client(&["agent", "--id", &run, "--follow"]);
    assert!(follow.status.success(), "{}", text(&follow));
    assert_eq!(text(&follow).matches("under way when its sandbox was lost").count(), 1, "{}", text(&follow));
    assert_eq!(text(&follow).matches("Under way when it was lost: the call of shell").count(), 1, "{}", text(&follow));
}

#[test]
fn a_server_whose_zygote_was_killed_ends_so_that_the_next_one_goes_on_with_its_runs() {
    let fixture = Fixture::new();
    let wait = "echo begun; while [ ! -e go ]; do read -t 0.05 x < /dev/zero || true; done";
    let script = fixture.script(&json!([
        {"text": "", "calls": [{"name": "shell", "input": {"command": wait}}]},
        {"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]},
    ]));
    let model = format!("scripted:{}", script.display());
    let env = [("CODEGEN_DEFAULT_MODEL", model.as_str())];
    let mut server = Server::logged_in(&fixture, &env);
    let run = server.run_until(&server.add_repo(), &["\"text\":\"begun"]);
    let id = server.process.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let zygote: i32 = children.split_whitespace().next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(zygote).unwrap(), Signal::KILL).unwrap();
    assert_eq!(server.process.wait().unwrap().code(), Some(1), "an end that a supervisor of services starts anew");
    let addr = server.url.strip_prefix("http://").unwrap().to_owned();
    drop(server);
    let server = Server::start_at(&fixture, &env, &addr);
    let next = server.json(&["agent", "--id", &run, "stop"]);
    assert_eq!(next["id"].to_string(), run);
    let follow = server.client(&["agent", "--id", &run, "--follow"]);
    assert!(text(&follow).contains("CANCELLED"), "{}", text(&follow));
}
