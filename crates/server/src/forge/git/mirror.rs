//! The bare mirror of a repository in the data directory: what sandboxes read (never write), and where their commits arrive.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::io::AsyncRead;

use super::{
    Error, address, check_origin,
    process::{Git, Progress},
    push::wait,
    without_credentials,
};

pub(super) const NETWORK: Duration = Duration::from_secs(30 * 60);
/// What a diff starts from where a repository had no commit.
const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
/// Faults of old, well-known histories that harm nobody.
const FORGIVEN: &[&str] = &[
    "zeroPaddedFilemode",
    "missingSpaceBeforeDate",
    "badTimezone",
    "missingEmail",
    "missingNameBeforeEmail",
    "badDateOverflow",
    "multipleAuthors",
];

/// One repository's mirror.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub(super) dir: PathBuf,
}

/// Commits that no branch of the origin has, each on a hidden ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// A run's last commit.
    Run(i64),
    /// A run's workspace after one of its last turns, newer than its last commit where both are there.
    Workspace(i64),
}

impl Kept {
    pub(super) fn name(self) -> String {
        match self {
            Self::Run(run_id) => format!("refs/codegen/runs/{run_id}"),
            Self::Workspace(run_id) => format!("refs/codegen/workspaces/{run_id}"),
        }
    }
}

/// What a mirror has for a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refs {
    /// Commits and names of the origin's branches and tags.
    pub origin: Vec<(String, String)>,
    /// The run's last commit.
    pub last: Option<String>,
    /// Its workspace after one of its last turns.
    pub workspace: Option<String>,
}

/// Keeps others, of this process and of others, from changing a mirror's refs at the same time.
pub(super) struct Lock {
    file: File,
}

impl Mirror {
    /// The mirror of a repository, whether it is there yet or not.
    pub fn of(data_dir: &Path, repo_id: i64) -> Self {
        Self { dir: data_dir.join("mirrors").join(format!("{repo_id}.git")) }
    }

    /// The bare repository.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its objects, to be bound read-only into sandboxes.
    pub fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    pub(super) fn git(&self, doing: impl Into<String>) -> Git {
        Git::new(doing).args([std::ffi::OsString::from("--git-dir"), self.dir.clone().into()])
    }

    /// For those who use what is in it.
    pub(super) async fn lock(&self) -> Result<Lock, Error> {
        let lock = self.lock_to_tidy().await?;
        // When the mirror was last used, for those who look for what may go.
        let used = lock.file.set_modified(std::time::SystemTime::now());
        used.map_err(|e| Error::Io("locking the repository's mirror".to_owned(), e))?;
        Ok(lock)
    }

    /// For those who put it in order, which is no use of it.
    pub(super) async fn lock_to_tidy(&self) -> Result<Lock, Error> {
        let path = self.dir.with_extension("lock");
        let doing = "locking the repository's mirror".to_owned();
        let lock = move || {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let file = File::options().create(true).append(true).open(&path)?;
            file.lock()?;
            Ok(Lock { file })
        };
        match tokio::task::spawn_blocking(lock).await {
            Ok(locked) => locked.map_err(|e| Error::Io(doing, e)),
            Err(panicked) => Err(Error::Io(doing, std::io::Error::other(panicked))),
        }
    }

    /// Makes an empty mirror where there is none, so that a sandbox can have its objects' folder while they are fetched.
    ///
    /// # Errors
    /// When git cannot be run or the disk cannot be written.
    pub async fn make(&self) -> Result<(), Error> {
        if self.is_made() {
            return Ok(());
        }
        let _lock = self.lock().await?;
        self.init().await
    }

    fn is_made(&self) -> bool {
        self.complete().exists()
    }

    /// The last thing written: without it an earlier start died half-way, and `git init` completes what there is.
    fn complete(&self) -> PathBuf {
        self.dir.join("codegen-complete")
    }

    pub(super) async fn init(&self) -> Result<(), Error> {
        if self.is_made() {
            return Ok(());
        }
        let doing = "making the repository's mirror";
        // Readable by all inside a sandbox, where ids are others; the data directory itself is closed to the host's users.
        Git::new(doing)
            .args(["init", "--quiet", "--bare", "--shared=0644", "--template=", "-b", "main", "--"])
            .args([&self.dir])
            .run()
            .await?;
        let mut settings =
            vec![("transfer.fsckObjects".to_owned(), "true"), ("core.logAllRefUpdates".to_owned(), "false")];
        settings.extend(FORGIVEN.iter().map(|id| (format!("fetch.fsck.{id}"), "ignore")));
        for (key, value) in &settings {
            self.git(doing).args(["config", key, value]).run().await?;
        }
        std::fs::create_dir_all(self.objects().join("info"))
            .and_then(|()| std::fs::write(self.complete(), ""))
            .map_err(|e| Error::Io(doing.to_owned(), e))
    }

