//! A mirror's life beside its runs: removed when nobody needs it and fetched again when somebody does, copied into a backup
//! and out of it. What a mirror alone has, the commits of runs, is never lost with it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Error, Kept, Mirror};

const LONG: Duration = Duration::from_secs(30 * 60);
/// Refs that no origin has.
const OWN: &str = "refs/codegen";

impl Mirror {
    /// Every mirror of a data directory, with the id of its repository.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn all(data_dir: &Path) -> std::io::Result<Vec<(i64, Self)>> {
        let entries = match fs::read_dir(data_dir.join("mirrors")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(id) = name.strip_suffix(".git").and_then(|id| id.parse().ok()) {
                found.push((id, Self::of(data_dir, id)));
            }
        }
        found.sort_by_key(|(id, _)| *id);
        Ok(found)
    }

    /// Removes the locks that git left where it was killed. For the start only, when no git works on the mirror.
    ///
    /// # Errors
    /// When a folder cannot be listed or a lock not be removed.
    pub fn remove_stale_locks(&self) -> std::io::Result<Vec<PathBuf>> {
        let (mut found, mut folders) = (Vec::new(), vec![self.dir().to_owned(), self.dir().join("refs")]);
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let is_folder = entry.file_type()?.is_dir();
                if is_folder && folder != self.dir() {
                    folders.push(entry.path());
                } else if !is_folder && entry.path().extension().is_some_and(|ext| ext == "lock") {
                    fs::remove_file(entry.path())?;
                    found.push(entry.path());
                }
            }
        }
        Ok(found)
    }

    /// When something was last fetched into it or taken into it.
    pub fn last_used(&self) -> Option<SystemTime> {
        let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        modified(&self.dir.with_extension("lock")).or_else(|| modified(&self.dir))
    }

    /// Removes the mirror if `unneeded` still says so while nobody else can be using it; says whether it did. The commits
    /// of runs stay beside it and come back with the next fetch.
    ///
    /// # Errors
    /// When git or the disk fails; the mirror stays then.
    pub async fn remove<E: From<Error>>(&self, unneeded: impl AsyncFnOnce() -> Result<bool, E>) -> Result<bool, E> {
        let lock = self.lock().await?;
        if !self.dir.exists() || !unneeded().await? {
            return Ok(false);
        }
        let doing = "removing a mirror";
        self.keep_runs().await?;
        let name = self.dir.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let removed = self.dir.with_file_name(format!(".removed-{name}-{:016x}", rand::random::<u64>()));
        fs::rename(&self.dir, &removed).map_err(|e| Error::Io(doing.to_owned(), e))?;
        drop(lock);
        // What a crash leaves of it is found by its name.
        let gone = tokio::task::spawn_blocking(move || fs::remove_dir_all(removed)).await;
        gone.map_err(std::io::Error::other).flatten().map_err(|e| Error::Io(doing.to_owned(), e))?;
        Ok(true)
    }

    /// Removes the mirror and all that was put aside of it: its repository is nobody's any more.
    ///
    /// # Errors
    /// When the disk fails; the rest goes at the next try.
    pub async fn forget(&self) -> Result<(), Error> {
        let lock = self.lock().await?;
        let (dir, (bundle, list), of_lock) = (self.dir.clone(), self.put_aside(), self.dir.with_extension("lock"));
        let remove = move || {
            let absent_is_fine = |removed: std::io::Result<()>| match removed {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other,
            };
            absent_is_fine(fs::remove_dir_all(dir))?;
            for file in [bundle, list, of_lock] {
                absent_is_fine(fs::remove_file(file))?;
            }
            drop(lock);
            Ok(())
        };
        let gone = tokio::task::spawn_blocking(remove).await;
        gone.map_err(std::io::Error::other).flatten().map_err(|e| Error::Io("removing a mirror".to_owned(), e))
    }

    /// Removes a run's commits from the mirror, or from what was put aside of it; git drops what nothing else needs in time.
    ///
    /// # Errors
    /// When git or the disk fails.
    pub async fn forget_run(&self, run_id: i64) -> Result<(), Error> {
        let doing = "removing a run's commits";
        let _lock = self.lock().await?;
        let names = [Kept::Run(run_id).name(), Kept::Workspace(run_id).name()];
        if self.dir.exists() {
            for name in &names {
                self.git(doing).args(["update-ref", "-d", name]).run().await?;
            }
        }
        let (_, list) = self.put_aside();
        match fs::read_to_string(&list) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            refs => {
                let refs = refs.map_err(|e| Error::Io(doing.to_owned(), e))?;
                let is_kept =
                    |line: &&str| !line.split_once(' ').is_some_and(|(_, name)| names.iter().any(|n| n == name));
                let kept: String = refs.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
                fs::write(list, kept).map_err(|e| Error::Io(doing.to_owned(), e))
            }
        }
    }

    fn put_aside(&self) -> (PathBuf, PathBuf) {
        (self.dir.with_extension("runs"), self.dir.with_extension("refs"))
    }

    /// Writes what no origin has beside the mirror: the refs, and a bundle of the commits.
    async fn keep_runs(&self) -> Result<(), Error> {
        let doing = "keeping runs' commits apart from their mirror";
        let refs = self.git(doing).args(["for-each-ref", "--format=%(objectname) %(refname)", OWN]).run().await?;
        if refs.is_empty() {
            return Ok(());
        }
        let (bundle, list) = self.put_aside();
        let own = ["--glob=refs/codegen/*", "--not", "--branches", "--tags"];
        let count =
            self.git(doing).timeout(LONG).args(["rev-list", "--count", "--max-count=1"]).args(own).line().await?;
        if count != "0" {
            let quiet = ["bundle", "create", "--quiet"];
            self.git(doing).timeout(LONG).args(quiet).args([&bundle]).args(own).run().await?;
        }
        fs::write(list, refs).map_err(|e| Error::Io(doing.to_owned(), e))
    }

    /// Takes back what [`Mirror::keep_runs`] put aside; the caller has the lock.
    pub(super) async fn take_back_runs(&self) -> Result<(), Error> {
        let doing = "taking runs' commits back into their mirror";
        let (bundle, list) = self.put_aside();
        let refs = match fs::read_to_string(&list) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            refs => refs.map_err(|e| Error::Io(doing.to_owned(), e))?,
        };
        if bundle.exists() {
            let taken = self.git(doing).timeout(LONG).args(["bundle", "unbundle"]).args([&bundle]).end().await?;
            if !taken.ok {
                // The origin's history was rewritten: what the commits were built upon is not there any more.
                tracing::warn!(mirror = %self.dir.display(), error = taken.stderr, "runs' commits stay in their bundle");
                return Ok(());
            }
        }
        for (commit, name) in refs.lines().filter_map(|line| line.split_once(' ')) {
            if name.starts_with(OWN) && self.has(commit).await? {
                self.git(doing).args(["update-ref", name, commit]).run().await?;
            }
        }
        // The list goes last: with it alone nothing would be looked for.
        for path in [bundle, list] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::Io(doing.to_owned(), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes all refs and what they need into one file; false when there are none.
    ///
    /// # Errors
    /// When git or the disk fails.
    pub async fn bundle(&self, into: &Path) -> Result<bool, Error> {
        let doing = "copying a mirror";
        if self.git(doing).args(["for-each-ref", "--count=1"]).run().await?.is_empty() {
            return Ok(false);
        }
        let create = ["bundle", "create", "--quiet"];
        self.git(doing).timeout(LONG).args(create).args([into.as_os_str(), "--all".as_ref()]).run().await?;
        Ok(true)
    }

    /// Makes the mirror from what [`Mirror::bundle`] wrote.
    ///
    /// # Errors
    /// When git or the disk fails, or the file is damaged.
    pub async fn unbundle(&self, from: &Path) -> Result<(), Error> {
        let _lock = self.lock().await?;
        self.init().await?;
        let fetch = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--"];
        self.git("taking a mirror out of a backup")
            .timeout(LONG)
            .args(fetch)
            .args([from.as_os_str(), "+refs/*:refs/*".as_ref()])
            .run()
            .await?;
        Ok(())
    }
}
