//! Code agents: the native loop, its models, tools, history and budget. Knows nothing of SQL, the HTTP API or orgs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One entry of a run's memory, in order. History is rebuilt from these alone, so an entry is durable before what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// What a person asked: the first prompt or a follow-up.
    UserMessage {
        /// The words.
        text: String,
        /// Images, as data URIs.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        images: Vec<String>,
    },
    /// One answer of the model.
    Reply(Reply),
    /// A tool call is about to have its effect. Internal: not shown, but after a crash it tells "under way" from "not begun".
    CallStarted {
        /// [`ToolCall::id`].
        call_id: String,
    },
    /// A tool call's result.
    CallFinished {
        /// [`ToolCall::id`].
        call_id: String,
        /// Tool name.
        name: String,
        /// Its arguments.
        input: Value,
        /// What the model is told (capped, the middle elided).
        output: String,
        /// True when the model is told of an error.
        is_error: bool,
        /// Exit code, for commands.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        /// Milliseconds.
        duration_ms: u64,
        /// The whole output where `output` is a cut of it; taken out and stored apart by the log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        full_output: Option<String>,
    },
    /// Something a reader of the trace should see: a retry, an interruption, a truncation.
    Notice {
        /// A sentence.
        text: String,
        /// The model is told too, as a message of the platform.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        to_model: bool,
    },
}

/// One answer of a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Text for the reader.
    pub text: String,
    /// Tools to call, in order.
    pub calls: Vec<ToolCall>,
    /// Tokens of this call.
    pub usage: Usage,
    /// US dollars of this call.
    pub cost: f64,
    /// Provider's own blocks that must be sent back as they came (thinking with signature, ...), if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque: Option<Value>,
    /// It ended at the longest answer the model gives, not because the model was done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_off: bool,
}

/// A tool call as the model wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Unique in the run.
    pub id: String,
    /// Tool name, known or not.
    pub name: String,
    /// Arguments; a JSON string holding the raw text when the model's JSON was malformed.
    pub input: Value,
}

/// Token counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Read at full price.
    pub input: u64,
    /// Written.
    pub output: u64,
    /// Read from the provider's cache.
    pub cache_read: u64,
    /// Written to the provider's cache.
    pub cache_write: u64,
}

impl Usage {
    /// All tokens, cached ones too.
    pub fn total(&self) -> u64 {
        [self.output, self.cache_read, self.cache_write].iter().fold(self.input, |sum, n| sum.saturating_add(*n))
    }
}

/// What is shown live and not kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Delta {
    /// Model text as it streams.
    Text {
        /// More of it.
        text: String,
    },
    /// A tool call begins.
    Call {
        /// [`ToolCall::id`].
        call_id: String,
        /// Tool name.
        name: String,
        /// Its arguments.
        input: Value,
    },
    /// Command output as it comes, lossily decoded.
    Output {
        /// [`ToolCall::id`].
        call_id: String,
        /// More of it.
        text: String,
    },
}

/// Where a run's memory lives. The server keeps it in the store; tests keep it in a `Vec`.
#[async_trait]
pub trait Log: Send {
    /// Returns once the entry is durable.
    ///
    /// # Errors
    /// When it cannot be made durable or the run is not this process's any more; the agent then stops at once.
    async fn append(&mut self, entry: &Entry) -> LogResult;
    /// Shows something live; never blocks, may be dropped.
    fn delta(&mut self, delta: Delta);
    /// Follow-ups that came in since the last call, already durable as [`Entry::UserMessage`]; asked at each step boundary.
    async fn take_messages(&mut self) -> Vec<Entry>;
    /// Whether another answer of the model may be paid for; asked before each. What a run may spend itself is its
    /// [`Budget`]'s.
    async fn may_spend(&mut self) -> bool {
        true
    }
}

/// Success, or the log's own error: the agent only stops on it.
pub type LogResult<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What the agent shall do.
pub struct Task {
    /// The whole memory so far; at least one [`Entry::UserMessage`].
    pub history: Vec<Entry>,
    /// Rules and context for the system prompt, already cut to size.
    pub rules: String,
    /// Which model.
    pub model: Arc<dyn models::Model>,
    /// When to end.
    pub budget: Budget,
    /// Variables of every shell command (those that set-up left).
    pub env: BTreeMap<String, String>,
    /// What its structured result shall fit, where one is asked for.
    pub output: Option<OutputSchema>,
}

/// Limits that end a run cleanly. Counted over the whole history, so a resumed run does not start anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Budget {
    /// Model answers.
    pub max_steps: u64,
    /// Input and output tokens together.
    pub max_tokens: u64,
    /// US dollars.
    pub max_cost: f64,
    /// Wall time of this attempt.
    pub max_time: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self { max_steps: 250, max_tokens: 20_000_000, max_cost: 20.0, max_time: Duration::from_secs(4 * 3600) }
    }
}

/// How the agent ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It says the task is done; its final words.
    Finished(String),
    /// It says the task is done, with the structured result that was asked for.
    Answered {
        /// Its final words.
        summary: String,
        /// As the schema wants it.
        output: Value,
    },
    /// It would not give the structured result that was asked for; what was wrong with its last try.
    NoOutput(String),
    /// It says the task cannot be done; its reason.
    GaveUp(String),
    /// A budget ended it.
    OutOf(Limit),
    /// Stopped from outside.
    Stopped,
    /// The model cannot be used (refused key, unknown model, script left); a sentence for the person.
    ModelFailed(String),
}

/// Which budget ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Budget::max_steps`].
    Steps,
    /// [`Budget::max_tokens`], or the model's context is full.
    Tokens,
    /// [`Budget::max_cost`].
    Cost,
    /// [`Budget::max_time`].
    Time,
    /// [`Log::may_spend`].
    Allowance,
}

/// The platform's own faults, which end a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log refused an entry.
    #[error("writing the run's log")]
    Log(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The sandbox died or was taken over.
    #[error(transparent)]
    Sandbox(#[from] codegen_sandbox::Error),
}

mod budget;
mod history;
pub mod models;
pub mod native;
mod output;
mod output_work;
mod prompt;
mod tools;

pub use output::{LARGEST_SCHEMA, OutputSchema};
