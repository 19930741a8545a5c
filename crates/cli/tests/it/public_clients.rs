//! The hosted service's own clients, unchanged, against our server: the Python SDK with the generated API client, and the CLI.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, git, text},
    server::Server,
};

fn finish(summary: &str) -> Value {
    json!([{"text": "", "calls": [{"name": "finish", "input": {"summary": summary, "success": true}}]}])
}

/// Starts a part of `public_clients.py`, as a user with a new home.
fn start(server: &Server, part: &str) -> Child {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("../../target/parts/public-clients/bin/python");
    assert!(
        python.exists(),
        "the public clients are not in target/parts; run `scripts/bootstrap test` (`make test` does it)"
    );
    let home = server.fixture.dir.path().join("home");
    std::fs::create_dir_all(&home).unwrap();
    let mut command = Command::new(python);
    for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("CODEGEN_") || key.starts_with("CLAUDE")) {
        command.env_remove(key);
    }
    command
        .args(["-P"])
        .arg(root.join("tests/it/public_clients.py"))
        .arg(part)
        .env("HOME", &home)
        .env("TERM", "xterm")
        .env("CODEGEN_API_BASE_URL", &server.url)
        .env("TOKEN", server.token.as_deref().unwrap())
        .env("REPO", server.fixture.origin())
        .env("WORK", server.fixture.work())
        .current_dir(&home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn succeed(part: Child) -> String {
    let output = part.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_public_sdk_and_the_generated_client_start_look_at_and_continue_runs() {
    let fixture = Fixture::new();
    let model = format!("scripted:{}", fixture.script(&finish("All is well.")).display());
    let server = Server::first(&fixture, &[("CODEGEN_DEFAULT_MODEL", &model)]);
    succeed(start(&server, "sdk"));
}

#[test]
fn the_public_cli_logs_in_lists_starts_and_pulls_and_never_shows_repositories_that_there_are_not() {
    let fixture = Fixture::new();
    let model = format!("scripted:{}", fixture.mending().display());
    // The CLI pulls only where the pull request has an address at github.com; this one's is made from the server's own.
    let settings =
        [("CODEGEN_DEFAULT_MODEL", model.as_str()), ("CODEGEN_PUBLIC_URL", "https://github.com/acme/demo/pull")];
    // Bound and left, so that its number is nobody's for now.
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut server = Server::start_at(&fixture, &settings, &addr);
    server.read_token();
    server.url = format!("http://{addr}");
    server.log_in(server.token.as_deref().unwrap());
    let (work, origin) = (fixture.work(), fixture.origin());
    let github = "https://github.com/acme/demo.git";
    git(&work, &["remote", "set-url", "origin", github]);
    git(&work, &["config", &format!("url.{}.insteadOf", origin.display()), github]);
    let mut part = start(&server, "commands");
    let asked = BufReader::new(part.stdout.as_mut().unwrap())
        .lines()
        .map_while(Result::ok)
        .any(|line| line == "ADD A REPOSITORY");
    if asked {
        server.add_repo();
        writeln!(part.stdin.as_mut().unwrap()).unwrap();
    }
    succeed(part);
}

#[test]
fn the_public_clis_claude_registers_its_session_passes_rules_and_tells_each_line() {
    let fixture = Fixture::new();
    let server = Server::first(&fixture, &[]);
    succeed(start(&server, "claude"));
}
