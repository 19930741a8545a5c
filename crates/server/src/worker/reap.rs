//! Puts right what a process left that died: its runs go back to the queue, sandboxes that no live run owns are removed.
//! Takes no input and is safe at any time.

use anyhow::{Context, Result};
use codegen_store::{Error as StoreError, Phase};
use tracing::{info, warn};

use crate::{App, run::run_of_sandbox};

/// Requeues the runs of every worker but `live_worker_id`, and destroys what is left over.
pub(super) async fn reap(app: &App, live_worker_id: &str) -> Result<()> {
    let orphans = app
        .store
        .requeue_orphans(live_worker_id, app.now())
        .await
        .context("requeueing runs of workers that are gone")?;
    for run in &orphans {
        info!(run.id, phase = run.phase.as_str(), crashes = run.crashes, "run {} lost its worker", run.id);
    }
    let sandboxes = match app.engine.inventory().await {
        Ok(sandboxes) => sandboxes,
        Err(error) => {
            warn!(%error, "listing sandboxes; what is left over stays until the next start");
            return Ok(());
        }
    };
    for id in sandboxes {
        let owned = match run_of_sandbox(&id) {
            Some(run_id) => match app.store.run_by_id(run_id).await {
                Ok(run) => run.phase != Phase::Done && run.sandbox_id.as_ref() == Some(&id),
                Err(StoreError::NotFound) => false,
                Err(error) => return Err(error).context("looking for a sandbox's run"),
            },
            None => false,
        };
        if !owned {
            info!(sandbox.id = id, "removing a sandbox that no live run owns");
            if let Err(error) = app.engine.destroy(&id).await {
                warn!(sandbox.id = id, %error, "destroying a sandbox; it is tried again at the next start");
            }
        }
    }
    Ok(())
}
