//! A worker's right to work: a row that it renews. One that slept past its lease asks first whether the row is still there, before
//! it does anything outside; the store and the sandboxes refuse its writes and commands by themselves.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use codegen_store::{Error as StoreError, Store};

/// How long a renewal is good for where no other process may take over meanwhile.
pub const ALONE: Duration = Duration::from_secs(15);
/// Between two renewals, at most.
const RENEW: Duration = Duration::from_secs(5);

/// A process that wakes up later than this was stopped.
const LATE: Duration = Duration::from_secs(3);

/// The right of this process to work on runs.
#[derive(Debug)]
pub struct Lease {
    worker_id: String,
    url: String,
    /// The row is there, or was.
    is_taken: AtomicBool,
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
    /// Takes the place of every worker before it that had this data directory; where the disk is full, with the first renewal
    /// that finds room.
    ///
    /// # Errors
    /// The store's.
    pub async fn take(store: &Store, worker_id: &str, url: &str, now: i64, length: Duration) -> Result<Self> {
        let lease = Self { worker_id: worker_id.to_owned(), url: url.to_owned(), length, ..Self::none() };
        match lease.renew(store, now).await {
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Full)) => {}
            done => done?,
        }
        Ok(lease)
    }

    /// Of a process that works on no runs and has no right to.
    #[must_use]
    pub fn none() -> Self {
        let now = Instant::now();
        Self {
            worker_id: String::new(),
            url: String::new(),
            is_taken: AtomicBool::new(false),
            length: Duration::ZERO,
            held: Mutex::new(Held { since: now, until: now }),
        }
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

    /// Renews again and again; returns once the place is lost. `paused` is told for how long this process did nothing, where
    /// that was long and its place is still its own.
    pub async fn keep(&self, store: &Store, now: impl Fn() -> i64, paused: impl Fn(Duration)) -> Lost {
        loop {
            let (slept, between) = (Instant::now(), RENEW.min(self.length / 3));
            tokio::time::sleep(between).await;
            let late = slept.elapsed().saturating_sub(between);
            match self.renew(store, now()).await {
                Ok(()) if late > LATE => paused(late),
                Ok(()) => {}
                Err(error) if error.is::<Lost>() => return Lost,
                Err(error) => tracing::warn!(error = format!("{error:#}"), "renewing this worker's lease"),
            }
        }
    }

    async fn renew(&self, store: &Store, now: i64) -> Result<()> {
        let sent = Instant::now();
        if !self.is_taken.load(Ordering::Relaxed) {
            store.register_worker(&self.worker_id, &self.url, now).await.context("registering this worker")?;
            self.is_taken.store(true, Ordering::Relaxed);
        } else if !store.renew_worker(&self.worker_id, now).await.context("renewing this worker's lease")? {
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
