//! After the agent: commit, take the commits out, keep a patch, push, open the pull request. What does not work becomes a sentence
//! in the result; the work itself is kept in every case.

use std::time::Duration;

use anyhow::{Context, Result};
use codegen_store::{NewPullRequest, Phase, Reason, Run, RunUpdate, failpoint};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::{
    execute::{Ending, Story, is_gone},
    log::RunLog,
    prepare::{Git, Prepared},
    workspace::{self, MOST_TIME},
};
use crate::{
    App,
    forge::{
        self, PullRequestSpec,
        git::{self, Kept, Mirror},
    },
    room::is_full,
};

/// The blob that holds the run's whole change.
const DIFF: &str = "diff";

/// Time to commit the work of a run that someone stops, of the 2 s that a stop may take.
const STOPPING: Duration = Duration::from_millis(1200);
/// The last part of it, in which the sandbox is asked whether it answers at all.
const ANSWERING: Duration = Duration::from_millis(200);
/// Bytes of commits that a run may have made, compressed.
const MOST_BYTES: u64 = 8 << 30;

/// Carries the work of a run out of its sandbox, but does not hold a stop up. Sentences on what did not work are added to
/// the ending. False where there was not enough time; [`keep_late`] is for that.
///
/// # Errors
/// When the run's state cannot be recorded.
pub(super) async fn carry_out(
    story: &Story,
    prepared: &mut Prepared,
    log: &RunLog,
    ending: &mut Ending,
) -> Result<bool> {
    let sandbox = prepared.sandbox.clone();
    let time_is_up = async {
        // Nobody waits for the end of a run that is given up.
        if story.is_given_up {
            std::future::pending::<()>().await;
        }
        story.stop.cancelled().await;
        tokio::time::sleep(STOPPING - ANSWERING).await;
        let (answer, ()) = tokio::join!(
            tokio::time::timeout(ANSWERING, sandbox.reattach("whether it answers")),
            tokio::time::sleep(ANSWERING)
        );
        answer.is_ok_and(|answer| answer.is_ok())
    };
    let answers = tokio::select! {
        biased;
        done = carry_all_out(story, prepared, log, ending) => return done.map(|()| true),
        answers = time_is_up => answers,
    };
    ending.reason = Reason::Cancelled;
    let why = if answers {
        "The workspace is too large to be committed in the time that a stop has."
    } else {
        "The sandbox does not answer, so its workspace could not be committed in the time that a stop has."
    };
    add(
        ending,
        &format!(
            "{why} It is kept in the background for up to a minute; until then, and where that does not work, the work is \
             kept as it was after the last turn that was kept."
        ),
    );
    Ok(false)
}

/// Keeps the workspace of a run that was stopped, after its end. A run that someone goes on with meanwhile is left alone.
pub(super) async fn keep_late(story: &Story, prepared: &Prepared) -> Result<()> {
    let (app, run) = (&story.app, &story.run);
    let Some(git) = &prepared.git else { return Ok(()) };
    let is_left_alone = async || {
        let now = app.store.run_by_id(run.id).await?;
        anyhow::Ok(now.attempt == run.attempt && now.phase == Phase::Done)
    };
    let keeping = async {
        if let Some((commit, _)) = git.checkout.keep(&*prepared.sandbox, None, MOST_TIME).await? {
            let known = git.mirror.kept(Kept::Workspace(run.id)).await?;
            let most = workspace::MOST_BYTES;
            let pack = git.checkout.pack(prepared.sandbox.clone(), &commit, known.as_deref(), most).await?;
            if is_left_alone().await? {
                git.mirror.import_pack(Kept::Workspace(run.id), &commit, pack.bytes).await?;
            }
        }
        anyhow::Ok(())
    };
    let kept = tokio::time::timeout(MOST_TIME, keeping).await.context("taking too long");
    let showing = async {
        if !is_left_alone().await? {
            return Ok(());
        }
        let newest = match git.mirror.kept(Kept::Workspace(run.id)).await? {
            Some(work) => Some(work),
            None => git.mirror.kept(Kept::Run(run.id)).await?,
        };
        let Some(commit) = newest else { return Ok(()) };
        let diff = git.mirror.diff(run.base_commit.as_deref(), &commit).await?;
        app.store.put_blob(run.org_id, run.id, DIFF, &diff).await?;
        anyhow::Ok(())
    };
    // Also where nothing could be kept now: there is what was kept before.
    showing.await?;
    kept?
}

