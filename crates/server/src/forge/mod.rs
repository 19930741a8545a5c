//! Where branches and pull requests go: a forge with an API, or codegen itself for origins without one.

pub mod git;
mod github;
mod local;

use async_trait::async_trait;
use codegen_store::Store;

pub use github::GitHub;
pub use local::Local;

use crate::config::Config;

/// Why a forge did not do what was asked; each displays as a sentence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It says no, and will say so again.
    #[error("{0}")]
    Refused(String),
    /// It cannot be reached or answers with errors of its own.
    #[error("{0}")]
    Unreachable(String),
    /// The forge that codegen keeps itself.
    #[error("keeping the pull request")]
    Store(#[from] codegen_store::Error),
}

/// A pull request as it shall be.
#[derive(Debug, Clone)]
pub struct PullRequestSpec {
    /// Whose.
    pub org_id: i64,
    /// Into which repository.
    pub repo_id: i64,
    /// By which run; a run has one.
    pub run_id: i64,
    /// Title.
    pub title: String,
    /// Text; a forge adds its own marker of the run.
    pub body: String,
    /// Branch with the work.
    pub head_branch: String,
    /// Branch it shall go into.
    pub base_branch: String,
    /// Newest commit.
    pub head_commit: String,
    /// When.
    pub now: i64,
}

/// A pull request as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// At its forge.
    pub number: i64,
    /// Where people see it.
    pub url: String,
    /// `open`, `draft`, `closed`, `merged`.
    pub state: String,
}

/// What a person does to a pull request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// Opens it again.
    Open,
    /// Closes it unmerged.
    Close,
    /// Takes it back into work.
    Draft,
    /// Asks for its review.
    ReadyForReview,
}

/// What a forge can do.
#[async_trait]
pub trait Forge: Send + Sync {
    /// `github`, `local`.
    fn name(&self) -> &'static str;
    /// The run's newest pull request, whatever its state; an open one before others.
    async fn find(&self, spec: &PullRequestSpec) -> Result<Option<PullRequest>, Error>;
    /// Opens the run's pull request or brings the open one up to date; asked twice it does nothing more. One that a person
    /// closed is given back as it is.
    async fn open_or_update(&self, spec: &PullRequestSpec) -> Result<PullRequest, Error>;
    /// Changes a pull request's state and gives it as it is then; asked twice it does nothing more.
    async fn edit(&self, pull_request: &codegen_store::PullRequest, edit: Edit) -> Result<PullRequest, Error>;
}

/// The forge of an origin: GitHub where the origin is there and a token for it is set, else codegen's own.
///
/// # Errors
/// When the HTTP client cannot be made.
pub fn of_origin(config: &Config, store: &Store, origin: &str) -> Result<Box<dyn Forge>, Error> {
    if let Some(place) = github::place(config, origin) {
        return Ok(Box::new(GitHub::new(place)?));
    }
    Ok(Box::new(Local { store: store.clone(), public_url: config.public_url.clone() }))
}

/// The hidden line in a pull request's text by which its run is known again.
fn marker(run_id: i64) -> String {
    format!("<!-- codegen-run: {run_id} -->")
}
