//! The story of a run: prepare a sandbox with a checkout, let the agent work, carry the work out, record the end.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use codegen_agent::{Error as AgentError, Limit, Outcome, Task, native};
use codegen_sandbox::Error as SandboxError;
use codegen_store::{GIVEN_UP, Org, Phase, Reason, Repo, Run, RunUpdate, User, failpoint};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    finish,
    log::{LetGo, RunLog, TraceFull},
    prepare::{self, Prepared},
    workspace::{Keeper, Turns},
};
use crate::{App, config::TraceLimits, disk, engine::WAY_OUT, room::is_full, secrets::Unreadable};

/// Time that an agent has to reach its next entry when the worker lets it go.
const LET_GO_GRACE: Duration = Duration::from_secs(5);
/// Sandboxes that a run may lose without an answer of the model in between.
const MAX_LOST: u32 = 3;

/// What the worker tells a run under way.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// End for good, keep the work.
    pub stop: CancellationToken,
    /// Leave everything as it is; the run goes on later.
    pub let_go: CancellationToken,
}

/// How the worker's part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The run is done.
    Done,
    /// The run was let go and waits to be claimed again.
    LetGo,
}

/// Everything a run's steps need to know.
pub(super) struct Story {
    pub app: Arc<App>,
    pub run: Run,
    pub org: Org,
    pub user: User,
    pub repo: Option<Repo>,
    /// Where the repository is fetched from and pushed to, with its password; empty without a repository.
    pub origin: SecretString,
    pub let_go: CancellationToken,
    pub stop: CancellationToken,
    /// This is the last attempt, which only carries the work out.
    pub is_given_up: bool,
}

/// How a run shall end, before its work is carried out.
#[derive(Debug)]
pub(super) struct Ending {
    pub reason: Reason,
    /// For the person who asked.
    pub text: String,
    /// For the operator.
    pub cause: Option<String>,
    /// The structured result.
    pub output: Option<Value>,
}

impl Default for Ending {
    fn default() -> Self {
        Self { reason: Reason::Complete, text: String::new(), cause: None, output: None }
    }
}

/// Something is wrong with what was asked for, not with the platform: the run ends as ERROR with this sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct CannotBeDone(pub String);