async fn carry_all_out(story: &Story, prepared: &mut Prepared, log: &RunLog, ending: &mut Ending) -> Result<()> {
    let summary: String = ending.text.trim().chars().take(2_000).collect();
    let claim = story.run.claim();
    story
        .app
        .store
        .update_run(&claim, RunUpdate { summary: Some(summary), ..RunUpdate::default() }, story.app.now())
        .await?;
    let sandbox = prepared.sandbox.clone();
    let Some(git) = &mut prepared.git else { return Ok(()) };
    if ending.reason == Reason::Complete {
        git.lacking.iter().for_each(|sentence| add(ending, sentence));
    }

    let commit = match take_out(story, git, sandbox.clone(), ending).await {
        Ok(Some(commit)) => commit,
        Ok(None) => return Ok(()),
        Err(error) if is_gone(&error) || is_full(&error) => return Err(error),
        Err(error) => {
            tracing::warn!(run.id = story.run.id, error = format!("{error:#}"), "taking the run's commits out");
            let kept = match git.checkout.patch(&*sandbox).await {
                Ok(patch) => story
                    .app
                    .store
                    .put_blob(story.run.org_id, story.run.id, DIFF, &patch)
                    .await
                    .map(|()| "The work is kept as a patch on this run."),
                Err(_) => Ok("No patch could be made of it either."),
            };
            add(ending, &format!("The work could not be committed: {error:#}. {}", kept?));
            return Ok(());
        }
    };
    git.checkout.base = Some(commit.clone());
    if git.base.as_ref() == Some(&commit) {
        return Ok(());
    }
    let diff = git.mirror.diff(git.base.as_deref(), &commit).await?;
    story.app.store.put_blob(story.run.org_id, story.run.id, DIFF, &diff).await?;
    let branch = git.checkout.branch.clone();
    let update = RunUpdate {
        branch: Some(branch.clone()),
        diff_stat: Some(git.mirror.diff_stat(git.base.as_deref(), &commit).await?),
        ..RunUpdate::default()
    };
    story.app.store.update_run(&claim, update, story.app.now()).await?;

    let mut pushed = false;
    if !story.run.push {
        // Asked for by nobody: the branch stays here.
    } else if !story.org.enable_pr_creation {
        add(
            ending,
            "Pull requests are switched off for this organization: nothing was pushed, and the work is kept as a patch on this run.",
        );
    } else if !matches!(ending.reason, Reason::Complete | Reason::Timeout | Reason::MaxIterations | Reason::OutOfTokens)
    {
        add(ending, "The work so far was not pushed; it is kept as a patch on this run.");
    } else {
        // The origin may take its time; who stops the run does not wait for it.
        let outcome = tokio::select! {
            biased;
            () = story.stop.cancelled() => None,
            outcome = push(story, git, &commit) => Some(outcome),
        };
        match outcome {
            Some(Ok(())) => pushed = true,
            None => {
                ending.reason = Reason::Cancelled;
                add(ending, "Stopped before the branch was pushed; the work is kept as a patch on this run.");
            }
            Some(Err(error)) => match error.downcast::<git::Error>() {
                Ok(error) => add(ending, &format!("{error}. The work is kept as a patch on this run.")),
                Err(error) => return Err(error),
            },
        }
    }
    log.note("branch", json!({ "name": branch, "commit": commit, "pushed": pushed })).await?;
    if pushed && story.run.open_pr && ending.reason == Reason::Complete {
        let outcome = tokio::select! {
            biased;
            () = story.stop.cancelled() => None,
            outcome = open_pull_request(story, git, log, ending, &commit) => Some(outcome),
        };
        match outcome {
            Some(Ok(None)) => {}
            Some(Ok(Some(sentence))) => add(ending, &sentence),
            None => {
                ending.reason = Reason::Cancelled;
                add(ending, &format!("The branch {branch} is pushed; stopped before its pull request was opened."));
            }
            Some(Err(error)) => match error.downcast::<forge::Error>() {
                Ok(forge::Error::Store(error)) => return Err(error.into()),
                Ok(error @ (forge::Error::Refused(_) | forge::Error::Unreachable(_))) => {
                    add(
                        ending,
                        &format!(
                            "The branch {branch} is pushed, but its pull request is not open or not up to date: {error}."
                        ),
                    );
                }
                Err(error) => return Err(error),
            },
        }
    }
    Ok(())
}

