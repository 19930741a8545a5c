//! `codegen df` and `codegen prune` on a data directory, with a server up or not.
//!
//! With a server up they work beside it, through the database's own locks, in the same small batches as the server's own
//! task; sandboxes and other leftovers are that server's to remove, which it does each minute. Without one, pruning takes
//! the data directory's lock and removes those too.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use codegen_store::{DATABASE, DirLock, Error as StoreError, Store};
use secrecy::ExposeSecret;
use serde::Serialize;
use tracing::warn;

use crate::{
    Means, Zygote,
    config::Config,
    disk::{self, Usage},
    engine, once, room,
    worker::{
        reap,
        retention::{self, Freed, Limits, Plan},
    },
};

/// What to drop.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Full outputs.
    pub outputs: bool,
    /// Traces.
    pub traces: bool,
    /// Mirrors.
    pub mirrors: bool,
    /// Instead of the settings' ages and sizes.
    pub older_than_ms: Option<i64>,
}

/// What was dropped, or would be.
#[derive(Debug, Clone, Serialize)]
pub struct Pruned {
    /// Runs whose outputs went.
    pub outputs: Vec<Gone>,
    /// Runs whose traces went.
    pub traces: Vec<Gone>,
    /// Repositories whose mirrors went.
    pub mirrors: Vec<Gone>,
    /// Bytes that went, by kind.
    pub freed: Freed,
    /// The database's file before and after.
    pub database_bytes: [u64; 2],
    /// Sentences on what was left, and what to do about it.
    pub notes: Vec<String>,
    /// The same of the data directories of `codegen run`, beside this one.
    pub beside: Vec<Beside<Pruned>>,
}

/// Something of the data directory of a `codegen run`.
#[derive(Debug, Clone, Serialize)]
pub struct Beside<T> {
    /// Which.
    pub data_dir: PathBuf,
    /// What.
    #[serde(flatten)]
    pub of: T,
}

/// One thing that went.
#[derive(Debug, Clone, Serialize)]
pub struct Gone {
    /// Of the run, or of the repository.
    pub id: i64,
    /// What it took.
    pub bytes: u64,
    /// Why it went.
    pub why: String,
}

impl Wanted {
    fn limits(&self, config: &Config) -> Limits {
        let mut limits = Limits::from(&config.keep);
        if let Some(age) = self.older_than_ms {
            limits = Limits {
                outputs_ms: Some(age),
                traces_ms: Some(age),
                mirrors_ms: Some(age),
                outputs_bytes: None,
                mirrors_bytes: None,
            };
        }
        Limits {
            outputs_ms: limits.outputs_ms.filter(|_| self.outputs),
            outputs_bytes: limits.outputs_bytes.filter(|_| self.outputs),
            traces_ms: limits.traces_ms.filter(|_| self.traces),
            mirrors_ms: limits.mirrors_ms.filter(|_| self.mirrors),
            mirrors_bytes: limits.mirrors_bytes.filter(|_| self.mirrors),
        }
    }
}

/// What uses the disk, also in the data directories of `codegen run`.
///
/// # Errors
/// When the data directory cannot be read.
pub async fn df(config: &Config) -> Result<(Option<Usage>, Vec<Usage>)> {
    let (mut beside, others) = (Vec::new(), once::beside(&config.data_dir));
    let main = if is_missing(config, &others) { None } else { Some(df_of(config, &config.data_dir).await?) };
    for data_dir in others {
        match df_of(config, &data_dir).await {
            Ok(usage) => beside.push(usage),
            Err(error) => warn!(error = format!("{error:#}"), "looking at {}", data_dir.display()),
        }
    }
    Ok((main, beside))
}

/// Where the database of a data directory is, when it is not in it. `codegen run` has its own in its directories.
fn url<'a>(config: &'a Config, data_dir: &Path) -> Option<&'a str> {
    config.database_url.as_ref().filter(|_| data_dir == config.data_dir).map(ExposeSecret::expose_secret)
}

/// Opens the database beside the processes that use it.
async fn open_beside(config: &Config, data_dir: &Path) -> Result<Store, StoreError> {
    match url(config, data_dir) {
        None => Store::open_beside(data_dir).await,
        Some(url) => Store::connect(url, None).await,
    }
}

/// Whether only `codegen run` was ever used here.
fn is_missing(config: &Config, beside: &[PathBuf]) -> bool {
    !beside.is_empty() && config.database_url.is_none() && !config.data_dir.join(DATABASE).exists()
}

async fn df_of(config: &Config, data_dir: &Path) -> Result<Usage> {
    let store = open_beside(config, data_dir).await?;
    let usage = disk::usage(&store, data_dir, &Limits::from(&config.keep), reap::kept_ms(&config.keep), now()).await;
    store.close().await;
    usage
}

