//! The engine of `--unsafe-no-sandbox`: commands are plain child processes of this host's user. Nothing isolates them.
//!
//! A sandbox is a folder with a workspace, a home and scratch space. Commands end with the server that started them:
//! a later one finds the folder again, and no command.

mod command;
mod sweep;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    Engine, Error, Event, Exec, Exit, Fence, Isolation, Running, Sandbox, Spec, Stream, User,
    local::{self, Caller},
    tool, variables,
};
use command::{Command, Start, kill_group};

/// Runs commands on the host itself.
#[derive(Debug)]
pub struct UnisolatedEngine {
    dir: PathBuf,
    caller: Caller,
    live: Mutex<BTreeMap<String, Arc<Place>>>,
}

/// A sandbox, shared by its owners.
#[derive(Debug)]
struct Place {
    id: String,
    folder: PathBuf,
    workspace: String,
    scratch: String,
    mounts: String,
    isolation: Isolation,
    spec: Spec,
    env: BTreeMap<String, String>,
    newest: Mutex<Owner>,
    next: AtomicU64,
    commands: Mutex<Commands>,
    gone: CancellationToken,
}

/// The commands of this process's time, and those of them that have a key.
#[derive(Debug, Default)]
struct Commands {
    all: Vec<Arc<Command>>,
    keys: BTreeMap<String, Arc<Command>>,
    operations: BTreeMap<String, Operation>,
}

/// The newest owner there was.
#[derive(Debug)]
struct Owner {
    fence: Fence,
    /// Cancelled when a newer one comes: what the older one watches is cut off.
    replaced: CancellationToken,
}

/// What is kept of a sandbox for a later process.
#[derive(Serialize, Deserialize)]
struct State {
    spec: Spec,
    fence: Fence,
}

/// A sandbox in the hands of one owner.
#[derive(Debug)]
struct UnisolatedSandbox {
    place: Arc<Place>,
    replaced: CancellationToken,
}

/// Nothing in force, and what that means.
fn isolation() -> Isolation {
    Isolation {
        engine: "unisolated".into(),
        have: Vec::new(),
        missing: vec![
            "isolation: commands run as plain processes of codegen's own user and reach all that it reaches, codegen's data and keys among it"
                .into(),
            "network policy: clients are pointed at the gateway, and nothing keeps them from going around it".into(),
            "limits on memory and processes".into(),
        ],
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |error| Error::Io(what, error)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every holder leaves its value whole at each step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(path: &Path) -> Result<String, Error> {
    let refused = || Error::Start(format!("{} is not UTF-8", path.display()));
    path.to_str().map(str::to_owned).ok_or_else(refused)
}

fn load(folder: &Path) -> Option<State> {
    serde_json::from_slice(&fs::read(folder.join("state.json")).ok()?).ok()
}

fn save(folder: &Path, state: &State) -> Result<(), Error> {
    let bytes =
        serde_json::to_vec(state).map_err(|error| Error::Io("encoding a sandbox's state".into(), error.into()))?;
    let part = folder.join("state.new");
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, folder.join("state.json")))
        .map_err(io_error("saving a sandbox's state"))
}

