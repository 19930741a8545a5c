//! Keeps the workspace after each turn as a commit on a hidden ref of the mirror, so that a run whose sandbox is lost goes on from
//! there. Off the turn's path: turns that come while one is being kept share the next commit.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use codegen_sandbox::Sandbox;
use codegen_store::{Claim, failpoint};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{inside::Checkout, prepare::Git};
use crate::{
    App,
    forge::git::{Kept, Mirror},
};

/// Turns of a fast agent that share one commit come within this time.
const CALM: Duration = Duration::from_millis(100);
/// An agent that never rests is not waited for longer.
const RESTLESS: Duration = Duration::from_secs(1);
/// A commit under way is waited for when the run ends; the run's own commit follows, so giving up loses nothing.
const LAST: Duration = Duration::from_secs(60);

/// The task that keeps a run's workspace.
pub(super) struct Keeper {
    turns: Turns,
    end: CancellationToken,
    task: JoinHandle<()>,
}

/// Counts the turns that may have changed something.
#[derive(Debug, Clone)]
pub(super) struct Turns(watch::Sender<u64>);

impl Turns {
    /// A counter that nobody reads.
    pub fn unwatched() -> Self {
        Self(watch::Sender::new(0))
    }

    /// A turn may have changed something.
    pub fn ended(&self) {
        self.0.send_modify(|turns| *turns = turns.wrapping_add(1));
    }
}

impl Keeper {
    /// Begins to keep the workspace of a claimed run.
    pub fn start(app: Arc<App>, claim: Claim, sandbox: Arc<dyn Sandbox>, git: &Git) -> Self {
        let (turns, end) = (Turns::unwatched(), CancellationToken::new());
        let worker = Worker {
            app,
            claim,
            sandbox,
            mirror: git.mirror.clone(),
            checkout: git.checkout.clone(),
            known: git.checkout.work.clone(),
            last: None,
        };
        let task = tokio::spawn(worker.follow(turns.0.subscribe(), end.clone()));
        Self { turns, end, task }
    }

    /// Where turns are told.
    pub fn turns(&self) -> Turns {
        self.turns.clone()
    }

    /// Waits for the commit under way, if there is one, and ends.
    pub async fn end(mut self) {
        self.end.cancel();
        if timeout(LAST, &mut self.task).await.is_err() {
            tracing::warn!("a commit of a run's workspace takes too long and is given up");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Worker {
    app: Arc<App>,
    claim: Claim,
    sandbox: Arc<dyn Sandbox>,
    mirror: Mirror,
    checkout: Checkout,
    /// The newest workspace commit that the mirror has.
    known: Option<String>,
    /// What it shows.
    last: Option<String>,
}

impl Worker {
    async fn follow(mut self, mut turns: watch::Receiver<u64>, end: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = end.cancelled() => return,
                turn = turns.changed() => if turn.is_err() { return },
            }
            let calm = async { while timeout(CALM, turns.changed()).await.is_ok_and(|turn| turn.is_ok()) {} };
            tokio::select! {
                biased;
                // The run's own commit follows.
                () = end.cancelled() => return,
                _ = timeout(RESTLESS, calm) => {}
            }
            turns.mark_unchanged();
            if let Err(error) = self.keep().await {
                // The next turn tries again; a sandbox that is gone is noticed by the run itself.
                let error = format!("{error:#}");
                tracing::warn!(run.id = self.claim.run_id, error, "keeping the workspace after a turn");
            }
        }
    }

    async fn keep(&mut self) -> Result<()> {
        let Some((commit, shows)) = self.checkout.keep(&*self.sandbox, self.last.as_deref()).await? else {
            return Ok(());
        };
        let pack = self.checkout.pack(self.sandbox.clone(), &commit, self.known.as_deref()).await?;
        // Another worker may have taken the run while this one was asleep; the sandbox refuses it, and so does this.
        if self.app.store.run_by_id(self.claim.run_id).await?.attempt != self.claim.attempt {
            return Ok(());
        }
        failpoint::hit("keep.before");
        self.mirror.import_pack(Kept::Workspace(self.claim.run_id), &commit, pack).await?;
        failpoint::hit("keep.after");
        (self.known, self.last) = (Some(commit), Some(shows));
        Ok(())
    }
}
