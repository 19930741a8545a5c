//! Removes what was deleted: an organization's rows, sandboxes and mirrors, the mirror of a repository. Takes no input and
//! goes on where it was broken off: what is to go is marked in the rows.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, Result};
use codegen_store::DeletedOrg;
use tracing::{info, warn};

use crate::{App, disk, forge::git::Mirror, run::run_of_sandbox};

/// Between two times of looking, where nobody says that there is something to do.
const INTERVAL: Duration = Duration::from_secs(60);
/// Between two times of looking while runs of what was deleted still end.
const SOON: Duration = Duration::from_millis(500);
/// Time that runs have to end by themselves.
const PATIENCE_MS: i64 = 30_000;

/// Removes what was deleted, again and again, for as long as it is polled.
pub(super) async fn clear(app: &App) {
    let mut changes = app.watches.access_changes();
    loop {
        let pause = match clear_once(app).await {
            Ok(true) => INTERVAL,
            Ok(false) => SOON,
            Err(error) => {
                warn!(error = format!("{error:#}"), "removing what was deleted; it is tried again in a minute");
                INTERVAL
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Says whether all is removed that can be.
async fn clear_once(app: &App) -> Result<bool> {
    let mut complete = forget_mirrors(app).await?;
    for DeletedOrg { id, deleted_at, live_runs } in app.store.deleted_orgs().await? {
        if live_runs > 0 {
            if app.now().saturating_sub(deleted_at) < PATIENCE_MS {
                complete = false;
                continue;
            }
            app.store.end_runs_of_deleted(id, app.now()).await?;
        }
        remove_sandboxes(app, id).await?;
        while !app.store.remove_part(id).await.with_context(|| format!("removing organization {id}"))? {}
        info!(org.id = id, "organization {id} was deleted and is removed");
    }
    Ok(complete)
}

async fn remove_sandboxes(app: &App, org_id: i64) -> Result<()> {
    for sandbox in app.engine.inventory().await.context("listing sandboxes")? {
        let Some(run_id) = run_of_sandbox(&sandbox) else { continue };
        if app.store.run(org_id, run_id).await.is_ok() {
            app.engine.destroy(&sandbox).await.with_context(|| format!("destroying sandbox {sandbox}"))?;
        }
    }
    Ok(())
}

/// Mirrors whose repository was deleted, as soon as no run uses them.
async fn forget_mirrors(app: &App) -> Result<bool> {
    let data_dir = &app.config.data_dir;
    let names = disk::entries(&data_dir.join("mirrors")).into_iter().map(|(name, _)| name);
    let there: HashSet<i64> = names.filter_map(|name| name.split('.').next()?.parse().ok()).collect();
    if there.is_empty() {
        return Ok(true);
    }
    let living: HashSet<i64> = app.store.living_repos().await?.into_iter().collect();
    let in_use: HashSet<i64> = app.store.repos_in_use().await?.into_iter().collect();
    let mut complete = true;
    for repo_id in there.difference(&living) {
        if in_use.contains(repo_id) {
            complete = false;
        } else {
            Mirror::of(data_dir, *repo_id).forget().await.with_context(|| format!("removing mirror {repo_id}"))?;
            info!(repo.id = repo_id, "removed the mirror of a repository that was deleted");
        }
    }
    Ok(complete)
}