/// Keeps what the workspace showed after the last turn that was kept as the run's diff, for when its sandbox is gone and
/// nothing can be committed in it. Gives the summary; none where nothing was kept since the last commit.
pub(crate) async fn keep_diff_of_workspace(app: &App, run: &Run) -> Result<Option<String>> {
    let Some(repo_id) = run.repo_id else { return Ok(None) };
    let mirror = Mirror::of(&app.config.data_dir, repo_id);
    if !mirror.dir().exists() {
        return Ok(None);
    }
    let Some(work) = mirror.kept(Kept::Workspace(run.id)).await? else { return Ok(None) };
    let base = run.base_commit.as_deref();
    let diff = mirror.diff(base, &work).await?;
    app.store.put_blob(run.org_id, run.id, DIFF, &diff).await?;
    Ok(Some(mirror.diff_stat(base, &work).await?))
}

/// Commits inside and brings the commit into the mirror. None when the repository was empty and still is.
async fn take_out(
    story: &Story,
    git: &Git,
    sandbox: std::sync::Arc<dyn codegen_sandbox::Sandbox>,
    ending: &mut Ending,
) -> Result<Option<String>> {
    let committed = git.checkout.commit_all(&*sandbox, &message(story, ending)).await?;
    if let Some(sentence) = committed.left_out {
        add(ending, &sentence);
    }
    let Some(commit) = committed.commit else { return Ok(None) };
    if git.checkout.base.as_ref() == Some(&commit) {
        return Ok(Some(commit));
    }
    let kept = Kept::Run(story.run.id);
    if git.mirror.has(&commit).await? {
        git.mirror.keep(kept, &commit).await?;
    } else {
        let known = git.mirror.kept(Kept::Workspace(story.run.id)).await?;
        let pack = git.checkout.pack(sandbox, &commit, known.as_deref(), MOST_BYTES).await?;
        git.mirror.import_pack(kept, &commit, pack.bytes).await?;
    }
    Ok(Some(commit))
}

/// Pushes the branch, journaled. A crash between the push and its settling is seen at the origin, which has the commit then.
async fn push(story: &Story, git: &Git, commit: &str) -> Result<()> {
    let (store, claim) = (&story.app.store, story.run.claim());
    let origin = origin(story).await?;
    let origin = origin.expose_secret();
    let branch = &git.checkout.branch;
    let earlier = store.effects(story.run.id).await?;
    let key = format!("push:{commit}");
    let intent = json!({ "branch": branch, "commit": commit, "origin": git::without_credentials(origin) });
    if store.intend(&claim, &key, "push", &intent.to_string(), story.app.now()).await?.settled_at.is_some() {
        return Ok(());
    }
    // What this run itself put there, or may have put there just before a crash, may be replaced; nothing else.
    let ours: Vec<String> = earlier
        .iter()
        .filter(|e| e.kind == "push")
        .filter_map(|e| serde_json::from_str::<Value>(&e.intent).ok()?["commit"].as_str().map(str::to_owned))
        .collect();
    let there = git.mirror.remote_commit(branch, origin).await?;
    let expected = there.filter(|there| ours.contains(there));
    story.app.lease.check(store, story.app.now()).await?;
    failpoint::hit("push.before");
    git.mirror.push(commit, branch, origin, expected.as_deref()).await?;
    failpoint::hit("push.after");
    store.settle(&claim, &key, &json!({ "commit": commit }).to_string(), story.app.now()).await?;
    Ok(())
}

