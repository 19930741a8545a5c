//! Keeps the workspace after each turn as a commit on a hidden ref of the mirror, so that a run whose sandbox is lost goes on from
//! there. Off the turn's path: turns that come while one is being kept share the next commit.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Result, bail};
use codegen_sandbox::Sandbox;
use codegen_store::{Claim, failpoint};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{execute::is_gone, inside::Checkout, prepare::Git};
use crate::{
    App, disk,
    forge::git::{Kept, Mirror},
    room::is_full,
};

/// Turns of a fast agent that share one commit come within this time.
const CALM: Duration = Duration::from_millis(100);
/// An agent that never rests is not waited for longer.
const RESTLESS: Duration = Duration::from_secs(1);
/// A commit under way is waited for when the run ends; the run's own commit follows, so giving up loses nothing.
const LAST: Duration = Duration::from_secs(60);
/// The same when someone waits for the run to stop.
const LAST_OF_STOPPED: Duration = Duration::from_millis(300);
/// For making one commit of a workspace.
pub(super) const MOST_TIME: Duration = Duration::from_secs(60);
/// Bytes that one commit may add, compressed.
pub(super) const MOST_BYTES: u64 = 1 << 30;
/// A workspace that could not be kept is not tried again with the next turn, but after this time.
const REST: Duration = Duration::from_secs(120);

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
            failed: None,
        };
        let task = tokio::spawn(worker.follow(turns.0.subscribe(), end.clone()));
        Self { turns, end, task }
    }

    /// Where turns are told.
    pub fn turns(&self) -> Turns {
        self.turns.clone()
    }

    /// Waits for the commit under way, if there is one, and ends; not for long once `stop` is asked for.
    pub async fn end(mut self, stop: &CancellationToken) {
        self.end.cancel();
        let stopped = async {
            stop.cancelled().await;
            sleep(LAST_OF_STOPPED).await;
        };
        tokio::select! {
            biased;
            _ = &mut self.task => return,
            () = stopped => {}
            () = sleep(LAST) => {}
        }
        tracing::warn!("a commit of a run's workspace takes too long and is given up");
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
    /// When it was last tried in vain.
    failed: Option<Instant>,
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
            if self.failed.is_some_and(|at| at.elapsed() < REST) {
                continue;
            }
            match self.keep().await {
                Ok(()) => self.failed = None,
                Err(error) => self.tell(error).await,
            }
        }
    }

    /// Says why the workspace was not kept. A sandbox that is gone is noticed by the run itself.
    async fn tell(&mut self, error: anyhow::Error) {
        let error_text = format!("{error:#}");
        tracing::warn!(run.id = self.claim.run_id, error = error_text, "keeping the workspace after a turn");
        if is_gone(&error) || is_full(&error) || self.failed.replace(Instant::now()).is_some() {
            return;
        }
        let text = format!(
            "The workspace could not be kept after a turn ({error_text}). The run goes on and it is tried again later; should \
             its sandbox be lost before, the work since the last turn that was kept is lost with it."
        );
        let body = json!({ "kind": "notice", "text": text }).to_string();
        if let Err(error) = self.app.store.append_log(&self.claim, "notice", &body, false, self.app.now()).await {
            tracing::warn!(run.id = self.claim.run_id, %error, "noting that the workspace was not kept");
        }
    }

    async fn keep(&mut self) -> Result<()> {
        let kept = self.checkout.keep(&*self.sandbox, self.last.as_deref(), MOST_TIME).await?;
        let Some((commit, shows)) = kept else { return Ok(()) };
        let pack = self.checkout.pack(self.sandbox.clone(), &commit, self.known.as_deref(), MOST_BYTES).await?;
        // Another worker may have taken the run while this one was asleep; the sandbox refuses it, and so does this.
        if self.app.store.run_by_id(self.claim.run_id).await?.attempt != self.claim.attempt {
            return Ok(());
        }
        failpoint::hit("keep.before");
        let taken = self.mirror.import_pack(Kept::Workspace(self.claim.run_id), &commit, pack.bytes).await;
        if pack.is_cut.load(Ordering::Relaxed) {
            bail!("what is new in it is more than {}", disk::human(MOST_BYTES));
        }
        taken?;
        failpoint::hit("keep.after");
        (self.known, self.last) = (Some(commit), Some(shows));
        self.mirror.join_packs().await?;
        Ok(())
    }
}
