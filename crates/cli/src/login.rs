//! `codegen login` and `logout`: check a token against its server and keep both, or forget them.

use std::io::{IsTerminal as _, Read as _};

use anyhow::{Context, Result, bail};

use crate::{
    client::Client,
    logins::{Login, Logins},
    out::say,
};

#[derive(clap::Args)]
pub struct Args {
    /// API token, or `-` to read it from standard input; without one it is asked for. `codegen serve` prints one at its first
    /// start, and the web app's page of tokens makes more
    #[arg(long)]
    token: Option<String>,
    /// The server's address [default: the profile's, else http://127.0.0.1:8080]
    #[arg(long, env = "CODEGEN_API_BASE_URL")]
    url: Option<String>,
    /// Keep it under this name, beside others, and use it from now on [default: the one in use]
    #[arg(long)]
    profile: Option<String>,
    /// Work in this organization [default: the first]
    #[arg(long)]
    org_id: Option<i64>,
}

#[derive(clap::Args)]
pub struct LogoutArgs {
    /// Forget this one [default: the one in use]
    #[arg(long)]
    profile: Option<String>,
}

fn token(given: Option<String>, url: &str) -> Result<String> {
    let token = match given.as_deref() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading the token from standard input")?;
            text
        }
        Some(token) => token.to_owned(),
        None if std::io::stdin().is_terminal() => {
            eprintln!("Make a token at {url}/tokens and paste it here.");
            rpassword::prompt_password("Token: ").context("reading the token")?
        }
        None => bail!("give --token, or `--token -` to read it from standard input"),
    };
    let token = token.trim();
    if token.is_empty() {
        bail!("the token is empty");
    }
    Ok(token.to_owned())
}

/// Refuses a token that the server does not know; nothing is kept then.
pub async fn login(args: Args) -> Result<()> {
    let mut logins = Logins::load()?;
    let profile = args.profile.unwrap_or_else(|| logins.in_use());
    if profile.is_empty() || !profile.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c)) {
        bail!("a profile's name has letters, digits, `-`, `_` and `.`, not {profile:?}");
    }
    let before = logins.profiles.get(&profile);
    let url = args.url.or_else(|| Some(before?.url.clone())).unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    let url = url.trim_end_matches('/').to_owned();
    let token = token(args.token, &url)?;
    let client = Client::new(&url, &token, 0)?;
    let user = client.get("/v1/users/me").await?;
    let orgs = client.items("/v1/organizations").await?;
    let org = match args.org_id {
        None => orgs.first().context("this user belongs to no organization yet")?,
        Some(id) => orgs.iter().find(|org| org["id"] == id).with_context(|| {
            let ids: Vec<String> = orgs.iter().map(|org| org["id"].to_string()).collect();
            format!("this user is in no organization {id}: there are {}", ids.join(", "))
        })?,
    };
    let org_id = org["id"].as_i64().context("the server's organization has no id")?;
    logins.profiles.insert(profile.clone(), Login { url, token, org_id });
    logins.current = profile;
    let path = logins.save()?;
    let name = user["github_username"].as_str().unwrap_or("?");
    say!("Logged in as {name} in {} ({}).", org["name"].as_str().unwrap_or("?"), path.display());
    Ok(())
}

/// Forgets a profile. The token stays good until it is revoked.
pub fn logout(args: LogoutArgs) -> Result<()> {
    let mut logins = Logins::load()?;
    let profile = args.profile.unwrap_or_else(|| logins.in_use());
    if logins.profiles.remove(&profile).is_none() {
        bail!("{}", if logins.profiles.is_empty() { "not logged in".to_owned() } else { logins.unknown(&profile) });
    }
    if logins.current == profile {
        logins.current = logins.profiles.keys().next().cloned().unwrap_or_default();
    }
    logins.save()?;
    say!("Forgot the log-in of profile {profile}; `codegen token revoke` makes a token worthless.");
    if !logins.current.is_empty() {
        say!("Profile {} is in use now.", logins.current);
    }
    Ok(())
}
