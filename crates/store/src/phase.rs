//! Where a run is and why it ended, in our words and in the contract's.

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waits for a worker.
    Queued,
    /// Its sandbox and checkout are being made.
    Preparing,
    /// The agent works.
    Running,
    /// Waits for a person.
    Waiting,
    /// The agent has ended, its work is being saved.
    Finishing,
    /// An agent on a person's own machine works, which tells of it; no worker has to do with it.
    Elsewhere,
    /// Ended; see [`Run::reason`].
    Done,
}

impl Phase {
    const ALL: [Self; 7] =
        [Self::Queued, Self::Preparing, Self::Running, Self::Waiting, Self::Finishing, Self::Elsewhere, Self::Done];

    /// As stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Finishing => "finishing",
            Self::Elsewhere => "elsewhere",
            Self::Done => "done",
        }
    }

    /// Reads [`Self::as_str`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The task is done.
    Complete,
    /// The task could not be done.
    Error,
    /// The platform's fault.
    Failed,
    /// Stopped.
    Cancelled,
    /// Out of time.
    Timeout,
    /// Out of steps.
    MaxIterations,
    /// Out of tokens or money.
    OutOfTokens,
}

impl Reason {
    const ALL: [Self; 7] = [
        Self::Complete,
        Self::Error,
        Self::Failed,
        Self::Cancelled,
        Self::Timeout,
        Self::MaxIterations,
        Self::OutOfTokens,
    ];

    /// As stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Error => "error",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::MaxIterations => "max_iterations",
            Self::OutOfTokens => "out_of_tokens",
        }
    }

    /// Reads [`Self::as_str`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// The contract's word for a phase and reason.
pub fn status(phase: Phase, reason: Option<Reason>) -> &'static str {
    match (phase, reason) {
        (Phase::Queued | Phase::Preparing | Phase::Running | Phase::Finishing | Phase::Elsewhere, _) => "ACTIVE",
        (Phase::Waiting, _) => "PAUSED",
        (Phase::Done, Some(Reason::Complete)) => "COMPLETE",
        (Phase::Done, Some(Reason::Error)) => "ERROR",
        (Phase::Done, Some(Reason::Failed) | None) => "FAILED",
        (Phase::Done, Some(Reason::Cancelled)) => "CANCELLED",
        (Phase::Done, Some(Reason::Timeout)) => "TIMEOUT",
        (Phase::Done, Some(Reason::MaxIterations)) => "MAX_ITERATIONS_REACHED",
        (Phase::Done, Some(Reason::OutOfTokens)) => "OUT_OF_TOKENS",
    }
}
