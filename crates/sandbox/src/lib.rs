//! Isolated places in which an agent's commands run: the [`Engine`] and [`Sandbox`] traits, their words, and file helpers over exec.
//! Knows nothing of orgs, runs, SQL or the HTTP API.

pub mod files;
pub mod local;
mod tool;
pub mod unisolated;
mod variables;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

/// What can go wrong with a sandbox, by what a caller does about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host does not allow the isolation that was asked for; the text says what to change.
    #[error("{0}")]
    HostRefuses(String),
    /// The sandbox is not there any more: it ended, was destroyed, or never was.
    #[error("sandbox {0} is gone")]
    Gone(String),
    /// A newer owner has taken the sandbox; this one must write and execute nothing more.
    #[error("sandbox {0} was taken over by a newer owner")]
    Fenced(String),
    /// The command could not be started at all (no such program, no such folder).
    #[error("cannot start the command: {0}")]
    Start(String),
    /// Anything else, with the operation named.
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
}

/// The owner's claim on a sandbox: (incarnation, attempt), ordered. A sandbox refuses a fence lower than the highest it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Fence {
    /// Grows when a data directory is restored.
    pub incarnation: i64,
    /// Grows with each claim of the run.
    pub attempt: i64,
}

/// A host folder or file made visible inside, at `target`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    /// Path on the host.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: PathBuf,
    /// False gives the sandbox the right to change the host's folder.
    pub read_only: bool,
}

/// Hard limits of one sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in MiB, swap off.
    pub memory_mib: u64,
    /// Processes and threads at once.
    pub processes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_mib: 4096, processes: 2048 }
    }
}

/// What to create.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Spec {
    /// Name, unique in the engine's folder: letters, digits, `-`.
    pub id: String,
    /// The first owner.
    pub fence: Fence,
    /// Extra binds, beside the engine's own allow-list (`/usr`, certificates, toolchains).
    pub mounts: Vec<Mount>,
    /// Hard limits.
    pub limits: Limits,
    /// Variables of every command (the base image's and the proxy's are already there and can be replaced).
    pub env: BTreeMap<String, String>,
    /// The gateway's unix socket on the host, reached from inside as `127.0.0.1:3128`; none means no network at all.
    pub gateway: Option<PathBuf>,
}

/// Whose rights a command has inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum User {
    /// uid 1000, no capabilities.
    #[default]
    Agent,
    /// uid 0 of the sandbox's user namespace with what `apt-get` needs; refused where only one id can be mapped.
    Setup,
}

/// One command.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Exec {
    /// Names the command in its sandbox, for [`Sandbox::reattach`]; starting it a second time under the same name follows
    /// the first one instead, so that nothing is run twice.
    pub key: Option<String>,
    /// Program and arguments; the program is looked up on the sandbox's PATH.
    pub argv: Vec<String>,
    /// Added to the sandbox's variables.
    pub env: BTreeMap<String, String>,
    /// Working folder; [`Sandbox::workspace`] when none.
    pub cwd: Option<String>,
    /// Everything the command reads on standard input.
    #[serde(skip)]
    pub stdin: Vec<u8>,
    /// Whose rights.
    pub user: User,
    /// Killed with its process group after this; none means no limit.
    pub timeout: Option<Duration>,
    /// Output bytes kept (both streams together); the rest is drained and counted. None means 64 MiB.
    pub output_cap: Option<u64>,
}

/// What a running command says.
#[derive(Debug, Clone)]
pub enum Event {
    /// Bytes as they were written.
    Output {
        /// 1 or 2.
        fd: u8,
        /// Raw bytes, any encoding.
        bytes: Vec<u8>,
    },
    /// The command ended; nothing follows.
    Exited(Exit),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when killed by one.
    pub code: i32,
    /// Why the platform ended it, where it did.
    pub ended_by: Option<EndedBy>,
    /// Output bytes that were drained beyond the cap.
    pub dropped_bytes: u64,
    /// From start to end.
    pub duration: Duration,
}

/// Why the platform ended a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndedBy {
    /// Its timeout.
    Timeout,
    /// The memory limit of its sandbox.
    Memory,
    /// [`Running::kill`].
    Kill,
}

/// A command under way. Dropping it does not end the command: it outlives its watcher.
#[derive(Debug)]
pub struct Running {
    /// Output, then exactly one [`Event::Exited`]; closed without one when the sandbox died.
    pub events: mpsc::Receiver<Event>,
    /// One message kills the command's process group.
    pub kill: mpsc::Sender<()>,
}

/// All of a command's output at once.
#[derive(Debug, Clone)]
pub struct Completed {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit: Exit,
}

impl Running {
    /// Waits for the end and collects the output.
    ///
    /// # Errors
    /// [`Error::Gone`] when the sandbox died under the command.
    pub async fn complete(mut self) -> Result<Completed, Error> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(event) = self.events.recv().await {
            match event {
                Event::Output { fd: 1, bytes } => stdout.extend(bytes),
                Event::Output { bytes, .. } => stderr.extend(bytes),
                Event::Exited(exit) => return Ok(Completed { stdout, stderr, exit }),
            }
        }
        Err(Error::Gone("of the command".to_owned()))
    }
}

/// A byte stream to a port inside.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What isolation a sandbox really has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// `local` or `unisolated`.
    pub engine: String,
    /// Protections in force, e.g. `user namespace, 65536 ids`, `cgroup v1: memory, pids`.
    pub have: Vec<String>,
    /// Protections this host does not give, each with what to do about it.
    pub missing: Vec<String>,
}

impl Isolation {
    /// Whether anything keeps commands from the host.
    pub fn isolated(&self) -> bool {
        !self.have.is_empty()
    }
}

/// Makes, finds and ends sandboxes.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What this host gives, without creating anything.
    fn isolation(&self) -> Isolation;
    /// Creates a sandbox and returns when commands can run in it.
    async fn create(&self, spec: &Spec) -> Result<Arc<dyn Sandbox>, Error>;
    /// Finds a sandbox that outlived its owner and takes it over; [`Error::Gone`] when it did not live.
    async fn attach(&self, id: &str, fence: Fence) -> Result<Arc<dyn Sandbox>, Error>;
    /// Kills everything in it and removes it; no error when it is already gone.
    async fn destroy(&self, id: &str) -> Result<(), Error>;
    /// Ids of all sandboxes of this engine, alive or left over.
    async fn inventory(&self) -> Result<Vec<String>, Error>;
    /// Whether one of these lives, as far as that is seen from outside.
    async fn lives(&self, _id: &str) -> bool {
        true
    }
    /// Removes what belongs to none of these (control groups, half-made layers) and says what it was. Safe at any time.
    async fn sweep(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }
}

/// One sandbox. `start` and `connect` are the only ways in.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Its name.
    fn id(&self) -> &str;
    /// What isolation it has.
    fn isolation(&self) -> &Isolation;
    /// Absolute path of the folder for the checkout, as commands see it.
    fn workspace(&self) -> &str;
    /// Absolute path of a folder for scratch files, as commands see it.
    fn scratch(&self) -> &str;
    /// Where commands find what [`Spec::mounts`] puts at `target`.
    fn mounted(&self, target: &str) -> String;
    /// Starts a command.
    async fn start(&self, exec: Exec) -> Result<Running, Error>;
    /// Follows the command of this [`Exec::key`], running or ended, from its first byte; none when there is no such command.
    async fn reattach(&self, key: &str) -> Result<Option<Running>, Error>;
    /// Opens a TCP stream to `127.0.0.1:port` inside.
    async fn connect(&self, port: u16) -> Result<Box<dyn Stream>, Error>;
}
