//! Before the agent begins: the base commit, a sandbox (found again or new), the checkout, setup commands, rules.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use anyhow::{Context, Result, anyhow};
use codegen_agent::{Entry, Log as _, OutputSchema, models::Model, native};
use codegen_sandbox::{Error as SandboxError, Fence, Mount, Sandbox, Spec};
use codegen_store::{Phase, Repo, Run, RunUpdate, failpoint};
use secrecy::ExposeSecret as _;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    execute::{CannotBeDone, Story},
    gate::{self, Gate},
    inside::{self, Checkout, MIRROR_OBJECTS},
    log::RunLog,
    rules::{self, Rules},
    setup,
    stage::Stage,
    workspace::Turns,
};
use crate::{
    App, NoModel,
    engine::UNISOLATED,
    forge::git::{self, Mirror, Refs},
    secrets::Unreadable,
};

/// The blob in which setup's environment waits for a later attempt.
const SETUP_ENV: &str = "setup-env.json";

/// Everything the agent needs, and what carries its work out.
pub(super) struct Prepared {
    pub sandbox: Arc<dyn Sandbox>,
    pub gateway: Gate,
    pub model: Arc<dyn Model>,
    /// What the structured result shall fit.
    pub output: Option<OutputSchema>,
    pub git: Option<Git>,
    pub env: BTreeMap<String, String>,
    /// Rules and context for the prompt.
    pub rules: String,
    /// False when there was no time to carry the work out.
    pub is_carried_out: bool,
}

/// The git side of a run with a repository.
pub(super) struct Git {
    pub mirror: Mirror,
    pub checkout: Checkout,
    /// What the whole change is compared with; none where the repository was empty.
    pub base: Option<String>,
    /// What a pull request goes into.
    pub base_branch: Option<String>,
    /// The branch that the base was found on; none for a commit that is on no branch.
    found_on: Option<String>,
    /// Sentences on what the checkout lacks.
    pub lacking: Vec<String>,
}

impl Prepared {
    /// Ends the sandbox, unless ended runs' sandboxes are kept for a while, and its way out.
    pub async fn destroy(self, story: &Story) {
        if story.app.config.keep.sandboxes_h == 0 {
            destroy(&story.app, self.sandbox.id()).await;
        }
        self.gateway.close().await;
    }
}

/// Ends a sandbox and its way out; what is left over is removed later.
pub(super) async fn destroy(app: &App, id: &str) {
    if let Err(error) = app.engine.destroy(id).await {
        tracing::warn!(sandbox.id = id, %error, "destroying the sandbox; it is tried again later");
    }
    std::fs::remove_file(gateway_socket(&app.config.data_dir, id)).ok(); // It may not have had one.
}

/// Ends every sandbox of a run that is here; those elsewhere are found without an owner by their own worker.
///
/// # Errors
/// When they cannot be listed.
pub async fn destroy_all_of(app: &App, run_id: i64) -> Result<(), SandboxError> {
    for id in app.engine.inventory().await? {
        if run_of_sandbox(&id) == Some(run_id) {
            destroy(app, &id).await;
        }
    }
    Ok(())
}

/// The name of the sandbox that an attempt makes, unlike those of other data directories on this host.
pub(super) fn sandbox_id(app: &App, run: &Run) -> String {
    let digest = Sha256::digest(app.config.data_dir.as_os_str().as_encoded_bytes());
    let place: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("run-{}-{}-{place}", run.id, run.attempt)
}

/// The run that a sandbox was made for.
pub fn run_of_sandbox(id: &str) -> Option<i64> {
    id.strip_prefix("run-")?.split('-').next()?.parse().ok()
}

/// Where a sandbox's gateway listens.
pub(super) fn gateway_socket(data_dir: &Path, sandbox_id: &str) -> PathBuf {
    data_dir.join("gateways").join(format!("{sandbox_id}.sock"))
}

/// The run was stopped before there was anything to keep.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
struct Stopped;

