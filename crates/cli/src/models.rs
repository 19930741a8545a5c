//! `codegen models`: what runs may use, and the organization's own accounts with providers.

use std::{
    fs,
    io::{IsTerminal as _, Read as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{client::Client, out::say, render::plain_text};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print the server's answer as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the models that runs may name
    List,
    /// List the organization's own accounts with providers
    Accounts,
    /// Add an account; its key is asked for or read from standard input, and tried out
    Add(Account),
    /// Give an account another key, asked for or read from standard input, and try it out
    Key {
        /// Provider, or number as `accounts` has it
        account: String,
        /// Keep the key without trying it out
        #[arg(long)]
        no_test: bool,
    },
    /// Ask an account's provider something small
    Test {
        /// Provider, or number as `accounts` has it
        account: String,
    },
    /// Remove an account with its key
    Remove {
        /// Provider, or number as `accounts` has it
        account: String,
    },
    /// Set the model of runs that name none
    Default {
        /// Model, as `provider/name`; without one the server's
        model: Option<String>,
    },
}

#[derive(clap::Args)]
struct Account {
    /// anthropic, openai, gemini, xai, openrouter, ollama, or a word of your own for another service
    provider: String,
    /// Address, if not the provider's usual one
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// API that a service of your own speaks: openai or anthropic
    #[arg(long, value_name = "API")]
    api: Option<String>,
    /// Model that runs may use, without the provider; several times for several, without one all
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// File with the key, in place of asking for it
    #[arg(long, value_name = "FILE", conflicts_with = "no_key")]
    key_file: Option<PathBuf>,
    /// The service takes no key
    #[arg(long)]
    no_key: bool,
    /// Model to try it out with
    #[arg(long, value_name = "NAME")]
    test_model: Option<String>,
    /// Keep it without trying it out
    #[arg(long, conflicts_with = "test_model")]
    no_test: bool,
}

/// Runs one of the subcommands.
pub async fn models(args: Args) -> Result<()> {
    let client = Client::from_login()?;
    let accounts = client.org_path("/model-providers");
    let (method, path, body) = match &args.command {
        Command::List => (Method::GET, client.org_path("/models"), None),
        Command::Accounts => (Method::GET, accounts, None),
        Command::Add(account) => {
            let key = if account.no_key { None } else { Some(key(&account.provider, account.key_file.as_ref())?) };
            let body = json!({
                "provider": account.provider, "base_url": account.base_url, "api": account.api, "api_key": key,
                "allowed_models": account.models, "test": !account.no_test, "test_model": account.test_model,
            });
            (Method::POST, accounts, Some(body))
        }
        Command::Key { account, no_test } => {
            let path = format!("{accounts}/{}", numbered(&client, account).await?);
            (Method::PATCH, path, Some(json!({ "api_key": key(account, None)?, "test": !no_test })))
        }
        Command::Test { account } => {
            (Method::POST, format!("{accounts}/{}/test", numbered(&client, account).await?), None)
        }
        Command::Remove { account } => {
            (Method::DELETE, format!("{accounts}/{}", numbered(&client, account).await?), None)
        }
        Command::Default { model } => (Method::PUT, client.org_path("/default-model"), Some(json!({ "model": model }))),
    };
    let answer = client.ask(method, &path, body.as_ref()).await?;
    let failed = matches!(args.command, Command::Test { .. }) && answer["success"] != true;
    if args.json {
        say!("{answer}");
    } else {
        match args.command {
            Command::List => choices(&answer),
            Command::Accounts => answer["items"].as_array().into_iter().flatten().for_each(account),
            Command::Add(_) | Command::Key { .. } => account(&answer),
            Command::Test { .. } if failed => {}
            Command::Test { .. } => say!("{} answered in {} ms", words(&answer["model"]), answer["duration_ms"]),
            Command::Remove { .. } => say!("the account with {} is removed", words(&answer["provider"])),
            Command::Default { .. } => say!("default  {}", words(&answer["default_model"])),
        }
    }
    if failed {
        bail!("{}", words(&answer["error"]));
    }
    Ok(())
}

/// A key from a file, a person at the terminal, or standard input. Never an argument, which others on the machine see.
fn key(provider: &str, file: Option<&PathBuf>) -> Result<String> {
    let text = match file {
        Some(file) => fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?,
        None if std::io::stdin().is_terminal() => {
            rpassword::prompt_password(format!("Key of {provider}: ")).context("asking for the key")?
        }
        None => {
            let mut text = String::new();
            // More than the longest has.
            std::io::stdin().take(4096).read_to_string(&mut text).context("reading the key")?;
            text
        }
    };
    Ok(text.trim().to_owned())
}

/// The number of an account that is named by its provider or its number.
async fn numbered(client: &Client, named: &str) -> Result<i64> {
    if let Ok(id) = named.parse() {
        return Ok(id);
    }
    let page = client.get(&client.org_path("/model-providers")).await?;
    let found = page["items"].as_array().into_iter().flatten().find(|account| account["provider"] == named);
    found.and_then(|account| account["id"].as_i64()).with_context(|| format!("there is no account with {named}"))
}

fn words(value: &Value) -> String {
    plain_text(value.as_str().unwrap_or("-"))
}

fn choices(answer: &Value) {
    say!("default  {}", words(&answer["default_model"]));
    for choice in answer["models"].as_array().into_iter().flatten() {
        say!("  {:<44} {}", words(&choice["name"]), words(&choice["account"]));
    }
}

fn account(account: &Value) {
    let models: Vec<&str> =
        account["allowed_models"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let models = if models.is_empty() { "all models".to_owned() } else { models.join(" ") };
    let key = match (account["has_key"] == true, account["key_hint"].as_str()) {
        (false, _) => "no key".to_owned(),
        (true, None) => "key".to_owned(),
        (true, Some(hint)) => format!("key ...{hint}"),
    };
    let tested = account["tested_at"].as_str().map_or_else(|| "untested".to_owned(), |at| format!("tested {at}"));
    say!(
        "{:>6}  {:<12} {:<12} {tested}  {}  {}",
        account["id"].to_string(),
        words(&account["provider"]),
        plain_text(&key),
        words(&account["base_url"]),
        plain_text(&models)
    );
}
