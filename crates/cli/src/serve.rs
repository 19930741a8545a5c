//! `codegen serve` and `codegen worker`: until SIGTERM or Ctrl-C.

use std::{io::Write as _, net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::{Context, Result, bail};
use codegen_server::{App, Clock, FirstStart, Means, Part, config::Config, engine, room};
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::{error, info, warn};

#[derive(clap::Args)]
pub struct Args {
    /// Where to listen [default: 127.0.0.1:8080]
    #[arg(long)]
    addr: Option<SocketAddr>,
    /// Work on no runs: `codegen worker` does, here or on other machines. Needs PostgreSQL
    #[arg(long)]
    no_worker: bool,
    #[command(flatten)]
    pub isolation: crate::Isolation,
    #[command(flatten)]
    place: crate::DataDir,
}

#[derive(clap::Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub isolation: crate::Isolation,
    #[command(flatten)]
    place: crate::DataDir,
}

/// Works on runs until it is told to end, then lets them go.
pub async fn work(args: WorkerArgs, means: Means) -> Result<ExitCode> {
    let args = Args { addr: None, no_worker: false, isolation: args.isolation, place: args.place };
    start(args, means, Part::Worker).await
}

/// Serves until it is told to end, then drains.
pub async fn serve(args: Args, means: Means) -> Result<ExitCode> {
    let part = if args.no_worker { Part::Api } else { Part::Whole };
    start(args, means, part).await
}

async fn start(args: Args, means: Means, part: Part) -> Result<ExitCode> {
    crate::log_to_stderr("info,sqlx=warn,hyper=warn,rmcp=warn");
    #[cfg(debug_assertions)]
    if let Ok(plan) = std::env::var("FAILPOINT") {
        codegen_server::failpoint::arm(&plan).map_err(|why| anyhow::anyhow!("FAILPOINT: {why}"))?;
    }
    let mut config = Config::load(args.place.data_dir.as_deref(), std::env::vars())?;
    if let Some(addr) = args.addr {
        config.set_addr(addr);
    }
    // Before anyone is told of the server: whoever knows it may end it.
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let listener = match part {
        Part::Worker => None,
        Part::Whole | Part::Api => Some(listen(&mut config).await?),
    };
    let zygote_gone = means.gone().context("watching the process that makes sandboxes")?;
    let (app, first_start) = loop {
        let error = match open(means.clone(), &config, part).await {
            Ok(opened) => break opened,
            Err(error) if room::is_full(&error) && !room::is_there(&config.data_dir) => error,
            Err(error) => return Err(error),
        };
        if room::give_reserve(&config.data_dir) {
            continue;
        }
        error!(
            error = format!("{error:#}"),
            "there is no room on the disk to start with; codegen goes on once there is some"
        );
        tell_systemd(NotifyState::Ready);
        tokio::select! {
            done = room::wait(&config.data_dir, listener.as_ref()) => done?,
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
    };
    let mut words = match part {
        Part::Worker => format!("codegen works on runs as {}\n", app.worker_id),
        Part::Whole | Part::Api => format!("codegen is at {}\n", app.config.public_url),
    };
    if let Some(FirstStart { token }) = first_start {
        words.push_str(&format!("token (shown once): {token}\n"));
        words.push_str(&format!("next: codegen login --url {} --token {token}\n", app.config.public_url));
    }
    if let Err(error) = std::io::stdout().write_all(words.as_bytes()) {
        warn!("the server's address and first token could not be written to standard output: {error}");
    }
    tell_systemd(NotifyState::Ready);
    let shutdown = app.shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        info!("asked to end: draining, running runs go on at the next start");
        tell_systemd(NotifyState::Stopping);
        shutdown.cancel();
    });
    // Without it every new run would fail. Ended and started again, by systemd or a person, the server has a new one.
    let shutdown = app.shutdown.clone();
    let watching = tokio::spawn(async move {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => ExitCode::SUCCESS,
            () = zygote_gone => {
                error!("the process that makes sandboxes (the zygote) was killed: draining; start codegen again");
                tell_systemd(NotifyState::Stopping);
                shutdown.cancel();
                ExitCode::FAILURE
            }
        }
    });
    match listener {
        Some(listener) => codegen_server::serve(app, listener).await?,
        None => codegen_server::work(app).await?,
    }
    watching.await.context("watching the process that makes sandboxes")
}

async fn open(means: Means, config: &Config, part: Part) -> Result<(Arc<App>, Option<FirstStart>)> {
    let engine = engine::engine(means, &config.data_dir)?;
    // A host that refuses is found out now, not by the first run. Where there is no room, the worker tries once there is.
    if part != Part::Api && room::is_there(&config.data_dir) {
        engine::try_out(&*engine).await.context("trying a sandbox out")?;
    }
    App::open_part(config.clone(), engine, Clock::system(), part).await
}

/// Takes the address of the settings, and puts the port there that the kernel gave for port 0.
async fn listen(config: &mut Config) -> Result<TcpListener> {
    let listener = match TcpListener::bind(config.addr).await {
        Ok(listener) => listener,
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("{} is in use by another program; give another address with --addr", config.addr)
        }
        Err(e) => return Err(e).with_context(|| format!("listening on {}", config.addr)),
    };
    config.set_addr(listener.local_addr().context("reading the listening address")?);
    Ok(listener)
}

/// Where systemd started this and asked to be told (`Type=notify`); nothing elsewhere.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "telling systemd");
    }
}
