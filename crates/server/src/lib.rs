//! The server: where store, sandboxes and agents meet. [`App`] is made once and passed as `Arc<App>`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use codegen_sandbox::Engine;
use codegen_store::{DirLock, Error as StoreError, NewUser, Store};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use elsewhere::{Door, Elsewhere};

mod api;
pub mod backup;
mod clock;
pub mod config;
pub mod database;
pub mod disk;
mod elsewhere;
pub mod engine;
pub mod forge;
pub mod incarnation;
mod models;
mod oauth;
mod oidc;
pub mod once;
mod origins;
mod outside;
mod password;
pub mod people;
pub mod prune;
pub mod room;
mod run;
mod search;
pub mod secrets;
pub mod sse;
mod token;
mod watch;
mod web;
pub mod webhooks;
pub mod worker;

pub use api::{Area, Route, SCOPES, Scope, Who, openapi, route_table};
pub use clock::Clock;
pub use codegen_agent::models::install_tls;
pub use codegen_sandbox::local::{Caller, Zygote};
pub use codegen_store::failpoint;
pub use config::Config;
pub use engine::Means;
pub use models::NoModel;
pub use watch::{Viewer, Watches};
pub use worker::Lease;

/// What a process does of the whole. Several share a database only where it is PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Serves HTTP and works on runs.
    Whole,
    /// Serves HTTP.
    Api,
    /// Works on runs.
    Worker,
}

/// Everything a request or a run needs.
pub struct App {
    /// What this process does of it.
    pub part: Part,
    /// Settings.
    pub config: Config,
    /// Rows.
    pub store: Store,
    /// Makes sandboxes.
    pub engine: Arc<dyn Engine>,
    /// Those who watch runs.
    pub watches: Arc<Watches>,
    /// Cancelled when the process shall drain and end.
    pub shutdown: CancellationToken,
    /// This process, among those that had this data directory.
    pub worker_id: String,
    /// Its right to work on runs.
    pub lease: Lease,
    /// The runs that it works on.
    pub(crate) live: worker::Live,
    /// Which life of its data this directory is in; grows with each restore.
    pub incarnation: i64,
    /// What time it is.
    pub clock: Clock,
    /// When it started.
    pub started: Instant,
    /// Keys of the secrets in the store.
    pub(crate) keys: Arc<secrets::Keys>,
    /// Where other processes ask about the runs of this one.
    pub(crate) door: elsewhere::Door,
    /// The way to other processes' runs, where there may be any.
    pub(crate) elsewhere: Option<Arc<elsewhere::Elsewhere>>,
    /// The way to addresses that an organization's people name.
    pub(crate) outside: outside::Outside,
    pub(crate) requests: api::Requests,
    /// Where people log in, besides here.
    pub(crate) oidc: Option<oidc::Provider>,
}

/// What the first start made, where no token was preset.
pub struct FirstStart {
    /// The admin's token; nobody can show it again.
    pub token: String,
}

impl App {
    /// Opens the data directory. On its first start an organization, its admin and a token are made.
    ///
    /// # Errors
    /// When the data directory cannot be used; the text says what to do.
    pub async fn open(config: Config, engine: Arc<dyn Engine>) -> Result<(Arc<Self>, Option<FirstStart>)> {
        Self::open_at(config, engine, Clock::system()).await
    }

    /// [`App::open`] by another clock than the machine's.
    ///
    /// # Errors
    /// The same.
    pub async fn open_at(
        config: Config,
        engine: Arc<dyn Engine>,
        clock: Clock,
    ) -> Result<(Arc<Self>, Option<FirstStart>)> {
        Self::open_part(config, engine, clock, Part::Whole).await
    }

    /// [`App::open_at`] for a process that does a part of the whole.
    ///
    /// # Errors
    /// The same; and where the database is SQLite's, which is one process's.
    pub async fn open_part(
        config: Config,
        engine: Arc<dyn Engine>,
        clock: Clock,
        part: Part,
    ) -> Result<(Arc<Self>, Option<FirstStart>)> {
        let store = match &config.database_url {
            Some(url) => {
                let lock = DirLock::make(&config.data_dir)?;
                if config.secret_key.is_none() {
                    let file = "its own key; set CODEGEN_SECRET_KEY to the same value for all of them";
                    warn!("each server of this database encrypts secrets with {file}");
                }
                Store::connect(url.expose_secret(), Some(lock)).await?
            }
            None if part == Part::Whole => Store::open(&config.data_dir).await?,
            None => bail!(
                "servers and workers are separate processes only on PostgreSQL: set DATABASE_URL to \
                 postgres://user:password@host/database, or use `codegen serve` for both in one"
            ),
        };
        let opened = Self::open_on(store.clone(), config, engine, clock, part).await;
        if opened.is_err() {
            // It can be opened again.
            store.close().await;
        }
        opened
    }

