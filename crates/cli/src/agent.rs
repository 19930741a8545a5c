//! `codegen agent` and `codegen agents`: runs on a server.

use std::{io::Write as _, path::PathBuf};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{CommandFactory as _, error::ErrorKind};
use serde_json::{Map, Value, json};

use crate::{
    client::Client,
    out::{fitted, say},
    render::{Renderer, plain_text},
};

#[derive(clap::Args)]
#[command(
    group(clap::ArgGroup::new("what").required(true).args(["prompt", "id"])),
    override_usage = "codegen agent --prompt <PROMPT> [OPTIONS]\n       codegen agent --id <ID> [OPTIONS] [COMMAND]"
)]
pub struct Args {
    /// What the agent shall do
    #[arg(long)]
    prompt: Option<String>,
    /// This run
    #[arg(long)]
    id: Option<i64>,
    /// Repository, as `codegen repo list` numbers it
    #[arg(long, requires = "prompt")]
    repo_id: Option<i64>,
    /// Model, as `provider/name`
    #[arg(long, requires = "prompt")]
    model: Option<String>,
    /// Watch the run until it ends
    #[arg(long, global = true)]
    follow: bool,
    /// Print the answer (with --follow and for logs: events, one a line) as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

/// What to do with a run; without one it is shown.
#[derive(clap::Subcommand)]
enum Action {
    /// Print the run's trace so far
    Logs,
    /// Print what the run changed, as a patch
    Diff,
    /// Stop the run; its work is kept
    Stop,
    /// Send the run a message: a live one takes it at its next step, one that has ended goes on with it
    Resume {
        /// What the agent shall do next
        text: String,
        /// Image to send with it (png, jpeg, gif or webp)
        #[arg(long = "image", value_name = "FILE")]
        images: Vec<PathBuf>,
    },
}

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
}

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

fn str_upper(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.to_ascii_uppercase())
}

/// Starts a run, or shows, follows, continues or stops one.
pub async fn agent(args: Args) -> Result<()> {
    let client = Client::from_login()?;
    let Some(id) = args.id else {
        if args.action.is_some() {
            let message = "logs, diff, stop and resume are of a run: name it with --id";
            crate::Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit();
        }
        let mut body = Map::new();
        body.insert("prompt".to_owned(), Value::from(args.prompt.context("give --prompt or --id")?));
        if let Some(repo_id) = args.repo_id {
            body.insert("repo_id".to_owned(), Value::from(repo_id));
        }
        if let Some(model) = args.model {
            body.insert("model".to_owned(), Value::from(model));
        }
        let run = client.post_once(&client.org_path("/agent/run"), &Value::Object(body)).await?;
        return shown(&client, &run, None, args.follow, args.json).await;
    };
    let path = client.org_path(&format!("/agent/run/{id}"));
    match args.action {
        None => shown(&client, &client.get(&path).await?, None, args.follow, args.json).await,
        Some(Action::Logs) if args.follow => {
            shown(&client, &client.get(&path).await?, None, args.follow, args.json).await
        }
        Some(Action::Logs) => {
            let mut renderer = Renderer::new(args.json);
            client.events_so_far(id, |kind, body| renderer.event(kind, body)).await?;
            renderer.end();
            Ok(())
        }
        Some(Action::Diff) => {
            let diff = format!("{path}/diff");
            let text = if args.json { format!("{}\n", client.json(&diff).await?) } else { client.text(&diff).await? };
            // A closed pipe is the reader's wish to see no more.
            std::io::stdout().write_all(text.as_bytes()).ok();
            Ok(())
        }
        Some(Action::Stop) => {
            let run = client.post_once(&client.org_path("/agent/run/stop"), &json!({ "agent_run_id": id })).await?;
            // Who stops a run and sees that it stopped has succeeded.
            let ended = shown(&client, &run, None, args.follow, args.json).await;
            if args.follow {
                ended.or_else(|error| if error.is::<Ended>() { Ok(()) } else { Err(error) })
            } else {
                ended
            }
        }
        Some(Action::Resume { text, images }) => {
            let images = images.iter().map(data_uri).collect::<Result<Vec<_>>>()?;
            // What was there before was seen before.
            let seen = if args.follow { client.events_so_far(id, |_, _| {}).await? } else { None };
            let body = json!({ "agent_run_id": id, "prompt": text, "images": images });
            let run = client.post_once(&client.org_path("/agent/run/resume"), &body).await?;
            shown(&client, &run, seen, args.follow, args.json).await
        }
    }
}

