//! Files of a sandbox, by commands inside and never through the host's paths: a symbolic link in there leads nowhere out here.

use std::path::PathBuf;

use serde::Serialize;

pub use crate::tool::Match;
use crate::{
    Completed, Error, Exec, Running, Sandbox,
    tool::{self, Glob, Grep, Target},
};

/// A whole file.
///
/// # Errors
/// [`Error::Io`] with the sandbox's words; its kind is `NotFound` when there is no such file.
pub async fn read(sandbox: &dyn Sandbox, path: &str, most: u64) -> Result<Vec<u8>, Error> {
    let input = encode(&Target { path: path.into(), most })?;
    Ok(operate(sandbox, "read", path, input, most.saturating_add(4096)).await?.stdout)
}

/// Replaces or makes a file, with its folders.
///
/// # Errors
/// [`Error::Io`] with the sandbox's words.
pub async fn write(sandbox: &dyn Sandbox, path: &str, content: &[u8]) -> Result<(), Error> {
    write_once(sandbox, None, path, content).await
}

/// [`write`] under an [`Exec::key`]: at most once, however often it is called.
///
/// # Errors
/// As [`write`].
pub async fn write_once(sandbox: &dyn Sandbox, key: Option<&str>, path: &str, content: &[u8]) -> Result<(), Error> {
    let mut input = encode(&Target { path: path.into(), most: 0 })?;
    input.push(0);
    input.extend(content);
    let exec = Exec { key: key.map(str::to_owned), ..exec("write", input, 4096) };
    ended("write", path, sandbox.start(exec).await?).await.map(drop)
}

/// Waits for a [`write_once`] that was begun under this key; false when there was none.
///
/// # Errors
/// As that write's.
pub async fn written(sandbox: &dyn Sandbox, key: &str, path: &str) -> Result<bool, Error> {
    let Some(running) = sandbox.reattach(key).await? else { return Ok(false) };
    ended("write", path, running).await.map(|_| true)
}

/// Paths below `folder` that match, newest first; what git ignores is left out.
///
/// # Errors
/// [`Error::Io`] when the pattern is not understood or the folder is not there.
pub async fn glob(sandbox: &dyn Sandbox, folder: &str, pattern: &str, most: usize) -> Result<Vec<String>, Error> {
    let input = encode(&Glob { folder: folder.into(), pattern: pattern.into(), most })?;
    decode(&operate(sandbox, "glob", folder, input, 64 << 20).await?)
}

/// What to search for.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// Folder or file.
    pub folder: PathBuf,
    /// Regular expression in ripgrep's words.
    pub pattern: String,
    /// Only files that match this glob.
    pub files: Option<String>,
    /// Capital or small.
    pub ignore_case: bool,
    /// Matches at most.
    pub most: usize,
}

/// Lines that match, by path; what git ignores is left out.
///
/// # Errors
/// [`Error::Io`] when the pattern is not understood or the folder is not there.
pub async fn grep(sandbox: &dyn Sandbox, search: &Search) -> Result<Vec<Match>, Error> {
    let Search { folder, pattern, files, ignore_case, most } = search.clone();
    let name = folder.display().to_string();
    let input = encode(&Grep { folder, pattern, files, ignore_case, most })?;
    decode(&operate(sandbox, "grep", &name, input, 64 << 20).await?)
}

/// One file operation in this process, for a [`Sandbox`] that is no real one (tests): what `codegen-tool` followed by `operation` would do.
///
/// # Errors
/// As the operation's own.
pub fn operate_here(operation: &str, stdin: &[u8]) -> std::io::Result<Vec<u8>> {
    tool::operate_with(operation, stdin, std::path::Path::to_owned)
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Io("encoding a file operation".into(), error.into()))
}

fn decode<T: serde::de::DeserializeOwned>(completed: &Completed) -> Result<T, Error> {
    serde_json::from_slice(&completed.stdout)
        .map_err(|error| Error::Io("reading a file operation's result".into(), error.into()))
}

async fn operate(
    sandbox: &dyn Sandbox,
    operation: &str,
    path: &str,
    stdin: Vec<u8>,
    cap: u64,
) -> Result<Completed, Error> {
    ended(operation, path, sandbox.start(exec(operation, stdin, cap)).await?).await
}

fn exec(operation: &str, stdin: Vec<u8>, cap: u64) -> Exec {
    Exec {
        argv: vec![tool::PROGRAM.into(), operation.into()],
        stdin,
        output_cap: Some(cap),
        timeout: Some(std::time::Duration::from_secs(60)),
        ..Exec::default()
    }
}

async fn ended(operation: &str, path: &str, running: Running) -> Result<Completed, Error> {
    let completed = running.complete().await?;
    if completed.exit.code == 0 {
        return Ok(completed);
    }
    let kind = if completed.exit.code == 2 { std::io::ErrorKind::NotFound } else { std::io::ErrorKind::Other };
    let mut words = String::from_utf8_lossy(&completed.stderr).into_owned();
    if words.is_empty() {
        words = format!("ended with {} ({:?})", completed.exit.code, completed.exit.ended_by);
    }
    Err(Error::Io(format!("{operation} {path}"), std::io::Error::new(kind, words)))
}
