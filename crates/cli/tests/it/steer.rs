//! Watching and steering a server's runs from a terminal.

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, text},
    server::Server,
};

/// Waits in the workspace until a file `go` is there.
const WAIT: &str = "echo begun; while [ ! -e go ]; do read -t 0.05 x < /dev/zero || true; done";

fn logged_in<'a>(fixture: &'a Fixture, env: &[(&str, &str)]) -> (Server<'a>, Value) {
    let mut server = Server::first(fixture, env);
    let token = server.token.take().unwrap();
    assert!(server.client(&["login", "--token", &token, "--url", &server.url]).status.success());
    let added = server.client(&["repo", "add", fixture.origin().to_str().unwrap(), "--json"]);
    let repo = serde_json::from_slice(&added.stdout).unwrap_or_else(|_| panic!("{}", text(&added)));
    (server, repo)
}

fn json_of(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)))
}

#[test]
fn a_run_is_looked_at_stopped_continued_and_listed() {
    let fixture = Fixture::new();
    let script = fixture.script(&json!([
        {"text": "", "calls": [{"name": "write", "input": {"path": "early.txt", "content": "early\n"}}]},
        {"text": "I wait now.", "calls": [{"name": "shell", "input": {"command": format!("echo new > new.txt; {WAIT}")}}]},
        {"text": "", "calls": [{"name": "finish", "input": {"summary": "Went on", "success": true}}]},
    ]));
    let model = format!("scripted:{}", script.display());
    let (server, repo) = logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model)]);
    let started = server.client(&["agent", "--prompt", "Go.", "--repo-id", &repo["id"].to_string(), "--json"]);
    let id = json_of(&started)["id"].to_string();

    let mut follow =
        fixture.codegen().args(["agent", "--id", &id, "--follow", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines().map_while(Result::ok);
    lines.find(|line| line.contains("\"kind\":\"output\"") && line.contains("begun")).unwrap();
    let so_far = text(&server.client(&["agent", "--id", &id, "logs"]));
    assert!(so_far.contains("· checkout done") && so_far.contains("I wait now.\n$ echo new"), "{so_far}");
    // The workspace is kept a moment after its turn.
    let asked = Instant::now();
    while !text(&server.client(&["agent", "--id", &id, "diff"])).contains("+early") {
        assert!(asked.elapsed() < Duration::from_secs(30), "a live run shows what it changed so far");
    }
    let stopped = server.client(&["agent", "--id", &id, "stop", "--follow"]);
    assert!(stopped.status.success(), "{}", text(&stopped));
    assert!(text(&stopped).contains("CANCELLED") && text(&stopped).contains("new.txt"), "{}", text(&stopped));
    assert!(!follow.wait().unwrap().success(), "who follows a run is told that it was not completed");

    let diff = server.client(&["agent", "--id", &id, "diff"]);
    assert!(text(&diff).contains("+new"), "{}", text(&diff));
    assert!(json_of(&server.client(&["agent", "--id", &id, "diff", "--json"]))["stat"].is_string());
    let resumed = server.client(&["agent", "--id", &id, "resume", "Go on", "--follow"]);
    assert!(resumed.status.success(), "{}", text(&resumed));
    let shown = text(&resumed);
    assert!(shown.contains("you Go on") && shown.contains("the agent has read your message"), "{shown}");
    assert!(!shown.contains("I wait now."), "what was seen before is not shown again: {shown}");
    assert!(shown.contains("branch        codegen/") && shown.contains("used          1 steps"), "{shown}");

    let other = server.client(&["agent", "--id", "99", "stop"]);
    assert!(!other.status.success() && text(&other).contains("Agent run not found"), "{}", text(&other));
    let edited = json_of(&server.client(&["agent", "--id", &id, "tag", "nightly", "two words", "--json"]));
    assert_eq!(edited["tags"], json!(["nightly", "two words"]));
    // The search follows the log in a moment.
    let asked = Instant::now();
    while !text(&server.client(&["search", "early"])).contains("early.txt") {
        assert!(asked.elapsed() < Duration::from_secs(30), "the search finds what a run wrote");
    }
    for (filter, count) in [
        (vec!["--status", "complete"], 1),
        (vec!["--tag", "two words"], 1),
        (vec!["--tag", "weekly"], 0),
        (vec!["--search", "early"], 1),
        (vec!["--search", "xylophone"], 0),
        (vec!["--since", "2020-01-01", "--until", "2100-01-01"], 1),
        (vec!["--until", "2020-01-01"], 0),
        (vec!["--archived"], 0),
        (vec!["--before", &id], 0),
        (vec!["--status", "FAILED"], 0),
        (vec!["--source", "api", "--mine"], 1),
        (vec!["--source", "LINEAR"], 0),
        (vec!["--user-id", "99"], 0),
    ] {
        let page = json_of(&server.client(&[vec!["agents", "--json"], filter.clone()].concat()));
        assert_eq!(page["items"].as_array().unwrap().len(), count, "{filter:?}: {page}");
    }
    assert!(server.client(&["agent", "--id", &id, "archive"]).status.success());
    let listed = |args: &[&str]| json_of(&server.client(args))["items"].as_array().unwrap().len();
    assert_eq!((listed(&["agents", "--json"]), listed(&["agents", "--json", "--archived"])), (0, 1));
    assert!(server.client(&["agent", "--id", &id, "unarchive"]).status.success());
    let removed = server.client(&["agent", "--id", &id, "delete"]);
    assert!(removed.status.success(), "{}", text(&removed));
    assert!(!server.client(&["agent", "--id", &id]).status.success());
    assert_eq!((listed(&["agents", "--json"]), listed(&["search", "early", "--json"])), (0, 0));
}

#[test]
fn who_follows_a_run_sees_each_entry_once_although_the_server_is_killed_and_started_again() {
    let fixture = Fixture::new();
    let script = fixture.script(&json!([
        {"text": "one", "calls": [{"name": "shell", "input": {"command": "echo begun; for n in 1 2 3 4 5 6; do read -t 0.25 x < <(:; sleep 1) || true; done"}}]},
        {"text": "two", "calls": [{"name": "shell", "input": {"command": "echo twice"}}]},
        {"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]},
    ]));
    let model = format!("scripted:{}", script.display());
    let env = [("CODEGEN_DEFAULT_MODEL", model.as_str())];
    let (mut server, repo) = logged_in(&fixture, &env);
    let started = server.client(&["agent", "--prompt", "Go.", "--repo-id", &repo["id"].to_string(), "--json"]);
    let id = json_of(&started)["id"].to_string();
    let mut follow =
        fixture.codegen().args(["agent", "--id", &id, "--follow", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(follow.stdout.take().unwrap());
    let mut seen = String::new();
    // Not the command, which has the word too.
    while !seen.contains("\"text\":\"begun") {
        assert!(out.read_line(&mut seen).unwrap() > 0, "{seen}");
    }
    server.process.kill().unwrap();
    server.process.wait().unwrap();
    let addr = server.url.strip_prefix("http://").unwrap().to_owned();
    drop(server);
    let server = Server::start_at(&fixture, &env, &addr);
    out.read_to_string(&mut seen).unwrap();
    assert!(follow.wait().unwrap().success(), "{seen}");
    let logs = String::from_utf8(server.client(&["agent", "--id", &id, "logs", "--json"]).stdout).unwrap();
    let is_live =
        |line: &&str| ["text", "call", "output"].iter().any(|k| line.contains(&format!("{{\"kind\":\"{k}\"")));
    let entries: Vec<&str> = seen.lines().filter(|line| !is_live(line)).collect();
    assert_eq!(entries, logs.lines().collect::<Vec<_>>());
    assert!(logs.contains("\"two\"") && logs.contains("COMPLETE"), "{logs}");
}

#[test]
fn a_single_run_streams_its_stages_words_and_commands() {
    let fixture = Fixture::new();
    let script = fixture.mending();
    let output = fixture.codegen().args(["run", "Mend it.", "--script"]).arg(script).output().unwrap();
    let shown = text(&output);
    for words in [
        "· fetch done",
        "· sandbox done",
        "I run the test first.\n$ python3",
        "result Stop adding",
        "status        COMPLETE",
    ] {
        assert_eq!(shown.matches(words).count(), 1, "{words} in {shown}");
    }
}

#[test]
fn completion_knows_what_can_be_done_with_a_run() {
    let fixture = Fixture::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&fixture.codegen().args(["completion", shell]).output().unwrap());
        for word in ["resume", "logs", "diff", "--image", "--status"] {
            assert!(script.contains(word.trim_start_matches('-')), "{word} in {shell}");
        }
    }
    let action = fixture.codegen().args(["agent", "--prompt", "x", "logs"]).output().unwrap();
    assert!(!action.status.success());
}
