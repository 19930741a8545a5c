//! The `codegen` binary: the server, single runs, and the commands that talk to a server.

// `println!` panics where nobody reads any more; `out::say!` does not.
#![deny(clippy::print_stdout)]

mod agent;
mod agents;
mod backup;
mod claude;
mod client;
mod completion;
mod config;
mod db;
mod df;
mod doctor;
mod login;
mod logins;
mod man;
mod mcp;
mod models;
mod org;
mod out;
mod profile;
mod progress;
mod prune;
mod pull;
mod render;
mod repo;
mod restore;
mod rules;
mod run;
mod secrets;
mod serve;
mod services;
mod token;
mod user;
mod webhooks;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use codegen_server::{Caller, Means, Zygote};

/// A self-hosted platform that runs code agents.
#[derive(Parser)]
#[command(name = "codegen", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server: HTTP API and worker
    Serve(serve::Args),
    /// Work on the runs of servers that share a PostgreSQL database
    Worker(serve::WorkerArgs),
    /// Run one task on a repository, without a server
    Run(run::Args),
    /// Start a run on the server, or look at one
    Agent(agent::Args),
    /// List the server's runs, newest first
    Agents(agents::ListArgs),
    /// Look for words in prompts, logs and results of the server's runs
    Search(agents::SearchArgs),
    /// The server's repositories
    Repo(repo::Args),
    /// Organizations, their members and service accounts
    Org(org::Args),
    /// API tokens, your own and those of service accounts
    Token(token::Args),
    /// What agents shall keep to: rules of the organization, of a repository, and your own
    Rules(rules::Args),
    /// Models that runs may use, and the organization's own accounts with providers
    Models(models::Args),
    /// Tell addresses of yours what happens to runs
    Webhooks(webhooks::Args),
    /// Keep a server's address and a token for later commands
    Login(login::Args),
    /// Forget a log-in
    Logout(login::LogoutArgs),
    /// Show who you are and where, and choose between several log-ins
    Profile(profile::Args),
    /// Run Claude Code as you always do, its session kept as a run on the server
    Claude(claude::Args),
    /// List what the organization is connected to
    Integrations(services::Args),
    /// List the tools that agents and MCP clients can call
    Tools(services::Args),
    /// Speak the Model Context Protocol, for programs that start this as a server of theirs
    Mcp(mcp::Args),
    /// Set passwords of people
    User(user::Args),
    /// Say what this host can do for isolation, what is missing, and what to do about it
    Doctor(doctor::Args),
    /// Show the settings and where each comes from
    Config(config::Args),
    /// Say what uses the disk, and why
    Df(df::Args),
    /// Free what is older or more than the settings keep
    Prune(prune::Args),
    /// Copy the database and the data directory's mirrors into one file, while the server runs
    Backup(backup::Args),
    /// Make a data directory from a backup, and fill the database where that is PostgreSQL's
    Restore(restore::Args),
    /// The database alone: migrate, backup, restore, copy to PostgreSQL
    Db(db::Args),
    /// The key that secrets in the database are encrypted with
    Secrets(secrets::Args),
    /// Print a shell's completion script
    Completion(completion::Args),
    /// Print the manual page of a command, or write all of them
    Man(man::Args),
}

