//! Hosts that refuse isolation, and `--unsafe-no-sandbox`.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, git, text},
    server::Server,
};

/// The same command, started by a shell after `first`.
fn after(first: &str, mut shell: Command, command: &Command) -> Command {
    shell.args(["-c", &format!("{first} && exec \"$@\""), "sh"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(key, value),
            None => shell.env_remove(key),
        };
    }
    shell.current_dir(command.get_current_dir().unwrap());
    shell
}

/// The same command where the kernel gives no user namespaces.
fn refused(command: &Command) -> Command {
    let mut shell = Command::new("unshare");
    shell.args(["-Ur", "sh"]);
    after("echo 0 > /proc/sys/user/max_user_namespaces", shell, command)
}

fn run_refused(fixture: &Fixture, args: &[&str]) -> Output {
    refused(fixture.codegen().args(args)).output().unwrap()
}

/// An agent that leaves a trace on the host, should anything run.
fn touching(fixture: &Fixture) -> std::path::PathBuf {
    let command = format!("touch {}", fixture.dir.path().join("touched").display());
    fixture.script(&json!([
        {"text": "", "calls": [{"name": "shell", "input": {"command": command}}]},
        {"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]},
    ]))
}

#[test]
fn a_host_that_refuses_user_namespaces_is_told_what_to_change_and_nothing_runs() {
    let fixture = Fixture::new();
    let script = touching(&fixture);
    let commands: [&[&str]; 3] =
        [&["doctor"], &["serve", "--addr", "127.0.0.1:0"], &["run", "Go.", "--script", script.to_str().unwrap()]];
    for args in commands {
        let output = run_refused(&fixture, args);
        assert!(!output.status.success(), "{args:?}: {}", text(&output));
        for part in ["sysctl -w user.max_user_namespaces", "--unsafe-no-sandbox"] {
            assert!(text(&output).contains(part), "{args:?}: {}", text(&output));
        }
        assert!(!text(&output).contains("codegen is at"), "{args:?}: {}", text(&output));
    }
    assert!(!fixture.dir.path().join("touched").exists());
}

#[test]
fn a_host_that_refuses_only_since_the_last_start_is_told_too() {
    let fixture = Fixture::new();
    Server::first(&fixture, &[]).terminate();
    let output = run_refused(&fixture, &["serve", "--addr", "127.0.0.1:0"]);
    assert!(!output.status.success() && text(&output).contains("sysctl -w"), "{}", text(&output));
}

#[test]
fn no_setting_or_variable_turns_isolation_off() {
    let fixture = Fixture::new();
    let script = touching(&fixture);
    let mut command = fixture.codegen();
    command.args(["run", "Go.", "--script"]).arg(&script);
    for name in ["CODEGEN_UNSAFE_NO_SANDBOX", "UNSAFE_NO_SANDBOX", "CODEGEN_NO_SANDBOX"] {
        command.env(name, "true");
    }
    let output = refused(&command).output().unwrap();
    assert!(!output.status.success(), "{}", text(&output));
    assert!(!fixture.dir.path().join("touched").exists());
}

#[test]
fn doctor_runs_a_command_in_a_sandbox_and_leaves_nothing() {
    let fixture = Fixture::new();
    let data = fixture.dir.path().join("no/such/folder");
    let output = fixture.codegen().args(["doctor", "--json", "--data-dir"]).arg(&data).output().unwrap();
    let host: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(host["isolated"], output.status.success(), "{host}");
    assert_eq!(host["isolated"], true, "these tests need a host that allows user namespaces: {host}");
    assert!(!fixture.dir.path().join("no").exists());
}

#[test]
fn a_caller_with_a_closed_umask_gets_a_sandbox_that_its_users_can_enter() {
    let fixture = Fixture::new();
    let script = fixture.mending();
    let mut command = fixture.codegen();
    command.args(["run", "Mend it.", "--script"]).arg(script);
    let output = after("umask 077", Command::new("sh"), &command).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn without_a_sandbox_a_run_works_on_a_host_that_refuses_and_says_so_loudly() {
    let fixture = Fixture::new();
    let script = fixture.mending();
    let args = ["run", "Mend it.", "--unsafe-no-sandbox", "--json", "--script", script.to_str().unwrap()];
    let output = run_refused(&fixture, &args);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("WITHOUT ISOLATION"), "{}", text(&output));
    let events: Vec<Value> =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |wanted: &dyn Fn(&Value) -> bool| events.iter().position(wanted).unwrap_or_else(|| panic!("{events:?}"));
    let notice = at(&|e| e["text"].as_str().is_some_and(|text| text.contains("WITHOUT ISOLATION")));
    assert!(notice < at(&|e| e["kind"] == "call_finished"), "{events:?}");
    let branch = git(&fixture.work(), &["branch", "--list", "codegen/*", "--format=%(refname:short)"]);
    assert_eq!(git(&fixture.work(), &["show", &format!("{branch}:total.py")]), "def total(xs):\n    return sum(xs)");
    assert_eq!(git(&fixture.work(), &["status", "--porcelain"]), "");
    let left = fixture.dir.path().join("data-run/unisolated");
    assert_eq!(std::fs::read_dir(left).unwrap().count(), 0, "the sandbox's folder is removed");
}

#[test]
fn a_server_without_a_sandbox_works_and_says_so_at_its_start_and_when_asked() {
    let fixture = Fixture::new();
    let model = format!("scripted:{}", fixture.mending().display());
    let said = fixture.dir.path().join("stderr");
    let mut command = fixture.codegen();
    command.args(["serve", "--unsafe-no-sandbox", "--addr", "127.0.0.1:0"]).env("CODEGEN_DEFAULT_MODEL", &model);
    command.stderr(std::fs::File::create(&said).unwrap());
    let mut server = Server::spawn(&fixture, command);
    server.read_token();
    assert!(std::fs::read_to_string(said).unwrap().contains("WITHOUT ISOLATION"));
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"isolated\":false"), "{answer}");
    let token = server.token.clone().unwrap();
    assert!(server.client(&["login", "--token", &token, "--url", &server.url]).status.success());
    let added = server.client(&["repo", "add", fixture.origin().to_str().unwrap(), "--json"]);
    let id = serde_json::from_slice::<Value>(&added.stdout).unwrap()["id"].to_string();
    let run = server.client(&["agent", "--prompt", "Mend it.", "--repo-id", &id, "--follow"]);
    assert!(run.status.success() && text(&run).contains("WITHOUT ISOLATION"), "{}", text(&run));
}
