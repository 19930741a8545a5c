//! `codegen restore`: a new data directory from a backup.

use std::path::PathBuf;

use anyhow::Result;
use codegen_server::{
    backup::{self, Restored},
    config::Config,
    prune::now,
};

use crate::{out::say, progress::Teller};

#[derive(clap::Args)]
pub struct Args {
    /// What `codegen backup` made; from `codegen db backup` it makes a directory without mirrors
    file: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: crate::DataDir,
}

/// Restores into a directory that is empty or not there yet.
pub async fn restore(args: Args) -> Result<()> {
    let config = Config::load(args.place.data_dir.as_deref(), std::env::vars())?;
    let mut teller = Teller::new();
    let restored = backup::restore(&config, &args.file, now(), &mut |p| teller.tell(p)).await?;
    drop(teller);
    show(&restored, args.json, || {
        say!("{} is restored, with {} mirrors", config.data_dir.display(), restored.mirrors);
        say!("put config.toml into it before the start, where there was one");
    })
}

/// Says what was restored.
pub fn show(restored: &Restored, json: bool, what: impl FnOnce()) -> Result<()> {
    if json {
        say!("{}", serde_json::to_string_pretty(restored)?);
        return Ok(());
    }
    what();
    if !restored.live_runs.is_empty() {
        let ids: Vec<String> = restored.live_runs.iter().map(ToString::to_string).collect();
        let (runs, go) = if ids.len() == 1 { ("run", "goes") } else { ("runs", "go") };
        say!("{runs} {} {go} on at the next start", ids.join(", "));
    }
    if restored.secrets > 0 {
        say!(
            "the backup has {} encrypted secrets and not their key: put {} of the old data directory into it, or set \
             CODEGEN_SECRET_KEY, before the start",
            restored.secrets,
            codegen_server::secrets::FILE
        );
    }
    Ok(())
}