/// Where settings and data are, for the commands that work on this machine.
#[derive(clap::Args, Clone)]
struct DataDir {
    /// Folder of the database, mirrors and sandboxes [default: the user's data folder]
    #[arg(long, value_name = "DIR", env = "CODEGEN_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// Whether commands are isolated. A flag alone, so that nobody is without isolation by a setting from elsewhere.
#[derive(clap::Args, Clone, Copy)]
struct Isolation {
    /// Run the agent's commands as plain processes of this user, WITHOUT ANY ISOLATION: they reach its files, keys and
    /// network. For hosts that refuse sandboxes and tasks that are trusted
    #[arg(long)]
    unsafe_no_sandbox: bool,
}

/// Makes the process that sandboxes are cloned from. It must be forked while this process has one thread,
/// so it comes before the async runtime, and only for the commands that need it.
fn zygote() -> Result<Zygote> {
    Zygote::fork(caller()).context("starting the sandbox zygote")
}

fn caller() -> Caller {
    Caller::of(|name| std::env::var(name).ok())
}

/// For the commands that run agents.
fn with_means(isolation: Isolation, command: impl AsyncFnOnce(Means) -> Result<ExitCode>) -> Result<ExitCode> {
    let means = if isolation.unsafe_no_sandbox {
        eprintln!("codegen: WARNING: {}", codegen_server::engine::UNISOLATED);
        Means::Unisolated(caller())
    } else {
        Means::Isolated(zygote()?.into())
    };
    async_runtime()?.block_on(command(means))
}

fn without_sandboxes(command: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(command).map(|()| ExitCode::SUCCESS)
}

fn async_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}

/// Whether a stream is a terminal whose user wants colours.
fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Logs to standard error, as much as `CODEGEN_LOG` asks for where it is set and understood.
fn log_to_stderr(usual: &str) {
    let asked = std::env::var("CODEGEN_LOG").ok().filter(|asked| !asked.trim().is_empty());
    // Read by hand, for the builder leaves out what it does not understand without a word.
    let parsed = asked.as_deref().map(tracing_subscriber::EnvFilter::try_new);
    let (filter, refused) = match parsed {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (usual.into(), Some(error)),
        None => (usual.into(), None),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    if let Some(error) = refused {
        eprintln!(
            "codegen: CODEGEN_LOG={} is not understood ({error}) and left out; write a level such as `info`, or \
             `debug,sqlx=warn`",
            asked.unwrap_or_default()
        );
    }
}

/// An error with its causes; one whose words its parent has said already is left out.
fn in_words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Serve(args) => with_means(args.isolation, async |means| serve::serve(args, means).await),
        Command::Worker(args) => with_means(args.isolation, async |means| serve::work(args, means).await),
        Command::Run(args) => with_means(args.isolation, async |means| run::run(args, means).await),
        Command::Agent(args) => without_sandboxes(agent::agent(args)),
        Command::Agents(args) => without_sandboxes(agents::list(args)),
        Command::Search(args) => without_sandboxes(agents::search(args)),
        Command::Repo(args) => without_sandboxes(repo::repo(args)),
        Command::Org(args) => without_sandboxes(org::org(args)),
        Command::Token(args) => without_sandboxes(token::token(args)),
        Command::Rules(args) => without_sandboxes(rules::rules(args)),
        Command::Models(args) => without_sandboxes(models::models(args)),
        Command::Webhooks(args) => without_sandboxes(webhooks::webhooks(args)),
        Command::Login(args) => without_sandboxes(login::login(args)),
        Command::Logout(args) => login::logout(args).map(|()| ExitCode::SUCCESS),
        Command::Profile(args) => without_sandboxes(profile::profile(args)),
        Command::Claude(args) => async_runtime().and_then(|runtime| runtime.block_on(claude::claude(args))),
        Command::Integrations(args) => without_sandboxes(services::integrations(args)),
        Command::Tools(args) => without_sandboxes(services::tools(args)),
        Command::Mcp(args) => {
            log_to_stderr("warn");
            without_sandboxes(mcp::mcp(args))
        }
        Command::User(args) => without_sandboxes(user::user(args)),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Config(args) => config::config(&args),
        Command::Df(args) => without_sandboxes(df::df(args)),
        Command::Prune(args) => zygote().and_then(|zygote| async_runtime()?.block_on(prune::prune(args, zygote))),
        Command::Backup(args) => without_sandboxes(backup::backup(args)),
        Command::Restore(args) => without_sandboxes(restore::restore(args)),
        Command::Db(args) => without_sandboxes(db::db(args)),
        Command::Secrets(args) => secrets::secrets(args),
        Command::Completion(args) => completion::completion(&args),
        Command::Man(args) => man::man(&args),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("codegen: {}", in_words(&error));
        ExitCode::FAILURE
    })
}
