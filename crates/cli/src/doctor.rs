//! `codegen doctor`: what this host can do for isolation.

use std::process::ExitCode;

use anyhow::Result;
use codegen_server::{Config, engine};
use serde_json::json;

use crate::out::say;

#[derive(clap::Args)]
pub struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: crate::DataDir,
}

/// Exit status 1 when nothing could run isolated on this host.
pub fn doctor(args: &Args) -> Result<ExitCode> {
    let zygote = crate::zygote()?;
    let config = Config::load(args.place.data_dir.as_deref(), std::env::vars())?;
    let host = crate::async_runtime()?.block_on(engine::probe_host(zygote, &config.data_dir));
    if args.json {
        say!("{}", json!({"isolated": host.isolated, "have": host.have, "missing": host.missing}));
    } else {
        for have in &host.have {
            say!("ok       {have}");
        }
        for missing in &host.missing {
            say!("missing  {missing}");
        }
        say!(
            "{}",
            if host.isolated {
                "A command ran isolated in a sandbox in the data directory."
            } else {
                "Nothing can run isolated on this host, so no run would start."
            }
        );
    }
    Ok(if host.isolated { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
