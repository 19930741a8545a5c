//! Runs that another process works on. A worker of a shared database answers the other processes on an address that stands
//! in its row: what its run says live, and what the workspace shows. Who asks proves that it has the same key of secrets.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use codegen_store::{Change, ChangeKind, Run, Store};
use futures::StreamExt as _;
use reqwest::Client;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    sync::broadcast::{Receiver, error::RecvError},
};
use tracing::{debug, warn};

use crate::{App, Config, api, secrets::Keys, sse::EventParser, watch};

/// The header with the proof: when, and its code.
const PROOF: &str = "x-codegen-proof";
/// A proof is good for so long, before and after; machines' clocks differ.
const FRESH_MS: i64 = 60_000;
/// A worker's events are never silent for longer.
const SILENCE: Duration = Duration::from_secs(40);
/// Before a worker that did not answer is asked again, or a run that nobody has is looked at again.
const PAUSE: Duration = Duration::from_secs(2);
/// For an answer in one piece.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a process needs to ask the workers of others.
pub struct Elsewhere {
    store: Store,
    keys: Arc<Keys>,
    client: Client,
    worker_id: String,
}

/// Where this worker answers others; none where no others are.
pub struct Door {
    listener: Mutex<Option<TcpListener>>,
    /// What stands in the worker's row.
    pub url: String,
}

/// What the workspace of a run shows.
#[derive(Serialize, Deserialize)]
struct Changes {
    patch: String,
    stat: String,
}

impl Door {
    /// Opens it, without answering yet.
    ///
    /// # Errors
    /// When the address cannot be had, or is none that others could ask at.
    pub async fn open(config: &Config) -> Result<Self> {
        let addr = config.worker_addr;
        if addr.ip().is_unspecified() && config.worker_url.is_none() {
            bail!("worker_addr is {addr}: set worker_url to how other machines reach it, such as http://10.0.0.5:8081");
        }
        let listener = TcpListener::bind(addr).await.with_context(|| format!("listening on {addr} (worker_addr)"))?;
        let port = listener.local_addr().context("reading the address of worker_addr")?.port();
        Ok(Self { url: config.url_of_worker(port), listener: Mutex::new(Some(listener)) })
    }

    /// Of a process that has a database of its own.
    #[must_use]
    pub fn none(config: &Config) -> Self {
        Self { listener: Mutex::default(), url: config.public_url.clone() }
    }
}

/// Answers other processes until the app shuts down.
pub async fn answer(app: Arc<App>) {
    let Some(listener) = app.door.listener.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let router = Router::new()
        .route("/runs/{run_id}/events", get(events))
        .route("/runs/{run_id}/changes", get(changes))
        .layer(from_fn_with_state(app.clone(), admit))
        .with_state(app.clone());
    let served = axum::serve(listener, router).with_graceful_shutdown(app.shutdown.clone().cancelled_owned()).await;
    if let Err(error) = served {
        warn!(%error, "answering other processes");
    }
}

async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let proof = request.headers().get(PROOF).and_then(|value| value.to_str().ok());
    let proven = proof.and_then(|proof| proof.split_once(':')).is_some_and(|(at, code)| {
        let fresh = at.parse().is_ok_and(|at: i64| (app.now().saturating_sub(at)).abs() <= FRESH_MS);
        fresh && app.keys.proves(&question(&app.worker_id, request.uri().path(), at), code)
    });
    if proven { next.run(request).await } else { StatusCode::UNAUTHORIZED.into_response() }
}

/// What is proven: of whom something is asked, what, and when.
fn question(worker_id: &str, path: &str, at: &str) -> Vec<u8> {
    format!("{worker_id}\0{path}\0{at}").into_bytes()
}

/// A run that this process works on.
async fn own(app: &App, run_id: i64) -> Result<Run, StatusCode> {
    let run = app.store.run_by_id(run_id).await.map_err(|_| StatusCode::NOT_FOUND)?;
    if run.worker_id.as_ref() == Some(&app.worker_id) { Ok(run) } else { Err(StatusCode::NOT_FOUND) }
}

async fn events(State(app): State<Arc<App>>, Path(run_id): Path<i64>) -> Result<Body, StatusCode> {
    let run = own(&app, run_id).await?;
    Ok(Body::from_stream(app.watches.view(&run, run.log_seq).stream()))
}

async fn changes(State(app): State<Arc<App>>, Path(run_id): Path<i64>) -> Result<Json<Option<Changes>>, StatusCode> {
    let run = own(&app, run_id).await?;
    let so_far = api::changes_so_far(&app, &run).await.map_err(|error| {
        debug!(run.id = run_id, %error, "comparing the workspace of a live run for another process");
        StatusCode::NOT_FOUND
    })?;
    Ok(Json(so_far.map(|(patch, stat)| Changes { patch: STANDARD.encode(patch), stat })))
}

