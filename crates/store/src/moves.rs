//! A database as a whole: brought to this version, copied into a file, and moved from SQLite to PostgreSQL.

use std::path::Path;

use crate::{Result, dialect};

pub use dialect::At;

/// What bringing a database to this version came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Its file, or where it is, without user and password.
    pub database: String,
    /// The newest migration that it had; none where it was empty.
    pub from: Option<i64>,
    /// The newest that it has.
    pub to: i64,
    /// The migrations that it had not had.
    pub applied: Vec<i64>,
}

/// A table that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its name.
    pub table: String,
    /// Rows of it.
    pub rows: i64,
}

/// How far something is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What is being copied.
    pub what: &'a str,
    /// What is done.
    pub done: i64,
    /// What there is to do.
    pub of: i64,
}

/// Brings a database to this version, which is made where there is none. Whoever has SQLite's holds the lock on its data
/// directory.
///
/// # Errors
/// [`crate::Error::NewerDatabase`], [`crate::Error::Unreachable`].
pub async fn migrate(place: At<'_>) -> Result<Migrated> {
    dialect::migrate(place).await
}

/// Copies a database of this version, as it is at one moment, into a new file of SQLite's, while others go on writing. `tell` is
/// told of a copy from PostgreSQL how far it is.
///
/// # Errors
/// The database's; [`crate::Error::Io`] where there is none, [`crate::Error::OlderDatabase`] and
/// [`crate::Error::NewerDatabase`] where PostgreSQL's is not of this version.
pub async fn backup(place: At<'_>, into: &Path, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<()> {
    dialect::backup(place, into, tell).await
}

/// Copies a SQLite database of this version, as it is at one moment, into an empty PostgreSQL database: all of it, by the
/// count of its rows, or nothing. The words of the search are not copied: servers take them from the logs again.
///
/// # Errors
/// [`crate::Error::Conflict`] where the PostgreSQL database is not empty; as [`backup`] else.
pub async fn copy(file: &Path, database_url: &str, tell: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<Vec<Copied>> {
    dialect::into_postgres(file, database_url, tell).await
}
