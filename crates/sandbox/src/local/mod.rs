//! The local engine: sandboxes made of this kernel's namespaces, cgroups and filters, without any other program. Linux only.

mod cgroup;
mod client;
mod command;
mod host;
mod link;
mod relay;
mod root;
mod seccomp;
mod supervisor;
mod sys;
mod wire;
mod zygote;

pub(crate) use host::rustup_default;

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, Permissions},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use rustix::{
    event::{PollFd, PollFlags},
    fs::{Mode, OFlags},
    process::{Pid, PidfdFlags, Signal},
};
use tracing::warn;

use crate::{Engine, Error, Fence, Isolation, Sandbox, Spec};
use client::LocalSandbox;
pub(crate) use host::spec_binds;
pub(crate) use root::remove_contents;
pub(crate) use sys::{exit_code, set_apart};
use wire::{Cgroups, Create, Done, Ids, Order, Process, State};
pub use zygote::{Caller, Zygote};

/// The part of a sandbox's folder that its mapped ids own. What the host believes about the sandbox is kept beside it.
const INSIDE: &str = "inside";
/// Names the supervisor's process.
const PROCESS: &str = "process.json";
/// Sandboxes without a connected owner end after this long.
const IDLE: Duration = Duration::from_secs(3600);

/// Makes sandboxes with the kernel's own means.
#[derive(Debug)]
pub struct LocalEngine {
    zygote: Arc<Zygote>,
    dir: PathBuf,
    ids: Ids,
    groups: cgroup::Host,
    layout: host::Layout,
    skeleton: PathBuf,
    isolation: Isolation,
    /// When it began.
    since: SystemTime,
    /// The sandboxes that are just being made or removed.
    changing: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What this host gives, without a zygote; for `codegen doctor`.
pub fn probe() -> Isolation {
    host::probe(&cgroup::Host::detect(), host::ids())
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |error| Error::Io(what, error)
}

impl LocalEngine {
    /// An engine whose sandboxes live in `dir`, made when missing.
    ///
    /// # Errors
    /// [`Error::HostRefuses`] with what to change, when this host allows no user namespaces.
    pub fn new(zygote: impl Into<Arc<Zygote>>, dir: PathBuf) -> Result<Self, Error> {
        let zygote = zygote.into();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(io_error(format!("making {}", dir.display())))?;
        // Inside, an ordinary user's sandbox folders are open to its mapped ids.
        fs::set_permissions(&dir, Permissions::from_mode(0o700))
            .map_err(io_error(format!("closing {} to others", dir.display())))?;
        let dir = fs::canonicalize(&dir).map_err(io_error(format!("finding {}", dir.display())))?;
        let ids = host::ids();
        let groups = cgroup::Host::detect();
        let layout = host::layout(&zygote.caller);
        let (skeleton, since) = (make_skeleton(&zygote, &dir, ids, &layout)?, SystemTime::now());
        let isolation = host::probe(&groups, ids);
        Ok(Self { zygote, dir, ids, groups, layout, skeleton, isolation, since, changing: Mutex::default() })
    }

    /// Keeps others from making or removing the sandbox of this name: a removal that is slow, and was asked for twice, would take
    /// the next one of the same name with it.
    async fn alone(&self, id: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            changing.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(changing.entry(id.to_owned()).or_default())
        };
        lock.lock_owned().await
    }

    /// Destroys every sandbox, the shared lower layers and the engine's folder, for an engine that is not kept.
    ///
    /// # Errors
    /// When something cannot be ended or removed.
    pub async fn remove_everything(&self) -> Result<(), Error> {
        for id in self.inventory().await? {
            self.destroy(&id).await?;
        }
        let removing = || io_error(format!("removing {}", self.dir.display()));
        for layer in fs::read_dir(&self.dir).map_err(removing())?.flatten().map(|entry| entry.path()) {
            self.order(Order::Remove { folder: layer.clone(), ids: self.ids }).await?;
            fs::remove_dir(&layer).map_err(removing())?;
        }
        fs::remove_dir(&self.dir).map_err(removing())
    }

    async fn order(&self, order: Order) -> Result<(), Error> {
        let zygote = Arc::clone(&self.zygote);
        let done = tokio::task::spawn_blocking(move || zygote.ask(&order)).await;
        outcome(done.map_err(|error| Error::Io("asking the zygote".into(), io::Error::other(error)))?)
    }

