//! Keeps the search up to date with logs, behind them: what is appended waits for nothing.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use codegen_store::{Change, ChangeKind};
use tokio::sync::broadcast::error::RecvError;
use tracing::warn;

use crate::App;

/// Entries wait so long for others that share their commit.
const PACE: Duration = Duration::from_millis(500);
/// Runs looked up at a time where changes were missed.
const PAGE: i64 = 500;

/// Takes what logs gain into the search until the app shuts down.
pub async fn keep(app: Arc<App>) {
    let mut changes = app.store.subscribe();
    let mut grown = BTreeSet::new();
    // What an earlier process left.
    let mut missed = true;
    loop {
        if std::mem::take(&mut missed) {
            missed = !catch_up(&app).await;
        }
        for run_id in std::mem::take(&mut grown) {
            missed |= !take_in(&app, run_id).await;
        }
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(PACE) => {}
        }
        loop {
            match changes.try_recv() {
                Ok(Change { run_id, kind: ChangeKind::LogAppended, .. }) => {
                    grown.insert(run_id);
                }
                Ok(change) => missed |= change.kind == ChangeKind::Missed,
                Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_)) => missed = true,
                Err(tokio::sync::broadcast::error::TryRecvError::Closed) => return,
                Err(tokio::sync::broadcast::error::TryRecvError::Empty) => break,
            }
        }
        if grown.is_empty() && !missed {
            // Nothing to do until something changes.
            tokio::select! {
                () = app.shutdown.cancelled() => return,
                change = changes.recv() => match change {
                    Ok(Change { run_id, kind: ChangeKind::LogAppended, .. }) => {
                        grown.insert(run_id);
                    }
                    Ok(change) => missed = change.kind == ChangeKind::Missed,
                    Err(RecvError::Lagged(_)) => missed = true,
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}

/// Takes in whatever no one has; false where that did not work.
async fn catch_up(app: &App) -> bool {
    let mut after = 0;
    loop {
        let ids = match app.store.unindexed_runs(after, PAGE).await {
            Ok(ids) => ids,
            Err(error) => {
                warn!(%error, "looking for what the search lacks; it is tried again");
                return false;
            }
        };
        let Some(last) = ids.last() else { return true };
        after = *last;
        for run_id in ids {
            if app.shutdown.is_cancelled() || !take_in(app, run_id).await {
                return false;
            }
        }
    }
}

/// Takes in what a run's log gained; false where that did not work.
async fn take_in(app: &App, run_id: i64) -> bool {
    loop {
        match app.store.index_log(run_id).await {
            Ok(true) => {}
            Ok(false) => return true,
            Err(error) => {
                warn!(run.id = run_id, %error, "taking a log into the search; it is tried again");
                return false;
            }
        }
    }
}
