//! One suite over an open database.
#![allow(clippy::unwrap_used, missing_docs)]

mod audit;
mod claims;
mod limits;
mod log;
mod open;
mod pages;
mod retention;
mod rows;
mod writer;

use codegen_store::{NewRun, NewUser, Org, Run, Store, User};
use tempfile::TempDir;

/// A store in a directory that goes with it.
pub struct Fixture {
    pub dir: TempDir,
    pub store: Store,
    pub org: Org,
    pub user: User,
}

impl Fixture {
    pub async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let (org, user) = store.bootstrap("Acme", ada(), "hash", 1).await.unwrap().unwrap();
        Self { dir, store, org, user }
    }

    pub async fn queue(&self, prompt: &str) -> Run {
        self.queue_in(self.org.id, prompt).await
    }

    pub async fn queue_in(&self, org_id: i64, prompt: &str) -> Run {
        self.store.create_run(org_id, self.asks(prompt), 10).await.unwrap()
    }

    pub fn asks(&self, prompt: &str) -> NewRun {
        NewRun { user_id: self.user.id, prompt: prompt.to_owned(), source_type: "API".to_owned(), ..NewRun::default() }
    }
}

pub fn ada() -> NewUser {
    NewUser { github_user_id: "1".to_owned(), github_username: "ada".to_owned(), ..NewUser::default() }
}
