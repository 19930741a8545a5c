//! `codegen backup`: one file that a data directory can be made from again, taken while the server runs.

use std::path::PathBuf;

use anyhow::Result;
use codegen_server::{
    backup::{self, Contents},
    config::Config,
    disk::human,
    prune::now,
};

use crate::{out::say, progress::Teller};

#[derive(clap::Args)]
pub struct Args {
    /// New file, or a folder in which to make one that is named after the time
    into: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: crate::DataDir,
}

/// Makes a backup. Settings and the key of the secrets are not in it.
pub async fn backup(args: Args) -> Result<()> {
    let config = Config::load(args.place.data_dir.as_deref(), std::env::vars())?;
    let mut teller = Teller::new();
    let made = backup::backup(&config, &args.into, Contents::Whole, now(), &mut |p| teller.tell(p)).await?;
    drop(teller);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&made)?);
    } else {
        say!("{}: {}, the database and {} mirrors", made.path.display(), human(made.bytes), made.mirrors);
        say!("not in it: config.toml and the key of the secrets; keep those elsewhere");
    }
    Ok(())
}
