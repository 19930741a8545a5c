//! `codegen profile`: who one is, on which server, in which organization; and which of several log-ins is in use.

use anyhow::{Result, bail};
use serde_json::json;

use crate::{client::Client, logins::Logins, out::say, render::plain_text};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print it as JSON, without tokens
    #[arg(long, global = true)]
    json: bool,
}

/// What to do; without one the profile in use is shown.
#[derive(clap::Subcommand)]
enum Command {
    /// List the profiles
    List,
    /// Use another one from now on; `CODEGEN_PROFILE` does so for one command
    Use {
        /// Its name
        name: String,
    },
}

/// Shows, lists or changes profiles.
pub async fn profile(args: Args) -> Result<()> {
    match args.command {
        None => show(args.json).await,
        Some(Command::List) => list(args.json),
        Some(Command::Use { name }) => {
            let mut logins = Logins::load()?;
            if !logins.profiles.contains_key(&name) {
                bail!("{}", logins.unknown(&name));
            }
            logins.current = name;
            logins.save().map(drop)
        }
    }
}

async fn show(as_json: bool) -> Result<()> {
    let client = Client::from_login()?;
    let user = client.get("/v1/users/me").await?;
    let orgs = client.items("/v1/organizations").await?;
    let org = orgs.iter().find(|org| org["id"] == client.org_id());
    if as_json {
        let profile = Logins::load()?.in_use();
        say!("{}", json!({ "profile": profile, "url": client.url(), "user": user, "organization": org }));
        return Ok(());
    }
    let field = |key: &str| plain_text(user[key].as_str().unwrap_or("-"));
    say!("user          {} ({})", field("github_username"), user["id"]);
    say!("name          {}", field("full_name"));
    say!("email         {}", field("email"));
    let name = org.and_then(|org| org["name"].as_str()).map_or_else(|| "none of yours".to_owned(), plain_text);
    say!("organization  {name} ({})", client.org_id());
    say!("server        {}", client.url());
    Ok(())
}

fn list(as_json: bool) -> Result<()> {
    let logins = Logins::load()?;
    let in_use = logins.in_use();
    if as_json {
        let all = logins.profiles.iter().map(|(name, login)| {
            json!({ "name": name, "url": login.url, "org_id": login.org_id, "in_use": *name == in_use })
        });
        say!("{}", json!({ "items": all.collect::<Vec<_>>() }));
        return Ok(());
    }
    for (name, login) in &logins.profiles {
        let mark = if *name == in_use { '*' } else { ' ' };
        say!("{mark} {name:<16} {} (organization {})", login.url, login.org_id);
    }
    Ok(())
}
