//! `codegen claude`: the user's own Claude Code, watched: its session is a run on the server, line by line. Nothing of Claude
//! Code's settings is touched; what it has to know comes with its arguments.

mod session;
mod teller;

use std::{
    ffi::OsString,
    io::ErrorKind,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, ExitCode, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    agent::print_run,
    client::{Client, Refused},
};
use session::{Kept, Which};
use teller::Teller;

/// How long a start waits for the server, and an end for the last lines to be told.
const PATIENCE: Duration = Duration::from_secs(3);
/// Words of Claude Code's that begin no session.
const NO_SESSION: [&str; 13] = [
    "agents",
    "auth",
    "auto-mode",
    "config",
    "doctor",
    "install",
    "mcp",
    "migrate-installer",
    "plugin",
    "plugins",
    "setup-token",
    "update",
    "upgrade",
];

#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "codegen claude [CLAUDE'S ARGUMENTS]\n       codegen claude -b <PROMPT>",
    after_help = "Whatever is not listed here goes to Claude Code as it is, and its exit code comes back.\n\
                  `codegen claude --help` is Claude Code's own help."
)]
pub struct Args {
    /// Start a run on the server with this prompt, in place of a session here
    #[arg(short = 'b', long = "background", value_name = "PROMPT")]
    background: Option<String>,
    /// Print the run that was started as JSON
    #[arg(long, requires = "background")]
    json: bool,
    /// Without codegen's own tools (`codegen mcp`) in the session
    #[arg(long)]
    no_mcp: bool,
    /// For Claude Code
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

/// Runs Claude Code, or starts a run in its place.
pub async fn claude(args: Args) -> Result<ExitCode> {
    if let Some(prompt) = args.background {
        return background(&prompt, args.json).await;
    }
    if !begins_a_session(&args.rest) {
        return Err(not_started(Command::new("claude").args(&args.rest).exec()));
    }
    watched(args.rest, !args.no_mcp).await
}

async fn background(prompt: &str, as_json: bool) -> Result<ExitCode> {
    let client = Client::from_login()?;
    let run = client.post_once(&client.org_path("/agent/run"), &json!({ "prompt": prompt })).await?;
    print_run(&run, None, as_json);
    Ok(ExitCode::SUCCESS)
}

fn begins_a_session(args: &[OsString]) -> bool {
    let first = args.first().and_then(|word| word.to_str()).unwrap_or_default();
    let told = |arg: &OsString| matches!(arg.to_str(), Some("-h" | "--help" | "-v" | "--version"));
    !NO_SESSION.contains(&first) && !args.iter().take_while(|arg| *arg != "--").any(told)
}

fn not_started(error: std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::NotFound {
        return anyhow::anyhow!(
            "there is no `claude` on the PATH: install Claude Code with `npm install -g @anthropic-ai/claude-code`"
        );
    }
    anyhow::Error::new(error).context("starting claude")
}

/// The organization's and the user's rules, as one text; those of last time while the server is away.
async fn rules(client: &Client) -> Result<Option<String>> {
    let asked = tokio::time::timeout(PATIENCE, client.get(&client.org_path("/cli/rules"))).await;
    let rules = match asked {
        Ok(Ok(rules)) => {
            session::remember_rules(client, &rules);
            rules
        }
        Ok(Err(error)) if error.is::<Refused>() => return Err(error),
        Ok(Err(_)) | Err(_) => session::remembered_rules(client).unwrap_or(Value::Null),
    };
    let texts = ["organization_rules", "user_custom_prompt"].iter().filter_map(|key| rules[*key].as_str());
    let text = texts.filter(|text| !text.trim().is_empty()).collect::<Vec<_>>().join("\n\n");
    Ok((!text.is_empty()).then_some(text))
}

/// Claude Code's arguments with the rules among them: a prompt of the user's own to append stays in front of them.
fn with_rules(mut args: Vec<OsString>, rules: Option<String>) -> Vec<OsString> {
    const FLAG: &str = "--append-system-prompt";
    let Some(rules) = rules else { return args };
    let joined = |own: &str| OsString::from(format!("{own}\n\n{rules}"));
    for at in 0..args.len() {
        let Some(arg) = args.get(at).and_then(|arg| arg.to_str()).map(str::to_owned) else { continue };
        if arg == "--" {
            break;
        }
        if let Some(own) = arg.strip_prefix(&format!("{FLAG}=")) {
            let whole = joined(&format!("{FLAG}={own}"));
            args.splice(at..=at, [whole]);
            return args;
        }
        if arg == FLAG
            && let Some(own) = args.get(at + 1).and_then(|own| own.to_str()).map(joined)
        {
            args.splice(at + 1..=at + 1, [own]);
            return args;
        }
    }
    args.insert(0, OsString::from(format!("{FLAG}={rules}")));
    args
}

/// Codegen's tools for this session, by this very program: the token is in no argument and no file of Claude Code's.
fn tools() -> Result<OsString> {
    let program = std::env::current_exe().context("looking for this program")?;
    let server = json!({ "type": "stdio", "command": program.to_string_lossy(), "args": ["mcp"] });
    Ok(format!("--mcp-config={}", json!({ "mcpServers": { "codegen": server } })).into())
}

async fn watched(args: Vec<OsString>, with_tools: bool) -> Result<ExitCode> {
    let client = Client::from_login()?;
    let which = Which::of(&args);
    let mut args = with_rules(args, rules(&client).await?);
    if with_tools {
        args.insert(0, tools()?);
    }
    if let Which::New(id) = &which {
        args.insert(0, OsString::from(format!("--session-id={id}")));
    }
    // Before the child is there: it inherits no handlers, and this process must outlive its interrupts.
    let mut interrupts = signal(SignalKind::interrupt()).context("listening for signals")?;
    let mut terms = signal(SignalKind::terminate()).context("listening for signals")?;
    let mut hangups = signal(SignalKind::hangup()).context("listening for signals")?;

    let leftovers = tokio::spawn(teller::tell_leftovers(client.clone()));
    let began = std::time::SystemTime::now();
    let mut child = tokio::process::Command::new("claude").args(&args).spawn().map_err(not_started)?;
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let kept = Kept::new(&client, which, began)?;
    let teller = Teller::start(client, kept);
    let ended = loop {
        let passed_on = tokio::select! {
            ended = child.wait() => break ended.context("waiting for claude")?,
            // The terminal has told Claude Code, too.
            _ = interrupts.recv() => None,
            _ = terms.recv() => Some(Signal::TERM),
            _ = hangups.recv() => Some(Signal::HUP),
        };
        if let (Some(signal), Some(pid)) = (passed_on, pid) {
            // It may have ended just now.
            kill_process(pid, signal).ok();
        }
    };
    let left = teller.end(word(ended), PATIENCE).await;
    tokio::time::timeout(PATIENCE, leftovers).await.ok();
    if let Some(sentence) = left {
        eprintln!("codegen: {sentence}");
    }
    Ok(ExitCode::from(code(ended)))
}

/// How the session ended. An interrupt is how people leave.
fn word(ended: ExitStatus) -> &'static str {
    match (ended.code(), ended.signal()) {
        (Some(0 | 130), _) | (None, Some(2)) => "COMPLETE",
        (None, Some(1 | 15)) | (Some(129 | 143), _) => "CANCELLED",
        _ => "ERROR",
    }
}

