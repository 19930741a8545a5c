//! A log in memory, a sandbox that is the host, and models made of closures.

use std::{
    collections::{BTreeMap, VecDeque},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Instant,
};

use async_trait::async_trait;
use codegen_agent::{
    Budget, Delta, Entry, Error, Log, LogResult, Outcome, Reply, Task, ToolCall,
    models::{self, Keys, Model, ModelError, Request},
    native,
};
use codegen_sandbox::{EndedBy, Event, Exec, Exit, Isolation, Running, Sandbox, Stream};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, sync::mpsc};
use tokio_util::sync::CancellationToken;

type Watch = dyn FnMut(&str) + Send;

#[derive(Default)]
pub struct MemoryLog {
    pub entries: Vec<Entry>,
    pub deltas: Vec<Delta>,
    /// Messages that arrive, each before the step boundary of its number (from 1).
    pub arriving: VecDeque<(usize, Entry)>,
    pub boundary: usize,
    /// Told of each entry, and of each delta's text.
    pub watch: Option<Box<Watch>>,
    pub full_after: Option<usize>,
}

#[async_trait]
impl Log for MemoryLog {
    async fn append(&mut self, entry: &Entry) -> LogResult {
        if self.full_after.is_some_and(|n| self.entries.len() >= n) {
            return Err("the disk is full".into());
        }
        self.entries.push(entry.clone());
        if let Some(watch) = &mut self.watch {
            watch(&serde_json::to_string(entry).unwrap());
        }
        Ok(())
    }

    fn delta(&mut self, delta: Delta) {
        if let Some(watch) = &mut self.watch {
            watch(&serde_json::to_string(&delta).unwrap());
        }
        self.deltas.push(delta);
    }

    async fn take_messages(&mut self) -> Vec<Entry> {
        self.boundary += 1;
        let mut taken = Vec::new();
        while self.arriving.front().is_some_and(|(at, _)| *at <= self.boundary) {
            let (_, entry) = self.arriving.pop_front().unwrap();
            self.entries.push(entry.clone());
            taken.push(entry);
        }
        taken
    }
}

impl MemoryLog {
    pub fn results(&self) -> Vec<(String, bool)> {
        let finished = |entry: &Entry| match entry {
            Entry::CallFinished { output, is_error, .. } => Some((output.clone(), *is_error)),
            _ => None,
        };
        self.entries.iter().filter_map(finished).collect()
    }

    pub fn kinds(&self) -> Vec<String> {
        self.entries.iter().map(|e| serde_json::to_value(e).unwrap()["kind"].as_str().unwrap().to_owned()).collect()
    }

    pub fn notices(&self) -> Vec<String> {
        let notice = |entry: &Entry| match entry {
            Entry::Notice { text, .. } => Some(text.clone()),
            _ => None,
        };
        self.entries.iter().filter_map(notice).collect()
    }
}

/// Runs commands on the host, in a folder of its own.
pub struct HostSandbox {
    pub dir: TempDir,
    workspace: String,
    isolation: Isolation,
    /// File operations go on only when this many are under way.
    meeting: Option<tokio::sync::Barrier>,
}

impl HostSandbox {
    pub fn new() -> Arc<Self> {
        Self::meeting(None)
    }

    /// Lets file operations go on only when `n` are under way.
    pub fn meeting(n: Option<usize>) -> Arc<Self> {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        std::fs::create_dir(dir.path().join("workspace")).unwrap();
        let workspace = dir.path().join("workspace").to_str().unwrap().to_owned();
        Arc::new(Self { dir, workspace, isolation: Isolation::default(), meeting: n.map(tokio::sync::Barrier::new) })
    }
}

