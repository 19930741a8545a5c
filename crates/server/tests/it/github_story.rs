//! Whole runs whose origin is at a GitHub: the pushed branch, the pull request, crashes, refusals, and the token that nobody sees.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{path::Path, sync::Arc};

use axum::http::{Method, StatusCode};
use codegen_server::{App, Config, worker};
use codegen_store::{NewRepo, NewRun, Phase, Reason, Repo, Run};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    engine::engine,
    git_host::{commit_file, git},
    github::{Fault, GitHubLike, TOKEN},
    run_story::{finish, mending, result, shell},
};

struct Scene {
    dir: tempfile::TempDir,
    hub: GitHubLike,
    app: Arc<App>,
}

async fn open(dir: &Path, hub: &GitHubLike) -> Arc<App> {
    let mut config = Config::defaults(&dir.join("data"));
    config.github_hosts = vec![(hub.remote.host(), hub.api_url.clone())];
    config.github_host_tokens = vec![(hub.remote.host(), TOKEN.into())];
    let engine = engine(&dir.join("data"));
    // A process that another test is just starting holds our lock between its fork and its exec.
    let unlocked = async {
        while codegen_store::is_locked(&config.data_dir) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), unlocked).await.unwrap();
    App::open(config, engine).await.unwrap().0
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hub = GitHubLike::start(dir.path()).await;
        let app = open(dir.path(), &hub).await;
        Self { dir, hub, app }
    }

    async fn repo(&self) -> Repo {
        let (org, _) = self.app.store.first_org_and_admin().await.unwrap();
        let new = NewRepo::of_origin(&self.hub.remote.url(Some(TOKEN)), Some("main"));
        self.app.store.create_repo(org.id, new, self.app.now()).await.unwrap()
    }

    async fn queue(&self, replies: &[Value]) -> Run {
        let (org, user) = self.app.store.first_org_and_admin().await.unwrap();
        let script = self.dir.path().join("script.json");
        std::fs::write(&script, json!({ "replies": replies }).to_string()).unwrap();
        let new = NewRun {
            user_id: user.id,
            repo_id: Some(self.repo().await.id),
            prompt: "Mend the test".to_owned(),
            model: Some(format!("scripted:{}", script.display())),
            source_type: "API".to_owned(),
            push: true,
            open_pr: true,
            ..NewRun::default()
        };
        self.app.store.create_run(org.id, new, self.app.now()).await.unwrap()
    }

    async fn work_on(&self, run: &Run) -> Run {
        worker::execute_one(self.app.clone(), run.id).await.unwrap();
        self.app.store.run_by_id(run.id).await.unwrap()
    }

    /// A run that ends with a pull request.
    async fn mended(&self) -> Run {
        let run = self.queue(&mending()).await;
        self.work_on(&run).await
    }

    async fn go_on(&self, run: &Run) -> Run {
        self.app.store.add_message(run.org_id, run.id, "Add more", &[], self.app.now()).await.unwrap();
        self.work_on(run).await
    }

    /// What a process that dies in the middle leaves, and the next one that starts.
    async fn die_and_start_again(&mut self, working: tokio::task::JoinHandle<anyhow::Result<()>>, run: &Run) -> Run {
        working.abort();
        working.await.unwrap_err();
        self.app.store.close().await;
        self.app = open(self.dir.path(), &self.hub).await;
        let serving = tokio::spawn(worker::run(self.app.clone()));
        let mut changes = self.app.store.subscribe();
        while self.app.store.run_by_id(run.id).await.unwrap().phase != Phase::Done {
            tokio::time::timeout(std::time::Duration::from_secs(60), changes.recv())
                .await
                .expect("the run goes on")
                .ok();
        }
        self.app.shutdown.cancel();
        serving.await.unwrap().unwrap();
        self.app.store.run_by_id(run.id).await.unwrap()
    }
}

#[tokio::test]
async fn a_run_ends_as_a_branch_and_a_pull_request_at_github() {
    let scene = Scene::new().await;
    let run = scene.mended().await;
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "The sum is right now."), "{:?}", run.error_cause);
    let (branch, commit) = scene.hub.branches().pop().unwrap();
    assert_eq!(Some(&branch), run.branch.as_ref());
    let pulls = scene.hub.pulls().await;
    assert_eq!(pulls.len(), 1);
    let pull = &pulls[0];
    assert_eq!(pull["title"], "Mend the test");
    assert_eq!((&pull["head"]["ref"], &pull["head"]["sha"]), (&json!(branch), &json!(commit)), "one repository");
    assert_eq!((&pull["base"]["ref"], &pull["state"]), (&json!("main"), &json!("open")));
    let body = pull["body"].as_str().unwrap();
    for part in ["The sum is right now.", "Requested by Admin", &format!("<!-- codegen-run: {} -->", run.id)] {
        assert!(body.contains(part), "{body}");
    }
    let rows = scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].number, rows[0].forge.as_str(), rows[0].state.as_str()), (1, "github", "open"));
    assert_eq!(json!(rows[0].url), pull["html_url"]);
    assert!(scene.hub.asked().iter().all(|a| a.authorization == format!("Bearer {TOKEN}")));
}
