//! No isolation at all, only for `--unsafe-no-sandbox`: commands are plain processes of the host in a folder.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    sync::mpsc,
};

use crate::{EndedBy, Engine, Error, Event, Exec, Exit, Fence, Isolation, Running, Sandbox, Spec, Stream, tool};

/// Runs commands on the host, in `dir/<id>/workspace`.
#[derive(Debug)]
pub struct UnsafeEngine {
    dir: PathBuf,
}

#[derive(Debug)]
struct UnsafeSandbox {
    id: String,
    folder: PathBuf,
    env: BTreeMap<String, String>,
    isolation: Isolation,
    next: AtomicU64,
}

const WORKSPACE: &str = "/workspace";

impl UnsafeEngine {
    /// An engine whose folders live in `dir`, made when missing.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(dir: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&dir).map_err(|error| Error::Io(format!("making {}", dir.display()), error))?;
        Ok(Self { dir })
    }

    fn sandbox(&self, id: &str, env: BTreeMap<String, String>) -> Arc<dyn Sandbox> {
        let (folder, isolation) = (self.dir.join(id).join("workspace"), self.isolation());
        Arc::new(UnsafeSandbox { id: id.to_owned(), folder, env, isolation, next: AtomicU64::new(1) })
    }
}

#[async_trait]
impl Engine for UnsafeEngine {
    fn isolation(&self) -> Isolation {
        Isolation {
            engine: "none".into(),
            have: Vec::new(),
            missing: vec![
                "any isolation: commands run on the host (--unsafe-no-sandbox); start without that flag".into(),
            ],
        }
    }

    async fn create(&self, spec: &Spec) -> Result<Arc<dyn Sandbox>, Error> {
        let folder = self.dir.join(&spec.id).join("workspace");
        fs::create_dir_all(&folder).map_err(|error| Error::Io(format!("making {}", folder.display()), error))?;
        Ok(self.sandbox(&spec.id, spec.env.clone()))
    }

    async fn attach(&self, id: &str, _fence: Fence) -> Result<Arc<dyn Sandbox>, Error> {
        // Its commands' pipes ended with the server that started them.
        Err(Error::Gone(id.to_owned()))
    }

    async fn destroy(&self, id: &str) -> Result<(), Error> {
        match fs::remove_dir_all(self.dir.join(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io(format!("removing sandbox {id}"), error))
            }
            _ => Ok(()),
        }
    }

    async fn inventory(&self) -> Result<Vec<String>, Error> {
        let entries =
            fs::read_dir(&self.dir).map_err(|error| Error::Io(format!("listing {}", self.dir.display()), error))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }
}

impl UnsafeSandbox {
    /// The host's place of a path inside.
    fn place(&self, path: &Path) -> PathBuf {
        path.strip_prefix(WORKSPACE).map_or_else(|_| path.to_owned(), |below| self.folder.join(below))
    }
}

#[async_trait]
impl Sandbox for UnsafeSandbox {
    fn id(&self) -> &str {
        &self.id
    }

    fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    async fn start(&self, exec: Exec) -> Result<Running, Error> {
        let exec_id = self.next.fetch_add(1, Ordering::Relaxed);
        let (events, receiver) = mpsc::channel(64);
        let (kill, kills) = mpsc::channel(1);
        let (program, arguments) =
            exec.argv.split_first().ok_or_else(|| Error::Start("no program was given".into()))?;
        let started = Instant::now();
        if program == tool::PROGRAM {
            let operation = arguments.first().cloned().unwrap_or_default();
            let result = tool::operate_with(&operation, &exec.stdin, |path| self.place(path));
            let (code, fd, bytes) = match result {
                Ok(bytes) => (0, 1, bytes),
                Err(error) => (tool::exit_code(&error), 2, error.to_string().into_bytes()),
            };
            tokio::spawn(async move {
                events.send(Event::Output { fd, bytes }).await.ok(); // nobody listens any more
                events
                    .send(Event::Exited(Exit { code, ended_by: None, dropped_bytes: 0, duration: started.elapsed() }))
                    .await
                    .ok();
            });
            return Ok(Running { exec_id, events: receiver, kill });
        }
        let cwd = self.place(Path::new(exec.cwd.as_deref().unwrap_or(WORKSPACE)));
        let mut child = Command::new(program)
            .args(arguments)
            .envs(&self.env)
            .envs(&exec.env)
            .current_dir(cwd)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::Start(format!("{program}: {error}")))?;
        if let Some(mut input) = child.stdin.take() {
            let bytes = exec.stdin;
            tokio::spawn(async move { input.write_all(&bytes).await });
        }
        let cap = exec.output_cap.unwrap_or(64 << 20);
        let stdout = child.stdout.take().map(|pipe| tokio::spawn(pass(pipe, 1, events.clone(), cap)));
        let stderr = child.stderr.take().map(|pipe| tokio::spawn(pass(pipe, 2, events.clone(), cap)));
        tokio::spawn(async move {
            let group = child.id().and_then(|pid| Pid::from_raw(pid as i32));
            let ended_by = tokio::select! {
                _ = child.wait() => None,
                () = wait_for_kill(kills) => Some(EndedBy::Kill),
                () = wait_for_timeout(exec.timeout) => Some(EndedBy::Timeout),
            };
            if let Some(group) = group.filter(|_| ended_by.is_some()) {
                kill_process_group(group, Signal::KILL).ok(); // already gone is as good
            }
            let status = child.wait().await;
            let mut dropped_bytes = 0;
            for pipe in [stdout, stderr].into_iter().flatten() {
                // A child in the background may hold the pipe for ever.
                if let Ok(Ok(dropped)) = tokio::time::timeout(std::time::Duration::from_millis(200), pipe).await {
                    dropped_bytes += dropped;
                }
            }
            let code = status
                .ok()
                .and_then(|status| status.code().or_else(|| status.signal().map(|signal| 128 + signal)))
                .unwrap_or(1);
            events.send(Event::Exited(Exit { code, ended_by, dropped_bytes, duration: started.elapsed() })).await.ok(); // as above
        });
        Ok(Running { exec_id, events: receiver, kill })
    }

    async fn reattach(&self, exec_id: u64) -> Result<Running, Error> {
        Err(Error::Gone(format!("{} (command {exec_id})", self.id)))
    }

    async fn connect(&self, port: u16) -> Result<Box<dyn Stream>, Error> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        Ok(Box::new(stream.map_err(|error| Error::Io(format!("connecting to port {port}"), error))?))
    }
}

async fn wait_for_kill(mut kills: mpsc::Receiver<()>) {
    if kills.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

async fn wait_for_timeout(timeout: Option<std::time::Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

async fn pass(mut pipe: impl AsyncRead + Unpin, fd: u8, events: mpsc::Sender<Event>, cap: u64) -> u64 {
    let (mut room, mut dropped, mut buffer) = (cap, 0, vec![0; 64 << 10]);
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let kept = room.min(length as u64);
        room -= kept;
        dropped += length as u64 - kept;
        let bytes = buffer.get(..kept as usize).unwrap_or_default().to_vec();
        if kept > 0 {
            events.send(Event::Output { fd, bytes }).await.ok(); // goes on without a listener, as in the other engines
        }
    }
    dropped
}
