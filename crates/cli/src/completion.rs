//! `codegen completion`: shell completion scripts.

use std::{io::Write, process::ExitCode};

use anyhow::Result;
use clap::CommandFactory;

#[derive(clap::Args)]
pub struct Args {
    /// bash, zsh, fish, elvish or powershell
    shell: clap_complete::Shell,
}

/// Prints the script to standard output.
pub fn completion(args: &Args) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "codegen", &mut script);
    // A closed pipe is the reader's wish to see no more.
    std::io::stdout().write_all(&script).ok();
    Ok(ExitCode::SUCCESS)
}
