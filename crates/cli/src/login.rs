//! `codegen login`: checks a token against its server and keeps both.

use anyhow::{Context, Result, bail};

use crate::{
    client::{Client, Login},
    out::say,
};

#[derive(clap::Args)]
pub struct Args {
    /// API token; `codegen serve` prints one at its first start
    #[arg(long)]
    token: String,
    /// The server's address
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
}

/// Refuses a token that the server does not know; nothing is kept then.
pub async fn login(args: Args) -> Result<()> {
    let client = Client::new(&args.url, &args.token, 0)?;
    let user = client.get("/v1/users/me").await?;
    let orgs = client.get("/v1/organizations").await?;
    let Some(org) = orgs["items"].as_array().and_then(|items| items.first()) else {
        bail!("this user belongs to no organization yet");
    };
    let org_id = org["id"].as_i64().context("the server's organization has no id")?;
    let path = Login { url: args.url.trim_end_matches('/').to_owned(), token: args.token, org_id }.save()?;
    let name = user["github_username"].as_str().unwrap_or("?");
    say!("Logged in as {name} in {} ({}).", org["name"].as_str().unwrap_or("?"), path.display());
    Ok(())
}
