//! `codegen db`: the database as a whole.

use std::path::PathBuf;

use anyhow::Result;
use codegen_server::{
    backup::{self, Contents},
    config::Config,
    database,
    disk::human,
    prune::now,
};
use serde_json::json;

use crate::{out::say, progress::Teller, restore::show};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Bring the database to this version, which each start of the server does by itself
    Migrate {
        /// Print as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: crate::DataDir,
    },
    /// Copy the database alone into one file, while servers run
    Backup {
        /// New file, or a folder in which to make one that is named after the time
        into: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: crate::DataDir,
    },
    /// Fill an empty database from a backup
    Restore {
        /// What `codegen db backup` or `codegen backup` made, of SQLite's database or PostgreSQL's
        file: PathBuf,
        /// Print as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: crate::DataDir,
    },
    /// Copy the SQLite database of the data directory into an empty PostgreSQL database, while no server runs
    Copy {
        /// The PostgreSQL database; its password may be in PGPASSWORD or in ~/.pgpass
        #[arg(long, value_name = "URL")]
        to: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: crate::DataDir,
    },
}

/// Runs the subcommand.
pub async fn db(args: Args) -> Result<()> {
    let load = |place: &crate::DataDir| Config::load(place.data_dir.as_deref(), std::env::vars());
    let mut teller = Teller::new();
    match args.command {
        Command::Migrate { json, place } => {
            let migrated = database::migrate(&load(&place)?).await?;
            let database::Migrated { database, from, to, applied } = migrated;
            if json {
                let words = json!({"database": database, "from": from, "to": to, "applied": applied});
                say!("{}", serde_json::to_string_pretty(&words)?);
            } else if applied.is_empty() {
                say!("{database} is of this version already: {to}");
            } else {
                let from = from.map_or_else(|| "nothing".to_owned(), |from| format!("version {from}"));
                say!("{database} is brought from {from} to version {to}, in {} steps", applied.len());
            }
        }
        Command::Backup { into, json, place } => {
            let config = load(&place)?;
            let made = backup::backup(&config, &into, Contents::Database, now(), &mut |p| teller.tell(p)).await?;
            drop(teller);
            if json {
                say!("{}", serde_json::to_string_pretty(&made)?);
            } else {
                say!("{}: {}, the database", made.path.display(), human(made.bytes));
                say!("not in it: the mirrors, config.toml and the key of the secrets; keep the last two elsewhere");
            }
        }
        Command::Restore { file, json, place } => {
            let config = load(&place)?;
            let restored = backup::restore_database(&config, &file, now(), &mut |p| teller.tell(p)).await?;
            drop(teller);
            show(&restored, json, || say!("the database is restored"))?;
        }
        Command::Copy { to, json, place } => {
            let copied = database::copy(&load(&place)?, &to, &mut |p| teller.tell(p)).await?;
            drop(teller);
            if json {
                let tables: serde_json::Map<_, _> =
                    copied.into_iter().map(|copied| (copied.table, copied.rows.into())).collect();
                say!("{}", serde_json::to_string_pretty(&json!({ "rows": tables }))?);
                return Ok(());
            }
            for copied in &copied {
                say!("{:<22} {:>12}", copied.table, copied.rows);
            }
            let rows: i64 = copied.iter().map(|copied| copied.rows).sum();
            say!("{rows} rows of {} tables are copied, and counted there", copied.len());
            say!(
                "set DATABASE_URL before the next start; the file stays as it is. Several servers need one \
                 CODEGEN_SECRET_KEY"
            );
        }
    }
    Ok(())
}
