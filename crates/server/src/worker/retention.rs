//! Drops what the settings do not keep: full outputs and traces of ended runs, mirrors that nobody uses. Works out a plan
//! that people can be shown, and carries it out in batches between which everyone else goes on.

use std::{
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use codegen_store::{Ended, Store};
use tracing::{info, warn};

use super::mirrors;
use crate::{App, config::Keep, disk, forge::git::Mirror};

/// Between two times of looking.
const INTERVAL: Duration = Duration::from_secs(3600);
const DAY_MS: i64 = 24 * 3600 * 1000;
/// Pages given back to the file system in one commit.
const PAGES: u32 = 256;

/// How much may stay; none sets no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Outputs of runs that ended longer ago go.
    pub outputs_ms: Option<i64>,
    /// Beyond this, the outputs of the run that ended first go first.
    pub outputs_bytes: Option<u64>,
    /// Traces of runs that ended longer ago go.
    pub traces_ms: Option<i64>,
    /// Mirrors that were not used for longer go.
    pub mirrors_ms: Option<i64>,
    /// Beyond this, the mirror that was not used for the longest time goes first.
    pub mirrors_bytes: Option<u64>,
}

impl From<&Keep> for Limits {
    fn from(keep: &Keep) -> Self {
        let days = |days: u64| (days > 0).then(|| i64::try_from(days).unwrap_or(i64::MAX).saturating_mul(DAY_MS));
        let mib = |mib: u64| (mib > 0).then(|| mib.saturating_mul(1 << 20));
        Self {
            outputs_ms: days(keep.outputs_days),
            outputs_bytes: mib(keep.outputs_mib),
            traces_ms: days(keep.traces_days),
            mirrors_ms: days(keep.mirrors_days),
            mirrors_bytes: mib(keep.mirrors_mib),
        }
    }
}

/// Something of a run that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfRun {
    /// Which run, as it was found.
    pub ended: Ended,
    /// A sentence's second half, as in "dropped because ...".
    pub why: String,
}

/// A mirror that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfRepo {
    /// Which repository.
    pub repo_id: i64,
    /// What it takes.
    pub bytes: u64,
    /// As in [`OfRun`].
    pub why: String,
}

/// What may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Full outputs.
    pub outputs: Vec<OfRun>,
    /// Traces.
    pub traces: Vec<OfRun>,
    /// Mirrors.
    pub mirrors: Vec<OfRepo>,
}

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Freed {
    /// Bytes of outputs.
    pub outputs: u64,
    /// Bytes of traces.
    pub traces: u64,
    /// Bytes of mirrors.
    pub mirrors: u64,
}

