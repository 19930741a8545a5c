//! The user's own folder, for `codegen run`: its uncommitted changes go in, a branch comes back. Index, branches and files stay as they are.

use std::path::Path;

use super::{Error, Kept, Mirror, host, local_path, process::Git};

/// The folder's working tree, uncommitted and untracked files included, as a commit on top of its HEAD; HEAD itself when nothing differs.
/// Like `git stash create` it leaves loose objects and nothing else.
///
/// # Errors
/// A sentence when the folder has no commit to start from or git cannot read it.
pub async fn snapshot_worktree(folder: &Path) -> Result<String, Error> {
    let shown = folder.display();
    let doing = format!("reading the working tree of {shown}");
    let git = || Git::new(doing.clone()).dir(folder);
    let head = git().args(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).end().await?;
    let head = head.ok.then(|| String::from_utf8_lossy(&head.stdout).trim().to_owned());
    // A bare repository, or a `.git` itself.
    if git().args(["rev-parse", "--is-inside-work-tree"]).line().await? != "true" {
        return head.ok_or_else(|| {
            Error::Missing(format!("{shown} has no commit on its HEAD yet; name a branch to start from"))
        });
    }
    let scratch = tempfile::tempdir().map_err(|e| Error::Io(doing.clone(), e))?;
    let index = scratch.path().join("index");
    let own = folder.join(git().args(["rev-parse", "--git-path", "index"]).line().await?);
    if own.exists() {
        std::fs::copy(&own, &index).map_err(|e| Error::Io(doing.clone(), e))?;
    }
    let top = git().args(["rev-parse", "--show-toplevel"]).line().await?;
    let git = || {
        Git::new(doing.clone())
            .dir(Path::new(&top))
            .env("GIT_INDEX_FILE", &index)
            .timeout(std::time::Duration::from_secs(600))
    };
    git().args(["add", "--all"]).run().await?;
    let tree = git().args(["write-tree"]).line().await?;
    let mut commit = vec![
        "commit-tree".to_owned(),
        tree.clone(),
        "-m".to_owned(),
        "Uncommitted changes of the working tree".to_owned(),
    ];
    if let Some(head) = head {
        if git().args(["rev-parse", &format!("{head}^{{tree}}")]).line().await? == tree {
            return Ok(head);
        }
        commit.extend(["-p".to_owned(), head]);
    }
    let mut git = git();
    for who in ["AUTHOR", "COMMITTER"] {
        git =
            git.env(&format!("GIT_{who}_NAME"), super::AGENT_NAME).env(&format!("GIT_{who}_EMAIL"), super::AGENT_EMAIL);
    }
    git.args(commit).line().await
}

/// Leaves a run's last commit as a branch in the user's folder and gives the branch's name: with the commit's where the
/// folder has another branch of that name, for every data directory counts its runs from 1.
///
/// # Errors
/// When git cannot fetch it.
pub async fn copy_branch(mirror: &Mirror, run_id: i64, folder: &Path, branch: &str) -> Result<String, Error> {
    let doing = format!("leaving the branch {branch} in {}", folder.display());
    let commit = mirror.kept(Kept::Run(run_id)).await?;
    let commit = commit.ok_or_else(|| Error::Missing(format!("{doing}: the run has no commit")))?;
    let there = Git::new(doing.clone())
        .dir(folder)
        .args(["rev-parse", "--verify", "--quiet", &format!("refs/heads/{branch}")])
        .end()
        .await?;
    let taken = there.ok && String::from_utf8_lossy(&there.stdout).trim() != commit;
    let name =
        if taken { format!("{branch}-{}", commit.chars().take(7).collect::<String>()) } else { branch.to_owned() };
    Git::new(doing)
        .dir(folder)
        .args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--"])
        .args([mirror.dir()])
        .args([format!("refs/codegen/runs/{run_id}:refs/heads/{name}")])
        .run()
        .await?;
    Ok(name)
}

/// Where a run that started from a folder pushes to: the folder's own `origin` where it has one, else the folder.
///
/// # Errors
/// When git cannot read the folder.
pub async fn push_origin(origin: &str) -> Result<String, Error> {
    let Some(folder) = local_path(origin) else { return Ok(origin.to_owned()) };
    let remote = Git::new(format!("reading the remotes of {origin}"))
        .dir(folder)
        .args(["remote", "get-url", "--push", "origin"])
        .end()
        .await?;
    let url = String::from_utf8_lossy(&remote.stdout).trim().to_owned();
    if !remote.ok || url.is_empty() {
        return Ok(origin.to_owned());
    }
    if host(&url).is_some() || url.starts_with('/') || url.starts_with("file://") {
        return Ok(url);
    }
    Ok(folder.join(&url).display().to_string())
}
