//! Which session it is, where its transcript is, and what is kept of it until all is told.

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::state_dir;
use crate::client::Client;

/// Which session of Claude Code's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// A new one, whose name we choose.
    New(String),
    /// The user named it.
    Named(String),
    /// An earlier one that Claude Code will choose.
    Earlier,
}

impl Which {
    /// By Claude Code's arguments.
    pub fn of(args: &[OsString]) -> Self {
        let mut words =
            args.iter().map(|arg| arg.to_str().unwrap_or_default()).take_while(|arg| *arg != "--").peekable();
        while let Some(word) = words.next() {
            let (flag, value) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
            match flag {
                "--session-id" => {
                    let id = value.or_else(|| words.peek().copied()).unwrap_or_default();
                    return Self::Named(id.to_owned());
                }
                "-c" | "--continue" | "-r" | "--resume" | "--from-pr" | "--fork-session" | "--teleport" => {
                    return Self::Earlier;
                }
                _ => {}
            }
        }
        Self::New(uuid::Uuid::new_v4().to_string())
    }
}

/// What is known of a session here, in a file until all of it is told. Who has the file's lock tells it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Server.
    pub url: String,
    /// Organization there.
    pub org_id: i64,
    /// Claude Code's name of it; `None` while that is not known.
    pub session_id: Option<String>,
    /// In which folder it works.
    cwd: PathBuf,
    /// Its transcript, once it was found.
    pub transcript: Option<PathBuf>,
    /// Lines of it that the server has.
    pub told: i64,
    /// Bytes of it that these are.
    pub bytes: u64,
    /// How it ended, once it has.
    pub ended: Option<String>,
    #[serde(skip)]
    began: Option<SystemTime>,
    #[serde(skip)]
    file: Option<(PathBuf, fs::File)>,
}

impl Kept {
    /// Begins to keep a session.
    pub fn new(client: &Client, which: Which, began: SystemTime) -> Result<Self> {
        let dir = state_dir()?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("making {}", dir.display()))?;
        let path = dir.join(format!("{}.json", uuid::Uuid::new_v4()));
        let mut kept = Self {
            url: client.url().to_owned(),
            org_id: client.org_id(),
            session_id: match which {
                Which::New(id) | Which::Named(id) => Some(id),
                Which::Earlier => None,
            },
            cwd: std::env::current_dir().and_then(fs::canonicalize).context("looking where we are")?,
            transcript: None,
            told: 0,
            bytes: 0,
            ended: None,
            began: Some(began),
            file: None,
        };
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("making {}", path.display()))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).context("locking the session's file")?;
        kept.file = Some((path, file));
        kept.save()?;
        Ok(kept)
    }

    /// Sessions that were left by processes that have ended, of this server.
    pub fn leftovers(client: &Client) -> Vec<Self> {
        let Ok(dir) = state_dir() else { return Vec::new() };
        let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let sessions = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
        sessions.filter_map(|path| Self::take(&path)).filter(|kept| kept.url == client.url()).collect()
    }

    fn take(path: &Path) -> Option<Self> {
        let file = fs::File::open(path).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        // The one that was locked may have been removed since.
        let mut kept: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        kept.file = Some((path.to_owned(), file));
        Some(kept)
    }

    /// Writes it down: in place, for the lock is the file's. A torn write costs nothing but lines that are told again, which
    /// the server leaves out.
    pub fn save(&self) -> Result<()> {
        let Some((path, _)) = &self.file else { return Ok(()) };
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).open(path)?;
            let bytes = serde_json::to_vec(self).map_err(std::io::Error::other)?;
            file.write_all(&bytes)?;
            file.set_len(bytes.len() as u64)
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    /// Forgets it.
    pub fn remove(self) {
        if let Some((path, _)) = &self.file {
            // What cannot be removed is told again next time, to no effect.
            fs::remove_file(path).ok();
        }
    }

    /// Looks for the transcript, where it is not known yet; says whether it is.
    pub fn find(&mut self) -> bool {
        if self.transcript.is_none() {
            let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".claude"));
            let base = std::env::var_os("CLAUDE_CONFIG_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
            let Some(projects) = base.or_else(home).map(|base| base.join("projects")) else { return false };
            self.transcript = match &self.session_id {
                Some(id) => {
                    let name = format!("{id}.jsonl");
                    let dirs = fs::read_dir(&projects).into_iter().flatten().flatten();
                    dirs.map(|dir| dir.path().join(&name)).find(|path| path.is_file())
                }
                None => self.newest(&projects),
            };
            if let (None, Some(path)) = (&self.session_id, &self.transcript) {
                self.session_id = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            }
        }
        self.transcript.is_some()
    }

    /// The transcript of this folder that was written to since the beginning.
    fn newest(&self, projects: &Path) -> Option<PathBuf> {
        let folder: String =
            self.cwd.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let files = fs::read_dir(projects.join(folder)).ok()?.flatten();
        let transcripts = files.filter(|file| file.path().extension().is_some_and(|ending| ending == "jsonl"));
        let dated = transcripts.filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.path())));
        dated.filter(|(at, _)| self.began.is_none_or(|began| *at >= began)).max().map(|(_, path)| path)
    }
}

fn rules_file(client: &Client) -> Result<PathBuf> {
    let server: String = client.url().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(state_dir()?.join(format!("rules-{server}-{}", client.org_id())))
}

/// Keeps rules for when the server is away.
pub fn remember_rules(client: &Client, rules: &Value) {
    let keep = || -> Result<()> {
        let path = rules_file(client)?;
        let dir = path.parent().context("no folder")?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        Ok(file.write_all(&serde_json::to_vec(rules)?)?)
    };
    // Without them a session that begins while the server is away has none.
    keep().ok();
}

/// The rules that were kept.
pub fn remembered_rules(client: &Client) -> Option<Value> {
    serde_json::from_slice(&fs::read(rules_file(client).ok()?).ok()?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_new_unless_the_arguments_say_another() {
        let of = |args: &[&str]| Which::of(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(matches!(of(&["-p", "--", "--continue"]), Which::New(id) if id.len() == 36));
        assert_eq!(of(&["--session-id", "a"]), Which::Named("a".to_owned()));
        assert_eq!(of(&["-p", "--session-id=b"]), Which::Named("b".to_owned()));
        for args in [&["-c"][..], &["--resume", "x"], &["--resume=x"], &["x", "-r"]] {
            assert_eq!(of(args), Which::Earlier, "{args:?}");
        }
    }
}
