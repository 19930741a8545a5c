//! What outlives a process: rows and SQL, one file per table. Knows nothing of HTTP, sandboxes or models.
//!
//! Times are unix milliseconds and come from the caller. Log bodies are JSON objects that carry their own `kind`.
//! Where the store ends or requeues a run it appends a `status` entry (`{"kind","status","reason"}`) in the same
//! transaction, so that a reader of the log sees the end exactly when it is true.

use std::{
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::{broadcast, mpsc, oneshot};

mod appends;
mod audit;
mod blobs;
mod builder;
mod check_suites;
mod claims;
mod claude_sessions;
mod connections;
mod dialect;
mod effects;
mod events;
pub mod failpoint;
mod idempotency;
mod invitations;
mod limits;
mod log;
mod logins;
mod members;
mod model_providers;
mod moves;
mod new_runs;
mod org_data;
mod orgs;
mod outbox;
mod phase;
mod pull_requests;
mod queue;
mod rates;
mod removal;
mod repos;
mod retention;
mod row;
mod rules;
mod run_answers;
mod run_filter;
mod run_list;
mod runs;
mod search;
mod secrets;
mod sessions;
mod tokens;
mod trace;
mod users;
mod webhooks;
mod words;
mod workers;

use appends::Append;
use dialect::{Inbox, Readers, Reading, Request, Scope, Tx, Verdict, Work};

pub use audit::{Actor, AuditEntry, AuditFilter, act_as, act_in, actor, serving};
pub use check_suites::{Banned, CheckSuiteChange, CheckSuiteSettings, Unbanned};
pub use claims::{Claim, GIVEN_UP, MAX_CRASHES, RunUpdate};
pub use claude_sessions::{SessionNews, SessionStatus};
pub use connections::OAuthToken;
pub use effects::Effect;
pub use events::{EVENTS, RESULT};
pub use idempotency::{Answer, Answered, Ask, RequestKey};
pub use invitations::{Invitation, NewInvitation};
pub use limits::{OrgLimits, OrgUsage, month};
pub use log::{LogRow, NewLog};
pub use logins::{Attempt, AttemptLimits, Entered, GivenRole, Identity, Password};
pub use model_providers::{ModelProvider, ModelProviderSettings};
pub use moves::{At, Copied, Migrated, Progress, backup, copy, migrate};
pub use new_runs::NewRun;
pub use org_data::DeletedOrg;
pub use orgs::{Org, OrgChange};
pub use phase::{Phase, Reason};
pub use pull_requests::{NewPullRequest, PullRequest};
pub use rates::{Block, Rate};
pub use repos::{NewRepo, Repo, RepoChange};
pub use retention::{Batch, Dropped, Ended, Space};
pub use rules::{Rule, RuleChange, RuleOwner};
pub use run_answers::{PullRequestAnswer, RunAnswer};
pub use run_filter::RunFilter;
pub use run_list::{Cursor, RunList};
pub use runs::Run;
pub use search::{Found, Match};
pub use secrets::{Place, Sealed};
pub use sessions::{NewSession, Session};
pub use tokens::{NewToken, Owner, Token};
pub use users::{Member, NewUser, Role, User};
pub use webhooks::{Delivery, Endpoint, EndpointChange, Tried};

/// Shorthand for the results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such row in this organization.
    #[error("not found")]
    NotFound,
    /// The row's state does not allow it; a sentence.
    #[error("{0}")]
    Conflict(String),
    /// The organization's allowance is used up; a sentence.
    #[error("{0}")]
    UsedUp(String),
    /// The run is not this claim's any more: it was claimed anew, released or ended.
    #[error("the run was taken over or has ended")]
    Fenced,
    /// The database was written by a newer codegen.
    #[error(
        "the database {database} is of version {found}, this codegen knows up to {known}: \
         start the newer codegen, or use another database"
    )]
    NewerDatabase {
        /// Its file, or where it is.
        database: String,
        /// Version of its newest migration.
        found: i64,
        /// Newest migration of this build.
        known: i64,
    },
    /// The database was written by an older codegen, and this is not the moment to migrate it.
    #[error("the database {0} is of an older version: `codegen db migrate` brings it to this one")]
    OlderDatabase(String),
    /// The database of the setting cannot be reached, or refuses.
    #[error("the database at {place} cannot be used: check `database_url` and that the server is up")]
    Unreachable {
        /// Where it should be, without user and password.
        place: String,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// Another process has the data directory.
    #[error("another codegen is using {}: stop it, or give another data directory with --data-dir", .0.display())]
    Locked(PathBuf),
    /// There is no using the data directory.
    #[error(
        "the data directory {} cannot be used: give this user the right to write there, or another directory with \
         --data-dir",
        path.display()
    )]
    DataDir {
        /// The data directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The database's file holds something else.
    #[error(
        "{} is damaged or no database of codegen's: make a data directory from a backup with `codegen restore`, or give \
         another one with --data-dir",
        path.display()
    )]
    NotADatabase {
        /// The database file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// The disk has no room; nothing of the refused change was kept.
    #[error("the disk with the database is full: free some space and try again")]
    Full,
    /// The data directory cannot be used.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A table cannot be copied; nothing of the copy was kept.
    #[error("copying the table {table}")]
    Copy {
        /// Which.
        table: String,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// Bringing the database up to this version.
    #[error("migrating the database")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The group of changes could not be committed; none of it was kept.
    #[error("committing to the database")]
    Commit(#[source] Arc<sqlx::Error>),
    /// The caller could not make the answer that was to be kept; nothing of the change was.
    #[error("making the answer of a request")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// Anything else the database said.
    #[error("asking the database")]
    Db(#[source] sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::RowNotFound => Self::NotFound,
            error if dialect::is_full(&error) => Self::Full,
            error => Self::Db(error),
        }
    }
}

/// What was just committed, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Whose run.
    pub org_id: i64,
    /// Which run.
    pub run_id: i64,
    /// What about it.
    pub kind: ChangeKind,
}

