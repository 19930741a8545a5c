//! What time it is, in one place, so that a test can say it.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

/// The time of an [`App`](crate::App). Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The machine's.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// One that stands still until [`Clock::advance`].
    #[must_use]
    pub fn standing_at(ms: i64) -> Self {
        Self(Some(Arc::new(ms.into())))
    }

    /// Unix milliseconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        match &self.0 {
            None => jiff::Timestamp::now().as_millisecond(),
            Some(ms) => ms.load(Ordering::Relaxed),
        }
    }

    /// Moves a standing clock; the machine's goes by itself.
    pub fn advance(&self, ms: i64) {
        if let Some(time) = &self.0 {
            time.fetch_add(ms, Ordering::Relaxed);
        }
    }
}
