//! A server whose data directory is a small file system of its own, seen by it alone.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
};

use serde_json::json;

use crate::fixture::{Fixture, text};

/// A shell with mounts of its own, in which the server runs; it does what it is told on its standard input.
struct Shell {
    process: Child,
    stdin: Option<ChildStdin>,
}

impl Shell {
    fn tell(&mut self, command: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{command}").unwrap();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.process.wait().ok();
    }
}

#[test]
fn a_run_that_fills_the_disk_goes_on_once_there_is_room() {
    let fixture = Fixture::new();
    let script = fixture.script(&json!([
        {"text": "I fill the disk.", "calls": [{"name": "shell", "input": {"command": "echo kept > kept.txt; cat /dev/zero > /var/tmp/fill; echo filled"}}]},
        {"text": "x".repeat(2 << 20), "calls": [{"name": "shell", "input": {"command": "rm -f /var/tmp/fill; cat kept.txt"}}]},
        {"text": "", "expect": "kept", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]},
    ]));
    let data = fixture.dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let codegen = fixture.codegen();
    let mut shell = Command::new("unshare");
    let root = rustix::process::geteuid().is_root();
    if !root {
        shell.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    shell.args(["--mount", "sh", "-e"]).current_dir(fixture.work());
    for (name, value) in codegen.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("CODEGEN_DEFAULT_MODEL", format!("scripted:{}", script.display()));
    let mut process = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut stderr = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
    let stdin = process.stdin.take();
    let mut shell = Shell { process, stdin };
    shell.tell("mount -t tmpfs -o size=96m tmpfs \"$CODEGEN_DATA_DIR\"");
    shell.tell("head -c 48m /dev/zero > \"$CODEGEN_DATA_DIR/ballast\"");
    let without_mounts = if root { "" } else { "setpriv --inh-caps=-all --ambient-caps=-all " };
    let serve = format!("{without_mounts}{} serve --addr 127.0.0.1:0", env!("CARGO_BIN_EXE_codegen"));
    // The shell's own ends of the pipes are closed, so that they end with the server.
    shell.tell(&format!("{serve} & trap 'kill $!; wait' EXIT; exec > /dev/null 2>&1"));

    let Some(line) = stdout.next() else { panic!("{}", stderr.collect::<Vec<_>>().join("\n")) };
    let url = line.strip_prefix("codegen is at ").unwrap().to_owned();
    let token = stdout.next().unwrap().strip_prefix("token (shown once): ").unwrap().to_owned();
    let client = |args: &[&str]| {
        let output = fixture.codegen().args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    };
    client(&["login", "--token", &token, "--url", &url]);
    client(&["repo", "add", fixture.origin().to_str().unwrap()]);
    client(&["agent", "--prompt", "Fill it.", "--repo-id", "1"]);
    let mut log = Vec::new();
    while !log.last().is_some_and(|line: &String| line.contains("waits for room")) {
        log.push(stderr.next().unwrap_or_else(|| panic!("{}", log.join("\n"))));
    }
    // A reader may come while the database notices that it is full.
    let shown = (0..50).find_map(|_| {
        let output = fixture.codegen().args(["agent", "--id", "1"]).output().unwrap();
        output.status.success().then(|| text(&output))
    });
    assert!(shown.unwrap().contains("ACTIVE"));
    shell.tell("rm \"$CODEGEN_DATA_DIR/ballast\"");
    let trace = client(&["agent", "--id", "1", "--follow"]);
    assert!(trace.contains("COMPLETE") && trace.contains("kept"), "{trace}");
}
