//! Which engine runs agents' commands, and what this host gives it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use codegen_sandbox::{
    Engine, Error, Exec, Spec,
    local::{self, Caller, LocalEngine, Zygote},
    unisolated::UnisolatedEngine,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::sync::oneshot;

/// Said wherever commands run without isolation.
pub const UNISOLATED: &str = "Commands run WITHOUT ISOLATION (--unsafe-no-sandbox): they are plain processes of codegen's own user, \
reach its files, keys and network, and no limit or network policy is enforced.";

/// Said where isolation is refused, after what to change.
pub const WAY_OUT: &str =
    "where every task and repository is trusted, --unsafe-no-sandbox runs commands without isolation";

/// What an engine is made of. Chosen before the async runtime starts, for a zygote must be forked before it.
#[derive(Debug, Clone)]
pub enum Means {
    /// Isolated sandboxes are cloned from this process.
    Isolated(Arc<Zygote>),
    /// `--unsafe-no-sandbox`, and no other setting: plain processes of this host.
    Unisolated(Caller),
}

impl Means {
    /// Returns once the process is gone without which no sandbox can be made; it cannot be made again beside threads.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn gone(&self) -> std::io::Result<impl Future<Output = ()> + Send + use<>> {
        let zygote = match self {
            Self::Isolated(zygote) => Pid::from_raw(zygote.pid()),
            Self::Unisolated(_) => None,
        };
        let mut watched = None;
        if let Some(zygote) = zygote {
            let process = pidfd_open(zygote, PidfdFlags::empty())?;
            let (gone, told) = oneshot::channel::<()>();
            watched = Some(told);
            // A thread of its own: one of the runtime's would hold up its end.
            std::thread::Builder::new().name("zygote-watch".to_owned()).spawn(move || {
                // A process is readable when it has ended.
                while let Err(Errno::INTR) = poll(&mut [PollFd::new(&process, PollFlags::IN)], None) {}
                // Nobody listens any more where the server has ended first.
                gone.send(()).ok();
            })?;
        }
        Ok(async move {
            match watched {
                Some(told) => told.await.unwrap_or_default(),
                None => std::future::pending().await,
            }
        })
    }
}

/// The engine over the sandboxes of a data directory.
///
/// # Errors
/// When the host does not allow isolation and nobody asked to do without; the text says what to change.
pub fn engine(means: Means, data_dir: &Path) -> Result<Arc<dyn Engine>> {
    codegen_store::make_data_dir(data_dir)?;
    Ok(match means {
        Means::Isolated(zygote) => Arc::new(
            LocalEngine::new(zygote, data_dir.join("sandboxes"))
                .map_err(refused)
                .context("preparing the sandbox engine")?,
        ),
        Means::Unisolated(caller) => Arc::new(
            UnisolatedEngine::new(caller, &unisolated_dir(data_dir)).context("preparing to run without a sandbox")?,
        ),
    })
}

fn unisolated_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("unisolated")
}

fn refused(error: Error) -> Error {
    match error {
        Error::HostRefuses(what_to_change) => Error::HostRefuses(format!("{what_to_change}; {WAY_OUT}")),
        other => other,
    }
}

/// Ends what an earlier process ran without isolation; for one that isolates.
///
/// # Errors
/// When something of it cannot be ended or removed.
pub async fn remove_unisolated(data_dir: &Path) -> Result<()> {
    let dir = unisolated_dir(data_dir);
    if !dir.exists() {
        return Ok(());
    }
    let engine = UnisolatedEngine::new(Caller::default(), &dir)?;
    for id in engine.inventory().await? {
        engine.destroy(&id).await?;
    }
    std::fs::remove_dir(&dir).context("removing the folder of commands without isolation")
}

/// Runs a command in a sandbox of its own, so that a host that refuses is known before a run needs it.
///
/// # Errors
/// When it does not run; the text says what to change.
pub async fn try_out(engine: &dyn Engine) -> Result<()> {
    let id = format!("trial-{}", std::process::id());
    let tried = async {
        let sandbox = engine.create(&Spec { id: id.clone(), ..Spec::default() }).await.map_err(refused)?;
        let exec = Exec { argv: vec!["true".to_owned()], ..Exec::default() };
        let done = sandbox.start(exec).await?.complete().await?;
        if done.exit.code != 0 {
            bail!("a command in a sandbox ended with exit code {}", done.exit.code);
        }
        Ok(())
    };
    let tried = tried.await;
    engine.destroy(&id).await?;
    tried
}

/// What this host gives for isolation.
#[derive(Debug)]
pub struct Host {
    /// Whether a command did run isolated.
    pub isolated: bool,
    /// Protections there are.
    pub have: Vec<String>,
    /// Protections there are not, each with what to do about it.
    pub missing: Vec<String>,
}

/// Asks the host, by a sandbox in the data directory, and leaves nothing behind.
pub async fn probe_host(zygote: Zygote, data_dir: &Path) -> Host {
    let known = local::probe();
    let mut host = Host { isolated: true, have: known.have, missing: known.missing };
    let made: Vec<&Path> = data_dir.ancestors().take_while(|folder| !folder.exists()).collect();
    let dir = data_dir.join(format!(".doctor-{}", std::process::id()));
    let tried = async {
        let engine = LocalEngine::new(zygote, dir.clone()).map_err(refused)?;
        let tried = try_out(&engine).await;
        engine.remove_everything().await?;
        tried
    };
    if let Err(error) = tried.await {
        let why = format!("{error:#}");
        // What the host's settings promise is not there, and the reason comes once.
        host = Host { isolated: false, have: Vec::new(), missing: host.missing };
        host.missing.retain(|missing| !why.contains(missing));
        host.missing.insert(0, why);
    }
    for folder in std::iter::once(dir.as_path()).chain(made) {
        std::fs::remove_dir(folder).ok(); // It may never have been made, or be in use by now.
    }
    host
}
