//! `codegen agent` and `codegen agents`: runs on a server.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::{client::Client, render::Renderer};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["prompt", "id"])))]
pub struct Args {
    /// What the agent shall do
    #[arg(long)]
    prompt: Option<String>,
    /// Show this run
    #[arg(long)]
    id: Option<i64>,
    /// Repository, as `codegen repo list` numbers it
    #[arg(long, requires = "prompt")]
    repo_id: Option<i64>,
    /// Model, as `provider/name`
    #[arg(long, requires = "prompt")]
    model: Option<String>,
    /// Watch the run until it ends
    #[arg(long)]
    follow: bool,
    /// Print the run (with --follow: its events, one a line) as JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct ListArgs {
    /// Print the server's page as JSON
    #[arg(long)]
    json: bool,
    /// Most runs to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
}

/// Starts a run or shows one, and follows it if asked to.
pub async fn agent(args: Args) -> Result<()> {
    let client = Client::from_login()?;
    let run = match (args.id, args.prompt) {
        (Some(id), _) => client.get(&client.org_path(&format!("/agent/run/{id}"))).await?,
        (None, Some(prompt)) => {
            let mut body = Map::new();
            body.insert("prompt".to_owned(), Value::from(prompt));
            if let Some(repo_id) = args.repo_id {
                body.insert("repo_id".to_owned(), Value::from(repo_id));
            }
            if let Some(model) = args.model {
                body.insert("model".to_owned(), Value::from(model));
            }
            client.post(&client.org_path("/agent/run"), &Value::Object(body)).await?
        }
        (None, None) => bail!("give --prompt or --id"),
    };
    if !args.follow {
        print_run(&run, args.json);
        return Ok(());
    }
    let id = run["id"].as_i64().context("the server's run has no id")?;
    let mut renderer = Renderer::new(args.json);
    client.follow(id, |kind, body| renderer.event(kind, body)).await?;
    let run = client.get(&client.org_path(&format!("/agent/run/{id}"))).await?;
    if !args.json {
        print_run(&run, false);
    }
    match run["status"].as_str() {
        Some("COMPLETE") => Ok(()),
        status => bail!("run {id} ended as {}", status.unwrap_or("unknown")),
    }
}

/// Lists the newest runs.
pub async fn list(args: ListArgs) -> Result<()> {
    let client = Client::from_login()?;
    let page = client.get(&client.org_path(&format!("/agent/runs?limit={}", args.limit))).await?;
    if args.json {
        println!("{page}");
        return Ok(());
    }
    for run in page["items"].as_array().into_iter().flatten() {
        let field = |key: &str| run[key].as_str().unwrap_or("-").to_owned();
        let words = if run["summary"].is_string() { field("summary") } else { field("result") };
        let words: String = words.lines().next().unwrap_or_default().chars().take(60).collect();
        println!("{:>6}  {:<10} {:<26} {words}", run["id"].to_string(), field("status"), field("created_at"));
    }
    Ok(())
}

fn print_run(run: &Value, json: bool) {
    if json {
        println!("{run}");
        return;
    }
    let field = |key: &str| run[key].as_str().unwrap_or("-").to_owned();
    println!("run {}: {}\n{}", run["id"], field("status"), field("web_url"));
    for pull_request in run["github_pull_requests"].as_array().into_iter().flatten() {
        println!("pull request: {}", pull_request["url"].as_str().unwrap_or("-"));
    }
    if run["result"].is_string() {
        println!("{}", field("result"));
    }
}
