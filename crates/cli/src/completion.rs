//! `codegen completion`: shell completion scripts.

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;

#[derive(clap::Args)]
pub struct Args {
    /// bash, zsh, fish, elvish or powershell
    shell: clap_complete::Shell,
}

/// Prints the script to standard output.
pub fn completion(args: &Args) -> Result<ExitCode> {
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "codegen", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