impl Elsewhere {
    /// For a process with this id.
    ///
    /// # Errors
    /// When the host has no TLS.
    pub fn new(store: Store, keys: Arc<Keys>, worker_id: String) -> Result<Self> {
        crate::install_tls();
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(SILENCE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .context("making the client for other workers")?;
        Ok(Self { store, keys, client, worker_id })
    }

    /// The worker that has a run, where it is another one, and its address.
    async fn worker_of(&self, run_id: i64) -> Result<Option<(String, String)>> {
        Ok(self.store.worker_of(run_id).await?.filter(|(id, _)| *id != self.worker_id))
    }

    async fn ask(&self, (worker_id, url): &(String, String), path: &str) -> Result<reqwest::Response> {
        let at = jiff::Timestamp::now().as_millisecond().to_string();
        let code = self.keys.proof(&question(worker_id, path, &at));
        let asked = self.client.get(format!("{url}{path}")).header(PROOF, format!("{at}:{code}")).send().await;
        let answer = asked.with_context(|| format!("asking worker {worker_id} at {url}"))?;
        let status = answer.status();
        ensure!(
            status != StatusCode::UNAUTHORIZED,
            "worker {worker_id} refuses this process: CODEGEN_SECRET_KEY has to be the same for all, and their clocks"
        );
        ensure!(status.is_success(), "worker {worker_id} answers {status}");
        Ok(answer)
    }

    /// What the workspace of a run that another process works on shows; none where none does.
    ///
    /// # Errors
    /// When its worker does not answer.
    pub async fn changes(&self, run_id: i64) -> Result<Option<(Vec<u8>, String)>> {
        let Some(worker) = self.worker_of(run_id).await? else { return Ok(None) };
        let answered =
            async { self.ask(&worker, &format!("/runs/{run_id}/changes")).await?.json().await.context("reading") };
        let changes: Option<Changes> = tokio::time::timeout(PATIENCE, answered).await.context("waiting")??;
        changes.map(|changes| Ok((STANDARD.decode(changes.patch)?, changes.stat))).transpose()
    }

    /// Hands on what a run says live where another process works on it, each with the newest entry before it, for as long as it
    /// is polled.
    pub async fn listen(&self, run_id: i64, heard: impl Fn(i64, String)) {
        let mut changes = self.store.subscribe();
        loop {
            let worker = match self.worker_of(run_id).await {
                Ok(worker) => worker,
                Err(error) => {
                    debug!(run.id = run_id, error = format!("{error:#}"), "looking for the worker of a run");
                    None
                }
            };
            if let Some(worker) = worker {
                tokio::select! {
                    heard_out = self.hear(&worker, run_id, &heard) => if let Err(error) = heard_out {
                        debug!(run.id = run_id, error = format!("{error:#}"), "listening to the worker of a run");
                    },
                    () = self.moved(&worker, run_id, &mut changes) => continue,
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = changed(&mut changes, run_id) => {}
            }
        }
    }

    async fn hear(&self, worker: &(String, String), run_id: i64, heard: &impl Fn(i64, String)) -> Result<()> {
        let mut chunks = self.ask(worker, &format!("/runs/{run_id}/events")).await?.bytes_stream();
        let (mut events, mut after) = (EventParser::default(), 0);
        while let Some(chunk) = chunks.next().await {
            for event in events.push(&chunk.context("reading what a run says")?) {
                match event.id {
                    Some(seq) => after = seq.parse().context("reading what a run says")?,
                    None if event.kind == "end" => {}
                    None => heard(after, watch::live_event(&event.kind, &event.data)),
                }
            }
        }
        Ok(())
    }

    /// Returns when another worker has the run.
    async fn moved(&self, worker: &(String, String), run_id: i64, changes: &mut Receiver<Change>) {
        loop {
            changed(changes, run_id).await;
            if self.worker_of(run_id).await.is_ok_and(|now| now.as_ref() != Some(worker)) {
                return;
            }
        }
    }
}

/// Returns when a run's row has changed, or may have.
async fn changed(changes: &mut Receiver<Change>, run_id: i64) {
    loop {
        match changes.recv().await {
            Ok(Change { kind: ChangeKind::Missed, .. }) | Err(RecvError::Lagged(_)) => return,
            Ok(change) if change.run_id == run_id && change.kind == ChangeKind::RunChanged => return,
            Ok(_) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}
