//! Rate limits: a bucket of requests per token and kind, filled evenly.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Kinds of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// 60 in 30 s.
    Read,
    /// 60 in 60 s, logs only.
    Logs,
    /// 10 in a minute.
    Create,
    /// 60 in 30 s, apart from reads.
    Write,
    /// 600 in 30 s: what the pages of a person's open tabs ask for.
    View,
}

impl Limit {
    fn size(self) -> (f64, Duration) {
        match self {
            Self::Read | Self::Write => (60.0, Duration::from_secs(30)),
            Self::View => (600.0, Duration::from_secs(30)),
            Self::Logs => (60.0, Duration::from_secs(60)),
            Self::Create => (10.0, Duration::from_secs(60)),
        }
    }
}

/// Buckets of all tokens.
#[derive(Default)]
pub struct Limits(Mutex<HashMap<(i64, Limit), (f64, Instant)>>);

impl Limits {
    /// Takes one request; when there is none left, says how many seconds to wait.
    pub fn take(&self, token_id: i64, limit: Limit) -> Result<(), u64> {
        let (size, period) = limit.size();
        let rate = size / period.as_secs_f64();
        let now = Instant::now();
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, seen) = buckets.entry((token_id, limit)).or_insert((size, now));
        *left = (*left + now.duration_since(*seen).as_secs_f64() * rate).min(size);
        *seen = now;
        if *left < 1.0 {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the period")]
            return Err((((1.0 - *left) / rate).ceil() as u64).max(1));
        }
        *left -= 1.0;
        Ok(())
    }
}
