//! Claims queued runs and works on them until told to stop; then lets them go, so that the next start continues them.

mod deleted;
mod lease;
mod live;
pub mod mirrors;
pub mod reap;
pub mod retention;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use codegen_store::{ChangeKind, Claim, Error as StoreError, Phase, Reason, Run};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

pub use lease::{ALONE, Lease, Lost};
pub use live::Live;

use crate::{
    App, engine,
    room::{self, is_full},
    run::{Ended, Signals, execute},
    webhooks,
};

/// The store's wake-up can be missed; this cannot.
const POLL: Duration = Duration::from_secs(1);
/// Time for runs to be let go when the worker goes down.
const DRAIN: Duration = Duration::from_secs(8);

/// Works until the app's shutdown token is cancelled, then drains.
///
/// # Errors
/// [`Lost`] when another process has taken this one's place; then nothing is drained.
pub async fn run(app: Arc<App>) -> Result<(), Lost> {
    let worker_id = &app.worker_id;
    let keeping = app.lease.keep(&app.store, || app.now(), |late| tell_of_pause(&app, late));
    tokio::pin!(keeping);
    let reaped = async {
        if !room::is_there(&app.config.data_dir) {
            no_room(&app).await;
        }
        room::take_reserve(&app.config.data_dir);
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
    let mut had_room = true;
    while !app.shutdown.is_cancelled() {
        while tasks.try_join_next().is_some() {}
        let has_room = room::is_there(&app.config.data_dir);
        if has_room != had_room {
            tell_of_room(has_room);
        }
        had_room = has_room;
        while app.lease.check(&app.store, app.now()).await.is_ok() {
            let claimed = if tasks.len() < slots && has_room {
                app.store.claim_run(worker_id, app.now()).await
            } else {
                // A stop is done soon, also while every slot is taken or there is no room for new work.
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
                Ok(None) | Err(StoreError::Full) => break,
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

/// Returns once there is room for runs, and a sandbox could be made there.
async fn no_room(app: &App) {
    tell_of_room(false);
    loop {
        tokio::time::sleep(POLL).await;
        if !room::is_there(&app.config.data_dir) {
            continue;
        }
        match engine::try_out(&*app.engine).await {
            Ok(()) => return tell_of_room(true),
            Err(error) => error!(error = format!("{error:#}"), "trying a sandbox out; trying again in {POLL:?}"),
        }
    }
}

fn tell_of_room(has_room: bool) {
    if has_room {
        info!("there is room on the disk again; runs are begun");
    } else {
        let needed = room::ROOM >> 20;
        error!(
            "the disk of the data directory has no room ({needed} MiB are needed): no run is begun until there is some"
        );
    }
}

/// Says in the trace of each run under way that this process was stopped for a while.
fn tell_of_pause(app: &Arc<App>, late: Duration) {
    let text = format!("codegen was stopped for {} s and goes on; nobody has taken the run meanwhile.", late.as_secs());
    warn!("{text}");
    let body = serde_json::json!({ "kind": "notice", "text": text }).to_string();
    let app = app.clone();
    // Renewing the lease does not wait for it.
    tokio::spawn(async move {
        for claim in app.live.claims() {
            match app.store.append_log(&claim, "notice", &body, false, app.now()).await {
                // It ended just now.
                Ok(_) | Err(StoreError::Fenced) => {}
                Err(error) => warn!(run.id = claim.run_id, %error, "noting that codegen was stopped for a while"),
            }
        }
    });
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
        lost = keeping.lease.keep(&keeping.store, || keeping.now(), |late| tell_of_pause(&keeping, late)) => {
            Err(lost.into())
        }
    }
}

/// One claimed run in a task of its own, so that a panic ends the run and nothing else.
async fn work_on(app: Arc<App>, run: Run, let_go: tokio_util::sync::CancellationToken) -> Result<()> {
    let (claim, run_id, org_id) = (run.claim(), run.id, run.org_id);
    let signals = Signals { let_go, ..Signals::default() };
    let stop = signals.stop.clone();
    let _live = app.live.begin(&run, stop.clone());
    let watch = watch_for_stop(app.clone(), claim, stop.clone());
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
            return wait_for_room(&app, org_id, &claim, &stop).await;
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

/// Gives the run back once there is room, so that it goes on from its last step, or ends where someone has stopped it meanwhile.
async fn wait_for_room(
    app: &App,
    org_id: i64,
    claim: &Claim,
    stop: &tokio_util::sync::CancellationToken,
) -> Result<()> {
    let mut is_told = tell_of_waiting(app, claim).await;
    loop {
        tokio::select! {
            // The next start finds the run as a crash would have left it.
            () = app.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(POLL) => {}
        }
        if !is_told {
            is_told = tell_of_waiting(app, claim).await;
        }
        if !room::is_there(&app.config.data_dir) {
            continue;
        }
        let given_back = async {
            if stop.is_cancelled() {
                // Where it could not be written down then, it is now, so that whoever takes the run next ends it.
                app.store.request_stop(org_id, claim.run_id, app.now()).await?;
            }
            let then = if stop.is_cancelled() {
                "the run, which was stopped, ends"
            } else {
                "the run goes on from its last step"
            };
            let why = format!("The disk was full; there is room again, and {then}.");
            app.store.release_run(claim, &why, app.now()).await
        };
        match given_back.await {
            Ok(()) | Err(StoreError::Fenced) => return Ok(()),
            Err(StoreError::Full) => {}
            Err(error) => return Err(error).context("giving the run back"),
        }
    }
}

/// Says in the run's trace that it waits; false while there is no room even for that.
async fn tell_of_waiting(app: &App, claim: &Claim) -> bool {
    let text = "The disk is full; the run waits for room.";
    app.watches.stage_output(claim.run_id, "disk", &format!("{text}\n"));
    let body = serde_json::json!({ "kind": "notice", "text": text }).to_string();
    let say = || app.store.append_log(claim, "notice", &body, false, app.now());
    let mut said = say().await;
    if matches!(said, Err(StoreError::Full)) && room::give_reserve(&app.config.data_dir) {
        said = say().await;
    }
    !matches!(said, Err(StoreError::Full))
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
