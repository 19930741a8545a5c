//! What engine, zygote and supervisor say to each other.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Exec, Fence, Spec};

/// How ids inside map to the host.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub enum Ids {
    /// 0..count inside are `first`.. outside.
    Range {
        /// First host id of users.
        uid: u32,
        /// First host id of groups.
        gid: u32,
        /// How many.
        count: u32,
    },
    /// Only uid and gid 1000 inside, the caller outside.
    Single,
}

impl Ids {
    /// uid and gid of the supervisor inside.
    pub fn supervisor(self) -> u32 {
        match self {
            Self::Range { .. } => 0,
            Self::Single => 1000,
        }
    }
}

/// A read-only bind of the host, or one of `Spec.mounts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// Inside.
    pub target: PathBuf,
    /// Whether changes are refused.
    pub read_only: bool,
}

/// A cgroup folder of one sandbox.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Cgroups {
    /// Folders made for it.
    pub folders: Vec<PathBuf>,
    /// The file whose `oom_kill` line counts kills.
    pub oom_file: Option<PathBuf>,
}

/// Engine to zygote.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Builds the shared lower layer in `folder`.
    Skeleton {
        /// New, empty.
        folder: PathBuf,
        /// Mapping its files are owned through.
        ids: Ids,
        /// What is bound over it later.
        binds: Vec<Bind>,
    },
    /// Makes a sandbox.
    Create(Box<Create>),
    /// Removes a sandbox's folder.
    Remove {
        /// The folder.
        folder: PathBuf,
        /// Mapping its files are owned through.
        ids: Ids,
    },
}

/// What a sandbox is made of.
#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    /// The part of its folder that the mapped ids own.
    pub folder: PathBuf,
    /// Where the zygote says which process the supervisor is, before that process does anything.
    pub record: PathBuf,
    /// The shared lower layer.
    pub skeleton: PathBuf,
    /// Mapping.
    pub ids: Ids,
    /// Engine's binds and the spec's.
    pub binds: Vec<Bind>,
    /// What was asked for.
    pub spec: Spec,
    /// Variables of every command, all merged.
    pub env: BTreeMap<String, String>,
    /// Limits.
    pub cgroups: Cgroups,
    /// Ends by itself after this long without a connection.
    pub idle: Duration,
}

/// Zygote to engine.
#[derive(Debug, Serialize, Deserialize)]
pub enum Done {
    /// It went well.
    Ok,
    /// Stage and cause.
    Failed {
        /// Which step.
        stage: String,
        /// The system's words.
        error: String,
        /// The system's number.
        errno: i32,
    },
}

/// A supervisor as the host sees it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Process {
    /// Host pid.
    pub pid: i32,
    /// Its start time in /proc, so that another process with the same pid is never taken for it.
    pub start_time: u64,
}

/// What the engine keeps about a sandbox in its folder, for `attach` and `destroy` after a restart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Limits.
    pub cgroups: Cgroups,
    /// Mapping.
    pub ids: Ids,
    /// What the gateway's socket is.
    pub gateway: Option<PathBuf>,
}

/// Client to supervisor: one request a connection, as a frame of JSON and a frame of standard input.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The owner.
    pub fence: Fence,
    /// What.
    pub ask: Ask,
}

/// The requests.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Stays connected: the sandbox has an owner.
    Hold,
    /// Runs a command and follows it; one whose key is known is only followed.
    Start(Exec),
    /// Follows the command of this key.
    Follow(String),
    /// Sends a connected socket back.
    Connect(u16),
}

/// Supervisor to client, as a frame; a followed command's frames come after it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Ok,
    /// A newer owner is known.
    Fenced,
    /// No command has this key.
    Unknown,
    /// The command cannot start.
    Refused(String),
}

/// Frame tag of [`crate::Exit`] as JSON; 1 and 2 are output.
pub const EXIT_FRAME: u8 = 3;
/// Sent by a follower to kill the command's group.
pub const KILL: u8 = b'k';
/// Where the checkout is, in every sandbox of this engine.
pub const WORKSPACE: &str = "/workspace";
/// Where commands find the gateway.
pub const GATEWAY_PORT: u16 = 3128;
/// Longest request frame.
pub const MAX_FRAME: usize = 1 << 30;
