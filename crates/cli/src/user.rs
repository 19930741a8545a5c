//! `codegen user`: people, on the server's own machine.

use std::io::{IsTerminal as _, Read as _};

use anyhow::{Context as _, Result, bail};
use codegen_server::{config::Config, people};

use crate::out::say;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Set a user's password, asked for or read from standard input, and end their log-ins in the web app
    Password {
        /// Name, e-mail address or id
        #[arg(default_value = "admin")]
        name: String,
        #[command(flatten)]
        place: crate::DataDir,
    },
}

/// Runs the subcommand, beside a server that is up or alone.
pub async fn user(args: Args) -> Result<()> {
    let Command::Password { name, place } = args.command;
    let config = Config::load(place.data_dir.as_deref(), std::env::vars())?;
    let password = if std::io::stdin().is_terminal() {
        let password =
            rpassword::prompt_password(format!("New password of {name}: ")).context("asking for the password")?;
        if rpassword::prompt_password("Again: ").context("asking for the password")? != password {
            bail!("the two are not the same; nothing was changed");
        }
        password
    } else {
        let mut text = String::new();
        // More than the longest has.
        std::io::stdin().take(4096).read_to_string(&mut text).context("reading the password")?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    };
    let user = people::set_password(&config, &name, &password.into()).await?;
    say!("{} (id {}) has a new password; log-ins of theirs have ended", user.github_username, user.id);
    Ok(())
}