/// Kinds of [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// A run waits for a worker.
    RunQueued,
    /// A run's row changed.
    RunChanged,
    /// A run's log grew.
    LogAppended,
    /// Someone may do less than before; the run is none.
    AccessChanged,
    /// A delivery of a webhook waits for its sender.
    EventQueued,
    /// Changes may have been missed, of any run: look at the rows.
    Missed,
}

impl Change {
    pub(crate) const MISSED: Self = Self { org_id: 0, run_id: 0, kind: ChangeKind::Missed };
}

/// The database's file in a data directory; SQLite keeps two more beside it.
pub const DATABASE: &str = "codegen.db";

const LOCK: &str = "lock";

/// The open database. Clones share it.
#[derive(Clone)]
pub struct Store {
    readers: Readers,
    /// For a few rows that an index finds: what would read many is asked of the others.
    quick: Readers,
    requests: mpsc::Sender<Request>,
    appends: mpsc::Sender<Append>,
    changes: broadcast::Sender<Change>,
}

/// Makes a data directory where there is none, its owner's alone.
///
/// # Errors
/// [`Error::DataDir`].
pub fn make_data_dir(data_dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(|source| Error::DataDir { path: data_dir.to_owned(), source })
}

impl Store {
    /// Locks the data directory (made where missing), opens `codegen.db` in it and migrates it.
    ///
    /// # Errors
    /// [`Error::Locked`] where another process has it, [`Error::NewerDatabase`] where a newer codegen wrote it.
    pub async fn open(data_dir: &Path) -> Result<Self> {
        let lock = DirLock::make(data_dir)?;
        Self::start(dialect::At::File(&data_dir.join(DATABASE)), Some(lock)).await
    }

    /// Connects to a PostgreSQL database, which other processes may use at the same time, and migrates it. `lock` is held
    /// until the store is closed.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where there is no such database, [`Error::NewerDatabase`] where a newer codegen wrote it.
    pub async fn connect(database_url: &str, lock: Option<DirLock>) -> Result<Self> {
        Self::start(dialect::At::Url(database_url), lock).await
    }

    /// Opens the database beside the process that has the data directory, for the operator's commands: it neither takes
    /// the lock nor migrates, and whoever writes through it keeps its changes small, so that the other's are not held up.
    ///
    /// # Errors
    /// [`Error::Io`] where there is no database, [`Error::NewerDatabase`] and [`Error::OlderDatabase`] where it is not of
    /// this version.
    pub async fn open_beside(data_dir: &Path) -> Result<Self> {
        let (Reading { readers, quick }, conn) = dialect::open_beside(&data_dir.join(DATABASE)).await?;
        let (requests, appends, inbox) = Inbox::new();
        let (changes, _) = broadcast::channel(4096);
        dialect::start_beside(conn, inbox, changes.clone())?;
        Ok(Self { readers, quick, requests, appends, changes })
    }

