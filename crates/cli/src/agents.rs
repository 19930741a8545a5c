//! `codegen agents` and `codegen search`: a server's runs, newest first.

use anyhow::Result;
use serde_json::Value;

use crate::{
    client::Client,
    out::{fitted, say},
    render::plain_text,
};

/// What a run can be.
const STATUSES: [&str; 9] = [
    "ACTIVE",
    "PAUSED",
    "COMPLETE",
    "ERROR",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "MAX_ITERATIONS_REACHED",
    "OUT_OF_TOKENS",
];

#[derive(clap::Args)]
pub struct ListArgs {
    /// Print the server's runs as JSON
    #[arg(long)]
    json: bool,
    /// Most runs to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    /// Only those that are so
    #[arg(long, ignore_case = true, value_parser = STATUSES)]
    status: Option<String>,
    /// Only those from here: API, SLACK, GITHUB, LINEAR, LOCAL, ...
    #[arg(long, value_parser = str_upper)]
    source: Option<String>,
    /// Only those of this user
    #[arg(long, conflicts_with = "mine")]
    user_id: Option<i64>,
    /// Only your own
    #[arg(long)]
    mine: bool,
    /// Only those in this repository, as `codegen repo list` numbers it
    #[arg(long)]
    repo_id: Option<i64>,
    /// Only those with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Only those made at this time or day (as 2026-11-24) or later
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only those made before this time or day
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only those that have these words in their prompt, log or result
    #[arg(long, value_name = "WORDS")]
    search: Option<String>,
    /// Archived ones, in place of the others
    #[arg(long)]
    archived: bool,
    /// Only those older than this run
    #[arg(long, value_name = "ID")]
    before: Option<i64>,
}

#[derive(clap::Args)]
pub struct SearchArgs {
    /// Words, all of which a run must have; between quotation marks, side by side
    #[arg(required = true)]
    words: Vec<String>,
    /// Most runs to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    /// Print the server's answer as JSON
    #[arg(long)]
    json: bool,
}

fn str_upper(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.to_ascii_uppercase())
}

/// A path with those parameters that are given.
fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in parameters {
        if let Some(value) = value {
            query.append_pair(key, value);
        }
    }
    format!("{path}?{}", query.finish())
}

/// Lists the newest runs.
pub async fn list(args: ListArgs) -> Result<()> {
    let client = Client::from_login()?;
    let user_id = if args.mine { client.get("/v1/users/me").await?["id"].as_i64() } else { args.user_id };
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    let path = with_query(
        &client.org_path("/agent/runs"),
        &[
            ("limit", Some(args.limit.to_string())),
            ("user_id", number(user_id)),
            ("source_type", args.source),
            ("status", args.status.map(|status| status.to_ascii_uppercase())),
            ("repo_id", number(args.repo_id)),
            ("tag", args.tag),
            ("since", args.since),
            ("until", args.until),
            ("text", args.search),
            ("archived", args.archived.then(|| "true".to_owned())),
            ("before", number(args.before)),
        ],
    );
    let page = client.get(&path).await?;
    if args.json {
        say!("{page}");
        return Ok(());
    }
    page["items"].as_array().into_iter().flatten().for_each(line);
    Ok(())
}

/// Looks for words.
pub async fn search(args: SearchArgs) -> Result<()> {
    let client = Client::from_login()?;
    let text = Some(args.words.join(" "));
    let path =
        with_query(&client.org_path("/agent/runs/search"), &[("text", text), ("limit", Some(args.limit.to_string()))]);
    let found = client.get(&path).await?;
    if args.json {
        say!("{found}");
        return Ok(());
    }
    for item in found["items"].as_array().into_iter().flatten() {
        line(&item["run"]);
        for place in item["matches"].as_array().into_iter().flatten() {
            let words = plain_text(place["snippet"].as_str().unwrap_or_default());
            say!("        {}", words.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    Ok(())
}

fn line(run: &Value) {
    let field = |key: &str| run[key].as_str().unwrap_or("-").to_owned();
    let words = if run["summary"].is_string() { field("summary") } else { field("result") };
    let words = plain_text(&words);
    let words = fitted(words.lines().next().unwrap_or_default(), 60);
    say!("{:>6}  {:<10} {:<26} {words}", run["id"].to_string(), field("status"), field("created_at"));
}
