//! Pushing from a mirror to its origin, over connections that may break off.

use std::time::Duration;

use super::{
    Error, Mirror, address, check_origin,
    mirror::NETWORK,
    process::{Ended, Git},
    without_credentials,
};

/// Tries of a push or a look at the origin while it cannot be reached.
const TRIES: u32 = 4;

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The branch is there now.
    Now,
    /// It was there already.
    Before,
}

impl Mirror {
    /// Pushes a commit to the run's own branch. `expected` is the last commit that this run pushed there; anything else
    /// there is not overwritten. A push that broke off may have arrived, so the origin is looked at before each try.
    ///
    /// # Errors
    /// [`Error::Rejected`] with the origin's reason, [`Error::Unusable`] when it cannot be used, [`Error::Unreachable`]
    /// when it could not be reached all the while.
    pub async fn push(
        &self,
        commit: &str,
        branch: &str,
        origin: &str,
        expected: Option<&str>,
    ) -> Result<Pushed, Error> {
        let doing = format!("pushing {branch} to {}", without_credentials(origin));
        let mut tries = 1;
        loop {
            if self.remote_commit(branch, origin).await?.as_deref() == Some(commit) {
                return Ok(if tries == 1 { Pushed::Before } else { Pushed::Now });
            }
            let ended = self
                .git(doing.clone())
                .credentials_of(origin)
                .timeout(NETWORK)
                .args(["push", "--porcelain", "--no-verify", "--no-signed", "--recurse-submodules=no"])
                .args([format!("--force-with-lease=refs/heads/{branch}:{}", expected.unwrap_or_default())])
                .args(["--", &address(origin), &format!("{commit}:refs/heads/{branch}")])
                .end()
                .await?;
            if ended.ok {
                return Ok(Pushed::Now);
            }
            // An earlier try that broke off on this side only may have been taken meanwhile.
            if self.remote_commit(branch, origin).await?.as_deref() == Some(commit) {
                return Ok(Pushed::Now);
            }
            if let Some(why) = rejection(&ended) {
                let shown = without_credentials(origin);
                return Err(Error::Rejected(format!("{shown} did not take the branch {branch}: {why}")));
            }
            let error = if ended.killed {
                Error::Unreachable(format!("{doing}: git was killed"))
            } else {
                Error::of_stderr(doing.clone(), ended.stderr)
            };
            wait(error, &mut tries).await?;
        }
    }

    /// The commit that an origin has on a branch.
    ///
    /// # Errors
    /// A sentence when the origin cannot be used.
    pub async fn remote_commit(&self, branch: &str, origin: &str) -> Result<Option<String>, Error> {
        check_origin(origin)?;
        let mut tries = 1;
        loop {
            let looked = Git::new(format!("looking at {}", without_credentials(origin)))
                .credentials_of(origin)
                .args(["ls-remote", "--", &address(origin), &format!("refs/heads/{branch}")])
                .line()
                .await;
            match looked {
                Ok(line) => return Ok(line.split_once('\t').map(|(commit, _)| commit.to_owned())),
                Err(error) => wait(error, &mut tries).await?,
            }
        }
    }
}

/// Waits for the next try where the origin could not be reached; every other error, and the last one, is given back.
pub(super) async fn wait(error: Error, tries: &mut u32) -> Result<(), Error> {
    if !matches!(error, Error::Unreachable(_)) || *tries >= TRIES {
        return Err(error);
    }
    tracing::warn!(tries, "{error}");
    tokio::time::sleep(Duration::from_millis(250 << *tries)).await;
    *tries += 1;
    Ok(())
}

/// Why the origin did not take the branch, where it got as far as saying so.
fn rejection(ended: &Ended) -> Option<String> {
    let report = String::from_utf8_lossy(&ended.stdout);
    let why = report.lines().find(|l| l.starts_with('!'))?.rsplit('\t').next()?.trim().to_owned();
    let remote =
        ended.stderr.lines().filter_map(|l| l.strip_prefix("remote:")).map(str::trim).filter(|l| !l.is_empty());
    let remote: String = remote.collect::<Vec<_>>().join(" ").chars().take(500).collect();
    Some(match why {
        w if w.contains("stale info") => "someone else has changed the branch there since".to_owned(),
        w if remote.is_empty() => w,
        w => format!("{w} ({remote})"),
    })
}