    /// Brings the origin's branches and tags here, making the mirror where there is none, and `commit` where one is named.
    ///
    /// # Errors
    /// A sentence when the origin cannot be used.
    pub async fn fetch(&self, origin: &str, commit: Option<&str>) -> Result<(), Error> {
        self.fetch_showing(origin, commit, None).await
    }

    /// [`Mirror::fetch`], telling git's lines of progress.
    ///
    /// # Errors
    /// A sentence when the origin cannot be used.
    pub async fn fetch_showing(
        &self,
        origin: &str,
        commit: Option<&str>,
        progress: Option<Progress>,
    ) -> Result<(), Error> {
        check_origin(origin)?;
        let _lock = self.lock().await?;
        self.init().await?;
        let doing = format!("fetching {}", without_credentials(origin));
        let fetch = |refspecs: Vec<String>| {
            self.git(doing.clone())
                .credentials_of(origin)
                .timeout(NETWORK)
                .progress(progress.clone())
                .args([
                    "fetch",
                    if progress.is_some() { "--progress" } else { "--quiet" },
                    "--prune",
                    "--no-tags",
                    "--no-write-fetch-head",
                    "--no-recurse-submodules",
                    "--",
                    &address(origin),
                ])
                .args(refspecs)
                .run()
        };
        let mut tries = 1;
        while let Err(error) =
            fetch(vec!["+refs/heads/*:refs/heads/*".to_owned(), "+refs/tags/*:refs/tags/*".to_owned()]).await
        {
            // Who can go on without does not wait.
            if let Some(commit) = commit
                && self.has(commit).await?
            {
                return Err(error);
            }
            if let (Error::Unreachable(why), Some(progress)) = (&error, &progress) {
                progress(&format!("the origin could not be reached ({why})"));
            }
            wait(error, &mut tries).await?;
        }
        self.take_back_runs().await?;
        if let Some(commit) = commit
            && !self.has(commit).await?
        {
            // `--prune` over a refspec of its own would leave the branches alone, but needs a name to land on.
            self.git(doing.clone())
                .credentials_of(origin)
                .timeout(NETWORK)
                .args([
                    "fetch",
                    "--quiet",
                    "--no-tags",
                    "--no-write-fetch-head",
                    "--no-recurse-submodules",
                    "--",
                    &address(origin),
                ])
                .args([format!("+{commit}:refs/codegen/bases/{commit}")])
                .run()
                .await?;
        }
        Ok(())
    }

    /// Whether an object is here.
    ///
    /// # Errors
    /// When git cannot be run.
    pub async fn has(&self, object: &str) -> Result<bool, Error> {
        Ok(self.git("looking for an object").args(["cat-file", "-e", object]).end().await?.ok)
    }

    /// The commit of a branch, tag, or hidden ref.
    ///
    /// # Errors
    /// When git cannot be run.
    pub async fn resolve(&self, name: &str) -> Result<Option<String>, Error> {
        let spec = format!("{name}^{{commit}}");
        let ended = self
            .git("resolving a ref")
            .args(["rev-parse", "--verify", "--quiet", "--end-of-options", &spec])
            .end()
            .await?;
        Ok(ended.ok.then(|| String::from_utf8_lossy(&ended.stdout).trim().to_owned()))
    }

    /// What is kept of a run.
    ///
    /// # Errors
    /// When git cannot be run.
    pub async fn kept(&self, kept: Kept) -> Result<Option<String>, Error> {
        self.resolve(&kept.name()).await
    }

    /// Whether the commit has a parent, and which.
    ///
    /// # Errors
    /// When git cannot be run.
    pub async fn parent(&self, commit: &str) -> Result<Option<String>, Error> {
        self.resolve(&format!("{commit}^")).await
    }