/// Prepares a run, from the start or from what an earlier attempt left. None when it was stopped and there is nothing to
/// keep; a sandbox with work in it is found again even so.
pub(super) async fn prepare(story: &mut Story) -> Result<Option<Prepared>> {
    let (app, claim, turns) = (story.app.clone(), story.run.claim(), Turns::unwatched());
    let (mut log, history) = RunLog::open(app, claim, story.run.org_id, story.let_go.clone(), turns).await?;
    let earlier = story.run.sandbox_id.clone();
    let (stop, nothing_yet) = (story.stop.clone(), earlier.is_none());
    let prepared = tokio::select! {
        biased;
        () = stop.cancelled(), if nothing_yet => Err(Stopped.into()),
        prepared = again_or_new(story, &mut log, &history, earlier) => prepared,
    };
    if prepared.is_err() {
        // What went wrong is at hand; the stages shall only come before the end that follows.
        log.settled().await.ok();
    }
    match prepared {
        Err(error) if error.is::<Stopped>() => Ok(None),
        prepared => prepared.map(Some),
    }
}

async fn again_or_new(
    story: &mut Story,
    log: &mut RunLog,
    history: &[Entry],
    earlier: Option<String>,
) -> Result<Prepared> {
    let app = story.app.clone();
    let claim = story.run.claim();
    let stage = |name| Stage::new(&app, claim.run_id, name);
    let model = match app.model(story.run.org_id, story.run.model.as_deref()).await {
        Ok(model) => model,
        Err(NoModel::Account(error)) if !error.is::<Unreadable>() => return Err(error),
        Err(error) => return Err(CannotBeDone(error.to_string()).into()),
    };

    let output = story.run.output_schema.as_deref().map(OutputSchema::parse).transpose();
    let output = output.map_err(|why| CannotBeDone(format!("the run's output_schema cannot be used: {why}")))?;

    let (git, (sandbox, gateway, is_new)) = match &story.repo {
        Some(repo) => {
            let mirror = Mirror::of(&app.config.data_dir, repo.id);
            mirror.make().await?;
            let (fetching, making) = (stage("fetch"), stage("sandbox"));
            let finding = fetching.run(log, find_base(story, repo, &mirror, &fetching));
            let opening = making.run(log, open_sandbox(story, Some(&mirror), earlier.as_deref()));
            // Side by side. A sandbox that is being made is waited for, so that it is known when it has to go again.
            let (mut finding, mut opening) = (pin!(finding), pin!(opening));
            let (found, opened) = tokio::select! {
                biased;
                found = &mut finding => (found, opening.await),
                opened = &mut opening => match opened {
                    Ok(opened) => (finding.await, Ok(opened)),
                    Err(error) => return Err(error),
                },
            };
            let opened = opened?;
            match found {
                Ok(found) => (Some(found), opened),
                Err(error) => {
                    let (_, gateway, _) = opened;
                    gateway.close().await;
                    return Err(error);
                }
            }
        }
        None => (None, stage("sandbox").run(log, open_sandbox(story, None, earlier.as_deref())).await?),
    };
    if let Some(git) = &git {
        (story.run.base_commit, story.run.base_branch) = (git.base.clone(), git.found_on.clone());
    }
    let mut setup_env = BTreeMap::new();
    let mut setup_failed = None;
    let mut rules = Rules::default();
    if is_new {
        let interrupted = native::close_interrupted_calls(history, log).await.map_err(|e| anyhow!(e))?;
        if !sandbox.isolation().isolated() {
            log.notice(UNISOLATED).await?;
        }
        let kept = if let Some(git) = &git {
            let checking_out = stage("checkout");
            let checkout = checking_out.run(log, git.checkout.check_out(&*sandbox));
            (_, rules) = tokio::try_join!(checkout, repository_rules(story, git))?;
            let kept = git.checkout.work.is_some() || git.checkout.base != git.base;
            for sentence in &git.lacking {
                log.notice(sentence.as_str()).await?;
            }
            kept
        } else {
            false
        };
        let has_crashed = story.run.crashes > 0;
        if let Some(entry) = arrival(earlier.is_some(), kept, has_crashed, &interrupted, history) {
            log.append(&entry).await.map_err(|e| anyhow!(e))?;
        }
        if let Some(repo) = story.repo.as_ref().filter(|r| !r.setup_commands.trim().is_empty()) {
            let stage = stage("setup");
            let running = setup::run(&*sandbox, &repo.setup_commands, |bytes| stage.output(bytes));
            let done = tokio::select! {
                done = stage.run(log, running) => done?,
                () = story.stop.cancelled() => return Err(Stopped.into()),
            };
            if let Some(failed) = &done.failed {
                log.notice(failed.as_str()).await?;
            }
            (setup_env, setup_failed) = (done.env, done.failed);
            app.store.put_blob(story.run.org_id, story.run.id, SETUP_ENV, &serde_json::to_vec(&setup_env)?).await?;
        }
        // Only now: a sandbox that is half prepared is not found again.
        story.run.sandbox_id = Some(sandbox.id().to_owned());
    } else {
        if let Some(saved) = app.store.blob(story.run.org_id, story.run.id, SETUP_ENV).await? {
            setup_env = serde_json::from_slice(&saved).context("reading the environment that setup left")?;
        }
        if let Some(git) = &git {
            rules = repository_rules(story, git).await?;
        }
    }
    let given = app.store.rules_in_force(story.run.org_id, story.run.repo_id, story.run.user_id).await?;
    let rules = rules::with_given(&given, rules);
    if is_new && let Some(notice) = &rules.notice {
        log.note_soon("notice", json!({ "text": notice }));
    }
    // Side by side, so that all share one commit.
    let place = RunUpdate { sandbox_id: story.run.sandbox_id.clone().filter(|_| is_new), ..RunUpdate::default() };
    let recorded = app.store.update_run(&claim, place, app.now());
    tokio::try_join!(log.settled(), recorded, app.store.set_phase(&claim, Phase::Running))?;
    failpoint::hit("prepared.after");

    let rules = format!("{}\n{}", context(story, git.as_ref(), setup_failed.as_deref()), rules.text);
    Ok(Prepared { sandbox, gateway, model, output, git, env: setup_env, rules, is_carried_out: true })
}

