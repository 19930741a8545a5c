//! The runs that this process works on, for what must reach them also where it cannot be written down.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use codegen_store::{Claim, Run};
use tokio_util::sync::CancellationToken;

/// All of them.
#[derive(Debug, Default)]
pub struct Live(Mutex<HashMap<i64, One>>);

#[derive(Debug)]
struct One {
    org_id: i64,
    claim: Claim,
    stop: CancellationToken,
}

/// A run is worked on until this is dropped.
pub struct Mark<'a> {
    live: &'a Live,
    claim: Claim,
}

impl Live {
    /// A claimed run is worked on from now on; `stop` ends what it does.
    pub fn begin(&self, run: &Run, stop: CancellationToken) -> Mark<'_> {
        let claim = run.claim();
        let one = One { org_id: run.org_id, claim, stop };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(run.id, one);
        Mark { live: self, claim }
    }

    /// Ends what a run does, without a word in the store; false where this process does not work on it.
    pub fn stop(&self, org_id: i64, run_id: i64) -> bool {
        let live = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = live.get(&run_id).filter(|one| one.org_id == org_id);
        found.inspect(|one| one.stop.cancel()).is_some()
    }

    /// The claims of all.
    pub fn claims(&self) -> Vec<Claim> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().map(|one| one.claim).collect()
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        let mut live = self.live.0.lock().unwrap_or_else(PoisonError::into_inner);
        if live.get(&self.claim.run_id).is_some_and(|one| one.claim == self.claim) {
            live.remove(&self.claim.run_id);
        }
    }
}
