//! Puts a mirror in order: many small packs become one, what no ref leads to goes, and so do workspaces that nobody goes on
//! with. Git writes what is new beside what is there and removes that last, so whoever is killed in between loses nothing.

use std::{
    fs::{self, File},
    time::{Duration, SystemTime},
};

use super::{Error, Kept, Mirror};

/// Each kept turn is a pack, and git looks through all of them.
const MOST_PACKS: usize = 24;
/// For joining them; small ones join small ones, so what was fetched stays as it is.
const JOINING: Duration = Duration::from_secs(60);
/// For writing all that is reachable anew; a run that begins meanwhile waits.
const CLEANING: Duration = Duration::from_secs(120);
/// Between two times of doing that.
const REST: Duration = Duration::from_secs(24 * 3600);
const WORKSPACES: &str = "refs/codegen/workspaces";

impl Mirror {
    /// How many packs it has.
    pub fn packs(&self) -> usize {
        let names = fs::read_dir(self.objects().join("pack")).into_iter().flatten().flatten();
        names.filter(|entry| entry.path().extension().is_some_and(|ext| ext == "pack")).count()
    }

    /// Joins small packs where there are many; says whether it did. Nothing is dropped.
    ///
    /// # Errors
    /// When git or the disk fails, or it takes too long; everything is there even so.
    pub async fn join_packs(&self) -> Result<bool, Error> {
        if self.packs() < MOST_PACKS {
            return Ok(false);
        }
        let _lock = self.lock_to_tidy().await?;
        let repack = ["-c", "repack.writeBitmaps=false", "repack", "--geometric=2", "-d", "-n", "-q"];
        self.git("joining the packs of a mirror").timeout(JOINING).args(repack).run().await?;
        Ok(true)
    }

    /// Drops what no ref leads to, at most once a day and only where the mirror was used since, if `unneeded` still says so
    /// while nobody else can be using it. Says whether it did.
    ///
    /// # Errors
    /// When git or the disk fails, or it takes too long; everything is there then.
    pub async fn drop_unreachable<E: From<Error>>(
        &self,
        unneeded: impl AsyncFnOnce() -> Result<bool, E>,
    ) -> Result<bool, E> {
        let marker = self.dir.join("codegen-cleaned");
        let cleaned = fs::metadata(&marker).and_then(|meta| meta.modified()).ok();
        let is_due = cleaned.is_none_or(|at| {
            self.last_used().is_some_and(|used| used > at)
                && SystemTime::now().duration_since(at).is_ok_and(|age| age > REST)
        });
        if !is_due || !self.dir.exists() {
            return Ok(false);
        }
        let _lock = self.lock_to_tidy().await?;
        if !unneeded().await? {
            return Ok(false);
        }
        let doing = "dropping what nothing in a mirror leads to";
        // First, so that one that takes too long is not tried again at once.
        File::create(marker).map_err(|e| Error::Io(doing.to_owned(), e))?;
        let repack = ["-c", "repack.writeBitmaps=false", "repack", "-a", "-d", "-n", "-q"];
        self.git(doing).timeout(CLEANING).args(repack).run().await?;
        Ok(true)
    }

    /// Runs of which a workspace is kept.
    ///
    /// # Errors
    /// When git cannot be run.
    pub async fn workspaces(&self) -> Result<Vec<i64>, Error> {
        let out =
            self.git("listing workspaces").args(["for-each-ref", "--format=%(refname)", WORKSPACES]).line().await?;
        Ok(out.lines().filter_map(|name| name.rsplit('/').next()?.parse().ok()).collect())
    }

    /// Keeps a run's workspace no longer.
    ///
    /// # Errors
    /// When git cannot be run.
    pub async fn forget_workspace(&self, run_id: i64) -> Result<(), Error> {
        let _lock = self.lock_to_tidy().await?;
        let name = Kept::Workspace(run_id).name();
        self.git("forgetting a workspace").args(["update-ref", "-d", &name]).run().await?;
        Ok(())
    }
}