/// A run that was followed to an end other than COMPLETE.
#[derive(Debug)]
struct Ended {
    id: i64,
    status: String,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "run {} ended as {}", self.id, self.status)
    }
}

impl std::error::Error for Ended {}

/// Prints a run, or follows it from the entry after `seen` and prints how it ended.
async fn shown(client: &Client, run: &Value, seen: Option<String>, follow: bool, json: bool) -> Result<()> {
    if !follow {
        print_run(run, None, json);
        return Ok(());
    }
    let id = run["id"].as_i64().context("the server's run has no id")?;
    let mut renderer = Renderer::new(json);
    client.follow(id, seen, |kind, body| renderer.event(kind, body)).await?;
    renderer.end();
    let path = client.org_path(&format!("/agent/run/{id}"));
    let run = client.get(&path).await?;
    if !json {
        let diff = client.json(&format!("{path}/diff")).await?;
        say!("");
        print_run(&run, diff["stat"].as_str().filter(|stat| !stat.is_empty()), false);
        if let Some(branch) = renderer.branch() {
            say!("branch        {branch}");
        }
        say!("used          {}", renderer.used());
    }
    match run["status"].as_str() {
        Some("COMPLETE") => Ok(()),
        status => Err(Ended { id, status: status.unwrap_or("unknown").to_owned() }.into()),
    }
}

/// Lists the newest runs.
pub async fn list(mut args: ListArgs) -> Result<()> {
    args.status = args.status.map(|status| status.to_ascii_uppercase());
    let client = Client::from_login()?;
    let mut query = String::new();
    let user_id = if args.mine { client.get("/v1/users/me").await?["id"].as_i64() } else { args.user_id };
    if let Some(user_id) = user_id {
        query.push_str(&format!("&user_id={user_id}"));
    }
    if let Some(source) = &args.source {
        // The server says which there are; only letters can be right.
        if !source.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_') {
            bail!("{source} is no source");
        }
        query.push_str(&format!("&source_type={source}"));
    }
    let wanted = args.limit as usize;
    let (mut runs, mut skip) = (Vec::new(), 0);
    // The server does not filter by status, so pages are read until there are enough.
    let page = loop {
        let limit = if args.status.is_some() { 100 } else { args.limit };
        let mut page = client.get(&client.org_path(&format!("/agent/runs?limit={limit}&skip={skip}{query}"))).await?;
        let items = page["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        skip += items.len();
        let is_last = items.len() < limit as usize;
        runs.extend(
            items.into_iter().filter(|run| args.status.is_none() || run["status"].as_str() == args.status.as_deref()),
        );
        if is_last || runs.len() >= wanted || args.status.is_none() {
            break page;
        }
    };
    runs.truncate(wanted);
    if args.json {
        let mut page = page;
        page["items"] = Value::from(runs);
        say!("{page}");
        return Ok(());
    }
    for run in &runs {
        let field = |key: &str| run[key].as_str().unwrap_or("-").to_owned();
        let words = if run["summary"].is_string() { field("summary") } else { field("result") };
        let words = plain_text(&words);
        let words = fitted(words.lines().next().unwrap_or_default(), 60);
        say!("{:>6}  {:<10} {:<26} {words}", run["id"].to_string(), field("status"), field("created_at"));
    }
    Ok(())
}

fn print_run(run: &Value, stat: Option<&str>, json: bool) {
    if json {
        say!("{run}");
        return;
    }
    let field = |key: &str| plain_text(run[key].as_str().unwrap_or("-"));
    say!("run {}: {}\n{}", run["id"], field("status"), field("web_url"));
    if run["result"].is_string() && stat.is_none() {
        say!("{}", field("result"));
    }
    if let Some(stat) = stat {
        say!("{}", plain_text(stat.trim_end()));
    }
    for pull_request in run["github_pull_requests"].as_array().into_iter().flatten() {
        say!("pull request  {}", plain_text(pull_request["url"].as_str().unwrap_or("-")));
    }
}

fn data_uri(path: &PathBuf) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let kind = match bytes.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => "png",
        [0xff, 0xd8, 0xff, ..] => "jpeg",
        [b'G', b'I', b'F', b'8', ..] => "gif",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        _ => bail!("{} is no png, jpeg, gif or webp image", path.display()),
    };
    Ok(format!("data:image/{kind};base64,{}", STANDARD.encode(bytes)))
}