/// What [`prune`] would drop.
///
/// # Errors
/// When the data directory cannot be read.
pub async fn plan(config: &Config, wanted: &Wanted) -> Result<Pruned> {
    let others = once::beside(&config.data_dir);
    let mut pruned = if is_missing(config, &others) {
        Pruned::of(&Plan::default(), Freed::default(), [0, 0])
    } else {
        plan_of(config, &config.data_dir, wanted).await?
    };
    for data_dir in others {
        match plan_of(config, &data_dir, wanted).await {
            Ok(of) => pruned.beside.push(Beside { data_dir, of }),
            Err(error) => pruned.notes.push(format!("{} is left out: {error:#}", data_dir.display())),
        }
    }
    Ok(pruned)
}

async fn plan_of(config: &Config, data_dir: &Path, wanted: &Wanted) -> Result<Pruned> {
    let store = open_beside(config, data_dir).await?;
    let plan = retention::plan(&store, data_dir, &wanted.limits(config), now()).await;
    store.close().await;
    let bytes = database_bytes(data_dir);
    Ok(Pruned::of(&plan?, Freed::default(), [bytes, bytes]))
}

/// Drops what is wanted and what nobody owns, and gives the space back; also in the data directories of `codegen run`,
/// whose sandboxes end with their runs.
///
/// # Errors
/// When the store fails.
pub async fn prune(config: &Config, zygote: Zygote, wanted: &Wanted) -> Result<Pruned> {
    let others = once::beside(&config.data_dir);
    let mut pruned = if is_missing(config, &others) {
        Pruned::of(&Plan::default(), Freed::default(), [0, 0])
    } else {
        prune_of(config, &config.data_dir, Some(zygote), wanted).await?
    };
    for data_dir in others {
        match prune_of(config, &data_dir, None, wanted).await {
            Ok(of) => pruned.beside.push(Beside { data_dir, of }),
            Err(error) => pruned.notes.push(format!("{} is left as it is: {error:#}", data_dir.display())),
        }
    }
    Ok(pruned)
}

async fn prune_of(config: &Config, data_dir: &Path, zygote: Option<Zygote>, wanted: &Wanted) -> Result<Pruned> {
    let before = database_bytes(data_dir);
    let opened = match url(config, data_dir) {
        None => Store::open(data_dir).await,
        Some(url) => match DirLock::make(data_dir) {
            Ok(lock) => Store::connect(url, Some(lock)).await,
            Err(error) => Err(error),
        },
    };
    let (store, alone) = match opened {
        Ok(store) => (store, true),
        Err(StoreError::Locked(_)) => (open_beside(config, data_dir).await?, false),
        Err(error) => return Err(error.into()),
    };
    let done = async {
        if alone && let Some(zygote) = zygote {
            match engine::engine(Means::Isolated(zygote.into()), data_dir) {
                Ok(engine) => {
                    let kept = reap::kept_ms(&config.keep);
                    reap::remove_leftovers(&store, &*engine, data_dir, kept, now()).await?;
                }
                Err(error) => warn!(error = format!("{error:#}"), "without an engine no sandbox is removed"),
            }
        }
        if !room::is_there(data_dir) {
            // Dropping is writing first.
            room::give_reserve(data_dir);
            store.fold().await.context("giving the room of the database's log back")?;
        }
        let plan = retention::plan(&store, data_dir, &wanted.limits(config), now()).await?;
        let freed = retention::carry_out(&store, data_dir, plan.clone(), now()).await?;
        let mut notes = Vec::new();
        let empty = retention::give_back(&store).await?;
        if empty > 0 && !store.shrinks().await? {
            let (size, free) = (disk::size(&data_dir.join(DATABASE)), disk::free(data_dir)?);
            if !alone {
                notes.push(format!(
                    "{} in the database are empty and used again; to give them back, run this with the server stopped",
                    disk::human(empty)
                ));
            } else if free < size.saturating_add(size / 4) {
                notes.push(format!(
                    "{} in the database are empty and used again; giving them back needs {} of free disk for a while",
                    disk::human(empty),
                    disk::human(size.saturating_add(size / 4))
                ));
            } else {
                store.rebuild().await.context("writing the database anew")?;
            }
        }
        anyhow::Ok((plan, freed, notes))
    };
    let done = done.await;
    store.close().await;
    let (plan, freed, notes) = done?;
    Ok(Pruned { notes, ..Pruned::of(&plan, freed, [before, database_bytes(data_dir)]) })
}

impl Pruned {
    fn of(plan: &Plan, freed: Freed, database_bytes: [u64; 2]) -> Self {
        let of_run = |run: &retention::OfRun| Gone {
            id: run.ended.run_id,
            bytes: run.ended.bytes.unsigned_abs(),
            why: run.why.clone(),
        };
        let of_repo = |m: &retention::OfRepo| Gone { id: m.repo_id, bytes: m.bytes, why: m.why.clone() };
        Self {
            outputs: plan.outputs.iter().map(of_run).collect(),
            traces: plan.traces.iter().map(of_run).collect(),
            mirrors: plan.mirrors.iter().map(of_repo).collect(),
            freed,
            database_bytes,
            notes: Vec::new(),
            beside: Vec::new(),
        }
    }
}

fn database_bytes(data_dir: &Path) -> u64 {
    ["", "-wal"].iter().map(|end| disk::size(&data_dir.join(format!("{DATABASE}{end}")))).sum()
}

/// Unix milliseconds.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
