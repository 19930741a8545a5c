//! One run without a server: what `codegen run` is made of.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail};
use codegen_agent::OutputSchema;
use codegen_store::{NewRun, Run};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::{App, Means, config::Config, engine, forge::git, sse::EventParser, worker};

/// What to do.
#[derive(Debug)]
pub struct Task {
    /// For the agent.
    pub prompt: String,
    /// A folder or a URL.
    pub origin: String,
    /// Branch to start from; none means the working tree of a folder, the default branch of a URL.
    pub base: Option<String>,
    /// `provider/name`.
    pub model: Option<String>,
    /// Push the branch.
    pub push: bool,
    /// Open a pull request.
    pub open_pr: bool,
    /// JSON schema that the structured result shall fit.
    pub output_schema: Option<String>,
}

/// How it ended.
#[derive(Debug)]
pub struct End {
    /// The contract's word, `COMPLETE` when the task is done.
    pub status: &'static str,
    /// `git diff --stat`.
    pub diff_stat: Option<String>,
    /// The branch with the work, also in the folder it started from.
    pub branch: Option<String>,
    /// Whether the branch is at the origin.
    pub pushed: bool,
    /// Its address.
    pub pull_request: Option<String>,
    /// The structured result, as JSON.
    pub output: Option<String>,
}

/// A run under way in this process.
pub struct Once {
    app: Arc<App>,
    run: Run,
    folder: Option<PathBuf>,
    work: JoinHandle<Result<()>>,
}

/// Stops the agent of a [`Once`].
pub struct Stopper {
    app: Arc<App>,
    run: Run,
}

impl Stopper {
    /// Interrupts the agent; its work is kept and the run ends as CANCELLED.
    pub async fn stop(&self) {
        if let Err(error) = self.app.store.request_stop(self.run.org_id, self.run.id, self.app.now()).await {
            // It ends even so; only its end has to wait until it can be written down.
            self.app.live.stop(self.run.org_id, self.run.id);
            tracing::error!(%error, "stopping the run");
        }
    }
}

impl Once {
    /// Starts the run in a data directory of its own, beside the server's.
    ///
    /// # Errors
    /// A sentence on what is wrong with the task or this host.
    pub async fn start(config: Config, means: Means, task: Task) -> Result<Self> {
        if task.prompt.trim().is_empty() {
            bail!("the prompt is empty");
        }
        if let Some(schema) = &task.output_schema {
            OutputSchema::parse(schema).map_err(|why| anyhow!("the output schema cannot be used: {why}"))?;
        }
        let folder = Path::new(&task.origin);
        let folder = folder.is_dir().then(|| folder.canonicalize()).transpose().context("reading the folder")?;
        let origin = folder.as_ref().map_or_else(|| task.origin.clone(), |f| f.display().to_string());
        if folder.is_none() && !task.origin.contains(':') {
            bail!("there is no folder {}", task.origin);
        }
        let (app, _) = open_free(config, means).await?;
        let (org, user) = app.store.first_org_and_admin().await?;
        let probe = git::probe(&origin).await?;
        let repo = app.add_repo(org.id, &origin.into(), probe.default_branch.as_deref()).await?;
        let base_commit = match (&folder, &task.base) {
            (Some(folder), None) if !probe.empty => Some(git::snapshot_worktree(folder).await?),
            _ => None,
        };
        let run = app
            .store
            .create_run(
                org.id,
                NewRun {
                    user_id: user.id,
                    repo_id: Some(repo.id),
                    prompt: task.prompt,
                    model: task.model,
                    source_type: "LOCAL".to_owned(),
                    base_branch: task.base,
                    base_commit,
                    push: task.push,
                    open_pr: task.open_pr,
                    output_schema: task.output_schema,
                    ..NewRun::default()
                },
                app.now(),
            )
            .await?;
        let work = tokio::spawn(worker::execute_one(app.clone(), run.id));
        Ok(Self { app, run, folder, work })
    }

    /// A handle that stops the agent.
    pub fn stopper(&self) -> Stopper {
        Stopper { app: self.app.clone(), run: self.run.clone() }
    }

    /// Gives each entry and what is said live (kind and body) to `on_event` until the run has ended.
    ///
    /// # Errors
    /// When the platform itself failed.
    pub async fn follow(mut self, mut on_event: impl FnMut(&str, &Value)) -> Result<End> {
        let store = self.app.store.clone();
        let mut viewer = self.app.watches.view(&self.run, 0);
        let mut parser = EventParser::default();
        let mut show = |bytes: &[u8]| {
            for event in parser.push(bytes).iter().filter(|event| event.kind != "end") {
                on_event(&event.kind, &serde_json::from_str(&event.data).unwrap_or(Value::Null));
            }
        };
        loop {
            tokio::select! {
                biased;
                seen = viewer.next() => match seen? {
                    Some(bytes) => show(&bytes),
                    None => break (&mut self.work).await.context("the run's task ended abnormally")??,
                },
                done = &mut self.work => {
                    done.context("the run's task ended abnormally")??;
                    viewer.until_now();
                    while let Some(bytes) = viewer.next().await? {
                        show(&bytes);
                    }
                    break;
                }
            }
        }
        let run = store.run(self.run.org_id, self.run.id).await?;
        let mut branch = run.branch.clone();
        if let (Some(folder), Some(name), Some(repo_id)) = (&self.folder, &run.branch, run.repo_id) {
            let mirror = git::Mirror::of(&self.app.config.data_dir, repo_id);
            branch = Some(git::copy_branch(&mirror, run.id, folder, name).await?);
        }
        let pull_requests = store.pull_requests_of_run(run.org_id, run.id).await?;
        let pushed = store.effects(run.id).await?.iter().any(|e| e.kind == "push" && e.settled_at.is_some());
        Ok(End {
            status: run.status(),
            diff_stat: run.diff_stat.clone(),
            branch,
            pushed,
            pull_request: pull_requests.first().map(|p| p.url.clone()),
            output: run.output,
        })
    }
}

/// Most of them at once, and so most data directories.
const MOST: usize = 64;

/// Where a `codegen run` has its data, beside the server's: the nth of those that go on at the same time.
fn data_dir(server: &Path, n: usize) -> PathBuf {
    let name = server.file_name().map_or_else(|| "codegen".to_owned(), |n| n.to_string_lossy().into_owned());
    server.with_file_name(if n == 1 { format!("{name}-run") } else { format!("{name}-run-{n}") })
}

/// The data directories of `codegen run` that there are beside the server's.
pub fn beside(server: &Path) -> Vec<PathBuf> {
    (1..=MOST).map(|n| data_dir(server, n)).filter(|dir| dir.join(codegen_store::DATABASE).exists()).collect()
}

/// Opens the first data directory beside the server's that no other process has: each `codegen run` needs its own.
async fn open_free(config: Config, means: Means) -> Result<(Arc<App>, Option<crate::FirstStart>)> {
    let mut means = Some(means);
    for n in 1..=MOST {
        let dir = data_dir(&config.data_dir, n);
        if codegen_store::is_locked(&dir) {
            continue;
        }
        let Some(means) = means.take() else { break };
        let mut config = config.clone();
        config.data_dir = dir;
        config.database_url = None;
        let engine = engine::engine(means, &config.data_dir)?;
        return App::open(config, engine).await;
    }
    bail!("{MOST} runs are under way on {} already; wait for one to end", config.data_dir.display())
}