    async fn start(place: dialect::At<'_>, lock: Option<DirLock>) -> Result<Self> {
        let (requests, appends, inbox) = Inbox::new();
        let (changes, _) = broadcast::channel(4096);
        let Reading { readers, quick } = dialect::open(place, lock, inbox, changes.clone()).await?;
        Ok(Self { readers, quick, requests, appends, changes })
    }

    /// Finishes what is under way, closes the database and frees the data directory; later calls on any clone fail.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        self.quick.close().await;
        self.readers.close().await;
        if self.requests.send(Request::Close(done)).await.is_ok() {
            // An error means that the writer has already gone, which is what was asked for.
            closed.await.ok();
        }
    }

    /// Whether other processes may use this database at the same time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        dialect::is_shared(&self.readers)
    }

    /// Changes from now on, each sent after its commit. A receiver that lags misses some and should look at the rows.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Asks the database something trivial.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }

    /// Runs `work` in a transaction in which nothing that it reads is changed by others, and returns after the commit. On
    /// SQLite other writes may share the transaction; when `work` fails, only its own changes are undone. It is run again
    /// where its transaction came to nothing, so it has no effects but those in the database.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Clone + Send + 'static,
    ) -> Result<T> {
        self.write_within(Scope::Alone, work).await
    }

    /// [`Store::write`], beside others where the database can: for what is done often. `work` begins with an update of each
    /// row that it relies on, in the order of their ids.
    pub(crate) async fn write_rows<T: Send + 'static>(
        &self,
        work: impl for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Clone + Send + 'static,
    ) -> Result<T> {
        self.write_within(Scope::Rows, work).await
    }

    async fn write_within<T: Send + 'static>(
        &self,
        scope: Scope,
        work: impl for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Clone + Send + 'static,
    ) -> Result<T> {
        let (done, answer) = oneshot::channel();
        let asked = Box::new(Asked { work, actor: audit::actor(), outcome: None, done });
        self.requests.send(Request::Write(asked, scope)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

/// A change and who waits for it.
struct Asked<T, W> {
    work: W,
    actor: Option<Arc<Actor>>,
    outcome: Option<Result<T>>,
    done: oneshot::Sender<Result<T>>,
}

impl<T, W> Work for Asked<T, W>
where
    T: Send + 'static,
    W: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Clone + Send + 'static,
{
    fn run<'t>(&'t mut self, tx: &'t mut Tx) -> BoxFuture<'t, Verdict> {
        let (work, actor) = (self.work.clone(), self.actor.clone());
        Box::pin(async move {
            let outcome = audit::recording(actor, tx, work).await;
            let verdict = dialect::verdict(&outcome);
            self.outcome = Some(outcome);
            verdict
        })
    }

    fn acknowledge(self: Box<Self>, committed: Result<()>) {
        let Self { outcome, done, .. } = *self;
        let outcome = committed.and_then(|()| outcome.unwrap_or(Err(Error::Closed)));
        // A caller that has stopped waiting does not need the answer.
        done.send(outcome).ok();
    }
}

/// Whether another process has this data directory. Only a hint: [`Store::open`] decides.
#[must_use]
pub fn is_locked(data_dir: &Path) -> bool {
    // Looking leaves nothing: where nobody ever locked, there is no file to lock.
    data_dir.join(LOCK).is_file() && matches!(DirLock::take(data_dir), Err(Error::Locked(_)))
}

/// The lock that one process holds on a data directory, stopped or not.
///
/// It belongs to the open file, and a process that this one is just starting shares that until its exec. So it is given
/// up by word: closing the file would leave it with such a child for a moment, and the next start would be refused.
#[derive(Debug)]
pub struct DirLock(std::fs::File);

impl DirLock {
    /// Makes the data directory where it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`Error::Locked`] where another process has it, [`Error::DataDir`].
    pub fn make(data_dir: &Path) -> Result<Self> {
        make_data_dir(data_dir)?;
        Self::take(data_dir)
    }

    /// Takes the lock without waiting.
    ///
    /// # Errors
    /// [`Error::Locked`] where another process has it.
    pub fn take(data_dir: &Path) -> Result<Self> {
        let path = data_dir.join(LOCK);
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::DataDir { path: data_dir.to_owned(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked(data_dir.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => Err(Error::Io { operation: "locking", path, source }),
        }
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Cannot fail on a file that is locked; and the file is closed now, which does the same.
        self.0.unlock().ok();
    }
}