/// Drops what the settings do not keep, at once and then every hour, for as long as it is polled.
pub(super) async fn keep(app: &App) {
    let limits = Limits::from(&app.config.keep);
    loop {
        let dropped = async {
            let plan = plan(&app.store, &app.config.data_dir, &limits, app.now()).await?;
            let freed = carry_out(&app.store, &app.config.data_dir, plan, app.now()).await?;
            mirrors::tidy(&app.store, &app.config.data_dir, limits.mirrors_ms, app.now()).await?;
            anyhow::Ok((freed, give_back(&app.store).await?))
        };
        match dropped.await {
            Ok((freed, _)) if freed == Freed::default() => {}
            Ok((Freed { outputs, traces, mirrors }, _)) => {
                info!(outputs, traces, mirrors, "dropped what the settings do not keep");
            }
            Err(error) => warn!(error = format!("{error:#}"), "dropping what is old; it is tried again in an hour"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What may go by these limits.
///
/// # Errors
/// When the store or the folder of mirrors cannot be read.
pub async fn plan(store: &Store, data_dir: &Path, limits: &Limits, now: i64) -> Result<Plan> {
    let mut plan = Plan::default();
    if limits.outputs_ms.is_some() || limits.outputs_bytes.is_some() {
        let ended = store.ended_with_outputs().await.context("looking for old outputs")?;
        let mut left: u64 = ended.iter().map(|e| e.bytes.unsigned_abs()).sum();
        for ended in ended {
            let why = if limits.outputs_ms.is_some_and(|age| ended.ended_at < now.saturating_sub(age)) {
                format!("its run ended {} ago", days(now - ended.ended_at))
            } else if let Some(most) = limits.outputs_bytes.filter(|most| left > *most) {
                format!("outputs take more than {}, and its run ended first", disk::human(most))
            } else {
                continue;
            };
            left -= ended.bytes.unsigned_abs();
            plan.outputs.push(OfRun { ended, why });
        }
    }
    if let Some(age) = limits.traces_ms {
        let ended = store.ended_with_trace(now.saturating_sub(age)).await.context("looking for old traces")?;
        let why = |ended: &Ended| format!("its run ended {} ago", days(now - ended.ended_at));
        plan.traces = ended.into_iter().map(|ended| OfRun { why: why(&ended), ended }).collect();
    }
    if limits.mirrors_ms.is_some() || limits.mirrors_bytes.is_some() {
        let in_use = store.repos_in_use().await.context("looking for repositories in use")?;
        let mut mirrors = disk::mirrors(data_dir).await?;
        let mut left: u64 = mirrors.iter().map(|m| m.bytes).sum();
        mirrors.sort_by_key(|m| m.last_used);
        for mirror in mirrors.into_iter().filter(|m| !in_use.contains(&m.repo_id)) {
            let why = if limits.mirrors_ms.is_some_and(|age| mirror.last_used < now.saturating_sub(age)) {
                format!("it was not used for {}", days(now - mirror.last_used))
            } else if let Some(most) = limits.mirrors_bytes.filter(|most| left > *most) {
                format!("mirrors take more than {}, and it was not used for the longest time", disk::human(most))
            } else {
                continue;
            };
            left -= mirror.bytes;
            plan.mirrors.push(OfRepo { repo_id: mirror.repo_id, bytes: mirror.bytes, why });
        }
    }
    Ok(plan)
}

/// Drops what a plan names, as far as it still may go.
///
/// # Errors
/// When the store fails. A mirror that cannot be removed is only told of.
pub async fn carry_out(store: &Store, data_dir: &Path, plan: Plan, now: i64) -> Result<Freed> {
    let mut freed = Freed::default();
    let date = jiff::Timestamp::from_millisecond(now).map(|t| t.strftime("%Y-%m-%d").to_string()).unwrap_or_default();
    // Traces first: what is said about outputs is part of the trace.
    for OfRun { ended, why } in plan.traces {
        let notice = format!("The trace of this run was dropped on {date}: {why}. Its result and its diff are kept.");
        loop {
            let batch = store.drop_trace(ended, &notice, now).await.context("dropping a run's trace")?;
            freed.traces += batch.bytes.unsigned_abs();
            if batch.complete {
                break;
            }
        }
    }
    for OfRun { ended, why } in plan.outputs {
        let notice = format!("The full outputs of this run's commands were dropped on {date}: {why}.");
        loop {
            let batch = store.drop_outputs(ended, &notice, now).await.context("dropping a run's outputs")?;
            freed.outputs += batch.bytes.unsigned_abs();
            if batch.complete {
                break;
            }
        }
    }
    for OfRepo { repo_id, bytes, .. } in plan.mirrors {
        let unneeded = async || anyhow::Ok(!store.repos_in_use().await?.contains(&repo_id));
        match Mirror::of(data_dir, repo_id).remove(unneeded).await {
            Ok(true) => freed.mirrors += bytes,
            Ok(false) => {}
            Err(error) => warn!(repo.id = repo_id, error = format!("{error:#}"), "removing a mirror"),
        }
    }
    Ok(freed)
}

/// Gives the database's empty pages back, a few at a time, and the room of what was written lately beside it; returns the bytes
/// that stay empty.
///
/// # Errors
/// When the store fails.
pub async fn give_back(store: &Store) -> Result<u64> {
    let mut left = store.free_bytes().await.context("looking for empty pages")?;
    let shrinks = store.shrinks().await?;
    while left > 0 && shrinks {
        let now = store.shrink(PAGES).await.context("giving empty pages back")?;
        if now >= left {
            break;
        }
        left = now;
    }
    // The files take their new sizes only then. Where readers are in the way, the next change that finds none does it.
    store.fold().await.context("giving the room of the database's log back")?;
    Ok(left.unsigned_abs())
}

/// The time of a file in unix milliseconds.
pub(crate) fn millis(time: std::time::SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

fn days(ms: i64) -> String {
    match ms / DAY_MS {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        n => format!("{n} days"),
    }
}