async fn repository_rules(story: &Story, git: &Git) -> Result<Rules> {
    match &git.base {
        Some(base) if story.org.enable_rules_detection => Ok(rules::collect(&git.mirror, base).await?),
        _ => Ok(Rules::default()),
    }
}

/// What the model and people should know about a new sandbox for a conversation that began in another one: in one line, also of
/// what else went with the earlier one.
fn arrival(lost: bool, kept: bool, has_crashed: bool, interrupted: &[String], history: &[Entry]) -> Option<Entry> {
    let to_model = history.iter().any(|entry| matches!(entry, Entry::Reply(_)));
    let to_people = lost && has_crashed;
    if !to_model && !to_people {
        return None;
    }
    let what = match (lost, has_crashed) {
        (true, true) => "codegen was ended without warning, and the sandbox was lost",
        (true, false) => "The sandbox was lost",
        (false, _) => "",
    };
    let mut text = match (lost, kept) {
        (true, true) => format!(
            "[codegen] {what} and replaced by a new one. The workspace is as it was after the last turn that was kept; ignored files, files outside the workspace, background processes and the shell's variables are gone."
        ),
        (true, false) => format!(
            "[codegen] {what} before anything in it was kept, and replaced by a new one. The workspace is as it was at the start; files outside it, background processes and the shell's variables are gone."
        ),
        (false, _) => {
            "[codegen] The work goes on in a new sandbox, from this run's last commit; ignored files, files outside the workspace and background processes of the earlier one are gone.".to_owned()
        }
    };
    if !interrupted.is_empty() {
        text.push_str(&format!(" Under way when it was lost: the call of {}.", interrupted.join(", ")));
    }
    Some(Entry::Notice { text, to_model })
}

