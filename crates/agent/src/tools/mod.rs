//! Tools: what a model may do in the sandbox. One file per tool; [`Tool`] is what they share.

mod edit;
pub(crate) mod finish;
mod glob;
mod grep;
mod read;
mod shell;
mod text;
mod write;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use codegen_sandbox::Sandbox;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{Delta, budget::Halt, models::ToolSpec, output::OutputSchema};

/// What a call runs in.
pub(crate) struct Context<'a> {
    pub(crate) sandbox: &'a dyn Sandbox,
    /// Variables of every command.
    pub(crate) env: &'a BTreeMap<String, String>,
    pub(crate) call_id: &'a str,
    /// What is shown live.
    pub(crate) deltas: mpsc::UnboundedSender<Delta>,
    pub(crate) halt: &'a Halt,
    /// An earlier attempt may have begun this call in this sandbox.
    pub(crate) again: bool,
}

impl Context<'_> {
    /// A path as the model wrote it, made absolute.
    fn absolute(&self, path: &str) -> Result<String, ToolError> {
        let path = path.trim();
        if path.is_empty() {
            return Err(ToolError::ForModel("`path` is empty".to_owned()));
        }
        Ok(match path.strip_prefix("./").unwrap_or(path) {
            "." => self.sandbox.workspace().to_owned(),
            path if path.starts_with('/') => path.to_owned(),
            path => format!("{}/{path}", self.sandbox.workspace().trim_end_matches('/')),
        })
    }

    /// The folder a search begins in; the workspace when none is named.
    fn dir(&self, path: Option<&str>) -> Result<String, ToolError> {
        self.absolute(path.filter(|p| !p.trim().is_empty()).unwrap_or("."))
    }

    /// A path below a folder as it is shown.
    fn shown_below(&self, folder: &str, path: &str) -> String {
        let folder = self.shown(folder.trim_end_matches('/'));
        if path.starts_with('/') {
            self.shown(path).to_owned()
        } else if folder.is_empty() {
            path.to_owned()
        } else {
            format!("{folder}/{path}")
        }
    }

    /// A path as it is shown: relative to the workspace where it is in it.
    fn shown<'p>(&self, path: &'p str) -> &'p str {
        if path == self.sandbox.workspace() {
            return "";
        }
        let inside =
            path.strip_prefix(self.sandbox.workspace().trim_end_matches('/')).and_then(|p| p.strip_prefix('/'));
        inside.unwrap_or(path)
    }
}

/// What a call gives.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// For the model, already cut to size.
    pub(crate) text: String,
    pub(crate) is_error: bool,
    pub(crate) exit_code: Option<i32>,
    /// The whole text where `text` is a cut of it.
    pub(crate) full: Option<String>,
    /// How long it took, where the sandbox knows: a command may have begun under an earlier worker.
    pub(crate) took: Option<Duration>,
}

impl Output {
    fn text(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

/// Why a call gave nothing.
#[derive(Debug)]
pub(crate) enum ToolError {
    /// The model is told and goes on.
    ForModel(String),
    /// The platform's own fault; the run ends.
    Fatal(codegen_sandbox::Error),
}

impl From<codegen_sandbox::Error> for ToolError {
    fn from(error: codegen_sandbox::Error) -> Self {
        match error {
            codegen_sandbox::Error::Start(_) => Self::ForModel(error.to_string()),
            codegen_sandbox::Error::HostRefuses(_)
            | codegen_sandbox::Error::Gone(_)
            | codegen_sandbox::Error::Fenced(_)
            | codegen_sandbox::Error::Io(..) => Self::Fatal(error),
        }
    }
}

/// Why a file operation gave nothing: its own words (not found, a folder, a bad pattern) are for the model.
fn refused(error: codegen_sandbox::Error) -> ToolError {
    match error {
        codegen_sandbox::Error::Io(operation, why) => ToolError::ForModel(format!("{operation}: {why}")),
        error => error.into(),
    }
}

/// One tool.
#[async_trait]
pub(crate) trait Tool: Send + Sync {
    /// What models see.
    fn spec(&self) -> ToolSpec;
    /// Whether a call changes nothing: such calls run side by side, and again after a crash. Every other tool makes its
    /// change under the key of the call, so that the sandbox makes it once.
    fn read_only(&self) -> bool;
    /// One call.
    async fn call(&self, input: &Value, context: &Context<'_>) -> Result<Output, ToolError>;
}

/// All tools; the last takes a structured result where one is asked for.
pub(crate) fn all(output: Option<OutputSchema>) -> Vec<Box<dyn Tool>> {
    vec![
        Box::new(shell::Shell),
        Box::new(read::Read),
        Box::new(edit::Edit),
        Box::new(write::Write),
        Box::new(glob::Glob),
        Box::new(grep::Grep),
        Box::new(finish::Finish { output }),
    ]
}

/// A tool's arguments from what the model wrote.
fn arguments<T: DeserializeOwned>(input: &Value) -> Result<T, ToolError> {
    if let Value::String(raw) = input {
        let error = serde_json::from_str::<Value>(raw).err();
        let hint = if error.as_ref().is_some_and(serde_json::Error::is_eof) { " with less at once" } else { "" };
        let why = error.map_or_else(|| "not an object".to_owned(), |e| e.to_string());
        return Err(ToolError::ForModel(format!(
            "the arguments are not valid JSON ({why}); nothing was done, call again{hint}"
        )));
    }
    T::deserialize(input).map_err(|why| {
        ToolError::ForModel(format!("the arguments do not fit the tool: {why}; nothing was done, call again"))
    })
}