    /// The origin's branches and tags, as far as a sandbox needs them, and what is kept of a run.
    ///
    /// # Errors
    /// When git cannot be run.
    pub async fn refs(&self, run_id: i64) -> Result<Refs, Error> {
        let (run, workspace) = (Kept::Run(run_id).name(), Kept::Workspace(run_id).name());
        let out = self
            .git("listing refs")
            .args(["for-each-ref", "--count=20000", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags"])
            .args([&run, &workspace])
            .line()
            .await?;
        let mut refs = Refs::default();
        for (commit, name) in out.lines().filter_map(|line| line.split_once(' ')) {
            match name {
                _ if name == run => refs.last = Some(commit.to_owned()),
                _ if name == workspace => refs.workspace = Some(commit.to_owned()),
                _ => refs.origin.push((commit.to_owned(), name.to_owned())),
            }
        }
        Ok(refs)
    }

    /// Indexes a pack that came out of a sandbox, checks that `commit` is whole, and keeps it.
    ///
    /// # Errors
    /// When the pack is broken, holds hostile objects, or lacks something the commit needs.
    pub async fn import_pack(
        &self,
        kept: Kept,
        commit: &str,
        pack: impl AsyncRead + Send + 'static,
    ) -> Result<(), Error> {
        let _lock = self.lock().await?;
        self.git("taking the run's commits out of the sandbox")
            .timeout(NETWORK)
            .args(["index-pack", "--stdin", "--fix-thin", "--strict"])
            .stream(pack)
            .run()
            .await?;
        self.keep(kept, commit).await
    }

    /// Points a hidden ref at a commit that is here in full. A run's last commit makes an earlier state of its workspace useless.
    ///
    /// # Errors
    /// When the commit or something it needs is missing.
    pub async fn keep(&self, kept: Kept, commit: &str) -> Result<(), Error> {
        let doing = "keeping the run's commits";
        self.git(doing)
            .timeout(NETWORK)
            .args(["rev-list", "--objects", "--quiet", commit, "--not", "--all"])
            .run()
            .await?;
        self.git(doing).args(["update-ref", &kept.name(), commit]).run().await?;
        if let Kept::Run(run_id) = kept {
            self.git(doing).args(["update-ref", "-d", &Kept::Workspace(run_id).name()]).run().await?;
        }
        Ok(())
    }

    /// The change from `base` (none: from nothing) to `commit` as a patch that `git apply` takes.
    ///
    /// # Errors
    /// When a commit is missing.
    pub async fn diff(&self, base: Option<&str>, commit: &str) -> Result<Vec<u8>, Error> {
        self.compare(&["--binary", "--full-index"], base, commit).await
    }

    /// The same as `git diff --stat` shows it.
    ///
    /// # Errors
    /// When a commit is missing.
    pub async fn diff_stat(&self, base: Option<&str>, commit: &str) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.compare(&["--stat=100"], base, commit).await?).into_owned())
    }

    async fn compare(&self, how: &[&str], base: Option<&str>, commit: &str) -> Result<Vec<u8>, Error> {
        self.git("comparing the run's commits with its base")
            .timeout(NETWORK)
            .args(["diff-tree", "-r", "-M", "--no-ext-diff", "--no-textconv", "--no-color"])
            .args(how)
            .args([base.unwrap_or(EMPTY_TREE), commit, "--"])
            .run()
            .await
    }

    /// The first `cap` bytes of a file at a commit; none when there is no such file, or it is a link or folder.
    ///
    /// # Errors
    /// When git cannot be run.
    pub async fn read_file(&self, commit: &str, path: &str, cap: usize) -> Result<Option<String>, Error> {
        let ended = self
            .git("reading a file of the repository")
            .args(["cat-file", "blob", &format!("{commit}:{path}")])
            .end()
            .await?;
        Ok(ended.ok.then(|| String::from_utf8_lossy(ended.stdout.get(..cap).unwrap_or(&ended.stdout)).into_owned()))
    }

    /// Paths at a commit, with their modes (`100644`, `120000` for a link, `160000` for a submodule), under the given ones (`*` and `**` as globs).
    ///
    /// # Errors
    /// When git cannot be run.
    pub async fn list(&self, commit: &str, prefixes: &[&str]) -> Result<Vec<(String, String)>, Error> {
        let out = self
            .git("listing the repository's files")
            .args(["ls-tree", "-z", "--full-tree", commit, "--"])
            .args(prefixes)
            .run()
            .await?;
        Ok(out
            .split(|b| *b == 0)
            .map(String::from_utf8_lossy)
            .filter_map(|l| {
                l.split_once('\t')
                    .map(|(meta, path)| (meta.split(' ').next().unwrap_or_default().to_owned(), path.to_owned()))
            })
            .collect())
    }

    /// What a checkout without network lacks, as sentences: submodules and large files kept elsewhere.
    ///
    /// # Errors
    /// When git cannot be run.
    pub async fn lacking(&self, commit: &str) -> Result<Vec<String>, Error> {
        let mut lacking = Vec::new();
        // Folders and commits alone. A repository that was added without .gitmodules is one too.
        let tree = self.git("looking for submodules").args(["ls-tree", "-r", "-d", commit]).run().await?;
        let tree = String::from_utf8_lossy(&tree);
        let modules: Vec<&str> =
            tree.lines().filter(|l| l.starts_with("160000 ")).filter_map(|l| Some(l.split_once('\t')?.1)).collect();
        if !modules.is_empty() {
            lacking
                .push(format!("The repository has submodules ({}), which are not checked out.", short_list(&modules)));
        }
        let lfs = self
            .git("looking for LFS pointers")
            .args([
                "grep",
                "--name-only",
                "--fixed-strings",
                "-e",
                "filter=lfs",
                commit,
                "--",
                ":(glob)**/.gitattributes",
            ])
            .end()
            .await?;
        if lfs.ok {
            lacking.push(
                "The repository keeps large files in Git LFS; they are here as pointers, without their content."
                    .to_owned(),
            );
        }
        Ok(lacking)
    }
}

fn short_list(names: &[&str]) -> String {
    let shown = names.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 5 { format!("{shown} and {} more", names.len() - 5) } else { shown }
}