impl HostSandbox {
    /// What the engines have inside, as far as the tools' own part needs it.
    async fn file_operation(&self, operation: &str, input: &[u8]) -> Running {
        if let Some(meeting) = &self.meeting {
            meeting.wait().await;
        }
        let (head, content) = input.split_at(input.iter().position(|b| *b == 0).unwrap_or(input.len()));
        let head: Value = serde_json::from_slice(head).unwrap();
        let path = head["path"].as_str().unwrap_or_default();
        let result = match operation {
            "read" => std::fs::read(path),
            "write" => {
                std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
                std::fs::write(path, &content[1..]).map(|()| Vec::new())
            }
            "glob" => Ok(br#"["deep/a.py"]"#.to_vec()),
            _ if head["pattern"] == "(" => Err(std::io::Error::other("unclosed group")),
            _ => Ok(br#"[{"path": "src/deep/a.py", "line": 2, "text": "two = 22"}]"#.to_vec()),
        };
        let (events_tx, events) = mpsc::channel(4);
        let (fd, code, bytes) = match result {
            Ok(bytes) => (1, 0, bytes),
            Err(error) => (2, 1, error.to_string().into_bytes()),
        };
        events_tx.send(Event::Output { fd, bytes }).await.unwrap();
        let exit = Exit { code, ended_by: None, dropped_bytes: 0, duration: std::time::Duration::ZERO };
        events_tx.send(Event::Exited(exit)).await.unwrap();
        Running { events, kill: mpsc::channel(1).0 }
    }
}

#[async_trait]
impl Sandbox for HostSandbox {
    fn id(&self) -> &str {
        "host"
    }

    fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    fn workspace(&self) -> &str {
        &self.workspace
    }

    fn scratch(&self) -> &str {
        "/tmp"
    }

    fn mounted(&self, target: &str) -> String {
        target.to_owned()
    }

    async fn start(&self, exec: Exec) -> Result<Running, codegen_sandbox::Error> {
        let began = Instant::now();
        if exec.argv[0] == "codegen-tool" {
            return Ok(self.file_operation(&exec.argv[1], &exec.stdin).await);
        }
        let mut child = tokio::process::Command::new(&exec.argv[0])
            .args(&exec.argv[1..])
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("HOME", self.dir.path().join("home"))
            .envs(&exec.env)
            .current_dir(exec.cwd.as_deref().unwrap_or(&self.workspace))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| codegen_sandbox::Error::Start(e.to_string()))?;
        let (events_tx, events) = mpsc::channel(64);
        let (kill, mut killed) = mpsc::channel::<()>(1);
        let pipes: Vec<(u8, Box<dyn tokio::io::AsyncRead + Send + Unpin>)> =
            vec![(1, Box::new(child.stdout.take().unwrap())), (2, Box::new(child.stderr.take().unwrap()))];
        let mut stdin = child.stdin.take().unwrap();
        tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut stdin, &exec.stdin).await.ok();
            drop(stdin);
        });
        let mut readers = Vec::new();
        for (fd, mut pipe) in pipes {
            let events = events_tx.clone();
            readers.push(tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
                    events.send(Event::Output { fd, bytes: buffer[..n].to_vec() }).await.ok();
                }
            }));
        }
        tokio::spawn(async move {
            let timeout = exec.timeout.unwrap_or(std::time::Duration::from_secs(3600));
            let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
            let kill_group = || {
                kill_process_group(pid, Signal::KILL).ok(); // It may have ended by itself just now.
            };
            let (status, ended_by) = tokio::select! {
                status = child.wait() => (status.unwrap(), None),
                () = tokio::time::sleep(timeout) => { kill_group(); (child.wait().await.unwrap(), Some(EndedBy::Timeout)) }
                Some(()) = killed.recv() => { kill_group(); (child.wait().await.unwrap(), Some(EndedBy::Kill)) }
            };
            for reader in readers {
                reader.await.ok();
            }
            use std::os::unix::process::ExitStatusExt;
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
            events_tx
                .send(Event::Exited(Exit { code, ended_by, dropped_bytes: 0, duration: began.elapsed() }))
                .await
                .ok();
        });
        Ok(Running { events, kill })
    }

    async fn reattach(&self, _: &str) -> Result<Option<Running>, codegen_sandbox::Error> {
        Ok(None)
    }

    async fn connect(&self, _: u16) -> Result<Box<dyn Stream>, codegen_sandbox::Error> {
        Err(codegen_sandbox::Error::Gone("host".to_owned()))
    }
}

type Answer = dyn FnMut(usize, &[Entry]) -> Result<Reply, ModelError> + Send;

/// A model that answers by a closure, given the number of the question (from 0) and the history.
pub struct ClosureModel(Mutex<(usize, Box<Answer>)>);

impl ClosureModel {
    pub fn answering(
        answer: impl FnMut(usize, &[Entry]) -> Result<Reply, ModelError> + Send + 'static,
    ) -> Arc<dyn Model> {
        Arc::new(Self(Mutex::new((0, Box::new(answer)))))
    }
}

#[async_trait]
impl Model for ClosureModel {
    fn name(&self) -> &str {
        "test/closure"
    }

    async fn reply(&self, request: Request<'_>, on_delta: &mut (dyn FnMut(Delta) + Send)) -> Result<Reply, ModelError> {
        let (asked, answer) = &mut *self.0.lock().unwrap();
        *asked += 1;
        let reply = answer(*asked - 1, request.history)?;
        on_delta(Delta::Text { text: reply.text.clone() });
        Ok(reply)
    }
}

/// A model that never answers.
pub struct SilentModel;

#[async_trait]
impl Model for SilentModel {
    fn name(&self) -> &str {
        "test/silent"
    }

    async fn reply(&self, _: Request<'_>, on_delta: &mut (dyn FnMut(Delta) + Send)) -> Result<Reply, ModelError> {
        on_delta(Delta::Text { text: "well".to_owned() });
        std::future::pending().await
    }
}

pub fn script(dir: &TempDir, replies: &Value) -> Arc<dyn Model> {
    let path = dir.path().join("script.json");
    std::fs::write(&path, json!({ "replies": replies }).to_string()).unwrap();
    models::connect(&format!("scripted:{}", path.display()), &Keys::default()).unwrap()
}

pub fn says(text: &str) -> Reply {
    Reply { text: text.to_owned(), ..Reply::default() }
}

pub fn calls(calls: &[(&str, &str, Value)]) -> Reply {
    let calls = calls.iter().map(|(id, name, input)| ToolCall {
        id: (*id).to_owned(),
        name: (*name).to_owned(),
        input: input.clone(),
    });
    Reply { calls: calls.collect(), ..Reply::default() }
}

pub fn message(text: &str) -> Entry {
    Entry::UserMessage { text: text.to_owned(), images: Vec::new() }
}

pub fn task(model: Arc<dyn Model>, history: Vec<Entry>) -> Task {
    Task { history, rules: String::new(), model, budget: Budget::default(), env: BTreeMap::new(), output: None }
}

/// Runs from a fresh prompt.
pub async fn run(model: Arc<dyn Model>, sandbox: Arc<HostSandbox>, log: &mut MemoryLog) -> Result<Outcome, Error> {
    log.entries.push(message("Do it."));
    let task = task(model, log.entries.clone());
    native::run(task, sandbox, log, CancellationToken::new()).await
}
