//! Log-ins that are kept: one for each profile, in a file that only its owner can read.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The profile of who names none.
pub const USUAL: &str = "default";

/// A server, and who one is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Server, without a trailing slash.
    pub url: String,
    /// Bearer token.
    pub token: String,
    /// Organization that commands work in.
    pub org_id: i64,
}

/// All of them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Logins {
    /// The profile that commands use where none is named.
    pub current: String,
    /// By profile.
    pub profiles: BTreeMap<String, Login>,
}

/// What is in the file: all log-ins, or the only one, as older versions wrote it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Kept {
    All(Logins),
    One(Login),
}

fn file() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CONFIG_HOME").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".config"),
    };
    Ok(base.join("codegen").join("login.json"))
}

/// The profile that the environment names (`CODEGEN_PROFILE`).
pub fn named() -> Option<String> {
    std::env::var("CODEGEN_PROFILE").ok().filter(|name| !name.is_empty())
}

impl Logins {
    /// Those that are kept; none where there is no file.
    pub fn load() -> Result<Self> {
        let path = file()?;
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let kept = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged; remove it and run `codegen login` again", path.display()))?;
        Ok(match kept {
            Kept::All(all) => all,
            Kept::One(login) => {
                Self { current: USUAL.to_owned(), profiles: BTreeMap::from([(USUAL.to_owned(), login)]) }
            }
        })
    }

    /// Keeps them and says where.
    pub fn save(&self) -> Result<PathBuf> {
        let path = file()?;
        let dir = path.parent().context("the log-in file has no folder")?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("making {}", dir.display()))?;
        let new = path.with_extension("new");
        // A file that was left behind may be readable by others.
        fs::remove_file(&new).ok();
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .with_context(|| format!("writing {}", new.display()))?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all().with_context(|| format!("writing {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// The name of the profile in use: the environment's, else the current one.
    pub fn in_use(&self) -> String {
        named().unwrap_or_else(|| if self.current.is_empty() { USUAL.to_owned() } else { self.current.clone() })
    }

    /// The log-in in use, if there is one.
    ///
    /// # Errors
    /// Where the environment names a profile that is not there.
    pub fn login(&self) -> Result<Option<&Login>> {
        match (self.profiles.get(&self.in_use()), named()) {
            (None, Some(name)) => bail!("{}", self.unknown(&name)),
            (login, _) => Ok(login),
        }
    }

    /// Of a profile that is not there.
    pub fn unknown(&self, name: &str) -> String {
        let known: Vec<&str> = self.profiles.keys().map(String::as_str).collect();
        let known =
            if known.is_empty() { "there is none".to_owned() } else { format!("there are {}", known.join(", ")) };
        format!("there is no profile {name:?}: {known} (`codegen login --profile {name}` makes it)")
    }
}
