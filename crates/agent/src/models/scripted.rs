//! Replays a dialogue from a file, so that runs can be tested and shown without a key.

use std::path::Path;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use super::{Model, ModelError, Request};
use crate::{Delta, Entry, Reply, ToolCall};

/// Larger files are no scripts.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A dialogue's file, JSON or TOML.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    replies: Vec<Line>,
}

/// One answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    text: String,
    #[serde(default)]
    calls: Vec<Call>,
    /// Part of the last tool result, without which the conversation has left the script.
    #[serde(default)]
    expect: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    name: String,
    input: Value,
}

pub(crate) struct Scripted {
    name: String,
    script: Script,
}

impl Scripted {
    /// Reads a script; an error is a sentence.
    pub(crate) fn open(name: &str, path: &Path) -> Result<Self, String> {
        let refused = |why: String| format!("the script {} {why}", path.display());
        let meta = std::fs::metadata(path).map_err(|why| refused(format!("cannot be read: {why}")))?;
        if !meta.is_file() || meta.len() > MAX_BYTES {
            return Err(refused(format!("is not a file of at most {MAX_BYTES} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|why| refused(format!("cannot be read: {why}")))?;
        // Errors tell where, not what: a file that is no script may hold anything.
        let script = if path.extension().is_some_and(|ext| ext == "toml") {
            toml::from_str(&text).map_err(|why| format!("byte {}", why.span().map_or(0, |span| span.start)))
        } else {
            serde_json::from_str(&text).map_err(|why| format!("line {}, column {}", why.line(), why.column()))
        };
        let form = "{\"replies\": [{\"text\", \"calls\": [{\"name\", \"input\"}], \"expect\"}]}";
        let script = script.map_err(|place| refused(format!("is not of the form {form}; see {place}")))?;
        Ok(Self { name: name.to_owned(), script })
    }

    fn left(&self, why: String) -> ModelError {
        ModelError::Fatal(format!("the conversation left the script {}: {why}", self.name))
    }
}

#[async_trait]
impl Model for Scripted {
    fn name(&self) -> &str {
        &self.name
    }

    async fn reply(&self, request: Request<'_>, on_delta: &mut (dyn FnMut(Delta) + Send)) -> Result<Reply, ModelError> {
        let position = request.history.iter().filter(|entry| matches!(entry, Entry::Reply(_))).count();
        let Some(line) = self.script.replies.get(position) else {
            return Err(self.left(format!("it holds {} replies and one more was asked for", self.script.replies.len())));
        };
        if let Some(expected) = &line.expect {
            let last = request.history.iter().rev().find_map(|entry| match entry {
                Entry::CallFinished { output, .. } => Some(output.as_str()),
                _ => None,
            });
            if !last.is_some_and(|output| output.contains(expected)) {
                let last: String = last.unwrap_or("nothing").chars().take(500).collect();
                return Err(self.left(format!(
                    "reply {} expects {expected:?} in the last result, which is {last:?}",
                    position + 1
                )));
            }
        }
        if !line.text.is_empty() {
            on_delta(Delta::Text { text: line.text.clone() });
        }
        let calls = line.calls.iter().enumerate().map(|(n, call)| ToolCall {
            id: format!("call-{}-{}", position + 1, n + 1),
            name: call.name.clone(),
            input: call.input.clone(),
        });
        Ok(Reply { text: line.text.clone(), calls: calls.collect(), ..Reply::default() })
    }
}