impl UnisolatedEngine {
    /// An engine whose sandboxes' folders are in `dir`, made when missing.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(caller: Caller, dir: &Path) -> Result<Self, Error> {
        let making = || format!("making {}", dir.display());
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(making()))?;
        let dir = fs::canonicalize(dir).map_err(io_error(making()))?;
        Ok(Self { dir, caller, live: Mutex::default() })
    }

    fn folder(&self, id: &str) -> Result<PathBuf, Error> {
        let plain = !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if plain { Ok(self.dir.join(id)) } else { Err(Error::Gone(id.to_owned())) }
    }

    /// Fills a new sandbox's folder.
    fn furnish(folder: &Path, spec: &Spec) -> Result<(), Error> {
        for name in ["workspace", "home", "tmp", "out", "mounts"] {
            DirBuilder::new().mode(0o755).create(folder.join(name)).map_err(io_error(format!("making {name}")))?;
        }
        for bind in local::spec_binds(spec).map_err(Error::HostRefuses)? {
            let place = folder.join("mounts").join(bind.target.strip_prefix("/").unwrap_or(&bind.target));
            let made = place.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| symlink(&bind.source, &place));
            made.map_err(io_error(format!("showing {}", bind.source.display())))?;
        }
        save(folder, &State { spec: spec.clone(), fence: spec.fence })
    }

    /// Makes a furnished folder usable: its way to the gateway is opened and its variables are put together.
    async fn open(&self, folder: PathBuf, State { spec, fence }: State) -> Result<Arc<Place>, Error> {
        let gone = CancellationToken::new();
        let proxy_port = match spec.gateway.clone() {
            Some(gateway) => {
                Some(relay(gateway, gone.clone()).await.map_err(io_error("opening the way to the gateway"))?)
            }
            None => None,
        };
        let (home, scratch) = (text(&folder.join("home"))?, text(&folder.join("tmp"))?);
        let mut env = variables::common(&spec, &home, proxy_port);
        env.extend(self.toolchains(&home));
        env.insert("TMPDIR".into(), scratch.clone());
        // A workspace without a repository must not be taken for part of one around the data directory.
        env.insert("GIT_CEILING_DIRECTORIES".into(), text(&folder)?);
        env.extend(spec.env.clone());
        env.insert(sweep::MARK.into(), text(&folder)?);
        let spools = fs::read_dir(folder.join("out")).map_err(io_error("listing a sandbox's output"))?;
        let last = spools.flatten().filter_map(|spool| spool.file_name().to_str()?.parse::<u64>().ok()).max();
        let place = Arc::new(Place {
            id: spec.id.clone(),
            workspace: text(&folder.join("workspace"))?,
            mounts: text(&folder.join("mounts"))?,
            scratch,
            folder,
            isolation: isolation(),
            spec,
            env,
            newest: Mutex::new(Owner { fence, replaced: CancellationToken::new() }),
            // Commands of an earlier process must not be taken for new ones.
            next: AtomicU64::new(last.map_or(1, |last| last.saturating_add(1))),
            commands: Mutex::default(),
            gone,
        });
        lock(&self.live).insert(place.id.clone(), Arc::clone(&place));
        Ok(place)
    }

    /// The host's tools as they are, and where those that live in the host user's home keep their parts.
    fn toolchains(&self, home: &str) -> BTreeMap<String, String> {
        let own = [format!("{home}/.local/bin"), format!("{home}/.cargo/bin")];
        let standard = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        let mut path: Vec<String> = own.into();
        path.extend(self.caller.rustup_home.as_deref().map(Path::new).and_then(local::rustup_default));
        for folder in self.caller.path.split(':').chain(standard).filter(|folder| folder.starts_with('/')) {
            if !path.iter().any(|known| known == folder) {
                path.push(folder.to_owned());
            }
        }
        let mut env = BTreeMap::from([("PATH".to_owned(), path.join(":"))]);
        for (name, folder) in [("RUSTUP_HOME", ".rustup"), ("PYENV_ROOT", ".pyenv"), ("NVM_DIR", ".nvm")] {
            let at_home = self.caller.home.as_ref().map(|home| Path::new(home).join(folder)).filter(|f| f.is_dir());
            if let Some(place) = at_home.as_deref().and_then(Path::to_str) {
                env.insert(name.to_owned(), place.to_owned());
            }
        }
        if let Some(rustup) = &self.caller.rustup_home {
            env.insert("RUSTUP_HOME".to_owned(), rustup.clone());
        }
        env
    }
}

/// Passes connections to a loopback port on to the gateway's socket, until the sandbox is gone.
async fn relay(gateway: PathBuf, gone: CancellationToken) -> io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let accepting = async move {
        loop {
            let Ok((mut client, _)) = listener.accept().await else {
                // Out of descriptors, most likely.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let gateway = gateway.clone();
            tokio::spawn(async move {
                // No gateway: the client sees a closed connection.
                if let Ok(mut gateway) = UnixStream::connect(&gateway).await {
                    tokio::io::copy_bidirectional(&mut client, &mut gateway).await.ok(); // Either end may leave.
                }
            });
        }
    };
    tokio::spawn(async move { gone.run_until_cancelled(accepting).await.unwrap_or(()) });
    Ok(port)
}

