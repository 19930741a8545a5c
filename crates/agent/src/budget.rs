//! What a run has used, counted over its whole history, and when it or a caller ends it.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Budget, Entry, Limit, Outcome, Reply};

/// A command that was killed ends at once; its sandbox may not be able to say so.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// The same when someone waits for the run to stop.
const LAST_WORDS_OF_STOPPED: Duration = Duration::from_millis(400);

/// Steps, tokens and money used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Spent {
    /// Model answers.
    pub(crate) steps: u64,
    /// Tokens read and written, cached ones too.
    pub(crate) tokens: u64,
    /// US dollars.
    pub(crate) cost: f64,
}

impl Spent {
    /// Counts a history.
    pub(crate) fn of(history: &[Entry]) -> Self {
        let mut spent = Self::default();
        for entry in history {
            if let Entry::Reply(reply) = entry {
                spent.add(reply);
            }
        }
        spent
    }

    /// Counts one answer more.
    pub(crate) fn add(&mut self, reply: &Reply) {
        self.steps += 1;
        self.tokens = self.tokens.saturating_add(reply.usage.total());
        self.cost += reply.cost;
    }

    /// The limit that forbids another answer, if one does.
    pub(crate) fn over(&self, budget: &Budget) -> Option<Limit> {
        if self.steps >= budget.max_steps {
            Some(Limit::Steps)
        } else if self.tokens >= budget.max_tokens {
            Some(Limit::Tokens)
        } else if self.cost >= budget.max_cost {
            Some(Limit::Cost)
        } else {
            None
        }
    }
}

/// What ends a run between or within its steps: the caller's stop, or its time.
#[derive(Debug, Clone)]
pub(crate) struct Halt {
    stop: CancellationToken,
    deadline: Instant,
}

impl Halt {
    pub(crate) fn new(stop: CancellationToken, max_time: Duration) -> Self {
        let now = Instant::now();
        let year = Duration::from_secs(365 * 24 * 3600);
        Self { stop, deadline: now + max_time.min(year) }
    }

    /// The outcome that is due already.
    pub(crate) fn due(&self) -> Option<Outcome> {
        if self.stop.is_cancelled() {
            Some(Outcome::Stopped)
        } else if Instant::now() >= self.deadline {
            Some(Outcome::OutOf(Limit::Time))
        } else {
            None
        }
    }

    /// Waits until an outcome is due.
    pub(crate) async fn wait(&self) -> Outcome {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Outcome::Stopped,
            () = tokio::time::sleep_until(self.deadline) => Outcome::OutOf(Limit::Time),
        }
    }

    /// How long the last words of a command are waited for that was killed for this.
    pub(crate) fn last_words(&self) -> Duration {
        if self.stop.is_cancelled() { LAST_WORDS_OF_STOPPED } else { LAST_WORDS }
    }

    /// The reason in words, for a tool's result.
    pub(crate) fn reason(&self) -> &'static str {
        if self.stop.is_cancelled() { "the run was stopped" } else { "the run's time is over" }
    }
}
