//! `codegen serve`: the server until SIGTERM or Ctrl-C.

use std::{io::Write as _, net::SocketAddr, process::ExitCode};

use anyhow::{Context, Result, bail};
use codegen_server::{App, FirstStart, Means, config::Config, engine};
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
    #[command(flatten)]
    pub isolation: crate::Isolation,
    #[command(flatten)]
    place: crate::DataDir,
}

/// Serves until it is told to end, then drains.
pub async fn serve(args: Args, means: Means) -> Result<ExitCode> {
    crate::log_to_stderr("info,sqlx=warn,hyper=warn");
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
    let listener = match TcpListener::bind(config.addr).await {
        Ok(listener) => listener,
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("{} is in use by another program; give another address with --addr", config.addr)
        }
        Err(e) => return Err(e).with_context(|| format!("listening on {}", config.addr)),
    };
    // Port 0 asks the kernel for a free one.
    config.set_addr(listener.local_addr().context("reading the listening address")?);
    let zygote_gone = means.gone().context("watching the process that makes sandboxes")?;
    let engine = engine::engine(means, &config.data_dir)?;
    // A host that refuses is found out now, not by the first run.
    engine::try_out(&*engine).await.context("trying a sandbox out")?;
    let (app, first_start) = App::open(config, engine).await?;
    let mut words = format!("codegen is at {}\n", app.config.public_url);
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
    codegen_server::serve(app, listener).await?;
    watching.await.context("watching the process that makes sandboxes")
}

/// Where systemd started this and asked to be told (`Type=notify`); nothing elsewhere.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "telling systemd");
    }
}
