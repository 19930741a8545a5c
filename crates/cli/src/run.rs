//! `codegen run`: one run with the server's machinery, without a server.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use codegen_server::{
    Means,
    config::Config,
    once::{Once, Task},
};

use crate::render::Renderer;

#[derive(clap::Args)]
pub struct Args {
    /// What the agent shall do
    prompt: String,
    /// Repository: a folder (its uncommitted changes included) or a URL
    #[arg(long, default_value = ".")]
    repo: String,
    /// Branch to start from, instead of the working tree or the default branch
    #[arg(long)]
    base: Option<String>,
    /// Model, as `provider/name`
    #[arg(long)]
    model: Option<String>,
    /// Replay a dialogue from a file instead of asking a model
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    script: Option<PathBuf>,
    /// Push the branch to the repository's origin
    #[arg(long)]
    push: bool,
    /// Push and open a pull request
    #[arg(long)]
    pr: bool,
    /// File with a JSON schema: the agent ends with a structured result that fits it
    #[arg(long, value_name = "FILE")]
    output_schema: Option<PathBuf>,
    /// Print events as JSON lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub isolation: crate::Isolation,
    #[command(flatten)]
    place: crate::DataDir,
}

/// Exit status: 0 complete, 1 could not be started, 2 ended without completing, 130 aborted.
pub async fn run(args: Args, means: Means) -> Result<ExitCode> {
    crate::log_to_stderr("error");
    let config = Config::load(args.place.data_dir.as_deref(), std::env::vars())?;
    let model = match &args.script {
        Some(path) => {
            let path = path.canonicalize().with_context(|| format!("no script at {}", path.display()))?;
            Some(format!("scripted:{}", path.display()))
        }
        None => args.model,
    };
    let task = Task {
        prompt: args.prompt,
        origin: args.repo,
        base: args.base,
        model,
        push: args.push || args.pr,
        open_pr: args.pr,
        output_schema: args.output_schema.as_deref().map(crate::agent::read_schema).transpose()?,
    };
    let once = Once::start(config, means, task).await?;
    let stop = once.stopper();
    tokio::spawn(async move {
        tokio::signal::ctrl_c().await.ok(); // Without a handler Ctrl-C ends the process, which is its second meaning.
        eprintln!("\nstopping the agent and keeping its work; Ctrl-C again aborts");
        stop.stop().await;
        tokio::signal::ctrl_c().await.ok();
        std::process::exit(130);
    });
    let mut renderer = Renderer::new(args.json);
    let end = once.follow(|kind, body| renderer.event(kind, body)).await?;
    if !args.json {
        let mut out = std::io::stdout().lock();
        writeln!(out).ok();
        if let Some(stat) = &end.diff_stat {
            writeln!(out, "{}", stat.trim_end()).ok();
        }
        if let Some(branch) = &end.branch {
            writeln!(out, "branch        {branch}{}", if end.pushed { " (pushed)" } else { "" }).ok();
        }
        if let Some(url) = &end.pull_request {
            writeln!(out, "pull request  {url}").ok();
        }
        if let Some(output) = &end.output {
            writeln!(out, "output        {output}").ok();
        }
        writeln!(out, "status        {}", end.status).ok();
    }
    Ok(if end.status == "COMPLETE" { ExitCode::SUCCESS } else { ExitCode::from(2) })
}
