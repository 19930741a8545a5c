//! Puts right what a process left that died: its runs go back to the queue, and what no live run owns is removed: sandboxes
//! with their processes, control groups and folders, gateways' sockets, mirrors half removed. Takes no input and is safe at
//! any time, also beside runs that are just being prepared.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use codegen_sandbox::Engine;
use codegen_store::{Error as StoreError, Phase, Store};
use tracing::{info, warn};

use crate::{
    App,
    config::Keep,
    disk,
    forge::git::Mirror,
    room,
    run::{keep_diff_of_workspace, run_of_sandbox},
    worker::retention::millis,
};

/// Between two times of looking.
const INTERVAL: Duration = Duration::from_secs(60);
/// Time that the worker which ended a run has to remove its sandbox itself.
const GRACE_MS: i64 = 60_000;
/// A pack that git did not complete for so long is nobody's.
const PACK_MS: i64 = 24 * 3600 * 1000;

/// Whose a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A run that is not done.
    Live,
    /// A run that ended, for a while.
    Kept,
    /// Nobody's.
    None,
}

/// Between two looks for workers that have gone silent.
const LOOK: Duration = Duration::from_secs(2);

/// Takes over the runs of workers that have been silent for a lease by the database's clock, again and again. Where this process
/// is the only worker there are none.
pub(super) async fn keep_taking_over(app: &App) {
    while app.store.is_shared() {
        tokio::time::sleep(LOOK).await;
        if !app.lease.may_judge() {
            continue;
        }
        let done = async {
            for id in app.store.drop_silent_workers(app.lease.length()).await? {
                warn!("worker {id} has not been heard of for {:?}; its runs go to others", app.lease.length());
            }
            requeue_orphans(app).await
        };
        if let Err(error) = done.await {
            warn!(error = format!("{error:#}"), "looking for workers that are gone");
        }
    }
}

/// Gives the runs of workers that are gone back to the queue: on SQLite of every other one, for this one has its place only
/// because they have ended, or lost it.
async fn requeue_orphans(app: &App) -> Result<()> {
    let mut lost = Vec::new();
    // Where they cannot be listed, one line more is said of a run.
    for id in app.engine.inventory().await.unwrap_or_default() {
        if !app.engine.lives(&id).await {
            lost.push(id);
        }
    }
    let orphans = app
        .store
        .requeue_orphans(&app.worker_id, &lost, app.now())
        .await
        .context("requeueing runs of workers that are gone")?;
    for run in &orphans {
        info!(run.id, phase = run.phase.as_str(), crashes = run.crashes, "run {} lost its worker", run.id);
        if run.phase == Phase::Done
            && let Err(error) = keep_diff_of_workspace(app, run).await
        {
            warn!(run.id, error = format!("{error:#}"), "keeping the work of a run that was given up");
        }
    }
    Ok(())
}

/// Requeues the runs of other workers and removes what is left over. For the start, when none of this worker's runs is under
/// way.
pub(super) async fn reap(app: &App) -> Result<()> {
    requeue_orphans(app).await?;
    for (id, mirror) in Mirror::all(&app.config.data_dir).context("listing mirrors")? {
        for lock in mirror.remove_stale_locks().with_context(|| format!("looking for locks in mirror {id}"))? {
            info!("removed {}, which a git that was killed left", lock.display());
        }
    }
    if app.engine.isolation().isolated()
        && let Err(error) = crate::engine::remove_unisolated(&app.config.data_dir).await
    {
        warn!(error = format!("{error:#}"), "removing what an earlier process ran without isolation");
    }
    let kept = kept_ms(&app.config.keep);
    remove_leftovers(&app.store, &*app.engine, &app.config.data_dir, kept, app.now()).await
}

/// Removes what is left over, again and again, for as long as it is polled.
pub(super) async fn keep_clean(app: &App) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        room::take_reserve(&app.config.data_dir);
        let kept = kept_ms(&app.config.keep).max(GRACE_MS);
        let done = async {
            app.lease.check(&app.store, app.now()).await?;
            requeue_orphans(app).await?;
            end_stale_sessions(app).await?;
            remove_leftovers(&app.store, &*app.engine, &app.config.data_dir, kept, app.now()).await
        };
        let done = done.await;
        if let Err(error) = done {
            warn!(error = format!("{error:#}"), "removing what is left over; it is tried again in a minute");
        }
    }
}

