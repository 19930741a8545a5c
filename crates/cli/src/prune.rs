//! `codegen prune`: frees what the settings do not keep, or what is older than said.

use std::process::ExitCode;

use anyhow::Result;
use codegen_server::{
    Zygote,
    config::Config,
    disk::human,
    prune::{self, Beside, Gone, Pruned, Wanted},
};

use crate::out::say;

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("kinds").multiple(true).args(["outputs", "traces", "mirrors", "all"])))]
pub struct Args {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Age instead of the settings' ages and sizes, such as 30d or 12h
    #[arg(long, value_name = "AGE", value_parser = age_ms, requires = "kinds")]
    older_than: Option<i64>,
    /// Full outputs of ended runs
    #[arg(long)]
    outputs: bool,
    /// Traces of ended runs; results and diffs stay
    #[arg(long)]
    traces: bool,
    /// Mirrors that no live run works on
    #[arg(long)]
    mirrors: bool,
    /// All of these, which is also meant where none is named
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    place: crate::DataDir,
}

/// Prunes, beside a server that is up or alone.
pub async fn prune(args: Args, zygote: Zygote) -> Result<ExitCode> {
    crate::log_to_stderr("warn");
    let config = Config::load(args.place.data_dir.as_deref(), std::env::vars())?;
    let all = args.all || !(args.outputs || args.traces || args.mirrors);
    let wanted = Wanted {
        outputs: all || args.outputs,
        traces: all || args.traces,
        mirrors: all || args.mirrors,
        older_than_ms: args.older_than,
    };
    let pruned = if args.dry_run {
        prune::plan(&config, &wanted).await?
    } else {
        prune::prune(&config, zygote, &wanted).await?
    };
    if args.json {
        say!("{}", serde_json::to_string_pretty(&pruned)?);
        return Ok(ExitCode::SUCCESS);
    }
    show(&pruned, args.dry_run);
    for Beside { data_dir, of } in &pruned.beside {
        say!("{}, of `codegen run`:", data_dir.display());
        show(of, args.dry_run);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(pruned: &Pruned, dry_run: bool) {
    let verb = if dry_run { "would go" } else { "went" };
    let tell = |kind: &str, gone: &[Gone]| {
        for Gone { id, bytes, why } in gone {
            say!("{kind} {id}: {} {verb}, because {why}", human(*bytes));
        }
    };
    tell("outputs of run", &pruned.outputs);
    tell("trace of run", &pruned.traces);
    tell("mirror of repository", &pruned.mirrors);
    let [before, after] = pruned.database_bytes;
    if !dry_run {
        say!("the database took {} and takes {}", human(before), human(after));
    }
    pruned.notes.iter().for_each(|note| say!("{note}"));
    if pruned.outputs.is_empty() && pruned.traces.is_empty() && pruned.mirrors.is_empty() {
        say!("nothing is old enough or too much");
    }
}

fn age_ms(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no age: write a whole number and d, h or m, such as 30d");
    let split = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let unit: i64 = match unit {
        "d" => 86_400_000,
        "h" => 3_600_000,
        "m" => 60_000,
        _ => return Err(wrong()),
    };
    number.parse::<u32>().ok().and_then(|n| unit.checked_mul(n.into())).ok_or_else(wrong)
}
