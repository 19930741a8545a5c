//! `codegen webhooks`: addresses that are told of what happens to runs.

use anyhow::Result;
use reqwest::Method;
use serde_json::{Map, Value, json};

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
    /// List the organization's webhooks
    List,
    /// Add one; its signing secret is shown this once
    Add {
        /// https or http address
        url: String,
        /// Only these events, such as run.completed; without one, all
        #[arg(long = "event", value_name = "EVENT")]
        events: Vec<String>,
        /// For people
        #[arg(long)]
        description: Option<String>,
    },
    /// Change one
    Edit {
        /// As `list` numbers it
        id: i64,
        /// Another address
        #[arg(long)]
        url: Option<String>,
        /// Only these events
        #[arg(long = "event", value_name = "EVENT", conflicts_with = "all_events")]
        events: Vec<String>,
        /// Every event
        #[arg(long)]
        all_events: bool,
        /// Other words for people
        #[arg(long)]
        description: Option<String>,
    },
    /// Send again; what waited meanwhile is sent, too
    On {
        /// As `list` numbers it
        id: i64,
    },
    /// Send nothing for now
    Off {
        /// As `list` numbers it
        id: i64,
    },
    /// Remove one with the list of its deliveries
    Remove {
        /// As `list` numbers it
        id: i64,
    },
    /// Send it a ping
    Ping {
        /// As `list` numbers it
        id: i64,
    },
    /// Make a new signing secret, shown this once
    Rotate {
        /// As `list` numbers it
        id: i64,
        /// Hours in which the secret before is valid, too
        #[arg(long, default_value_t = 24)]
        overlap_hours: u32,
    },
    /// List what was and will be delivered, newest first
    Deliveries {
        /// As `list` numbers it
        id: i64,
        /// pending, delivered or failed
        #[arg(long)]
        state: Option<String>,
        /// Most deliveries to list
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
    },
    /// Send a delivery again, with its own id
    Replay {
        /// As `list` numbers it
        id: i64,
        /// As `deliveries` numbers it
        delivery: i64,
    },
}

/// Runs one of the subcommands.
pub async fn webhooks(args: Args) -> Result<()> {
    let client = Client::from_login()?;
    let path = |rest: &str| client.org_path(&format!("/webhooks{rest}"));
    let one = |id: i64| path(&format!("/{id}"));
    let (method, to, body) = match &args.command {
        Command::List => (Method::GET, path("?limit=100"), None),
        Command::Add { url, events, description } => {
            let body = json!({ "url": url, "events": events, "description": description });
            (Method::POST, path(""), Some(body))
        }
        Command::Edit { id, url, events, all_events, description } => {
            let mut body = Map::new();
            body.insert("url".to_owned(), json!(url));
            body.insert("description".to_owned(), json!(description));
            if *all_events || !events.is_empty() {
                body.insert("events".to_owned(), json!(events));
            }
            (Method::PATCH, one(*id), Some(body.into()))
        }
        Command::On { id } => (Method::PATCH, one(*id), Some(json!({ "enabled": true }))),
        Command::Off { id } => (Method::PATCH, one(*id), Some(json!({ "enabled": false }))),
        Command::Remove { id } => (Method::DELETE, one(*id), None),
        Command::Ping { id } => (Method::POST, path(&format!("/{id}/ping")), None),
        Command::Rotate { id, overlap_hours } => {
            (Method::POST, path(&format!("/{id}/rotate")), Some(json!({ "overlap_hours": overlap_hours })))
        }
        Command::Deliveries { id, state, limit } => {
            let state = state.as_ref().map(|word| format!("&state={word}")).unwrap_or_default();
            (Method::GET, path(&format!("/{id}/deliveries?limit={limit}{state}")), None)
        }
        Command::Replay { id, delivery } => (Method::POST, path(&format!("/{id}/deliveries/{delivery}/replay")), None),
    };
    let answer = client.ask(method, &to, body.as_ref()).await?;
    if args.json {
        say!("{answer}");
        return Ok(());
    }
    match args.command {
        Command::List => rows(&answer).for_each(endpoint),
        Command::Deliveries { .. } => rows(&answer).for_each(delivery),
        Command::Ping { .. } | Command::Replay { .. } => delivery(&answer),
        Command::Remove { .. } => say!("webhook {} is removed", answer["id"]),
        Command::Add { .. }
        | Command::Edit { .. }
        | Command::On { .. }
        | Command::Off { .. }
        | Command::Rotate { .. } => endpoint(&answer),
    }
    Ok(())
}

fn rows(page: &Value) -> impl Iterator<Item = &Value> {
    page["items"].as_array().into_iter().flatten()
}

fn words(value: &Value) -> String {
    plain_text(value.as_str().unwrap_or_default())
}

fn endpoint(endpoint: &Value) {
    let events: Vec<&str> = endpoint["events"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let events = if events.is_empty() { "all events".to_owned() } else { events.join(" ") };
    let state = if endpoint["enabled"] == true { "on" } else { "off" };
    say!(
        "{:>6}  {state:<3} {}  {events}  {}",
        endpoint["id"].to_string(),
        words(&endpoint["url"]),
        words(&endpoint["description"])
    );
    if let Some(why) = endpoint["disabled_reason"].as_str() {
        say!("        {}", plain_text(why));
    }
    if let Some(until) = endpoint["previous_secret_until"].as_str() {
        say!("        the secret before the last rotation is valid until {until}");
    }
    if let Some(secret) = endpoint["secret"].as_str() {
        say!("secret (shown once): {secret}");
    }
}

fn delivery(delivery: &Value) {
    let status = delivery["answer"]["status"].as_i64().map_or_else(|| "-".to_owned(), |status| status.to_string());
    say!(
        "{:>6}  {:<20} {:<9} tries {:<2} {status:<4} {}  {}",
        delivery["id"].to_string(),
        words(&delivery["event"]),
        words(&delivery["state"]),
        delivery["attempts"],
        words(&delivery["created_at"]),
        words(&delivery["error"])
    );
}
