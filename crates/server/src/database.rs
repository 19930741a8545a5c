//! The database as a whole, for the operator's commands: brought to this version, and moved from SQLite to PostgreSQL.

use anyhow::{Result, ensure};
use codegen_store::{At, DATABASE, DirLock};
use secrecy::ExposeSecret as _;

use crate::config::Config;

pub use codegen_store::{Copied, Migrated, Progress};

/// Told how far something is.
pub type Tell<'t> = &'t mut (dyn FnMut(Progress<'_>) + Send);

/// Brings the database of the settings to this version.
///
/// # Errors
/// Where a server uses the data directory with SQLite's; what the store says.
pub async fn migrate(config: &Config) -> Result<Migrated> {
    let Some(url) = &config.database_url else {
        let lock = DirLock::make(&config.data_dir)?;
        let migrated = codegen_store::migrate(At::File(&config.data_dir.join(DATABASE))).await;
        drop(lock);
        return Ok(migrated?);
    };
    Ok(codegen_store::migrate(At::Url(url.expose_secret())).await?)
}

/// Copies the SQLite database of the data directory, which no server may use meanwhile, into an empty PostgreSQL one.
///
/// # Errors
/// A sentence on what is in the way; nothing is left in the other database then.
pub async fn copy(config: &Config, to: &str, tell: Tell<'_>) -> Result<Vec<Copied>> {
    let file = config.data_dir.join(DATABASE);
    ensure!(file.exists(), "there is no SQLite database at {}", file.display());
    ensure!(
        to.starts_with("postgres://") || to.starts_with("postgresql://"),
        "name a database of PostgreSQL's, as postgres://user@host/database"
    );
    let lock = DirLock::make(&config.data_dir)?;
    let copied = codegen_store::copy(&file, to, tell).await;
    drop(lock);
    Ok(copied?)
}
