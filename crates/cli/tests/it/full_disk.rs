//! A server whose data directory is a small file system of its own, seen by it alone.

use std::{
    io::{BufRead, BufReader, Lines, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::fixture::{Fixture, text};

/// A shell with mounts of its own, in which the server runs; it does what it is told on its standard input.
struct SmallDisk<'a> {
    fixture: &'a Fixture,
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
    serve: String,
    url: String,
    token: String,
}

impl<'a> SmallDisk<'a> {
    /// With 48 of 96 MiB free, and a server whose model says this.
    fn new(fixture: &'a Fixture, replies: &Value) -> Self {
        let script = fixture.script(replies);
        std::fs::create_dir(fixture.dir.path().join("data")).unwrap();
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
        let stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        let stderr = BufReader::new(process.stderr.take().unwrap()).lines();
        let without_mounts = if root { "" } else { "setpriv --inh-caps=-all --ambient-caps=-all " };
        let serve = format!("{without_mounts}{} serve --addr 127.0.0.1:0", env!("CARGO_BIN_EXE_codegen"));
        let stdin = process.stdin.take();
        let (url, token) = (String::new(), String::new());
        let mut disk = Self { fixture, process, stdin, stdout, stderr, serve, url, token };
        disk.tell("mount -t tmpfs -o size=96m tmpfs \"$CODEGEN_DATA_DIR\"");
        disk.tell("head -c 48m /dev/zero > \"$CODEGEN_DATA_DIR/ballast\"");
        disk.tell("trap 'kill $server; wait' EXIT");
        disk.start();
        disk.token = disk.line().strip_prefix("token (shown once): ").unwrap().to_owned();
        disk.client(&["login", "--token", &disk.token, "--url", &disk.url]);
        disk.client(&["repo", "add", fixture.origin().to_str().unwrap()]);
        disk
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{command}").unwrap();
    }

    fn line(&mut self) -> String {
        match self.stdout.next() {
            Some(line) => line.unwrap(),
            None => panic!("{}", self.stderr.by_ref().map_while(Result::ok).collect::<Vec<_>>().join("\n")),
        }
    }

    /// Tells the shell something and returns once that is done.
    fn told(&mut self, command: &str) {
        self.tell(&format!("{command}; echo done so far"));
        while self.line() != "done so far" {}
    }

    fn start(&mut self) {
        self.tell(&format!("{} & server=$!", self.serve));
        self.has_started();
    }

    fn has_started(&mut self) {
        loop {
            let line = self.line();
            if let Some(url) = line.strip_prefix("codegen is at ") {
                self.url = url.to_owned();
                return;
            }
        }
    }

    fn end(&mut self) {
        self.told("kill $server; wait $server");
    }

    fn fill(&mut self) {
        self.told("cat /dev/zero > \"$CODEGEN_DATA_DIR/more\" 2> /dev/null || true");
    }

    fn make_room(&mut self) {
        self.told("rm -f \"$CODEGEN_DATA_DIR/ballast\" \"$CODEGEN_DATA_DIR/more\"");
    }

    fn client(&self, args: &[&str]) -> String {
        let output = self.fixture.codegen().args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let address = self.url.strip_prefix("http://").unwrap();
        let (mut stream, body) = (TcpStream::connect(address).unwrap(), body.to_string());
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Reads the server's log until it says this.
    fn log_until(&mut self, word: &str) {
        let mut log = Vec::new();
        while !log.last().is_some_and(|line: &String| line.contains(word)) {
            log.push(self.stderr.next().unwrap_or_else(|| panic!("{}", log.join("\n"))).unwrap());
        }
    }

    /// Follows run 1 until it says this.
    fn run_until(&self, word: &str) {
        let mut follow = self.fixture.codegen();
        follow.args(["agent", "--id", "1", "--follow", "--json"]).stdout(Stdio::piped());
        let mut follow = follow.spawn().unwrap();
        let mut events = BufReader::new(follow.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(events.any(|line| line.contains(word)), "{word}");
        follow.kill().unwrap();
        follow.wait().unwrap();
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        drop(self.stdin.take());
        self.process.wait().ok();
    }
}

/// Whether a process of this host was started with these words.
fn is_running(words: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let command = |process: &Path| std::fs::read(process.join("cmdline")).unwrap_or_default();
    let mut commands = processes.map(|process| String::from_utf8_lossy(&command(&process.path())).replace('\0', " "));
    commands.any(|command| command.trim() == words)
}

#[test]
fn a_run_that_fills_the_disk_goes_on_once_there_is_room() {
    let fixture = Fixture::new();
    let mut disk = SmallDisk::new(
        &fixture,
        &json!([
            {"text": "I fill the disk.", "calls": [{"name": "shell", "input": {"command": "echo kept > kept.txt; cat /dev/zero > /var/tmp/fill; echo filled"}}]},
            {"text": "x".repeat(2 << 20), "calls": [{"name": "shell", "input": {"command": "rm -f /var/tmp/fill; cat kept.txt"}}]},
            {"text": "", "expect": "kept", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]},
        ]),
    );
    disk.client(&["agent", "--prompt", "Fill it.", "--repo-id", "1"]);
    disk.log_until("waits for room");
    // A reader may come while the database notices that it is full.
    let shown = (0..50).find_map(|_| {
        let output = fixture.codegen().args(["agent", "--id", "1"]).output().unwrap();
        output.status.success().then(|| text(&output))
    });
    assert!(shown.unwrap().contains("ACTIVE"));
    disk.told("rm \"$CODEGEN_DATA_DIR/ballast\"");
    let trace = disk.client(&["agent", "--id", "1", "--follow"]);
    assert!(trace.contains("COMPLETE") && trace.contains("kept"), "{trace}");
}

#[test]
fn a_stop_on_a_full_disk_ends_what_the_run_does_at_once_and_is_written_down_once_there_is_room() {
    let fixture = Fixture::new();
    let mut disk = SmallDisk::new(
        &fixture,
        &json!([
            {"text": "", "calls": [{"name": "shell", "input": {"command": "echo kept > kept.txt; echo wor''king; sleep 597.53; echo sle''pt"}}]},
            {"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]},
        ]),
    );
    disk.client(&["agent", "--prompt", "Sleep.", "--repo-id", "1"]);
    disk.run_until("working");
    assert!(is_running("sleep 597.53"));
    disk.told("rm -f \"$CODEGEN_DATA_DIR/reserve\"");
    disk.fill();
    let asked = Instant::now();
    let (status, answer) = disk.ask("POST", "/v1/organizations/1/agent/run/stop", &json!({ "agent_run_id": 1 }));
    assert!(status == 507 && answer.contains("ends as stopped once there is room"), "{status} {answer}");
    while is_running("sleep 597.53") {
        assert!(asked.elapsed() < Duration::from_secs(2));
    }
    disk.log_until("waits for room");
    disk.make_room();
    let trace = text(&fixture.codegen().args(["agent", "--id", "1", "--follow"]).output().unwrap());
    assert!(trace.contains("CANCELLED") && !trace.contains("slept"), "{trace}");
    let diff = disk.client(&["agent", "--id", "1", "diff"]);
    assert!(diff.contains("kept.txt"), "{diff}");
}

#[test]
fn a_server_that_starts_on_a_full_disk_shows_what_is_there_and_takes_work_once_there_is_room() {
    let fixture = Fixture::new();
    let finish = json!({"text": "", "calls": [{"name": "finish", "input": {"summary": "done", "success": true}}]});
    let mut disk = SmallDisk::new(&fixture, &json!([finish]));
    disk.client(&["agent", "--prompt", "Be quick.", "--repo-id", "1", "--follow"]);
    disk.end();
    disk.fill();
    disk.start();
    let (status, answer) = disk.ask("GET", "/readyz", &json!(null));
    assert!(status == 503 && answer.contains("no room"), "{status} {answer}");
    let (status, answer) = disk.ask("GET", "/v1/organizations/1/agent/run/1", &json!(null));
    assert!(status == 200 && answer.contains("COMPLETE"), "{status} {answer}");
    let (status, answer) = disk.ask("POST", "/v1/organizations/1/agent/run", &json!({ "prompt": "More." }));
    assert!(status == 507 && answer.contains("disk is full"), "{status} {answer}");
    disk.log_until("has no room");
    disk.make_room();
    disk.log_until("there is room on the disk again");
    disk.client(&["login", "--token", &disk.token, "--url", &disk.url]);
    let trace = disk.client(&["agent", "--prompt", "More.", "--repo-id", "1", "--follow"]);
    assert!(trace.contains("COMPLETE"), "{trace}");
}

#[test]
fn a_server_that_cannot_even_open_its_database_says_so_and_starts_by_itself_once_there_is_room() {
    let fixture = Fixture::new();
    let mut disk = SmallDisk::new(&fixture, &json!([]));
    disk.end();
    disk.told("rm -f \"$CODEGEN_DATA_DIR/reserve\"");
    disk.fill();
    let address = disk.url.strip_prefix("http://").unwrap().to_owned();
    disk.serve = disk.serve.replace("127.0.0.1:0", &address);
    disk.tell(&format!("{} & server=$!", disk.serve));
    disk.log_until("no room on the disk to start with");
    let answered = |disk: &SmallDisk<'_>, path: &str| loop {
        // The log comes just before it listens.
        if let Ok(stream) = TcpStream::connect(&address) {
            drop(stream);
            return disk.ask("GET", path, &json!(null));
        }
    };
    let (status, answer) = answered(&disk, "/v1/organizations");
    assert!(status == 503 && answer.contains("no room"), "{status} {answer}");
    assert_eq!(answered(&disk, "/healthz").0, 200);
    disk.make_room();
    disk.has_started();
    assert_eq!(disk.ask("GET", "/v1/organizations", &json!(null)).0, 200);
}
