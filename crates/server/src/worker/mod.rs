//! Claims queued runs and works on them until told to stop; then lets them go, so that the next start continues them.

mod deleted;
mod lease;
pub mod mirrors;
pub mod reap;
pub mod retention;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use codegen_store::{ChangeKind, Claim, Error as StoreError, Phase, Reason, Run};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

pub use lease::{ALONE, Lease, Lost};

use crate::{
    App,
    run::{Ended, Signals, execute, is_full},
    webhooks,
};

/// The store's wake-up can be missed; this cannot.
const POLL: Duration = Duration::from_secs(1);
/// Time for runs to be let go when the worker goes down.
const DRAIN: Duration = Duration::from_secs(8);
/// Free bytes without which a run that met a full disk does not go on.
const ROOM: u64 = 32 << 20;

/// Works until the app's shutdown token is cancelled, then drains.
///
/// # Errors
/// [`Lost`] when another process has taken this one's place; then nothing is drained.
pub async fn run(app: Arc<App>) -> Result<(), Lost> {
    let worker_id = &app.worker_id;
    let keeping = app.lease.keep(&app.store, || app.now());
    tokio::pin!(keeping);
    let reaped = async {
        while let Err(error) = reap::reap(&app).await {
            error!(error = format!("{error:#}"), "taking up the runs of the last process; trying again in {POLL:?}");
            tokio::time::sleep(POLL).await;
        }
    };
    // It may take long, and whoever let the lease lapse meanwhile could judge nobody for another one.
    tokio::select! {
        () = reaped => {}
        () = app.shutdown.cancelled() => return Ok(()),
        lost = &mut keeping => {
            app.shutdown.cancel();
            return Err(lost);
        }
    }
    let housekeeping = {
        let app = app.clone();
        async move {
            tokio::join!(
                reap::keep_clean(&app),
                reap::keep_taking_over(&app),
                retention::keep(&app),
                deleted::clear(&app),
                webhooks::run(&app)
            )
        }
    };
    let mut housekeeping = AbortOnDropHandle::new(tokio::spawn(housekeeping));
    let let_go = app.shutdown.child_token();
    let mut changes = app.store.subscribe();
    let mut tasks: JoinSet<()> = JoinSet::new();
    let slots = app.config.max_concurrent_runs.max(1);
    while !app.shutdown.is_cancelled() {
        while tasks.try_join_next().is_some() {}
        while app.lease.check(&app.store, app.now()).await.is_ok() {
            let claimed = if tasks.len() < slots {
                app.store.claim_run(worker_id, app.now()).await
            } else {
                // A stop is done soon, also while every slot is taken.
                app.store.claim_stopped_run(worker_id, app.now()).await
            };
            match claimed {
                Ok(Some(run)) => {
                    info!(run.id, org.id = run.org_id, attempt = run.attempt, "run {} claimed", run.id);
                    let (app, let_go) = (app.clone(), let_go.clone());
                    tasks.spawn(async move {
                        if let Err(error) = work_on(app, run, let_go).await {
                            error!(error = format!("{error:#}"), "a run could not be recorded");
                        }
                    });
                }
                Ok(None) => break,
                Err(error) => {
                    error!(%error, "claiming a run");
                    break;
                }
            }
        }
        tokio::select! {
            () = app.shutdown.cancelled() => {}
            () = woken(&mut changes) => {}
            lost = &mut keeping => {
                tasks.shutdown().await;
                app.shutdown.cancel();
                return Err(lost);
            }
            Some(_) = tasks.join_next() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
    let drained = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        // Dropping a run at any point is what a crash does too; the next start goes on from its log.
        warn!("{} runs did not let go in {DRAIN:?} and are dropped", tasks.len());
        tasks.shutdown().await;
    }
    // Until it is gone: what it asks of a store that is being closed would be told as errors.
    housekeeping.abort();
    (&mut housekeeping).await.ok();
    Ok(())
}

/// Works on one queued run to its end: what `codegen run` is made of. Runs that an earlier process left are ended.
///
/// # Errors
/// When the run cannot be claimed or recorded.
pub async fn execute_one(app: Arc<App>, run_id: i64) -> Result<()> {
    let worker_id = &app.worker_id;
    reap::reap(&app).await?;
    let mut run = app.store.claim_run_by_id(run_id, worker_id, app.now()).await?;
    while let Some(left) = app.store.claim_run(worker_id, app.now()).await? {
        let text = "The process that worked on this run was ended before the run was.";
        app.store.finish_run(&left.claim(), Reason::Cancelled, text, None, app.now()).await?;
    }
    let let_go = app.shutdown.child_token();
    let keeping = app.clone();
    let work = async {
        // Given back where the disk was full, it is taken up again.
        loop {
            let claimed = run.with_context(|| format!("run {run_id} is not queued"))?;
            work_on(app.clone(), claimed, let_go.clone()).await?;
            if app.shutdown.is_cancelled() || app.store.run_by_id(run_id).await?.phase != Phase::Queued {
                return Ok(());
            }
            run = app.store.claim_run_by_id(run_id, worker_id, app.now()).await?;
        }
    };
    tokio::select! {
        done = work => done,
        lost = keeping.lease.keep(&keeping.store, || keeping.now()) => Err(lost.into()),
    }
}

/// One claimed run in a task of its own, so that a panic ends the run and nothing else.
async fn work_on(app: Arc<App>, run: Run, let_go: tokio_util::sync::CancellationToken) -> Result<()> {
    let (claim, run_id) = (run.claim(), run.id);
    let signals = Signals { let_go, ..Signals::default() };
    let watch = watch_for_stop(app.clone(), claim, signals.stop.clone());
    // A JoinSet aborts its task when it is dropped; a bare handle would let it go on.
    let mut task = JoinSet::new();
    task.spawn(execute(app.clone(), run, signals));
    let ended = tokio::select! {
        ended = task.join_next() => ended,
        () = watch => task.join_next().await,
    };
    app.watches.forget_row(claim);
    let (text, cause) = match ended {
        Some(Ok(Ok(Ended::Done))) | None => return Ok(()),
        Some(Ok(Ok(Ended::LetGo))) => {
            let why = "codegen was stopped; the run goes on from its last step.";
            app.store.release_run(&claim, why, app.now()).await.context("giving the run back")?;
            info!(run.id = run_id, "run {run_id} let go");
            return Ok(());
        }
        Some(Ok(Err(error))) if is_fenced(&error) => {
            warn!(run.id = run_id, "run {run_id} was taken over");
            return Ok(());
        }
        Some(Ok(Err(error))) if is_full(&error) => {
            error!(run.id = run_id, error = format!("{error:#}"), "the disk is full; run {run_id} waits for room");
            return wait_for_room(&app, &claim).await;
        }
        Some(Ok(Err(error))) => ("codegen itself failed on this run; its log has the cause.", format!("{error:#}")),
        Some(Err(error)) => ("codegen itself failed on this run; its log has the cause.", error.to_string()),
    };
    error!(run.id = run_id, cause, "run {run_id} failed");
    loop {
        match app.store.finish_run(&claim, Reason::Failed, text, Some(&cause), app.now()).await {
            Ok(()) | Err(StoreError::Fenced) => return Ok(()),
            // Nobody else ends what a live worker has claimed.
            Err(StoreError::Full) => {}
            Err(error) => return Err(error).context("recording that a run failed"),
        }
        tokio::select! {
            () = app.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

fn is_fenced(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        matches!(e.downcast_ref(), Some(StoreError::Fenced))
            || matches!(e.downcast_ref(), Some(codegen_sandbox::Error::Fenced(_)))
            || e.is::<Lost>()
    })
}

/// Gives the run back once there is room, so that it goes on from its last step.
async fn wait_for_room(app: &App, claim: &Claim) -> Result<()> {
    loop {
        tokio::select! {
            // The next start finds the run as a crash would have left it.
            () = app.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(POLL) => {}
        }
        if room(&app.config.data_dir) < ROOM {
            continue;
        }
        let why = "The disk was full; there is room again, and the run goes on from its last step.";
        match app.store.release_run(claim, why, app.now()).await {
            Ok(()) | Err(StoreError::Fenced) => return Ok(()),
            Err(StoreError::Full) => {}
            Err(error) => return Err(error).context("giving the run back"),
        }
    }
}

/// Free bytes; plenty where the file system does not say.
fn room(data_dir: &Path) -> u64 {
    rustix::fs::statvfs(data_dir).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Returns once someone has asked the run to stop, or it is done.
async fn watch_for_stop(app: Arc<App>, claim: Claim, stop: tokio_util::sync::CancellationToken) {
    let run_id = claim.run_id;
    let changed = app.watches.row_changes(claim);
    loop {
        match app.store.run_by_id(run_id).await {
            Ok(run) if run.stop_requested || run.phase == Phase::Done => {
                if run.stop_requested {
                    stop.cancel();
                }
                return;
            }
            Ok(_) => {}
            Err(error) => warn!(run.id = run_id, %error, "looking whether the run shall stop"),
        }
        tokio::select! {
            () = changed.notified() => {}
            // Another process that took the wish may have died before it told of it.
            () = tokio::time::sleep(POLL), if app.store.is_shared() => {}
        }
    }
}

/// Returns when a run was queued, or may have been.
async fn woken(changes: &mut Receiver<codegen_store::Change>) {
    loop {
        match changes.recv().await {
            Ok(change) if matches!(change.kind, ChangeKind::RunQueued | ChangeKind::Missed) => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}
