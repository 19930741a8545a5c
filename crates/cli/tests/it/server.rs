//! A server in a process of its own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::fixture::{Fixture, text};

pub struct Server<'a> {
    pub fixture: &'a Fixture,
    pub process: Child,
    pub url: String,
    pub token: Option<String>,
    pub lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl<'a> Server<'a> {
    pub fn start(fixture: &'a Fixture, env: &[(&str, &str)]) -> Self {
        Self::start_at(fixture, env, "127.0.0.1:0")
    }

    pub fn start_at(fixture: &'a Fixture, env: &[(&str, &str)], addr: &str) -> Self {
        let mut command = fixture.codegen();
        command.args(["serve", "--addr", addr]).envs(env.iter().copied());
        Self::spawn(fixture, command)
    }

    /// By a command of its own.
    pub fn spawn(fixture: &'a Fixture, mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let url = lines.next().unwrap().unwrap().strip_prefix("codegen is at ").unwrap().to_owned();
        Self { fixture, process, url, token: None, lines }
    }

    pub fn first(fixture: &'a Fixture, env: &[(&str, &str)]) -> Self {
        let mut server = Self::start(fixture, env);
        server.read_token();
        server
    }

    /// What a first start shows.
    pub fn read_token(&mut self) {
        let line = self.lines.next().unwrap().unwrap();
        self.token = Some(line.strip_prefix("token (shown once): ").unwrap().to_owned());
    }

    /// Starts with a token and a log-in for the client commands.
    pub fn logged_in(fixture: &'a Fixture, env: &[(&str, &str)]) -> Self {
        let server = Self::first(fixture, env);
        server.log_in(server.token.as_deref().unwrap());
        server
    }

    pub fn log_in(&self, token: &str) {
        let login = self.client(&["login", "--token", token, "--url", &self.url]);
        assert!(login.status.success(), "{}", text(&login));
    }

    /// What a command prints with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.client(&[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)))
    }

    /// Adds the fixture's origin and gives its id.
    pub fn add_repo(&self) -> String {
        self.json(&["repo", "add", self.fixture.origin().to_str().unwrap()])["id"].to_string()
    }

    /// Starts a run and waits until it has an event with one of these words.
    pub fn run_until(&self, repo: &str, words: &[&str]) -> String {
        let id = self.json(&["agent", "--prompt", "Go.", "--repo-id", repo])["id"].to_string();
        let mut follow = self.fixture.codegen();
        follow.args(["agent", "--id", &id, "--follow", "--json"]).stdout(Stdio::piped());
        let mut follow = follow.spawn().unwrap();
        let events = BufReader::new(follow.stdout.take().unwrap()).lines();
        let mut seen = Vec::new();
        let found = events.map_while(Result::ok).any(|line| {
            let found = words.iter().any(|word| line.contains(word));
            seen.push(line);
            found
        });
        follow.kill().unwrap();
        follow.wait().unwrap();
        assert!(found, "{seen:#?}");
        id
    }

    /// POSTs to the API what no command does.
    pub fn post(&self, path: &str, token: &str, body: &Value) {
        let (status, answer) = self.ask("POST", path, token, Some(body));
        assert_eq!(status, 200, "{answer}");
    }

    /// Asks the API what no command does; gives the status and the body.
    pub fn ask(&self, method: &str, path: &str, token: &str, body: Option<&Value>) -> (u16, String) {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        // Of HTTP/1.0, so that the answer comes in one piece.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub fn client(&self, args: &[&str]) -> Output {
        self.fixture.codegen().args(args).output().unwrap()
    }

    pub fn terminate(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        self.process.wait().unwrap().code()
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
