//! The forge that codegen keeps itself: pull requests are rows of the store, shown on our own pages.

use async_trait::async_trait;
use codegen_store::{NewPullRequest, Store};

use super::{Edit, Error, Forge, PullRequest, PullRequestSpec};

/// Pull requests of origins without a forge.
pub struct Local {
    /// Where they are kept.
    pub store: Store,
    /// Where people see them.
    pub public_url: String,
}

#[async_trait]
impl Forge for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    async fn find(&self, spec: &PullRequestSpec) -> Result<Option<PullRequest>, Error> {
        let rows = self.store.pull_requests_of_run(spec.org_id, spec.run_id).await?;
        Ok(rows.into_iter().find(|p| p.forge == self.name()).map(PullRequest::from))
    }

    async fn open_or_update(&self, spec: &PullRequestSpec) -> Result<PullRequest, Error> {
        if let Some(closed) = self.find(spec).await?.filter(|found| found.state == "closed") {
            return Ok(closed);
        }
        let row = NewPullRequest {
            repo_id: spec.repo_id,
            run_id: spec.run_id,
            number: None,
            title: spec.title.clone(),
            body: spec.body.clone(),
            url: format!("{}/pulls/{{id}}", self.public_url.trim_end_matches('/')),
            head_branch: spec.head_branch.clone(),
            base_branch: spec.base_branch.clone(),
            head_commit: spec.head_commit.clone(),
            state: "open".to_owned(),
            forge: self.name().to_owned(),
        };
        Ok(self.store.create_pull_request(spec.org_id, row, spec.now).await?.into())
    }

    async fn edit(&self, pull_request: &codegen_store::PullRequest, edit: Edit) -> Result<PullRequest, Error> {
        let state = match (pull_request.state.as_str(), edit) {
            ("merged", _) => return Err(Error::Refused("the pull request is merged, and stays so".to_owned())),
            ("closed", Edit::Draft | Edit::ReadyForReview) => {
                return Err(Error::Refused("the pull request is closed; open it first".to_owned()));
            }
            // A draft that is open stays a draft.
            ("draft", Edit::Open) | (_, Edit::Draft) => "draft",
            (_, Edit::Open | Edit::ReadyForReview) => "open",
            (_, Edit::Close) => "closed",
        };
        // The caller keeps the state in the row, which is all that there is here.
        Ok(PullRequest { state: state.to_owned(), ..pull_request.clone().into() })
    }
}

impl From<codegen_store::PullRequest> for PullRequest {
    fn from(row: codegen_store::PullRequest) -> Self {
        Self { number: row.number, url: row.url, state: row.state }
    }
}