impl Place {
    /// Learns of an owner; an older one than the newest is refused.
    fn take(self: &Arc<Self>, fence: Fence) -> Result<UnisolatedSandbox, Error> {
        let mut newest = lock(&self.newest);
        if fence < newest.fence {
            return Err(Error::Fenced(self.id.clone()));
        }
        if fence > newest.fence {
            save(&self.folder, &State { spec: self.spec.clone(), fence })?;
            newest.replaced.cancel();
            *newest = Owner { fence, replaced: CancellationToken::new() };
        }
        Ok(UnisolatedSandbox { place: Arc::clone(self), replaced: newest.replaced.clone() })
    }

    /// Kills the groups of running commands, and gives every session that was started.
    fn kill_commands(&self) -> BTreeSet<i32> {
        let commands = lock(&self.commands);
        commands.all.iter().filter(|command| command.is_running()).for_each(|command| kill_group(command.pid));
        // Of those that ended the number may belong to another process by now.
        commands.all.iter().filter(|command| command.is_running()).map(|command| command.pid).collect()
    }
}

#[async_trait]
impl Engine for UnisolatedEngine {
    fn isolation(&self) -> Isolation {
        isolation()
    }

    async fn create(&self, spec: &Spec) -> Result<Arc<dyn Sandbox>, Error> {
        let folder = self.folder(&spec.id).map_err(|_| Error::Start(format!("{:?} is no sandbox name", spec.id)))?;
        DirBuilder::new().mode(0o700).create(&folder).map_err(io_error(format!("making {}", folder.display())))?;
        let made = async {
            Self::furnish(&folder, spec)?;
            self.open(folder.clone(), State { spec: spec.clone(), fence: spec.fence }).await?.take(spec.fence)
        };
        match made.await {
            Ok(sandbox) => Ok(Arc::new(sandbox)),
            Err(error) => {
                if let Err(second) = self.destroy(&spec.id).await {
                    warn!(sandbox.id = spec.id, error = %second, "what was left of a failed sandbox cannot be removed");
                }
                Err(error)
            }
        }
    }

    async fn attach(&self, id: &str, fence: Fence) -> Result<Arc<dyn Sandbox>, Error> {
        let folder = self.folder(id)?;
        let live = lock(&self.live).get(id).cloned();
        if let Some(place) = live {
            return Ok(Arc::new(place.take(fence)?));
        }
        let state = load(&folder).ok_or_else(|| Error::Gone(id.to_owned()))?;
        if fence < state.fence {
            return Err(Error::Fenced(id.to_owned()));
        }
        // What the process before left running has nobody who reads its output.
        let swept = sweep::sweep(&text(&folder)?, &BTreeSet::new()).await;
        swept.map_err(io_error(format!("ending what was left of sandbox {id}")))?;
        Ok(Arc::new(self.open(folder, state).await?.take(fence)?))
    }

    async fn destroy(&self, id: &str) -> Result<(), Error> {
        let folder = self.folder(id)?;
        let place = lock(&self.live).remove(id);
        let sessions = place.map_or_else(BTreeSet::new, |place| {
            place.gone.cancel();
            place.kill_commands()
        });
        if !folder.exists() {
            return Ok(());
        }
        let swept = sweep::sweep(&text(&folder)?, &sessions).await;
        swept.map_err(io_error(format!("ending sandbox {id}")))?;
        let removing = format!("removing {}", folder.display());
        let removed = tokio::task::spawn_blocking(move || {
            local::remove_contents(&folder)?;
            fs::remove_dir(&folder)
        });
        match removed.await.map_err(io::Error::other).and_then(|removed| removed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Io(removing, error)),
            _ => Ok(()),
        }
    }

    async fn inventory(&self) -> Result<Vec<String>, Error> {
        let mut ids: Vec<String> = fs::read_dir(&self.dir)
            .map_err(io_error(format!("listing {}", self.dir.display())))?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }
}

impl Drop for UnisolatedEngine {
    fn drop(&mut self) {
        // The next process would only kill them.
        for place in lock(&self.live).values() {
            place.kill_commands();
        }
    }
}

impl UnisolatedSandbox {
    fn check(&self) -> Result<(), Error> {
        if self.place.gone.is_cancelled() {
            return Err(Error::Gone(self.place.id.clone()));
        }
        if self.replaced.is_cancelled() {
            return Err(Error::Fenced(self.place.id.clone()));
        }
        Ok(())
    }
}

/// A file operation, under way or done.
#[derive(Debug)]
struct Operation(watch::Receiver<Option<(Event, Exit)>>);

