//! One suite over an open database: here on SQLite, in `on_postgres.rs` on PostgreSQL.
#![allow(clippy::unwrap_used, missing_docs)]

mod audit;
mod claims;
pub mod fill;
mod limits;
mod log;
mod logins;
mod moves;
mod open;
mod operations;
mod org_data;
mod pages;
pub mod postgres;
mod retention;
mod rows;
mod run_answers;
mod run_lists;
mod webhooks;
mod writer;

use codegen_store::{NewRun, NewUser, Org, Run, Store, User};
use sqlx::Connection as _;
use tempfile::TempDir;

/// A store of its own: in a directory that goes with it, or in a schema.
pub struct Fixture {
    pub dir: TempDir,
    /// Where it is, on PostgreSQL.
    pub url: Option<String>,
    pub store: Store,
    pub org: Org,
    pub user: User,
}

impl Fixture {
    /// On the database of this test binary.
    pub async fn new() -> Self {
        let on_postgres = module_path!().starts_with("on_postgres");
        Self::on(if on_postgres { Some(postgres::new_schema().await) } else { None }).await
    }

    /// For what only SQLite has.
    pub async fn on_sqlite() -> Self {
        Self::on(None).await
    }

    pub async fn on(url: Option<String>) -> Self {
        let dir = TempDir::new().unwrap();
        let store = open(&dir, url.as_deref()).await;
        let (org, user) = store.bootstrap("Acme", ada(), "hash", 1).await.unwrap().unwrap();
        Self { dir, url, store, org, user }
    }

    /// The same database, as another process opens it after this one has closed it, or on PostgreSQL beside it.
    pub async fn open_again(&self) -> Store {
        open(&self.dir, self.url.as_deref()).await
    }

    /// The same database, as another process opens it beside this one.
    pub async fn beside(&self) -> Store {
        match &self.url {
            Some(_) => self.open_again().await,
            None => Store::open_beside(self.dir.path()).await.unwrap(),
        }
    }

    /// A connection as the operator may have one, beside the store.
    pub async fn connect(&self) -> Result<sqlx::AnyConnection, sqlx::Error> {
        sqlx::any::install_default_drivers();
        let file = format!("sqlite://{}", self.dir.path().join(codegen_store::DATABASE).display());
        sqlx::AnyConnection::connect(self.url.as_ref().unwrap_or(&file)).await
    }

    /// Runs a statement over one.
    pub async fn execute(&self, sql: &'static str) -> Result<u64, sqlx::Error> {
        let mut conn = self.connect().await?;
        Ok(sqlx::query(sql).execute(&mut conn).await?.rows_affected())
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

async fn open(dir: &TempDir, url: Option<&str>) -> Store {
    match url {
        Some(url) => Store::connect(url, None).await.unwrap(),
        None => Store::open(dir.path()).await.unwrap(),
    }
}
