//! A worker's right to work: a row that it renews. One that slept past its lease asks first whether the row is still there, before
//! it does anything outside; the store and the sandboxes refuse its writes and commands by themselves.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use codegen_store::Store;

/// How long a renewal is good for where no other process may take over meanwhile.
pub const ALONE: Duration = Duration::from_secs(15);
/// Between two renewals, at most.
const RENEW: Duration = Duration::from_secs(5);

/// The right of this process to work on runs.
#[derive(Debug)]
pub struct Lease {
    worker_id: String,
    length: Duration,
    held: Mutex<Held>,
}

/// By this process's own clock, counted from before a renewal was sent.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Without a gap.
    since: Instant,
    until: Instant,
}

/// Another process has taken this one's place.
#[derive(Debug, thiserror::Error)]
#[error(
    "another codegen has taken over the runs of this one, most likely because this process was stopped for a while; \
     it writes and executes nothing more"
)]
pub struct Lost;

impl Lease {
    /// Takes the place of every worker before it that had this data directory.
    ///
    /// # Errors
    /// The store's.
    pub async fn take(store: &Store, worker_id: &str, url: &str, now: i64, length: Duration) -> Result<Self> {
        let sent = Instant::now();
        store.register_worker(worker_id, url, now).await.context("registering this worker")?;
        let held = Held { since: sent, until: sent + length };
        Ok(Self { worker_id: worker_id.to_owned(), length, held: Mutex::new(held) })
    }

    /// Of a process that works on no runs and has no right to.
    #[must_use]
    pub fn none() -> Self {
        let now = Instant::now();
        Self { worker_id: String::new(), length: Duration::ZERO, held: Mutex::new(Held { since: now, until: now }) }
    }

    /// For how long a worker may be silent before it is taken for dead.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// Whether this process has had the database for long enough to say that another one is silent: when the database was away,
    /// everyone was.
    pub fn may_judge(&self) -> bool {
        let held = self.held();
        Instant::now() < held.until && held.since.elapsed() > self.length
    }

    fn held(&self) -> Held {
        *self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Makes sure that this process may still do something outside.
    ///
    /// # Errors
    /// [`Lost`], or the store's.
    pub async fn check(&self, store: &Store, now: i64) -> Result<()> {
        if Instant::now() < self.held().until { Ok(()) } else { self.renew(store, now).await }
    }

    /// Renews again and again; returns once the place is lost.
    pub async fn keep(&self, store: &Store, now: impl Fn() -> i64) -> Lost {
        loop {
            tokio::time::sleep(RENEW.min(self.length / 3)).await;
            match self.renew(store, now()).await {
                Ok(()) => {}
                Err(error) if error.is::<Lost>() => return Lost,
                Err(error) => tracing::warn!(error = format!("{error:#}"), "renewing this worker's lease"),
            }
        }
    }

    async fn renew(&self, store: &Store, now: i64) -> Result<()> {
        let sent = Instant::now();
        if !store.renew_worker(&self.worker_id, now).await.context("renewing this worker's lease")? {
            return Err(Lost.into());
        }
        let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if held.until < Instant::now() {
            held.since = sent;
        }
        held.until = sent + self.length;
        Ok(())
    }
}