impl Operation {
    /// Begins it in this process, whose rights are the commands' own.
    fn begin(exec: Exec) -> Self {
        let (done, receiver) = watch::channel(None);
        let began = Instant::now();
        tokio::spawn(async move {
            let operation = exec.argv.get(1).cloned().unwrap_or_default();
            let work = tokio::task::spawn_blocking(move || tool::operate_with(&operation, &exec.stdin, Path::to_owned));
            let limit = exec.timeout.unwrap_or(Duration::from_secs(3600));
            let result = match tokio::time::timeout(limit, work).await {
                Ok(result) => result.map_err(io::Error::other).and_then(|result| result),
                Err(_) => Err(io::Error::other("took too long")),
            };
            let (fd, code, bytes) = match result {
                Ok(bytes) => (1, 0, bytes),
                Err(error) => (2, tool::exit_code(&error), error.to_string().into_bytes()),
            };
            let exit = Exit { code, ended_by: None, dropped_bytes: 0, duration: began.elapsed() };
            done.send_replace(Some((Event::Output { fd, bytes }, exit)));
        });
        Self(receiver)
    }

    fn follow(&self) -> Running {
        let (events, receiver) = mpsc::channel(2);
        let mut done = self.0.clone();
        tokio::spawn(async move {
            let Ok(Some((output, exit))) = done.wait_for(Option::is_some).await.map(|done| done.clone()) else {
                return;
            };
            // A watcher that left wants neither.
            events.send(output).await.ok();
            events.send(Event::Exited(exit)).await.ok();
        });
        Running { events: receiver, kill: mpsc::channel(1).0 }
    }
}

#[async_trait]
impl Sandbox for UnisolatedSandbox {
    fn id(&self) -> &str {
        &self.place.id
    }

    fn isolation(&self) -> &Isolation {
        &self.place.isolation
    }

    fn workspace(&self) -> &str {
        &self.place.workspace
    }

    fn scratch(&self) -> &str {
        &self.place.scratch
    }

    fn mounted(&self, target: &str) -> String {
        format!("{}/{}", self.place.mounts, target.trim_start_matches('/'))
    }

    async fn start(&self, mut exec: Exec) -> Result<Running, Error> {
        self.check()?;
        if exec.user == User::Setup {
            return Err(Error::Start(
                "without isolation there is no root of the sandbox's own, so commands have the rights of codegen's user".into(),
            ));
        }
        let place = &self.place;
        if exec.argv.first().is_some_and(|program| program == tool::PROGRAM) {
            let Some(key) = exec.key.take() else { return Ok(Operation::begin(exec).follow()) };
            let mut commands = lock(&place.commands);
            return Ok(commands.operations.entry(key).or_insert_with(|| Operation::begin(exec)).follow());
        }
        let cwd = exec.cwd.take().unwrap_or_else(|| place.workspace.clone());
        let mut env = place.env.clone();
        env.insert("PWD".into(), cwd.clone());
        env.extend(std::mem::take(&mut exec.env));
        if let Some(mark) = place.env.get(sweep::MARK) {
            env.insert(sweep::MARK.into(), mark.clone());
        }
        let id = place.next.fetch_add(1, Ordering::Relaxed);
        let spool = place.folder.join("out").join(id.to_string());
        // Held from the check to the entry, so that `destroy` sees every command that it must end.
        let mut commands = lock(&place.commands);
        self.check()?;
        let key = exec.key.take();
        if let Some(command) = key.as_ref().and_then(|key| commands.keys.get(key)) {
            return command.follow(self.replaced.clone());
        }
        let command = Command::start(exec, Start { spool, env: &env, cwd: &cwd, gone: place.gone.clone() })?;
        commands.all.push(Arc::clone(&command));
        commands.keys.extend(key.map(|key| (key, Arc::clone(&command))));
        drop(commands);
        command.follow(self.replaced.clone())
    }

    async fn reattach(&self, key: &str) -> Result<Option<Running>, Error> {
        self.check()?;
        let commands = lock(&self.place.commands);
        if let Some(operation) = commands.operations.get(key) {
            return Ok(Some(operation.follow()));
        }
        commands.keys.get(key).map(|command| command.follow(self.replaced.clone())).transpose()
    }

    async fn connect(&self, port: u16) -> Result<Box<dyn Stream>, Error> {
        self.check()?;
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        Ok(Box::new(stream.map_err(io_error(format!("connecting to sandbox {}", self.place.id)))?))
    }
}
