//! `codegen rules`: what agents shall keep to.

use std::path::PathBuf;

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{client::Client, out::say, render::plain_text};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Your own rules, which nobody else sees; without this and --repo-id, the organization's
    #[arg(long, global = true, conflicts_with = "repo_id")]
    mine: bool,
    /// Rules of this repository
    #[arg(long, global = true)]
    repo_id: Option<i64>,
    /// Print the server's answer as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List them in their order
    List,
    /// Add one
    Add {
        /// Its words
        #[arg(required_unless_present = "file", conflicts_with = "file")]
        text: Option<String>,
        /// File with its words
        #[arg(long)]
        file: Option<PathBuf>,
        /// Its place; without one it comes last
        #[arg(long)]
        position: Option<i64>,
    },
    /// Change the words or the place of one
    Edit {
        /// As `list` numbers it
        id: i64,
        /// Its words
        #[arg(conflicts_with = "file")]
        text: Option<String>,
        /// File with its words
        #[arg(long)]
        file: Option<PathBuf>,
        /// Its place
        #[arg(long)]
        position: Option<i64>,
    },
    /// Follow one again
    On {
        /// As `list` numbers it
        id: i64,
    },
    /// Follow one no more, and keep it
    Off {
        /// As `list` numbers it
        id: i64,
    },
    /// Remove one
    Remove {
        /// As `list` numbers it
        id: i64,
    },
}

/// Runs one of the subcommands.
pub async fn rules(args: Args) -> Result<()> {
    let client = Client::from_login()?;
    let list = match (args.mine, args.repo_id) {
        (true, _) => client.org_path("/my-rules"),
        (false, Some(id)) => client.org_path(&format!("/repos/{id}/rules")),
        (false, None) => client.org_path("/rules"),
    };
    let one = |id: i64| format!("{list}/{id}");
    let (method, path, body) = match &args.command {
        Command::List => (Method::GET, format!("{list}?limit=100"), None),
        Command::Add { text, file, position } => {
            let body = json!({ "text": words(text.as_ref(), file.as_ref())?, "position": position });
            (Method::POST, list.clone(), Some(body))
        }
        Command::Edit { id, text, file, position } => {
            let body = json!({ "text": words(text.as_ref(), file.as_ref())?, "position": position });
            (Method::PATCH, one(*id), Some(body))
        }
        Command::On { id } => (Method::PATCH, one(*id), Some(json!({ "enabled": true }))),
        Command::Off { id } => (Method::PATCH, one(*id), Some(json!({ "enabled": false }))),
        Command::Remove { id } => (Method::DELETE, one(*id), None),
    };
    let answer = client.ask(method, &path, body.as_ref()).await?;
    if args.json {
        say!("{answer}");
        return Ok(());
    }
    match args.command {
        Command::List => answer["items"].as_array().into_iter().flatten().for_each(show),
        Command::Remove { id } => say!("rule {id} is removed"),
        Command::Add { .. } | Command::Edit { .. } | Command::On { .. } | Command::Off { .. } => show(&answer),
    }
    Ok(())
}

fn words(text: Option<&String>, file: Option<&PathBuf>) -> Result<Option<String>> {
    match file {
        Some(file) => std::fs::read_to_string(file).map(Some).with_context(|| format!("reading {}", file.display())),
        None => Ok(text.cloned()),
    }
}

fn show(rule: &Value) {
    let state = if rule["enabled"] == true { "on" } else { "off" };
    let text = plain_text(rule["text"].as_str().unwrap_or_default()).replace('\n', "\n               ");
    say!("{:>6}  {state:<3} {}", rule["id"].to_string(), text);
}
