//! `codegen config`: the settings in force, without secrets.

use std::process::ExitCode;

use anyhow::Result;
use codegen_server::config::Config;
use serde_json::json;

use crate::out::say;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print each setting, its value, and where the value came from
    Show {
        #[command(flatten)]
        place: crate::DataDir,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs the subcommand.
pub fn config(args: &Args) -> Result<ExitCode> {
    let Command::Show { place, json } = &args.command;
    let config = Config::load(place.data_dir.as_deref(), std::env::vars())?;
    let rows = config.show();
    if *json {
        let rows: Vec<_> = rows.iter().map(|r| json!({"key": r.key, "value": r.value, "origin": r.origin})).collect();
        say!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(ExitCode::SUCCESS);
    }
    let width = rows.iter().map(|r| r.key.len()).max().unwrap_or(0);
    for row in rows {
        say!("{:width$}  {}  ({})", row.key, row.value, row.origin);
    }
    Ok(ExitCode::SUCCESS)
}