    async fn build(&self, spec: &Spec, folder: &Path) -> Result<Arc<dyn Sandbox>, Error> {
        let cgroups = self
            .groups
            .create(&self.group(&spec.id), &spec.limits)
            .map_err(io_error("making the sandbox's cgroups"))?;
        // Written before anything runs, so that a crash in between leaves nothing that `destroy` does not find.
        save(folder, &State { cgroups: cgroups.clone(), ids: self.ids, gateway: spec.gateway.clone() })?;
        let inside = folder.join(INSIDE);
        DirBuilder::new().mode(0o700).create(&inside).map_err(io_error("making the sandbox's own folder"))?;
        open_gateway(spec.gateway.as_deref());
        let mut binds = self.layout.binds.clone();
        binds.extend(host::spec_binds(spec).map_err(Error::HostRefuses)?);
        let create = Create {
            folder: inside.clone(),
            record: folder.join(PROCESS),
            skeleton: self.skeleton.clone(),
            ids: self.ids,
            binds,
            spec: spec.clone(),
            env: host::variables(&self.layout, spec),
            cgroups,
            idle: IDLE,
        };
        self.order(Order::Create(Box::new(create))).await?;
        let supervisor = supervisor_of(folder, None);
        let folder = open_folder(&inside).map_err(io_error("opening the sandbox's folder"))?;
        let supervisor = supervisor.ok_or_else(|| Error::Gone(spec.id.clone()))?;
        Ok(Arc::new(LocalSandbox::open(&spec.id, self.isolation.clone(), folder, supervisor, spec.fence).await?))
    }

    /// Names differ between data directories: sandboxes of two of them may have the same id.
    fn group(&self, id: &str) -> String {
        format!("codegen-{id}{}", self.group_end())
    }

    /// What the names of all groups of this data directory end with.
    fn group_end(&self) -> String {
        let mut hash = DefaultHasher::new();
        self.dir.hash(&mut hash);
        format!("-{:08x}", hash.finish() as u32)
    }

    fn folder(&self, id: &str) -> Result<PathBuf, Error> {
        let plain = !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if plain { Ok(self.dir.join(id)) } else { Err(Error::Gone(id.to_owned())) }
    }
}

fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn save(folder: &Path, state: &State) -> Result<(), Error> {
    let bytes =
        serde_json::to_vec(state).map_err(|error| Error::Io("encoding the sandbox's state".into(), error.into()))?;
    let part = folder.join("state.new");
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, folder.join("state.json")))
        .map_err(io_error("saving the sandbox's state"))
}

fn load(folder: &Path) -> Option<State> {
    serde_json::from_slice(&fs::read(folder.join("state.json")).ok()?).ok()
}

/// When a sandbox was made.
fn made(folder: &Path) -> Option<SystemTime> {
    fs::metadata(folder.join("state.json")).and_then(|meta| meta.modified()).ok()
}

/// The sandbox's supervisor, if it lives; looked for in its groups where what was written of it cannot be read.
fn supervisor_of(folder: &Path, state: Option<&State>) -> Option<Process> {
    let written = fs::read(folder.join(PROCESS)).ok().and_then(|bytes| serde_json::from_slice::<Process>(&bytes).ok());
    match written {
        Some(process) => (start_time(process.pid) == Some(process.start_time)).then_some(process),
        None => {
            let pid = cgroup::first(&state?.cgroups)?;
            Some(Process { pid, start_time: start_time(pid)? })
        }
    }
}

/// The supervisor connects with a mapped id, so the socket is opened to all; its folder keeps others out.
fn open_gateway(socket: Option<&Path>) {
    let Some(socket) = socket else { return };
    if fs::symlink_metadata(socket).is_ok_and(|meta| meta.file_type().is_socket())
        && let Err(error) = fs::set_permissions(socket, Permissions::from_mode(0o666))
    {
        warn!(%error, "the gateway's socket {} cannot be opened to sandboxes", socket.display());
    }
}

