//! `codegen agent --id N pull`: the run's branch into the checkout that the command is called in.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::{client::Client, out::say, render::plain_text};

/// git, in the current folder.
fn git(args: &[&str]) -> Result<Output> {
    Command::new("git").args(args).output().context("starting git (is it installed?)")
}

/// What git prints, or its own words as the error.
fn ask(args: &[&str]) -> Result<String> {
    let output = git(args)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    bail!("git {}: {}", args.first().unwrap_or(&""), String::from_utf8_lossy(&output.stderr).trim())
}

fn succeeds(args: &[&str]) -> Result<bool> {
    Ok(git(args)?.status.success())
}

/// Checks the run's branch out. Whatever is not committed, or committed only here, stays as it is: then nothing is done.
pub async fn pull(client: &Client, run_id: i64) -> Result<()> {
    let view = client.get(&client.org_path(&format!("/agent/run/{run_id}/view"))).await?;
    if !succeeds(&["rev-parse", "--is-inside-work-tree"])? {
        bail!("this folder is in no git checkout: go to one of the run's repository first");
    }
    let by_hand = format!("`codegen agent --id {run_id} diff | git apply` takes its changes without a branch");
    let Some(branch) = view["branch"].as_str().map(plain_text) else {
        bail!("run {run_id} has pushed no branch; {by_hand}");
    };
    if !ask(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
        bail!("there are uncommitted changes here: commit or stash them first (`git stash`)");
    }
    let whole = format!("refs/heads/{branch}");
    let remotes = ask(&["remote"])?;
    let mut without = Vec::new();
    let remote = 'found: {
        for remote in remotes.lines() {
            match git(&["ls-remote", "--exit-code", "--heads", "--", remote, &whole])?.status.code() {
                Some(0) => break 'found remote,
                Some(2) => without.push(format!("{remote} does not have it")),
                _ => without.push(format!("{remote} does not answer")),
            }
        }
        let tried = if without.is_empty() { "this checkout has no remote".to_owned() } else { without.join(", ") };
        bail!("the branch {branch} is at no remote of this checkout ({tried}); {by_hand}");
    };
    let tracking = format!("refs/remotes/{remote}/{branch}");
    ask(&["fetch", "--quiet", "--no-tags", "--", remote, &format!("+{whole}:{tracking}")])?;
    if succeeds(&["rev-parse", "--quiet", "--verify", &whole])? {
        if !succeeds(&["merge-base", "--is-ancestor", &whole, &tracking])? {
            bail!(
                "your branch {branch} has commits that {remote} does not have, or others in their place: \
                 `git log {remote}/{branch}..{branch}` shows them; rename it and pull again"
            );
        }
        ask(&["checkout", "--quiet", &branch])?;
        ask(&["merge", "--quiet", "--ff-only", &tracking])?;
    } else {
        ask(&["checkout", "--quiet", "-b", &branch, &tracking])?;
        ask(&["branch", "--quiet", &format!("--set-upstream-to={remote}/{branch}"), &branch]).ok();
    }
    say!("{branch} is checked out, at {}", plain_text(&ask(&["log", "-1", "--format=%h %s"])?));
    Ok(())
}