fn code(ended: ExitStatus) -> u8 {
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code & 0xff).unwrap_or(1)
}

/// For the two parts of this folder.
fn state_dir() -> Result<std::path::PathBuf> {
    let from = |key: &str| std::env::var_os(key).filter(|dir| !dir.is_empty()).map(std::path::PathBuf::from);
    let Some(base) = from("XDG_STATE_HOME").or_else(|| Some(from("HOME")?.join(".local/state"))) else {
        bail!("HOME is not set");
    };
    Ok(base.join("codegen").join("claude"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn what_begins_no_session_is_left_alone() {
        for args in [&["mcp", "list"][..], &["doctor"], &["-p", "x", "--help"], &["--version"]] {
            assert!(!begins_a_session(&words(args)), "{args:?}");
        }
        for args in [&[][..], &["-p", "doctor"], &["fix it"], &["-p", "--", "--help"], &["--resume"]] {
            assert!(begins_a_session(&words(args)), "{args:?}");
        }
    }

    #[test]
    fn rules_go_behind_a_prompt_of_the_user_s_own() {
        let with = |args: &[&str]| with_rules(words(args), Some("R".to_owned()));
        assert_eq!(with(&["-p", "x"]), words(&["--append-system-prompt=R", "-p", "x"]));
        assert_eq!(with(&["--append-system-prompt", "own", "x"]), words(&["--append-system-prompt", "own\n\nR", "x"]));
        assert_eq!(with(&["--append-system-prompt=own"]), words(&["--append-system-prompt=own\n\nR"]));
        assert_eq!(
            with(&["--", "--append-system-prompt", "x"])[..2],
            words(&["--append-system-prompt=R", "--"])[..],
            "what follows is a prompt"
        );
        assert_eq!(with_rules(words(&["x"]), None), words(&["x"]));
    }
}