/// Sessions on people's own machines that nothing is heard of any more.
async fn end_stale_sessions(app: &App) -> Result<()> {
    let hours = i64::try_from(app.config.session_stale_h).unwrap_or(i64::MAX);
    if hours == 0 {
        return Ok(());
    }
    let (now, most) = (app.now(), hours.saturating_mul(3_600_000));
    while app.store.end_stale_claude_sessions(now.saturating_sub(most), now).await.context("ending stale sessions")? > 0
    {
    }
    Ok(())
}

/// For how long a sandbox outlives its run.
pub fn kept_ms(keep: &Keep) -> i64 {
    i64::try_from(keep.sandboxes_h).unwrap_or(i64::MAX).saturating_mul(3_600_000)
}

/// Whose a sandbox is, when sandboxes stay for `kept_ms` after their run's end.
///
/// # Errors
/// The store's.
pub async fn owner(store: &Store, sandbox_id: &str, kept_ms: i64, now: i64) -> Result<Owner> {
    let Some(run_id) = run_of_sandbox(sandbox_id) else { return Ok(Owner::None) };
    let run = match store.run_by_id(run_id).await {
        Ok(run) => run,
        Err(StoreError::NotFound) => return Ok(Owner::None),
        Err(error) => return Err(error).context("looking for a sandbox's run"),
    };
    let is_its = run.sandbox_id.as_deref() == Some(sandbox_id);
    // A sandbox is the run's only when it is ready; before, it is the one that this attempt is making.
    let is_made = sandbox_id.split('-').nth(2).and_then(|n| n.parse().ok()) == Some(run.attempt);
    Ok(match run.phase {
        Phase::Queued if is_its => Owner::Live,
        Phase::Preparing | Phase::Running | Phase::Waiting | Phase::Finishing if is_its || is_made => Owner::Live,
        Phase::Done if (is_its || is_made) && run.ended_at.is_some_and(|at| now.saturating_sub(at) < kept_ms) => {
            Owner::Kept
        }
        Phase::Queued
        | Phase::Preparing
        | Phase::Running
        | Phase::Waiting
        | Phase::Finishing
        | Phase::Elsewhere
        | Phase::Done => Owner::None,
    })
}

/// Removes sandboxes, sockets and folders that nobody owns.
///
/// # Errors
/// The store's. What cannot be removed is told of and tried again the next time.
pub async fn remove_leftovers(
    store: &Store,
    engine: &dyn Engine,
    data_dir: &Path,
    kept_ms: i64,
    now: i64,
) -> Result<()> {
    match engine.inventory().await {
        Ok(sandboxes) => {
            for id in sandboxes {
                if owner(store, &id, kept_ms, now).await? == Owner::None {
                    info!(sandbox.id = id, "removing a sandbox that no live run owns");
                    if let Err(error) = engine.destroy(&id).await {
                        warn!(sandbox.id = id, %error, "destroying a sandbox; it is tried again later");
                    }
                }
            }
        }
        Err(error) => warn!(%error, "listing sandboxes; what is left over is looked for again later"),
    }
    match engine.sweep().await {
        Ok(swept) => swept.iter().for_each(|what| info!("removed {what}, which no sandbox owns")),
        Err(error) => warn!(%error, "looking for what sandboxes left"),
    }
    for path in leftover_paths(store, data_dir, kept_ms, now).await? {
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Ok(()) => info!("removed {}, which a process left", path.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, "removing {}", path.display()),
        }
    }
    Ok(())
}

/// Files and folders beside the sandboxes that nobody owns.
///
/// # Errors
/// The store's.
pub async fn leftover_paths(store: &Store, data_dir: &Path, kept_ms: i64, now: i64) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for (name, path) in disk::entries(&data_dir.join("gateways")) {
        let Some(sandbox_id) = name.strip_suffix(".sock") else { continue };
        // The sandbox of a socket is looked for by its owner: the socket is there before the folder is.
        if !data_dir.join("sandboxes").join(sandbox_id).exists()
            && owner(store, sandbox_id, kept_ms, now).await? == Owner::None
        {
            found.push(path);
        }
    }
    let removed = disk::entries(&data_dir.join("mirrors")).into_iter();
    found.extend(removed.filter(|(name, _)| name.starts_with(".removed-")).map(|(_, path)| path));
    for (_, mirror) in Mirror::all(data_dir).context("listing mirrors")? {
        for (name, path) in disk::entries(&mirror.objects().join("pack")) {
            let modified = std::fs::metadata(&path).and_then(|meta| meta.modified()).map_or(now, millis);
            if (name.starts_with("tmp_") || name.starts_with(".tmp-")) && now.saturating_sub(modified) > PACK_MS {
                found.push(path);
            }
        }
    }
    Ok(found)
}