/// Brings the mirror up to date and finds the commit to start from, once: later attempts keep the first one's base.
async fn find_base(story: &Story, repo: &Repo, mirror: &Mirror, stage: &Stage) -> Result<Git> {
    let (app, run) = (&story.app, &story.run);
    let shown = stage.clone();
    let progress = Arc::new(move |line: &str| shown.output(format!("{line}\n").as_bytes()));
    let fetched = tokio::select! {
        fetched = mirror.fetch_showing(story.origin.expose_secret(), run.base_commit.as_deref(), Some(progress)) => fetched.map_err(Into::into),
        () = story.stop.cancelled() => Err(anyhow::Error::from(Stopped)),
    };
    if let Err(error) = fetched {
        // A run that goes on does not need its origin for that.
        let known = match &run.base_commit {
            Some(base) => mirror.has(base).await?,
            // Its repository was empty when its sandbox was made.
            None => run.sandbox_id.is_some(),
        };
        if !known {
            return Err(error);
        }
        tracing::warn!(run.id, %error, "fetching the origin; going on with what is here");
    }
    let refs = mirror.refs(run.id).await?;
    let mut base = Base { commit: run.base_commit.clone(), branch: run.base_branch.clone() };
    let mut update = RunUpdate::default();
    if run.base_commit.is_none() && run.sandbox_id.is_none() && refs.last.is_none() && refs.workspace.is_none() {
        base = choose_base(mirror, &refs, repo, story.origin.expose_secret(), run.base_branch.as_deref()).await?;
        (update.base_commit, update.base_branch) = (base.commit.clone(), base.branch.clone());
    }
    let head = match &refs.workspace {
        Some(work) => mirror.parent(work).await?,
        None => None,
    };
    let start = head.or(refs.last).or_else(|| base.commit.clone());
    let lacking = async {
        match refs.workspace.as_ref().or(start.as_ref()) {
            Some(start) => Ok::<_, anyhow::Error>(mirror.lacking(start).await?),
            None => Ok(Vec::new()),
        }
    };
    let recorded = async { Ok(app.store.update_run(&run.claim(), update, app.now()).await?) };
    let (lacking, ()) = tokio::try_join!(lacking, recorded)?;
    Ok(Git {
        checkout: Checkout {
            branch: run.branch.clone().unwrap_or_else(|| inside::branch_name(run.id, &run.prompt)),
            base: start,
            work: refs.workspace,
            origin: git::without_credentials(story.origin.expose_secret()),
            refs: refs.origin,
        },
        base: base.commit,
        base_branch: base.branch.clone().or_else(|| repo.default_branch.clone()),
        found_on: base.branch,
        mirror: mirror.clone(),
        lacking,
    })
}

/// A commit to start from, and the branch it was found on. Neither in an empty repository.
struct Base {
    commit: Option<String>,
    branch: Option<String>,
}

