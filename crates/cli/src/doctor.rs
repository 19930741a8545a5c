//! `codegen doctor`: what this host can do for isolation.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

#[derive(clap::Args)]
pub struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Exit status 1 when nothing could run isolated on this host.
pub fn doctor(args: &Args) -> Result<ExitCode> {
    let host = codegen_server::engine::probe_host();
    if args.json {
        println!("{}", json!({"isolated": host.isolated, "have": host.have, "missing": host.missing}));
    } else {
        for have in &host.have {
            println!("ok       {have}");
        }
        for missing in &host.missing {
            println!("missing  {missing}");
        }
        println!(
            "{}",
            if host.isolated { "Runs are isolated on this host." } else { "Nothing can run isolated on this host." }
        );
    }
    Ok(if host.isolated { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
