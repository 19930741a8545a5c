//! `codegen df`: what uses the disk in a data directory, and why.

use anyhow::Result;
use codegen_server::{
    config::Config,
    disk::{State, Usage, human},
    prune,
};

use crate::out::say;

#[derive(clap::Args)]
pub struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: crate::DataDir,
}

/// The server's, with what is beside it.
#[derive(serde::Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    main: Option<&'a Usage>,
    beside: &'a [Usage],
}

/// Looks, with a server up or not.
pub async fn df(args: Args) -> Result<()> {
    crate::log_to_stderr("warn");
    let config = Config::load(args.place.data_dir.as_deref(), std::env::vars())?;
    let (main, beside) = prune::df(&config).await?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&Found { main: main.as_ref(), beside: &beside })?);
        return Ok(());
    }
    if let Some(main) = &main {
        show(main, "");
    }
    for usage in &beside {
        show(usage, ", of `codegen run`");
    }
    Ok(())
}

fn show(usage: &Usage, whose: &str) {
    say!("{}{whose}{}", usage.data_dir.display(), if usage.in_use { " (a codegen is using it)" } else { "" });
    for item in &usage.items {
        let state = match item.state {
            State::Live => "live",
            State::Kept => "kept",
            State::Prunable => "prunable",
        };
        let indent = if item.in_database { "  " } else { "" };
        let run = item.run_id.map(|id| format!(" (run {id})")).unwrap_or_default();
        let kind = format!("{indent}{}", item.kind);
        say!("{kind:<11} {:>10}  {state:<8}  {}{run}: {}", human(item.bytes), item.name, item.why);
    }
    say!(
        "{} in all, {} of it prunable with `codegen prune`; the disk has {} free",
        human(usage.bytes),
        human(usage.prunable_bytes),
        human(usage.free_bytes)
    );
}
