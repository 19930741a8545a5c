//! `codegen man`: manual pages, from the same words as `--help`.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::CommandFactory;

#[derive(clap::Args)]
pub struct Args {
    /// The command, as `agent` or `org invite`; none for codegen itself
    command: Vec<String>,
    /// Write every command's page into this folder, for `man -M`'s `man1`
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    all: Option<PathBuf>,
}

/// Prints one page, or writes all.
pub fn man(args: &Args) -> Result<ExitCode> {
    let mut root = crate::Cli::command();
    root.build();
    if let Some(dir) = &args.all {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        clap_mangen::generate_to(root, dir).with_context(|| format!("writing into {}", dir.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut command = &root;
    for name in &args.command {
        let Some(found) = command.find_subcommand(name) else {
            bail!("there is no command `codegen {}`; `codegen --help` lists them", args.command.join(" "));
        };
        command = found;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).context("writing the page")?;
    // A closed pipe is the reader's wish to see no more.
    std::io::stdout().write_all(&page).ok();
    Ok(ExitCode::SUCCESS)
}
