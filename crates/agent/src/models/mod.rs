//! Models: who answers. One file per API; [`Model`] is what they share.

mod anthropic;
mod connect;
mod http;
mod openai;
pub mod prices;
mod scripted;
mod sse;

use async_trait::async_trait;
use serde_json::Value;

pub use self::{
    connect::{Account, Api, ConnectError, Keys, api_of, connect, connect_account, is_known, providers, split},
    http::install_tls,
};
use crate::{Delta, Entry, Reply};

/// What a model is asked.
pub struct Request<'a> {
    /// System prompt.
    pub system: &'a str,
    /// The conversation; [`Entry::CallStarted`] and notices that are not for the model are skipped.
    pub history: &'a [Entry],
    /// Tools it may call.
    pub tools: &'a [ToolSpec],
}

/// A tool as models see it.
#[derive(Debug, Clone)]
pub struct ToolSpec {
    /// Name.
    pub name: &'static str,
    /// For the model.
    pub description: &'static str,
    /// JSON schema of the arguments.
    pub parameters: Value,
}

/// Why a model did not answer, by what the loop does about it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Try again, after the given time where the provider names one.
    #[error("{message}")]
    Retry {
        /// A sentence.
        message: String,
        /// `Retry-After`.
        after: Option<std::time::Duration>,
    },
    /// The conversation does not fit the model's context any more.
    #[error("the conversation is longer than the model's context")]
    ContextFull,
    /// Trying again will not help; a sentence for the person that says what to do.
    #[error("{0}")]
    Fatal(String),
}

/// One model behind one API.
#[async_trait]
pub trait Model: Send + Sync {
    /// `provider/name`.
    fn name(&self) -> &str;
    /// One answer, its text streamed to `on_delta` as it comes. Cancel by dropping the future.
    async fn reply(&self, request: Request<'_>, on_delta: &mut (dyn FnMut(Delta) + Send)) -> Result<Reply, ModelError>;
}

/// A call's arguments from the text that was streamed, else what came whole; the raw text when it is not a JSON object.
fn parse_arguments(text: &str, whole: &Value) -> Value {
    if text.trim().is_empty() {
        return if whole.is_object() { whole.clone() } else { Value::Object(serde_json::Map::new()) };
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_object() => value,
        Ok(_) | Err(_) => Value::String(text.to_owned()),
    }
}

/// Media type and base64 data of an image's data URI.
fn data_uri(uri: &str) -> Option<(&str, &str)> {
    let (head, data) = uri.strip_prefix("data:")?.split_once(',')?;
    let media_type = head.strip_suffix(";base64")?;
    Some((media_type.split(';').next()?, data))
}
