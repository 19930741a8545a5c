//! `codegen claude` around the real Claude Code, which talks to a scripted Messages API.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, text},
    server::Server,
};

/// Where `scripts/bootstrap test` puts it.
pub fn claude_dir() -> PathBuf {
    let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/parts/claude/node_modules/.bin");
    assert!(
        parts.join("claude").exists(),
        "Claude Code is not in target/parts; run `scripts/bootstrap test` (`make test` does it)"
    );
    parts
}

/// A Messages API: the first question with tools is answered with a command, or by MCP with a run where one is asked for; all others
/// with words. Gives its address.
pub fn messages_api() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(stream.unwrap()));
        }
    });
    format!("http://{address}")
}

fn answer(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (kind, sent) = if first.starts_with("POST /v1/messages?") || first.starts_with("POST /v1/messages ") {
            ("text/event-stream", events(&asked))
        } else {
            ("application/json", "{}".to_owned())
        };
        let sent = if first.starts_with("HEAD") { String::new() } else { sent };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", sent.len());
        if stream.write_all(format!("{head}{sent}").as_bytes()).is_err() {
            return;
        }
    }
}

fn events(asked: &Value) -> String {
    let has = |name: &str| asked["tools"].as_array().is_some_and(|tools| tools.iter().any(|tool| tool["name"] == name));
    let call = [
        ("mcp__codegen__create_agent_run", json!({ "prompt": "Say hi." })),
        ("Bash", json!({ "command": "echo from-the-shell", "description": "Say it" })),
    ];
    let wants_a_run = asked["messages"].to_string().contains("Start a run.");
    let call = call.into_iter().find(|(name, _)| has(name) && (wants_a_run || *name == "Bash"));
    let has_result = asked["messages"].to_string().contains("tool_result");
    let system = asked["system"].to_string();
    let (block, delta, reason) = if let (Some((name, input)), false) = (call, has_result) {
        let delta = json!({ "type": "input_json_delta", "partial_json": input.to_string() });
        (json!({ "type": "tool_use", "id": "toolu_1", "name": name, "input": {} }), delta, "tool_use")
    } else {
        let has_tools = has("mcp__codegen__create_agent_run");
        let words = match (system.contains("Be kind to readers."), has_tools) {
            (true, true) => "Done, kindly.",
            (true, false) => "Done, kindly, without tools.",
            (false, _) => "Done.",
        };
        (json!({ "type": "text", "text": "" }), json!({ "type": "text_delta", "text": words }), "end_turn")
    };
    let id = format!("msg_{:x}", asked["messages"].to_string().len());
    let usage = json!({ "input_tokens": 1000, "output_tokens": 10 });
    let events = [
        json!({ "type": "message_start", "message": { "id": id, "type": "message", "role": "assistant", "content": [],
            "model": asked["model"], "stop_reason": null, "stop_sequence": null, "usage": usage } }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": { "stop_reason": reason, "stop_sequence": null }, "usage": { "output_tokens": 10 } }),
        json!({ "type": "message_stop" }),
    ];
    events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap())).collect()
}

/// `codegen claude`, with a home of its own.
fn claude(fixture: &Fixture, api: &str, args: &[&str]) -> Command {
    let mut command = fixture.codegen();
    let path = format!("{}:{}", claude_dir().display(), std::env::var("PATH").unwrap());
    let home = fixture.dir.path().join("home");
    std::fs::create_dir_all(&home).unwrap();
    command.arg("claude").args(args).env("PATH", path).env("HOME", &home).env_remove("CLAUDE_CONFIG_DIR");
    command.env("XDG_STATE_HOME", home.join("state")).env("ANTHROPIC_API_KEY", "any").env("ANTHROPIC_BASE_URL", api);
    command.env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1").env("DISABLE_AUTOUPDATER", "1").env("IS_SANDBOX", "1");
    command.stdin(std::process::Stdio::null());
    command
}

const TASK: [&str; 3] = ["-p", "Say it.", "--dangerously-skip-permissions"];

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The newest run, once it has ended.
fn ended_run(server: &Server<'_>) -> Value {
    let asked = Instant::now();
    loop {
        let run = server.json(&["agents"])["items"][0].clone();
        if run["status"] != "ACTIVE" {
            return run;
        }
        assert!(asked.elapsed() < Duration::from_secs(30), "{run}");
        std::thread::yield_now();
    }
}

fn kept(fixture: &Fixture) -> Vec<PathBuf> {
    let dir = fixture.dir.path().join("home/state/codegen/claude");
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect()
}

