//! `codegen agent`: a run on a server.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{CommandFactory as _, error::ErrorKind};
use serde_json::{Map, Value, json};

use crate::{
    client::Client,
    out::say,
    pull::pull,
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
    /// Word to find the run by; may be given several times
    #[arg(long = "tag", value_name = "TAG", requires = "prompt")]
    tags: Vec<String>,
    /// File with a JSON schema: the run ends with a structured result that fits it
    #[arg(long, value_name = "FILE", requires = "prompt")]
    output_schema: Option<PathBuf>,
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
    /// Check the run's branch out here, from whichever remote has it
    Pull,
    /// Show the run in the browser
    Open,
    /// Stop the run; its work is kept
    Stop,
    /// Leave the run out of lists
    Archive,
    /// Take the run back into lists
    Unarchive,
    /// Set the run's tags; without any, take them away
    Tag {
        /// Words to find it by
        tags: Vec<String>,
    },
    /// Remove the run with all that is kept of it, for good; a live one is stopped first
    Delete,
    /// Send the run a message: a live one takes it at its next step, one that has ended goes on with it
    Resume {
        /// What the agent shall do next
        text: String,
        /// Image to send with it (png, jpeg, gif or webp)
        #[arg(long = "image", value_name = "FILE")]
        images: Vec<PathBuf>,
        /// File with another JSON schema for the run's structured result
        #[arg(long, value_name = "FILE")]
        output_schema: Option<PathBuf>,
    },
}

/// Starts a run, or shows, follows, continues or stops one.
pub async fn agent(args: Args) -> Result<()> {
    let client = Client::from_login()?;
    let Some(id) = args.id else {
        if args.action.is_some() {
            let message = "logs, diff, pull, open, stop and resume are of a run: name it with --id";
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
        if !args.tags.is_empty() {
            body.insert("tags".to_owned(), Value::from(args.tags));
        }
        if let Some(path) = &args.output_schema {
            body.insert("output_schema".to_owned(), json_of(&read_schema(path)?, path)?);
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
        Some(Action::Pull) => pull(&client, id).await,
        Some(Action::Open) => {
            let run = client.get(&path).await?;
            let url = run["web_url"].as_str().context("the server's run has no page")?;
            say!("{}", plain_text(url));
            open::that_detached(url).context("starting the browser; open the address above by hand")
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
        Some(Action::Archive) => edited(&client, &path, &json!({ "archived": true }), args.json).await,
        Some(Action::Unarchive) => edited(&client, &path, &json!({ "archived": false }), args.json).await,
        Some(Action::Tag { tags }) => edited(&client, &path, &json!({ "tags": tags }), args.json).await,
        Some(Action::Delete) => {
            let answer = client.ask(reqwest::Method::DELETE, &path, None).await?;
            if args.json {
                say!("{answer}")
            } else {
                say!("run {id} is removed")
            };
            Ok(())
        }
        Some(Action::Resume { text, images, output_schema }) => {
            let images = images.iter().map(data_uri).collect::<Result<Vec<_>>>()?;
            // What was there before was seen before.
            let seen = if args.follow { client.events_so_far(id, |_, _| {}).await? } else { None };
            let mut body = json!({ "agent_run_id": id, "prompt": text, "images": images });
            if let Some(path) = &output_schema {
                body["output_schema"] = json_of(&read_schema(path)?, path)?;
            }
            let run = client.post_once(&client.org_path("/agent/run/resume"), &body).await?;
            shown(&client, &run, seen, args.follow, args.json).await
        }
    }
}

async fn edited(client: &Client, path: &str, change: &Value, json: bool) -> Result<()> {
    print_run(&client.patch(path, change).await?, None, json);
    Ok(())
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

/// Prints a run.
pub fn print_run(run: &Value, stat: Option<&str>, json: bool) {
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
    if let Some(tags) = run["tags"].as_array().filter(|tags| !tags.is_empty()) {
        let tags: Vec<String> = tags.iter().filter_map(Value::as_str).map(plain_text).collect();
        say!("tags          {}", tags.join(", "));
    }
    if !run["output"].is_null() {
        say!("output        {}", plain_text(&run["output"].to_string()));
    }
    for pull_request in run["github_pull_requests"].as_array().into_iter().flatten() {
        say!("pull request  {}", plain_text(pull_request["url"].as_str().unwrap_or("-")));
    }
}

/// A file's JSON schema, as it is written there.
pub fn read_schema(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn json_of(text: &str, path: &Path) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("{} is not JSON", path.display()))
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
