//! `codegen secrets`: the key of what is encrypted in the database.

use std::process::ExitCode;

use anyhow::{Result, bail};
use codegen_server::{config::Config, secrets};

use crate::out::say;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a new key; the next start of the server encrypts every secret with it
    Rotate {
        #[command(flatten)]
        place: crate::DataDir,
    },
}

/// Runs the subcommand.
pub fn secrets(args: Args) -> Result<ExitCode> {
    let Command::Rotate { place } = args.command;
    let config = Config::load(place.data_dir.as_deref(), std::env::vars())?;
    if config.secret_key.is_some() {
        bail!(
            "the key is the setting secret_key: put a new one (`openssl rand -base64 32`) and a comma before it, and \
             restart the server"
        );
    }
    let id = secrets::rotate(&config.data_dir)?;
    say!("key {id} is the first in {} now", config.data_dir.join(secrets::FILE).display());
    say!("restart the server: it encrypts every secret with it, and reads the older ones with the keys after it");
    Ok(ExitCode::SUCCESS)
}