/// Works on a claimed run until it is done or let go.
///
/// # Errors
/// When the run cannot even be recorded: it was taken over, or the store fails.
pub async fn execute(app: Arc<App>, run: Run, signals: Signals) -> Result<Ended> {
    let org = app.store.org(run.org_id).await.context("reading the run's organization")?;
    let user = app.store.user(run.user_id).await.context("reading the run's user")?;
    let repo = match run.repo_id {
        Some(id) => Some(app.store.repo(run.org_id, id).await.context("reading the run's repository")?),
        None => None,
    };
    let (let_go, stop) = (signals.let_go.clone(), signals.stop.clone());
    let is_given_up = run.is_given_up();
    if is_given_up {
        // As a stop: what its sandbox holds is carried out, and nothing more is done in it.
        stop.cancel();
    }
    let origin = SecretString::default();
    let mut story = Story { app, run, org, user, repo, origin, let_go, stop, is_given_up };
    if let Some(repo) = &story.repo {
        match story.app.origin(repo).await {
            Ok(origin) => story.origin = origin,
            Err(error) if error.is::<Unreadable>() => {
                story.end_unprepared(Some(CannotBeDone(error.to_string()).into())).await?;
                return Ok(Ended::Done);
            }
            Err(error) => return Err(error),
        }
    }
    // Sandboxes lost since the last answer of the model.
    let (mut lost, mut steps) = (0, 0);
    loop {
        let prepared = tokio::select! {
            biased;
            () = signals.let_go.cancelled() => return Ok(Ended::LetGo),
            prepared = prepare::prepare(&mut story) => prepared,
        };
        let worked = match prepared {
            Ok(Some(mut prepared)) => {
                let worked = story.work(&mut prepared, &signals).await;
                if matches!(worked, Ok(Ended::Done)) {
                    if !prepared.is_carried_out {
                        let kept = tokio::select! {
                            kept = finish::keep_late(&story, &prepared) => kept,
                            () = signals.let_go.cancelled() => Err(anyhow!("codegen was stopped meanwhile")),
                        };
                        if let Err(error) = kept {
                            let error = format!("{error:#}");
                            tracing::warn!(run.id = story.run.id, error, "keeping the workspace of a stopped run");
                        }
                    }
                    failpoint::hit("destroy.before");
                    prepared.destroy(&story).await;
                }
                worked
            }
            Err(error) if is_full(&error) || is_gone(&error) => Err(error),
            unprepared => {
                story.end_unprepared(unprepared.err()).await?;
                return Ok(Ended::Done);
            }
        };
        match worked {
            Ok(ended) => return Ok(ended),
            Err(error) if is_gone(&error) => {
                let run = story.app.store.run_by_id(story.run.id).await?;
                if run.attempt != story.run.attempt {
                    return Err(codegen_store::Error::Fenced.into());
                }
                lost = if run.steps == steps { lost + 1 } else { 1 };
                steps = run.steps;
                tracing::warn!(run.id = run.id, lost, error = format!("{error:#}"), "run {} lost its sandbox", run.id);
                if lost > MAX_LOST {
                    story.end_unprepared(Some(error.context(LostAgain))).await?;
                    return Ok(Ended::Done);
                }
                // That codegen was ended has been said.
                story.run.crashes = 0;
                // One that was lost while it was prepared is not yet the run's, and the next has its name.
                prepare::destroy(&story.app, &prepare::sandbox_id(&story.app, &story.run)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Its sandbox was lost again and again.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox was lost {MAX_LOST} times without progress")]
struct LostAgain;

pub(super) fn is_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|e| matches!(e.downcast_ref(), Some(SandboxError::Gone(_))))
}

impl Story {
    /// Lets the agent work until its work is carried out and nobody has said anything since.
    async fn work(&self, prepared: &mut Prepared, signals: &Signals) -> Result<Ended> {
        loop {
            let keeper = prepared
                .git
                .as_ref()
                .map(|git| Keeper::start(self.app.clone(), self.run.claim(), prepared.sandbox.clone(), git));
            let turns = keeper.as_ref().map_or_else(Turns::unwatched, Keeper::turns);
            let (mut log, history) =
                RunLog::open(self.app.clone(), self.run.claim(), self.run.org_id, self.let_go.clone(), turns).await?;
            let task = Task {
                history,
                rules: prepared.rules.clone(),
                model: prepared.model.clone(),
                budget: self.app.config.budget(),
                env: prepared.env.clone(),
                output: prepared.output.clone(),
            };
            let is_full = log.is_full();
            let outcome = tokio::select! {
                biased;
                () = std::future::ready(()), if is_full => Err(AgentError::Log(Box::new(TraceFull))),
                outcome = agent(task, prepared.sandbox.clone(), &mut log, signals.stop.clone()) => outcome,
                () = after(&signals.let_go, LET_GO_GRACE) => return Ok(Ended::LetGo),
            };
            let lacks_output =
                prepared.output.is_some() && !matches!(outcome, Ok(Outcome::Answered { .. } | Outcome::NoOutput(_)));
            let mut ending = match outcome {
                Ok(outcome) => Ending::from(outcome),
                Err(AgentError::Log(error)) if error.is::<LetGo>() => return Ok(Ended::LetGo),
                Err(AgentError::Log(error)) if error.is::<TraceFull>() => Ending {
                    reason: Reason::MaxIterations,
                    text: full_trace(self.app.config.trace),
                    ..Ending::default()
                },
                Err(AgentError::Log(error)) => {
                    // As its own type, for the worker tells a full disk and a lost claim from the rest.
                    let error = match error.downcast::<codegen_store::Error>() {
                        Ok(error) => anyhow::Error::from(*error),
                        Err(error) => anyhow::Error::from_boxed(error),
                    };
                    return Err(error.context("writing the run's log"));
                }
                Err(AgentError::Sandbox(error)) => return Err(error.into()),
            };
            if self.is_given_up {
                ending = self.given_up();
            }
            if lacks_output {
                finish::add(&mut ending, "There is no structured result.");
            }
            if let Some(keeper) = keeper {
                keeper.end(&self.stop).await;
            }
            self.app.store.set_phase(&self.run.claim(), Phase::Finishing).await?;
            prepared.is_carried_out = finish::carry_out(self, prepared, &log, &mut ending).await?;
            if self.end(&log, &ending).await? {
                return Ok(Ended::Done);
            }
            self.app.store.set_phase(&self.run.claim(), Phase::Running).await?;
        }
    }

    fn given_up(&self) -> Ending {
        let cause = Some(format!("{} crashes without progress", self.run.crashes));
        Ending { reason: Reason::Failed, text: GIVEN_UP.to_owned(), cause, ..Ending::default() }
    }

    /// Records the end. False when a message came in that the agent has not seen, so the run goes on.
    async fn end(&self, log: &RunLog, ending: &Ending) -> Result<bool> {
        let claim = self.run.claim();
        let is_error = ending.reason != Reason::Complete;
        let mut note = json!({ "text": ending.text, "is_error": is_error, "reason": ending.reason.as_str() });
        if let Some(output) = &ending.output {
            note["output"] = output.clone();
            self.app.store.set_output(&claim, &output.to_string()).await?;
        }
        log.note("result", note).await?;
        let now = self.app.now();
        let answers = matches!(ending.reason, Reason::Complete | Reason::Error) && ending.cause.is_none();
        if answers {
            let done =
                self.app.store.finish_run_if_read(&claim, log.seen_seq(), ending.reason, &ending.text, now).await?;
            if !done {
                return Ok(false);
            }
        } else {
            self.app.store.finish_run(&claim, ending.reason, &ending.text, ending.cause.as_deref(), now).await?;
        }
        tracing::info!(
            run.id = self.run.id,
            org.id = self.run.org_id,
            reason = ending.reason.as_str(),
            "run {} ended",
            self.run.id
        );
        Ok(true)
    }

    /// Ends a run whose preparation was stopped (no reason) or did not work, and what its sandbox does in any case.
    async fn end_unprepared(&self, why: Option<anyhow::Error>) -> Result<()> {
        let recorded = self.record_unprepared(why).await;
        prepare::destroy(&self.app, &prepare::sandbox_id(&self.app, &self.run)).await;
        recorded
    }

    async fn record_unprepared(&self, why: Option<anyhow::Error>) -> Result<()> {
        let mut ending = match why {
            None if self.is_given_up => self.given_up(),
            None => {
                let text = "Stopped before the agent began.".to_owned();
                Ending { reason: Reason::Cancelled, text, ..Ending::default() }
            }
            Some(error) => Ending::of_error(error)?,
        };
        // The sandbox is lost, or was lost again: what was kept of it is what there is.
        if let Some(stat) = finish::keep_diff_of_workspace(&self.app, &self.run).await? {
            if ending.reason == Reason::Cancelled {
                ending.text = "Stopped.".to_owned();
            }
            finish::add(
                &mut ending,
                "Its sandbox is gone; the work is kept as it was after the last turn that was kept.",
            );
            let update = RunUpdate { diff_stat: Some(stat), ..RunUpdate::default() };
            self.app.store.update_run(&self.run.claim(), update, self.app.now()).await?;
        }
        let (app, claim, let_go) = (self.app.clone(), self.run.claim(), self.let_go.clone());
        let (log, _) = RunLog::open(app, claim, self.run.org_id, let_go, Turns::unwatched()).await?;
        let note = json!({ "text": ending.text, "is_error": true, "reason": ending.reason.as_str() });
        log.note("result", note).await?;
        self.app
            .store
            .finish_run(&self.run.claim(), ending.reason, &ending.text, ending.cause.as_deref(), self.app.now())
            .await?;
        tracing::info!(
            run.id = self.run.id,
            org.id = self.run.org_id,
            reason = ending.reason.as_str(),
            "run {} ended unprepared",
            self.run.id
        );
        Ok(())
    }
}

impl Ending {
    /// Translates what went wrong in preparing. A run that was taken over is given back as the error.
    fn of_error(error: anyhow::Error) -> Result<Self> {
        if let Some(codegen_store::Error::Fenced) = error.downcast_ref() {
            return Err(error);
        }
        let theirs = error.chain().any(|e| e.is::<CannotBeDone>() || e.is::<crate::forge::git::Error>());
        let cause = Some(format!("{error:#}"));
        Ok(if let Some(lost) = error.downcast_ref::<LostAgain>() {
            Self { reason: Reason::Failed, text: sentence_case(&lost.to_string()), cause, ..Self::default() }
        } else if theirs {
            let sentence = error
                .chain()
                .find(|e| e.is::<CannotBeDone>() || e.is::<crate::forge::git::Error>())
                .map(ToString::to_string);
            Self { reason: Reason::Error, text: sentence_case(&sentence.unwrap_or_default()), cause, ..Self::default() }
        } else if let Some(SandboxError::HostRefuses(what_to_do)) = error.downcast_ref() {
            Self {
                reason: Reason::Failed,
                text: format!("This host does not allow isolated commands: {what_to_do}; {WAY_OUT}."),
                cause,
                ..Self::default()
            }
        } else {
            Self {
                reason: Reason::Failed,
                text: format!("codegen could not prepare the run ({error}); its log has the cause."),
                cause,
                ..Self::default()
            }
        })
    }
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        let mut output = None;
        let (reason, text) = match outcome {
            Outcome::Answered { summary, output: given } => {
                output = Some(given);
                (Reason::Complete, summary)
            }
            Outcome::NoOutput(why) => {
                let text = format!("The agent gave no structured result that fits. Its last try: {why}");
                (Reason::Error, text)
            }
            Outcome::Finished(text) if text.trim().is_empty() => {
                (Reason::Complete, "The agent ended without a word.".to_owned())
            }
            Outcome::Finished(text) => (Reason::Complete, text),
            Outcome::GaveUp(text) => (Reason::Error, text),
            Outcome::OutOf(Limit::Steps) => (Reason::MaxIterations, "The run used all its steps.".to_owned()),
            Outcome::OutOf(Limit::Tokens) => {
                (Reason::OutOfTokens, "The run used all its tokens, or the model's context is full.".to_owned())
            }
            Outcome::OutOf(Limit::Cost) => (Reason::OutOfTokens, "The run used all its money.".to_owned()),
            Outcome::OutOf(Limit::Allowance) => {
                (Reason::OutOfTokens, "The organization has used all its money of this month.".to_owned())
            }
            Outcome::OutOf(Limit::Time) => (Reason::Timeout, "The run used all its time.".to_owned()),
            Outcome::Stopped => (Reason::Cancelled, "Stopped.".to_owned()),
            Outcome::ModelFailed(sentence) => (Reason::Error, sentence),
        };
        Self { reason, text, cause: None, output }
    }
}

fn full_trace(most: TraceLimits) -> String {
    format!(
        "The trace of this run is full ({} entries or {}); give what is left to a new run.",
        most.entries,
        disk::human(most.bytes)
    )
}

/// A sentence as people read it: a capital first and a full stop.
fn sentence_case(text: &str) -> String {
    let mut chars = text.trim().chars();
    let mut sentence: String = chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect();
    if !sentence.ends_with(['.', '!', '?', ')']) {
        sentence.push('.');
    }
    sentence
}

async fn after(token: &CancellationToken, grace: Duration) {
    token.cancelled().await;
    tokio::time::sleep(grace).await;
}

/// The agent, boxed: its state is large, and the compiler is spared proving it `Send` inside ours.
fn agent<'a>(
    task: Task,
    sandbox: Arc<dyn codegen_sandbox::Sandbox>,
    log: &'a mut RunLog,
    stop: CancellationToken,
) -> std::pin::Pin<Box<dyn Future<Output = Result<Outcome, AgentError>> + Send + 'a>> {
    Box::pin(native::run(task, sandbox, log, stop))
}