    async fn open_on(
        store: Store,
        config: Config,
        engine: Arc<dyn Engine>,
        clock: Clock,
        part: Part,
    ) -> Result<(Arc<Self>, Option<FirstStart>)> {
        let incarnation = incarnation::read(&config.data_dir)?;
        let keys = Arc::new(secrets::Keys::open(&config.data_dir, config.secret_key.as_ref())?);
        // Whoever has the data directory knows that the workers that had it before are gone.
        let worker_id = format!("{}-{}", incarnation::name(&config.data_dir)?, token::random(12));
        let length = if store.is_shared() { Duration::from_secs(config.worker_lease_s) } else { worker::ALONE };
        let (lease, door) = match part {
            Part::Whole | Part::Worker => {
                let door = if store.is_shared() { Door::open(&config).await? } else { Door::none(&config) };
                (Lease::take(&store, &worker_id, &door.url, clock.now(), length).await?, door)
            }
            Part::Api => (Lease::none(), Door::none(&config)),
        };
        let elsewhere = store.is_shared().then(|| Elsewhere::new(store.clone(), keys.clone(), worker_id.clone()));
        let elsewhere = elsewhere.transpose()?.map(Arc::new);
        let shutdown = CancellationToken::new();
        let app = Self {
            part,
            watches: Watches::new(store.clone(), shutdown.clone(), elsewhere.clone()),
            store,
            engine,
            shutdown,
            worker_id,
            lease,
            live: worker::Live::default(),
            incarnation,
            clock,
            started: Instant::now(),
            keys,
            door,
            elsewhere,
            outside: outside::Outside::new(config.allow_private_addresses),
            requests: api::Requests::default(),
            oidc: oidc::Provider::new(&config.log_in, &config.public_url)?,
            config,
        };
        app.reseal_secrets().await?;
        app.seal_origins().await?;
        let preset = app.config.admin_token.as_ref().map(SecretString::expose_secret);
        let first = preset.map_or_else(token::new, str::to_owned);
        let admin = NewUser {
            github_user_id: "0".to_owned(),
            github_username: "admin".to_owned(),
            full_name: Some("Admin".to_owned()),
            ..NewUser::default()
        };
        let made =
            app.store.bootstrap("codegen", admin, &token::hash(&first), app.now()).await.context("setting up")?;
        let first_start = match (made, preset) {
            (Some(_), None) => Some(FirstStart { token: first }),
            // Who preset a token knows it; printing it would only put it into logs.
            (Some(_), Some(_)) => None,
            (None, Some(preset)) => {
                let (_, admin) = app.store.first_org_and_admin().await.context("finding the admin")?;
                match app.store.add_token(admin.id, "preset", &token::hash(preset), app.now()).await {
                    // It was added at the first start, if it is the same still.
                    Err(StoreError::Full) => {
                        warn!("the disk is full: the preset token is not added if it is a new one")
                    }
                    added => added.map(drop).context("adding the token")?,
                }
                None
            }
            (None, None) => None,
        };
        Ok((Arc::new(app), first_start))
    }

    /// Unix milliseconds.
    pub fn now(&self) -> i64 {
        self.clock.now()
    }
}

/// Serves HTTP and runs agents until `app.shutdown`, then drains: runs under way stay for the next start.
///
/// # Errors
/// When serving breaks off by itself.
pub async fn serve(app: Arc<App>, listener: TcpListener) -> Result<()> {
    info!(url = app.config.public_url, "serving at {}", app.config.public_url);
    let work = (app.part == Part::Whole).then(|| tokio::spawn(worker::run(app.clone())));
    let searched = tokio::spawn(search::keep(app.clone()));
    let answered = tokio::spawn(elsewhere::answer(app.clone()));
    let served = api::serve(app.clone(), listener).await;
    app.shutdown.cancel();
    if let Some(work) = work {
        work.await.context("the worker ended abnormally")??;
    }
    searched.await.context("keeping the search ended abnormally")?;
    answered.await.context("answering other processes ended abnormally")?;
    app.store.close().await;
    served
}

/// Works on runs until `app.shutdown`, then drains, as [`serve`] does, without serving anything.
///
/// # Errors
/// When another process has taken this one's place.
pub async fn work(app: Arc<App>) -> Result<()> {
    info!(worker.id = app.worker_id, "working as {}", app.worker_id);
    let answered = tokio::spawn(elsewhere::answer(app.clone()));
    let worked = worker::run(app.clone()).await;
    app.shutdown.cancel();
    answered.await.context("answering other processes ended abnormally")?;
    app.store.close().await;
    Ok(worked?)
}
