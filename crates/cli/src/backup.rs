//! `codegen backup`: one file that a data directory can be made from again, taken while the server runs.

use std::path::PathBuf;

use anyhow::Result;
use codegen_server::{backup, config::Config, disk::human, prune::now};

use crate::out::say;

#[derive(clap::Args)]
pub struct Args {
    /// New file, or a folder in which to make one that is named after the time
    into: PathBuf,
    /// Leave the mirrors out: they are fetched again, but runs' commits that were not pushed are then only in their diffs
    #[arg(long)]
    without_mirrors: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: crate::DataDir,
}

/// Makes a backup. Settings and the key of the secrets are not in it.
pub async fn backup(args: Args) -> Result<()> {
    let config = Config::load(args.place.data_dir.as_deref(), std::env::vars())?;
    anyhow::ensure!(
        config.database_url.is_none(),
        "the database is PostgreSQL's: back it up with pg_dump; `codegen backup` is for the SQLite of a data directory"
    );
    let made = backup::backup(&config.data_dir, &args.into, !args.without_mirrors, now()).await?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&made)?);
    } else {
        say!("{}: {}, the database and {} mirrors", made.path.display(), human(made.bytes), made.mirrors);
        say!("not in it: config.toml and the key of the secrets; keep those elsewhere");
    }
    Ok(())
}
