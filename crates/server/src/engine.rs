//! Which engine runs agents' commands, and what this host gives it.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};
use codegen_sandbox::{
    Engine,
    local::{self, LocalEngine, Zygote},
};

/// The engine over the sandboxes of a data directory.
///
/// # Errors
/// When the host does not allow isolation; the text says what to change.
pub fn engine(zygote: Zygote, data_dir: &Path) -> Result<Arc<dyn Engine>> {
    let engine = LocalEngine::new(zygote, data_dir.join("sandboxes")).context("preparing the sandbox engine")?;
    Ok(Arc::new(engine))
}

/// What this host gives for isolation.
#[derive(Debug)]
pub struct Host {
    /// Whether anything can run isolated.
    pub isolated: bool,
    /// Protections there are.
    pub have: Vec<String>,
    /// Protections there are not, each with what to do about it.
    pub missing: Vec<String>,
}

/// Asks the host, without leaving anything behind.
pub fn probe_host() -> Host {
    let isolation = local::probe();
    Host { isolated: isolation.engine == "local", have: isolation.have, missing: isolation.missing }
}
