//! Which life of its data a data directory is in: the first half of every sandbox fence. It is a file beside the database,
//! because a database that came out of a backup does not know that it did.

use std::{io::Write as _, path::Path};

use anyhow::{Context, Result};

const FILE: &str = "incarnation";
const NAME: &str = "name";

/// The name of a data directory among those of one database; made at the first time.
///
/// # Errors
/// When the file cannot be read or written.
pub fn name(data_dir: &Path) -> Result<String> {
    let path = data_dir.join(NAME);
    match std::fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => Ok(name.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("reading {}", path.display()))
        }
        Ok(_) | Err(_) => {
            let name = crate::token::random(8);
            std::fs::write(&path, &name).with_context(|| format!("writing {}", path.display()))?;
            Ok(name)
        }
    }
}

/// The incarnation of a data directory; 0 where it was never restored.
///
/// # Errors
/// When the file is there and cannot be read as a number: a guess could let two owners execute at once.
pub fn read(data_dir: &Path) -> Result<i64> {
    let path = data_dir.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().with_context(|| format!("{} holds no number", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Begins a new life after `earlier` and returns it. It is also never below the clock, so that of two directories restored
/// from one backup the later one outranks the other.
///
/// # Errors
/// When the file cannot be written durably.
pub fn grow(data_dir: &Path, earlier: i64, now: i64) -> Result<i64> {
    let next = earlier.saturating_add(1).max(now);
    let (path, part) = (data_dir.join(FILE), data_dir.join("incarnation.new"));
    std::fs::File::create(&part)
        .and_then(|mut file| {
            writeln!(file, "{next}")?;
            file.sync_all()?;
            std::fs::rename(&part, &path)?;
            std::fs::File::open(data_dir)?.sync_all()
        })
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(next)
}
