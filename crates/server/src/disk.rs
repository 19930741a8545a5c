//! What uses the disk in a data directory, and why: for `codegen df`. Only reads, with a server up or not.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use codegen_store::{DATABASE, Store};
use serde::Serialize;

use crate::{
    forge::git::Mirror,
    worker::{
        reap::{self, Owner},
        retention::{self, Limits, Plan},
    },
};

/// Whether something may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In use.
    Live,
    /// Not in use, and kept by the settings.
    Kept,
    /// `codegen prune` frees it now.
    Prunable,
}

/// One thing that uses the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// `database`, `traces`, `outputs`, `patches`, `mirror`, `sandbox` or `leftover`.
    pub kind: &'static str,
    /// Which, in people's words.
    pub name: String,
    /// What it takes.
    pub bytes: u64,
    /// Whether it may go.
    pub state: State,
    /// Why.
    pub why: String,
    /// Of which run, where it is one's.
    pub run_id: Option<i64>,
    /// Of which repository, where it is one's.
    pub repo_id: Option<i64>,
    /// Whether its bytes are within those of the database.
    pub in_database: bool,
}

/// A data directory's use of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Which.
    pub data_dir: PathBuf,
    /// Whether a process has it.
    pub in_use: bool,
    /// All that it takes.
    pub bytes: u64,
    /// What `codegen prune` frees.
    pub prunable_bytes: u64,
    /// What is free on its disk.
    pub free_bytes: u64,
    /// What takes how much.
    pub items: Vec<Item>,
}

/// A mirror on the disk.
#[derive(Debug, Clone, Copy)]
pub struct MirrorUse {
    /// Of which repository.
    pub repo_id: i64,
    /// What it takes.
    pub bytes: u64,
    /// In unix milliseconds.
    pub last_used: i64,
}

/// Looks at a data directory.
///
/// # Errors
/// When the database or a folder cannot be read.
pub async fn usage(store: &Store, data_dir: &Path, limits: &Limits, kept_sandbox_ms: i64, now: i64) -> Result<Usage> {
    let in_use = codegen_store::is_locked(data_dir);
    let plan = retention::plan(store, data_dir, limits, now).await?;
    let mut items = database(store, data_dir, &plan).await?;
    let names: HashMap<i64, String> = store.repo_names().await?.into_iter().collect();
    let live = store.repos_in_use().await?;
    for MirrorUse { repo_id, bytes, last_used } in mirrors(data_dir).await? {
        let (state, why) = match plan.mirrors.iter().find(|m| m.repo_id == repo_id) {
            Some(mirror) => (State::Prunable, mirror.why.clone()),
            None if live.contains(&repo_id) => (State::Live, "a live run works on it".to_owned()),
            None => (State::Kept, format!("last used on {}", date(last_used))),
        };
        let name = names.get(&repo_id).cloned().unwrap_or_else(|| format!("repository {repo_id}"));
        items.push(Item { repo_id: Some(repo_id), ..Item::new("mirror", name, bytes, state, why) });
    }
    items.extend(sandboxes(store, data_dir, kept_sandbox_ms, now).await?);
    // What a process that died in the middle of something left.
    for path in reap::leftover_paths(store, data_dir, kept_sandbox_ms, now).await? {
        let name = path.strip_prefix(data_dir).unwrap_or(&path).display().to_string();
        let why = "a process ended before it removed this".to_owned();
        items.push(Item::new("leftover", name, size(&path), State::Prunable, why));
    }
    let known: u64 = items.iter().filter(|item| !item.in_database).map(|item| item.bytes).sum();
    let folder = data_dir.to_owned();
    let bytes = tokio::task::spawn_blocking(move || size(&folder)).await?;
    if let Some(rest) = bytes.checked_sub(known).filter(|rest| *rest > 0) {
        let why = "settings, locks, and the layer that sandboxes share";
        items.push(Item::new("other", why.to_owned(), rest, State::Live, "in use".to_owned()));
    }
    let prunable = items.iter().filter(|item| item.state == State::Prunable).map(|item| item.bytes).sum();
    Ok(Usage {
        data_dir: data_dir.to_owned(),
        in_use,
        bytes: bytes.max(known),
        prunable_bytes: prunable,
        free_bytes: free(data_dir)?,
        items,
    })
}

impl Item {
    fn new(kind: &'static str, name: String, bytes: u64, state: State, why: String) -> Self {
        Self { kind, name, bytes, state, why, run_id: None, repo_id: None, in_database: false }
    }
}

