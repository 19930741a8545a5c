//! A worker's right to work: a row that it renews. One that slept past its lease asks first whether the row is still there, before
//! it does anything outside; the store and the sandboxes refuse its writes and commands by themselves.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use codegen_store::Store;

/// How long a renewal is good for.
const LEASE: Duration = Duration::from_secs(15);
/// Between two renewals.
const RENEW: Duration = Duration::from_secs(5);

/// The right of this process to work on runs.
#[derive(Debug)]
pub struct Lease {
    worker_id: String,
    /// By this process's own clock, counted from before the last renewal was sent.
    until: Mutex<Instant>,
}

/// Another process has taken this one's place.
#[derive(Debug, thiserror::Error)]
#[error(
    "another codegen has taken over this data directory and its runs, most likely because this process was stopped for a while; \
     it writes and executes nothing more"
)]
pub struct Lost;

impl Lease {
    /// Takes the place of every worker before it.
    ///
    /// # Errors
    /// The store's.
    pub async fn take(store: &Store, worker_id: &str, url: &str, now: i64) -> Result<Self> {
        let sent = Instant::now();
        store.register_worker(worker_id, url, now).await.context("registering this worker")?;
        Ok(Self { worker_id: worker_id.to_owned(), until: Mutex::new(sent + LEASE) })
    }

    /// Makes sure that this process may still do something outside.
    ///
    /// # Errors
    /// [`Lost`], or the store's.
    pub async fn check(&self, store: &Store, now: i64) -> Result<()> {
        let until = *self.until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if Instant::now() < until { Ok(()) } else { self.renew(store, now).await }
    }

    /// Renews again and again; returns once the place is lost.
    pub async fn keep(&self, store: &Store, now: impl Fn() -> i64) -> Lost {
        loop {
            tokio::time::sleep(RENEW).await;
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
        *self.until.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = sent + LEASE;
        Ok(())
    }
}