/// Opens the pull request or brings it up to date, journaled; the forge is asked for an open one first. A sentence when there can be none.
async fn open_pull_request(
    story: &Story,
    git: &Git,
    log: &RunLog,
    ending: &Ending,
    commit: &str,
) -> Result<Option<String>> {
    let (app, claim) = (&story.app, story.run.claim());
    let Some(repo) = &story.repo else { return Ok(None) };
    if git.base.is_none() {
        return Ok(Some(format!(
            "The repository was empty: the branch {} is pushed, and there is nothing to open a pull request into.",
            git.checkout.branch
        )));
    }
    let Some(base_branch) = &git.base_branch else {
        return Ok(Some(format!(
            "The repository has no default branch: the branch {} is pushed, and a pull request needs one to go into.",
            git.checkout.branch
        )));
    };
    let spec = PullRequestSpec {
        org_id: story.run.org_id,
        repo_id: repo.id,
        run_id: story.run.id,
        title: title(&story.run.prompt),
        body: format!("{}\n\nRequested by {} in run {}.", ending.text.trim(), requester(story), story.run.id),
        head_branch: git.checkout.branch.clone(),
        base_branch: base_branch.clone(),
        head_commit: commit.to_owned(),
        now: app.now(),
    };
    let origin = origin(story).await?;
    let forge = forge::of_origin(&app.config, &app.store, origin.expose_secret())?;
    let key = format!("pull_request:{commit}");
    let intent = json!({ "head": spec.head_branch, "base": spec.base_branch, "forge": forge.name() });
    if app.store.intend(&claim, &key, "pull_request", &intent.to_string(), app.now()).await?.settled_at.is_some() {
        return Ok(None);
    }
    app.lease.check(&app.store, app.now()).await?;
    failpoint::hit("pull_request.before");
    let opened = forge.open_or_update(&spec).await?;
    failpoint::hit("pull_request.after");
    let row = NewPullRequest {
        repo_id: spec.repo_id,
        run_id: spec.run_id,
        number: Some(opened.number),
        title: spec.title.clone(),
        body: spec.body,
        url: opened.url.clone(),
        head_branch: spec.head_branch,
        base_branch: spec.base_branch,
        head_commit: spec.head_commit,
        state: opened.state.clone(),
        forge: forge.name().to_owned(),
    };
    app.store.create_pull_request(story.run.org_id, row, app.now()).await?;
    let note = json!({ "number": opened.number, "url": opened.url, "title": spec.title, "state": opened.state });
    app.store.settle(&claim, &key, &note.to_string(), app.now()).await?;
    log.note("pull_request", note).await?;
    // A person's decision stands: it is neither opened again nor replaced.
    Ok((opened.state == "closed").then(|| {
        format!(
            "The pull request {} was closed, and stays so; the branch {} has the work.",
            opened.url, git.checkout.branch
        )
    }))
}

/// Where the branch goes: `codegen run` in a folder means the folder's own origin.
async fn origin(story: &Story) -> Result<SecretString> {
    if story.run.source_type == "LOCAL" {
        Ok(git::push_origin(story.origin.expose_secret()).await?.into())
    } else {
        Ok(story.origin.clone())
    }
}

fn requester(story: &Story) -> String {
    let user = &story.user;
    let name = user.full_name.as_ref().filter(|n| !n.trim().is_empty()).unwrap_or(&user.github_username);
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The prompt's first line, cut to what forges and `git log` show.
fn title(prompt: &str) -> String {
    let line = prompt.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("Work of a run");
    if line.chars().count() <= 72 { line.to_owned() } else { line.chars().take(71).chain(['…']).collect() }
}

fn message(story: &Story, ending: &Ending) -> String {
    let body = if ending.reason == Reason::Complete {
        ending.text.trim()
    } else {
        "Work in progress: the run ended before the task was done."
    };
    let body: String = body.chars().filter(|c| *c != '\0').take(4_000).collect();
    format!("{}\n\n{}\n\nRequested-by: {}\n", title(&story.run.prompt).replace('\0', ""), body, requester(story))
}

pub(super) fn add(ending: &mut Ending, sentence: &str) {
    let text = ending.text.trim_end();
    ending.text = if text.is_empty() { sentence.to_owned() } else { format!("{text}\n\n{sentence}") };
}

#[cfg(test)]
mod tests {
    use super::title;

    #[test]
    fn a_title_is_the_first_line_of_the_prompt_cut_to_72_characters() {
        assert_eq!(title("\n  Fix it \nplease"), "Fix it");
        assert_eq!(title(&"ü".repeat(100)).chars().count(), 72);
        assert_eq!(title(" \n"), "Work of a run");
    }
}
