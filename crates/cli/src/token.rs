//! `codegen token`: API tokens, one's own and those of service accounts.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{client::Client, out::say};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Of this service account of the organization, by its number, instead of your own
    #[arg(long, value_name = "ID", global = true)]
    service_account: Option<i64>,
    /// Print what the server answers as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List tokens, without what is secret
    List,
    /// Make a token; it is printed once
    Create {
        /// What it is for
        name: String,
        /// What it may do, as `runs:write`; may be given several times [default: all that your token may]
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// When it expires [default: never]
        #[arg(long, value_name = "DAYS")]
        expires_in_days: Option<i64>,
    },
    /// Revoke a token by its number, with its log-ins and open streams
    Revoke {
        /// From `codegen token list`
        id: i64,
    },
}

/// Runs one of the subcommands.
pub async fn token(args: Args) -> Result<()> {
    let client = Client::from_login()?;
    let place = match args.service_account {
        Some(id) => client.org_path(&format!("/service-accounts/{id}/tokens")),
        None => "/v1/tokens".to_owned(),
    };
    match args.command {
        Command::List => {
            let tokens = client.items(&place).await?;
            if args.json {
                say!("{}", Value::from(tokens));
                return Ok(());
            }
            for token in tokens {
                let text = |key: &str| token[key].as_str().unwrap_or("-").to_owned();
                let scopes = token["scopes"].as_array().map_or_else(
                    || "all".to_owned(),
                    |words| words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
                );
                let (id, name, hint) = (token["id"].to_string(), text("name"), text("hint"));
                let (used, ends) = (text("last_used_at"), text("expires_at"));
                say!("{id:>6}  {name:<24} {hint:<9} {scopes}  used {used}  expires {ends}");
            }
        }
        Command::Create { name, scopes, expires_in_days } => {
            let mut body = json!({"name": name, "expires_in_days": expires_in_days});
            if !scopes.is_empty() {
                body["scopes"] = scopes.into();
            }
            let made = client.post(&place, &body).await?;
            if args.json {
                say!("{made}");
            } else {
                say!("{}", made["token"].as_str().unwrap_or_default());
            }
        }
        Command::Revoke { id } => client.delete(&format!("{place}/{id}")).await?,
    }
    Ok(())
}
