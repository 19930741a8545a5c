//! Puts the mirrors in order, hour by hour: workspaces of runs that ended long ago go, small packs become one, and where no
//! run lives, what nothing leads to goes.

use std::path::Path;

use anyhow::{Context, Result};
use codegen_store::{Error as StoreError, Phase, Store};
use tracing::{info, warn};

use crate::forge::git::Mirror;

/// Goes through all mirrors. Workspaces of runs that ended more than `kept_ms` ago are forgotten; none keeps them.
///
/// # Errors
/// When the store or the folder of mirrors cannot be read. What does not work on one mirror is only told of.
pub async fn tidy(store: &Store, data_dir: &Path, kept_ms: Option<i64>, now: i64) -> Result<()> {
    for (repo_id, mirror) in Mirror::all(data_dir).context("listing mirrors")? {
        if let Err(error) = tidy_one(store, &mirror, repo_id, kept_ms, now).await {
            warn!(
                repo.id = repo_id,
                error = format!("{error:#}"),
                "putting a mirror in order; it is tried again later"
            );
        }
    }
    Ok(())
}

async fn tidy_one(store: &Store, mirror: &Mirror, repo_id: i64, kept_ms: Option<i64>, now: i64) -> Result<()> {
    if let Some(kept_ms) = kept_ms {
        for run_id in mirror.workspaces().await? {
            let is_over = match store.run_by_id(run_id).await {
                Ok(run) => run.phase == Phase::Done && run.ended_at.is_some_and(|at| at < now.saturating_sub(kept_ms)),
                Err(StoreError::NotFound) => true,
                Err(error) => return Err(error.into()),
            };
            if is_over {
                mirror.forget_workspace(run_id).await?;
                info!(run.id = run_id, "the workspace of run {run_id} is not kept any longer");
            }
        }
    }
    mirror.join_packs().await?;
    let unneeded = async || anyhow::Ok(!store.repos_in_use().await?.contains(&repo_id));
    if mirror.drop_unreachable(unneeded).await? {
        info!(repo.id = repo_id, "dropped what nothing in a mirror leads to");
    }
    Ok(())
}
