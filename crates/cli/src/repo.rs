//! `codegen repo`: the server's repositories.

use anyhow::Result;
use serde_json::json;

use crate::{
    client::Client,
    out::{padded, say},
    render::plain_text,
};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Add a repository by its URL, or by a path on the server's machine
    Add {
        /// https, ssh or file URL, or a path
        origin: String,
        /// Print the repository as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the repositories
    List {
        /// Print the server's page as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs one of the subcommands.
pub async fn repo(args: Args) -> Result<()> {
    let client = Client::from_login()?;
    match args.command {
        Command::Add { origin, json } => {
            // A path means the same folder from wherever the server was started.
            let path = std::path::Path::new(&origin);
            let origin = if path.is_dir() { path.canonicalize()?.display().to_string() } else { origin };
            let repo = client.post(&client.org_path("/repos"), &json!({"url": origin})).await?;
            if json {
                say!("{repo}");
            } else {
                say!("{}  {}", repo["id"], repo["full_name"].as_str().unwrap_or("?"));
            }
        }
        Command::List { json } => {
            let page = client.get(&client.org_path("/repos")).await?;
            if json {
                say!("{page}");
                return Ok(());
            }
            for repo in page["items"].as_array().into_iter().flatten() {
                let field = |key: &str| repo[key].as_str().unwrap_or("-").to_owned();
                say!(
                    "{:>6}  {} {}",
                    repo["id"].to_string(),
                    padded(&plain_text(&field("full_name")), 40),
                    field("setup_status")
                );
            }
        }
    }
    Ok(())
}