/// Field 22 of /proc/PID/stat.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn make_skeleton(zygote: &Zygote, dir: &Path, ids: Ids, layout: &host::Layout) -> Result<PathBuf, Error> {
    let mut hash = DefaultHasher::new();
    format!("3 {ids:?} {:?}", layout.binds).hash(&mut hash);
    let skeleton = dir.join(format!(".skeleton-{:016x}", hash.finish()));
    if skeleton.exists() {
        return Ok(skeleton);
    }
    let part = dir.join(format!(".new-{}-{:016x}", std::process::id(), hash.finish()));
    DirBuilder::new().mode(0o755).create(&part).map_err(io_error("making the lower layer"))?;
    let made = outcome(zygote.ask(&Order::Skeleton { folder: part.clone(), ids, binds: layout.binds.clone() }))
        .and_then(|_| {
            fs::set_permissions(&part, Permissions::from_mode(0o755)).map_err(io_error("opening the lower layer"))
        });
    if made.is_ok() && (fs::rename(&part, &skeleton).is_ok() || skeleton.exists()) {
        return Ok(skeleton);
    }
    // Another engine was first, or something failed: either way this copy goes.
    outcome(zygote.ask(&Order::Remove { folder: part.clone(), ids })).ok();
    fs::remove_dir(&part).ok();
    made.map(|()| skeleton)
}

/// Turns the zygote's word into ours, with what to change.
fn outcome(done: io::Result<Done>) -> Result<(), Error> {
    match done.map_err(io_error("asking the zygote"))? {
        Done::Ok => Ok(()),
        // Its first process was killed while it was made: before it was let go, or after.
        Done::Failed { errno: libc::ESRCH, .. } => Err(Error::Gone("that was being made".to_owned())),
        Done::Failed { stage, error, errno } => {
            let mut text = format!("this host cannot make a sandbox: {stage}: {error}");
            let remedies = host::refusals();
            if !remedies.is_empty() {
                text.push_str("; ");
                text.push_str(&remedies.join("; "));
            } else if errno == libc::ENOSPC && stage == "creating namespaces" {
                text.push_str("; raise sysctl user.max_user_namespaces (and max_mnt_namespaces, max_net_namespaces, max_pid_namespaces)");
            } else if errno == libc::EPERM && stage != "opening the folder" {
                text.push_str("; inside a container or a chroot, run it with user namespaces allowed (docker: --security-opt seccomp=unconfined --security-opt systempaths=unconfined)");
            } else if errno == libc::ENOSPC {
                text.push_str("; free space in the data directory");
            }
            Err(Error::HostRefuses(text))
        }
    }
}

/// A supervisor that lives, to be signalled.
fn hold(supervisor: Process) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(supervisor.pid).filter(|_| supervisor.pid > 0) else { return Ok(None) };
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => Ok((start_time(supervisor.pid) == Some(supervisor.start_time)).then_some(process)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Lets a supervisor go on that someone has stopped.
fn wake(supervisor: Process) {
    let woken = hold(supervisor).map(|held| held.map(|held| rustix::process::pidfd_send_signal(&held, Signal::CONT)));
    if let Err(error) | Ok(Some(Err(error))) = woken.map(|sent| sent.map(|sent| sent.map_err(io::Error::from))) {
        warn!(%error, "letting a sandbox's supervisor go on");
    }
}

/// Kills a supervisor, and with it, as the first process of its namespace, everything inside; returns when all is gone.
fn end(supervisor: Process) -> io::Result<()> {
    let Some(process) = hold(supervisor)? else { return Ok(()) };
    match rustix::process::pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let limit = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
    if rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit))? == 0 {
        return Err(io::Error::other("its processes did not end within 30 seconds"));
    }
    Ok(())
}

#[async_trait]
impl Engine for LocalEngine {
    fn isolation(&self) -> Isolation {
        self.isolation.clone()
    }