/// The database's files, and what is in them.
async fn database(store: &Store, data_dir: &Path, plan: &Plan) -> Result<Vec<Item>> {
    let space = store.space().await.context("measuring the database")?;
    let files = ["", "-wal", "-shm"].map(|end| data_dir.join(format!("{DATABASE}{end}")));
    let bytes = files.iter().filter_map(|path| fs::metadata(path).ok()).map(|meta| allocated(&meta)).sum();
    let mut items = vec![Item::new("database", DATABASE.to_owned(), bytes, State::Live, "every row".to_owned())];
    let mut inside = |kind, name: &str, bytes: u64, state, why: &str| {
        if bytes > 0 {
            let item = Item::new(kind, name.to_owned(), bytes, state, why.to_owned());
            items.push(Item { in_database: true, ..item });
        }
    };
    let sum = |of: &[retention::OfRun]| of.iter().map(|run| run.ended.bytes.unsigned_abs()).sum::<u64>();
    for (kind, all, of) in [("traces", space.traces, &plan.traces), ("outputs", space.outputs, &plan.outputs)] {
        let gone = sum(of);
        let kept = all.unsigned_abs().saturating_sub(gone);
        inside(kind, "of live and younger runs", kept, State::Kept, "the settings keep them");
        let why = of.first().map(|run| format!("the oldest, of run {}: {}", run.ended.run_id, run.why));
        inside(kind, &format!("of {} ended runs", of.len()), gone, State::Prunable, &why.unwrap_or_default());
    }
    inside("patches", "the changes of runs", space.patches.unsigned_abs(), State::Kept, "they always stay");
    inside("free", "empty pages", space.free.unsigned_abs(), State::Prunable, "nothing is in them any more");
    Ok(items)
}

async fn sandboxes(store: &Store, data_dir: &Path, kept_ms: i64, now: i64) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for (name, path) in entries(&data_dir.join("sandboxes")).into_iter().filter(|(name, _)| !name.starts_with('.')) {
        let owner = reap::owner(store, &name, kept_ms, now).await?;
        let (state, why) = match owner {
            Owner::Live => (State::Live, "its run lives".to_owned()),
            Owner::Kept => (State::Kept, "its run ended a short time ago".to_owned()),
            Owner::None => (State::Prunable, "no live run owns it".to_owned()),
        };
        let bytes = tokio::task::spawn_blocking(move || size(&path)).await?;
        let run_id = crate::run::run_of_sandbox(&name);
        items.push(Item { run_id, ..Item::new("sandbox", name, bytes, state, why) });
    }
    Ok(items)
}

/// Every mirror of a data directory.
///
/// # Errors
/// When the folder cannot be listed.
pub async fn mirrors(data_dir: &Path) -> Result<Vec<MirrorUse>> {
    let data_dir = data_dir.to_owned();
    let measure = move || {
        let mirrors = Mirror::all(&data_dir).context("listing mirrors")?;
        let measured = mirrors.into_iter().map(|(repo_id, mirror)| MirrorUse {
            repo_id,
            bytes: size(mirror.dir()),
            last_used: mirror.last_used().map_or(0, retention::millis),
        });
        Ok(measured.collect())
    };
    tokio::task::spawn_blocking(measure).await?
}

/// Bytes that a file or a folder with all in it takes on the disk, as far as they can be read. Links are not followed.
pub fn size(path: &Path) -> u64 {
    // Not by recursion: a sandbox can make folders as deep as it likes.
    let (mut bytes, mut waiting) = (0, vec![path.to_owned()]);
    while let Some(path) = waiting.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        bytes += allocated(&meta);
        if meta.is_dir() {
            waiting.extend(entries(&path).into_iter().map(|(_, path)| path));
        }
    }
    bytes
}

fn allocated(meta: &fs::Metadata) -> u64 {
    meta.blocks() * 512
}

/// Names and paths in a folder; none where there is no such folder.
pub(crate) fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
}

/// Free bytes on a folder's disk.
///
/// # Errors
/// When the disk cannot be asked.
pub fn free(folder: &Path) -> Result<u64> {
    let found =
        rustix::fs::statvfs(folder).with_context(|| format!("asking for free space at {}", folder.display()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Bytes as people write them.
pub fn human(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

fn date(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|t| t.strftime("%Y-%m-%d").to_string()).unwrap_or_default()
}
