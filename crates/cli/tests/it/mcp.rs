//! `codegen mcp` as clients start it, and the commands of `docs/mcp.md` as they stand there.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    claude::{claude_dir, messages_api},
    fixture::{Fixture, text},
    pages::{blocks, shell},
    server::Server,
};

fn from_root(path: &str) -> PathBuf {
    std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap()
}

/// A server whose runs end at once.
fn server(fixture: &Fixture) -> Server<'_> {
    let script = fixture.mending();
    let server = Server::logged_in(fixture, &[("CODEGEN_DEFAULT_MODEL", &format!("scripted:{}", script.display()))]);
    server.add_repo();
    server
}

#[test]
fn the_commands_of_the_page_on_mcp_do_what_it_says() {
    let fixture = Fixture::new();
    let server = server(&fixture);
    let blocks = blocks("mcp.md");
    let [block] = blocks.as_slice() else { panic!("{blocks:?}") };
    let said = shell(&server, block);
    assert!(said.contains("wait_for_agent_run") && said.contains("total"), "{said}");
    let page = std::fs::read_to_string(from_root("docs/mcp.md")).unwrap();
    for block in page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
        serde_json::from_str::<Value>(block).unwrap_or_else(|error| panic!("{error}: {block}"));
    }
}

#[test]
fn the_library_for_python_runs_an_agent_through_the_command() {
    let fixture = Fixture::new();
    let _server = server(&fixture);
    assert!(from_root("target/parts/mcp").exists(), "run `scripts/bootstrap test` (`make test` does it)");
    let mut python = Command::new("python3");
    python.arg(from_root("crates/server/tests/it/mcp_client.py")).args(["stdio", env!("CARGO_BIN_EXE_codegen"), "mcp"]);
    python.env("PYTHONPATH", from_root("target/parts/mcp/python")).env("NO_PROXY", "127.0.0.1");
    python.env("XDG_CONFIG_HOME", fixture.dir.path().join("config"));
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    for how in ["old", "new"] {
        let said = &said[how];
        assert_eq!(
            (&said["tools"][0], &said["rules"]),
            (&json!("create_agent_run"), &json!("There are no such rules."))
        );
        assert_ne!(said["status"], json!("ACTIVE"), "{said}");
        assert!(said["log"].as_str().unwrap().contains("PLAN_EVALUATION"), "{said}");
        assert_eq!(said["absent"], json!([true, "Agent run not found."]));
    }
}

#[test]
fn the_command_goes_on_when_its_server_was_away_and_says_what_is_wrong_with_a_message() {
    let fixture = Fixture::new();
    let server = server(&fixture);
    let mut process = fixture.codegen();
    let mut process = process.arg("mcp").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let mut answers = BufReader::new(output).lines();
    let mut ask = |line: &str| -> Value {
        writeln!(input, "{line}").unwrap();
        serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap()
    };
    let list = r#"{"jsonrpc": "2.0", "id": "a", "method": "tools/list"}"#;
    assert_eq!(ask(list)["id"], json!("a"));
    assert_eq!(ask("no message")["error"]["code"], json!(-32700));
    let addr = server.url.strip_prefix("http://").unwrap().to_owned();
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start_at(&fixture, &[], &addr);
    assert!(ask(list)["result"]["tools"].is_array());
    let absent = r#"{"jsonrpc": "2.0", "id": 2, "method": "tools/nothing"}"#;
    assert_eq!(ask(absent)["error"]["code"], json!(-32601));
    drop(server);
    drop(input);
    assert!(process.wait().unwrap().success());
}

#[test]
fn claude_code_starts_a_run_by_both_ways_in() {
    let fixture = Fixture::new();
    let server = server(&fixture);
    let api = messages_api();
    let config = fixture.dir.path().join("config");
    let token = server.token.as_deref().unwrap();
    let ways = [
        json!({"command": env!("CARGO_BIN_EXE_codegen"), "args": ["mcp"], "env": {"XDG_CONFIG_HOME": config}}),
        json!({"type": "http", "url": format!("{}/mcp", server.url), "headers": {"Authorization": format!("Bearer {token}")}}),
    ];
    for (runs, way) in (1..).zip(ways) {
        let mut claude = Command::new(claude_dir().join("claude"));
        claude.args(["-p", "Start a run.", "--dangerously-skip-permissions", "--strict-mcp-config", "--mcp-config"]);
        claude.arg(json!({"mcpServers": {"codegen": way}}).to_string()).current_dir(fixture.work());
        let path = std::env::var("PATH").unwrap();
        let set =
            [("PATH", path.as_str()), ("NO_PROXY", "127.0.0.1"), ("ANTHROPIC_API_KEY", "any"), ("IS_SANDBOX", "1")];
        claude.env_clear().envs(set).env("HOME", fixture.dir.path()).env("ANTHROPIC_BASE_URL", &api);
        claude.env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1").env("DISABLE_AUTOUPDATER", "1");
        // Else it looks tools up one by one.
        claude.env("ENABLE_TOOL_SEARCH", "false").stdin(Stdio::null());
        let output = claude.output().unwrap();
        assert!(output.status.success() && text(&output).contains("Done."), "{}", text(&output));
        assert_eq!(server.json(&["agents"])["total"], json!(runs), "{}", text(&output));
    }
}