#[test]
fn a_session_is_a_run_with_its_turns_calls_tokens_and_cost_and_follows_the_rules() {
    let fixture = Fixture::new();
    let server = Server::logged_in(&fixture, &[]);
    succeeds(&server.client(&["rules", "add", "Be kind to readers."]));
    let api = messages_api();
    let settings = fixture.dir.path().join("home/.claude/settings.json");
    std::fs::create_dir_all(settings.parent().unwrap()).unwrap();
    std::fs::write(&settings, "{\"env\": {}}").unwrap();
    assert_eq!(succeeds(&claude(&fixture, &api, &TASK).output().unwrap()).trim(), "Done, kindly.");
    assert_eq!(std::fs::read_to_string(&settings).unwrap(), "{\"env\": {}}", "settings stay as they were");

    let run = ended_run(&server);
    assert_eq!((&run["status"], &run["source_type"]), (&json!("COMPLETE"), &json!("LOCAL")));
    assert_eq!(run["result"], "Done, kindly.");
    let logs = succeeds(&server.client(&["agent", "--id", &run["id"].to_string(), "logs"]));
    for words in ["Say it.", "echo from-the-shell", "from-the-shell\n", "Done, kindly."] {
        assert!(logs.contains(words), "{words}: {logs}");
    }
    let view = server.ask(
        "GET",
        &format!("/v1/organizations/1/agent/run/{}/view", run["id"]),
        server.token.as_deref().unwrap(),
        None,
    );
    let view: Value = serde_json::from_str(&view.1).unwrap();
    assert_eq!((&view["prompt"], &view["steps"], &view["tokens_in"]), (&json!("Say it."), &json!(2), &json!(2000)));
    assert!(view["cost"].as_f64().unwrap() > 0.0, "{view}");
    assert!(kept(&fixture).is_empty(), "nothing is left to tell");
}

#[test]
fn a_session_has_codegen_s_tools_unless_it_shall_not() {
    let fixture = Fixture::new();
    let server = Server::logged_in(&fixture, &[]);
    succeeds(&server.client(&["rules", "add", "Be kind to readers."]));
    let args = [&["--no-mcp"][..], &TASK].concat();
    let without = claude(&fixture, &messages_api(), &args).output().unwrap();
    assert_eq!(succeeds(&without).trim(), "Done, kindly, without tools.");
}

#[test]
fn a_session_that_the_server_did_not_hear_of_is_told_once_whole_by_the_next_one() {
    let fixture = Fixture::new();
    let server = Server::logged_in(&fixture, &[]);
    let (api, token, address) = (messages_api(), server.token.clone().unwrap(), server.url.clone());
    server.terminate();
    let alone = claude(&fixture, &api, &TASK).output().unwrap();
    assert_eq!(succeeds(&alone).trim(), "Done.");
    assert!(text(&alone).contains("the next `codegen claude` tells the rest"), "{}", text(&alone));
    assert_eq!(kept(&fixture).len(), 1);

    let mut server = Server::start_at(&fixture, &[], address.strip_prefix("http://").unwrap());
    server.token = Some(token);
    succeeds(&claude(&fixture, &api, &TASK).output().unwrap());
    let runs = server.json(&["agents"]);
    assert_eq!(runs["total"], 2, "{runs}");
    for run in runs["items"].as_array().unwrap() {
        assert_eq!(run["status"], "COMPLETE", "{run}");
        let logs = succeeds(&server.client(&["agent", "--id", &run["id"].to_string(), "logs"]));
        assert_eq!(logs.matches("Bash {\"command\":\"echo from-the-shell\"").count(), 1, "{logs}");
    }
    assert!(kept(&fixture).is_empty());
}

#[test]
fn claude_s_own_words_and_exit_code_pass_through_and_a_background_run_is_the_server_s() {
    let fixture = Fixture::new();
    let model = format!("scripted:{}", fixture.mending().display());
    let server = Server::logged_in(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model)]);
    let api = messages_api();
    assert!(succeeds(&claude(&fixture, &api, &["--version"]).output().unwrap()).contains("Claude Code"));
    let refused = claude(&fixture, &api, &["-p", "x", "--no-such-flag"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("no-such-flag"), "{}", text(&refused));
    let run = succeeds(&claude(&fixture, &api, &["-b", "Look around", "--json"]).output().unwrap());
    let run: Value = serde_json::from_str(&run).unwrap();
    assert_eq!((&run["source_type"], &run["organization_id"]), (&json!("API"), &json!(1)));
    drop(server);
}