async fn choose_base(mirror: &Mirror, refs: &Refs, repo: &Repo, origin: &str, asked: Option<&str>) -> Result<Base> {
    let head_of = async |branch: &str| {
        let name = format!("refs/heads/{branch}");
        match refs.origin.iter().find(|(_, known)| *known == name) {
            Some((commit, _)) => Ok(Some(commit.clone())),
            // Of very many not all are listed.
            None => mirror.resolve(&name).await,
        }
    };
    if let Some(branch) = asked {
        let commit = head_of(branch).await?;
        let missing = || CannotBeDone(format!("the repository has no branch {branch}; name one that is there"));
        return Ok(Base { commit: Some(commit.ok_or_else(missing)?), branch: Some(branch.to_owned()) });
    }
    if let Some(branch) = &repo.default_branch
        && let Some(commit) = head_of(branch).await?
    {
        return Ok(Base { commit: Some(commit), branch: Some(branch.clone()) });
    }
    let probe = git::probe(origin).await?;
    if probe.empty {
        return Ok(Base { commit: None, branch: None });
    }
    let usual = ["main", "master"].map(str::to_owned);
    let likely = probe.default_branch.into_iter().chain(usual.into_iter().filter(|_| probe.head.is_none()));
    let only = probe.branches.first().filter(|_| probe.branches.len() == 1 && probe.head.is_none()).cloned();
    for branch in likely.chain(only) {
        if let Some(commit) = head_of(&branch).await? {
            return Ok(Base { commit: Some(commit), branch: Some(branch) });
        }
    }
    if let Some(head) = probe.head {
        mirror.fetch(origin, Some(&head)).await?;
        return Ok(Base { commit: Some(head), branch: None });
    }
    let branches = probe.branches.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
    Err(CannotBeDone(format!("the repository's default branch is missing; name the branch to start from ({branches})"))
        .into())
}

/// The sandbox of an earlier attempt where it still lives, else a new one; the flag says which.
async fn open_sandbox(
    story: &Story,
    mirror: Option<&Mirror>,
    earlier: Option<&str>,
) -> Result<(Arc<dyn Sandbox>, Gate, bool)> {
    let app = &story.app;
    let fence = Fence { incarnation: app.incarnation, attempt: story.run.attempt };
    if let Some(id) = earlier {
        let gate = Gate::open(story, id)?;
        match app.engine.attach(id, fence).await {
            Ok(sandbox) => return Ok((sandbox, gate, false)),
            Err(SandboxError::Gone(_)) => {
                gate.close().await;
                destroy(app, id).await;
            }
            Err(error) => return Err(error).context("finding the run's sandbox again"),
        }
    }
    // The one with the work is lost, and what was kept of it is kept without another one.
    if story.stop.is_cancelled() {
        return Err(Stopped.into());
    }
    let id = sandbox_id(app, &story.run);
    let gate = Gate::open(story, &id)?;
    let mounts =
        mirror.map(|mirror| Mount { source: mirror.objects(), target: MIRROR_OBJECTS.into(), read_only: true });
    let spec = Spec {
        id: id.clone(),
        fence,
        mounts: mounts.into_iter().collect(),
        limits: app.config.limits(),
        env: gate::client_env(),
        gateway: Some(gateway_socket(&app.config.data_dir, &id)),
    };
    failpoint::hit("sandbox.before");
    let sandbox = app.engine.create(&spec).await.context("creating the sandbox")?;
    failpoint::hit("sandbox.after");
    if let Some(config) = gate::cargo_config() {
        inside::write_cargo_config(&*sandbox, config).await?;
    }
    Ok((sandbox, gate, true))
}

/// What the agent should know about where it is.
fn context(story: &Story, git: Option<&Git>, setup_failed: Option<&str>) -> String {
    let mut text = String::new();
    match (git, &story.repo) {
        (Some(git), Some(repo)) => {
            text.push_str(&format!(
                "The workspace is a git checkout of {} on the branch {}",
                repo.full_name, git.checkout.branch
            ));
            match (&git.base, &git.base_branch) {
                (None, _) => text.push_str("; the repository is empty so far."),
                (Some(_), Some(branch)) => text.push_str(&format!(", made from {branch}.")),
                (Some(_), None) => text.push('.'),
            }
            text.push_str(" Everything in it is committed and carried out for you when you finish: do not push, and commit only where several commits are wanted.\n");
            for sentence in &git.lacking {
                text.push_str(&format!("{sentence}\n"));
            }
        }
        _ => text.push_str("The workspace is an empty folder without a repository.\n"),
    }
    if let Some(failed) = setup_failed {
        text.push_str(&format!("The repository's setup commands did not all succeed. {failed}\n"));
    }
    text
}