    async fn create(&self, spec: &Spec) -> Result<Arc<dyn Sandbox>, Error> {
        let folder = self.folder(&spec.id).map_err(|_| Error::Start(format!("{:?} is no sandbox name", spec.id)))?;
        let alone = self.alone(&spec.id).await;
        DirBuilder::new().mode(0o700).create(&folder).map_err(io_error(format!("making {}", folder.display())))?;
        match self.build(spec, &folder).await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                drop(alone);
                if let Err(second) = self.destroy(&spec.id).await {
                    warn!(sandbox.id = spec.id, error = %second, "what was left of a failed sandbox cannot be removed");
                }
                Err(error)
            }
        }
    }

    async fn attach(&self, id: &str, fence: Fence) -> Result<Arc<dyn Sandbox>, Error> {
        let gone = || Error::Gone(id.to_owned());
        let folder = self.folder(id)?;
        let state = load(&folder).ok_or_else(gone)?;
        let supervisor = supervisor_of(&folder, Some(&state)).ok_or_else(gone)?;
        open_gateway(state.gateway.as_deref());
        let folder = open_folder(&folder.join(INSIDE)).map_err(|_| gone())?;
        Ok(Arc::new(LocalSandbox::open(id, self.isolation.clone(), folder, supervisor, fence).await?))
    }

    async fn destroy(&self, id: &str) -> Result<(), Error> {
        let folder = self.folder(id)?;
        let _alone = self.alone(id).await;
        if !folder.exists() {
            return Ok(());
        }
        let state = load(&folder);
        let ids = state.as_ref().map_or(self.ids, |state| state.ids);
        if let Some(supervisor) = supervisor_of(&folder, state.as_ref()) {
            let ended = tokio::task::spawn_blocking(move || end(supervisor)).await;
            ended
                .map_err(|error| Error::Io(format!("ending sandbox {id}"), io::Error::other(error)))?
                .map_err(io_error(format!("ending sandbox {id}")))?;
        }
        if let Some(state) = state {
            state.cgroups.folders.iter().for_each(|group| cgroup::kill(group));
            cgroup::remove(&state.cgroups).await.map_err(io_error(format!("removing the cgroups of sandbox {id}")))?;
        }
        let inside = folder.join(INSIDE);
        if inside.exists() {
            self.order(Order::Remove { folder: inside.clone(), ids }).await?;
        }
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io(format!("removing {}", folder.display()), error))
            }
            _ => Ok(()),
        }
    }

    async fn inventory(&self) -> Result<Vec<String>, Error> {
        let mut ids: Vec<String> = fs::read_dir(&self.dir)
            .map_err(io_error(format!("listing {}", self.dir.display())))?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        ids.sort();
        Ok(ids)
    }

    async fn lives(&self, id: &str) -> bool {
        self.folder(id).is_ok_and(|folder| supervisor_of(&folder, load(&folder).as_ref()).is_some())
    }

    async fn sweep(&self) -> Result<Vec<String>, Error> {
        let mut swept = Vec::new();
        for group in self.groups.named("codegen-", &self.group_end()) {
            // A sandbox's folder is made before its groups and removed after them.
            let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let id = name.strip_prefix("codegen-").and_then(|name| name.strip_suffix(&self.group_end()));
            if id.is_none_or(|id| self.dir.join(id).exists()) {
                continue;
            }
            let cgroups = Cgroups { folders: vec![group.clone()], ..Cgroups::default() };
            cgroup::kill(&group);
            match cgroup::remove(&cgroups).await {
                Ok(()) => swept.push(format!("the control group {}", group.display())),
                Err(error) => warn!(%error, "removing the control group {}", group.display()),
            }
        }
        let half_made = fs::read_dir(&self.dir).map_err(io_error(format!("listing {}", self.dir.display())))?;
        for entry in half_made.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // One of an earlier version or setting may still be below the sandboxes that were made then.
            let is_old = name.starts_with(".skeleton-") && entry.path() != self.skeleton;
            if is_old && self.inventory().await?.iter().all(|id| made(&self.dir.join(id)) > Some(self.since)) {
                self.order(Order::Remove { folder: entry.path(), ids: self.ids }).await?;
                fs::remove_dir(entry.path()).map_err(io_error(format!("removing {name}")))?;
                swept.push(format!("the earlier layer {name}"));
                continue;
            }
            let maker = name.strip_prefix(".new-").and_then(|rest| rest.split('-').next());
            if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                self.order(Order::Remove { folder: entry.path(), ids: self.ids }).await?;
                fs::remove_dir(entry.path()).map_err(io_error(format!("removing {name}")))?;
                swept.push(format!("the half-made layer {name}"));
            }
        }
        Ok(swept)
    }
}
