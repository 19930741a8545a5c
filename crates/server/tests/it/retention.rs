//! What goes by age and size, and in which order.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use codegen_server::worker::{
    reap::{Owner, owner},
    retention::{Limits, plan},
};
use codegen_store::{NewRepo, NewRun, NewUser, Reason, Run, RunUpdate, Store};

use crate::database;

const DAY: i64 = 86_400_000;

struct Scene {
    dir: tempfile::TempDir,
    store: Store,
    org_id: i64,
    user_id: i64,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = match database::url(dir.path()) {
            Some(url) => Store::connect(&url, None).await.unwrap(),
            None => Store::open(dir.path()).await.unwrap(),
        };
        let (org, user) = store.bootstrap("Acme", NewUser::default(), "hash", 1).await.unwrap().unwrap();
        Self { dir, store, org_id: org.id, user_id: user.id }
    }

    async fn queued(&self, repo_id: Option<i64>) -> Run {
        let new = NewRun { user_id: self.user_id, repo_id, prompt: "Go".to_owned(), ..NewRun::default() };
        self.store.create_run(self.org_id, new, 2).await.unwrap()
    }

    async fn claimed(&self, repo_id: Option<i64>) -> Run {
        let run = self.queued(repo_id).await;
        self.store.claim_run_by_id(run.id, "w", 3).await.unwrap().unwrap()
    }

    async fn ended(&self, at: i64, output: usize) -> Run {
        let run = self.claimed(None).await;
        self.store.put_blob(self.org_id, run.id, "output/1", &vec![7; output]).await.unwrap();
        self.store.append_log(&run.claim(), "notice", r#"{"kind":"notice","text":"x"}"#, false, 4).await.unwrap();
        self.store.finish_run(&run.claim(), Reason::Complete, "Done.", None, at).await.unwrap();
        run
    }

    async fn repo(&self, name: &str) -> i64 {
        let new = NewRepo::of_origin(&format!("https://example.com/acme/{name}.git"), Some("main"));
        self.store.create_repo(self.org_id, new, 1).await.unwrap().id
    }

    fn mirror(&self, repo_id: i64, bytes: usize, used: i64) {
        let dir = self.dir.path().join("mirrors").join(format!("{repo_id}.git"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("pack"), vec![1; bytes]).unwrap();
        let lock = File::create(dir.with_extension("lock")).unwrap();
        lock.set_modified(UNIX_EPOCH + Duration::from_millis(used as u64)).unwrap();
    }

    fn data_dir(&self) -> &Path {
        self.dir.path()
    }
}

#[tokio::test]
async fn outputs_go_by_age_and_then_the_oldest_until_the_rest_is_small_enough() {
    let scene = Scene::new().await;
    let old = scene.ended(10 * DAY, 1000).await;
    let older = scene.ended(20 * DAY, 6000).await;
    let newer = scene.ended(30 * DAY, 5000).await;
    let limits = Limits { outputs_ms: Some(25 * DAY), outputs_bytes: Some(7000), ..Limits::default() };
    let plan = plan(&scene.store, scene.data_dir(), &limits, 40 * DAY).await.unwrap();
    let ids: Vec<i64> = plan.outputs.iter().map(|run| run.ended.run_id).collect();
    assert_eq!(ids, [old.id, older.id], "and {} stays", newer.id);
    assert_eq!(plan.outputs[0].why, "its run ended 30 days ago");
    assert!(plan.outputs[1].why.contains("more than 6.8 KiB"), "{}", plan.outputs[1].why);
    assert!(plan.traces.is_empty() && plan.mirrors.is_empty());
}

#[tokio::test]
async fn without_limits_nothing_goes() {
    let scene = Scene::new().await;
    scene.ended(1, 1000).await;
    let repo = scene.repo("a").await;
    scene.mirror(repo, 1000, 1);
    let plan = plan(&scene.store, scene.data_dir(), &Limits::default(), 4000 * DAY).await.unwrap();
    assert_eq!(plan, codegen_server::worker::retention::Plan::default());
}

#[tokio::test]
async fn the_mirror_not_used_for_the_longest_time_goes_first_and_one_of_a_live_run_never() {
    let scene = Scene::new().await;
    let [oldest, busy, waited_for, middle, newest] = [
        scene.repo("oldest").await,
        scene.repo("busy").await,
        scene.repo("waited-for").await,
        scene.repo("middle").await,
        scene.repo("newest").await,
    ];
    for (n, id) in [oldest, busy, waited_for, middle, newest].into_iter().enumerate() {
        scene.mirror(id, 100_000, n as i64 * DAY);
    }
    scene.claimed(Some(busy)).await;
    scene.queued(Some(waited_for)).await;
    let by_age = Limits { mirrors_ms: Some(7 * DAY), ..Limits::default() };
    let ids =
        |plan: codegen_server::worker::retention::Plan| plan.mirrors.iter().map(|m| m.repo_id).collect::<Vec<_>>();
    assert_eq!(ids(plan(&scene.store, scene.data_dir(), &by_age, 10 * DAY + 1).await.unwrap()), [oldest, middle]);
    let by_size = Limits { mirrors_bytes: Some(420_000), ..Limits::default() };
    assert_eq!(ids(plan(&scene.store, scene.data_dir(), &by_size, 10 * DAY).await.unwrap()), [oldest, middle]);
    let none = Limits { mirrors_ms: Some(0), ..Limits::default() };
    assert_eq!(ids(plan(&scene.store, scene.data_dir(), &none, 10 * DAY).await.unwrap()), [oldest, middle, newest]);
}

#[tokio::test]
async fn a_sandbox_that_is_being_made_is_its_runs_and_one_of_an_earlier_attempt_is_nobodys() {
    let scene = Scene::new().await;
    let (store, run) = (&scene.store, scene.claimed(None).await);
    let id = |attempt: i64| format!("run-{}-{attempt}-0123abcd", run.id);
    let whose = async |id: String, kept, now| owner(store, &id, kept, now).await.unwrap();
    assert_eq!(whose(id(1), 0, 10).await, Owner::Live, "made, and not yet recorded");
    let update = RunUpdate { sandbox_id: Some(id(1)), ..RunUpdate::default() };
    store.update_run(&run.claim(), update, 0).await.unwrap();
    store.release_run(&run.claim(), "stopped", 9).await.unwrap();
    assert_eq!(whose(id(1), 0, 10).await, Owner::Live, "a run that waits goes on in it");
    let again = store.claim_run_by_id(run.id, "w", 11).await.unwrap().unwrap();
    assert_eq!(whose(id(1), 0, 12).await, Owner::Live, "it is attached to");
    assert_eq!(whose(id(2), 0, 12).await, Owner::Live, "or another is made");
    let update = RunUpdate { sandbox_id: Some(id(2)), ..RunUpdate::default() };
    store.update_run(&again.claim(), update, 0).await.unwrap();
    assert_eq!(whose(id(1), 0, 12).await, Owner::None);
    store.finish_run(&again.claim(), Reason::Complete, "Done.", None, 100).await.unwrap();
    assert_eq!(whose(id(2), 60, 120).await, Owner::Kept, "its own worker is just removing it");
    assert_eq!(whose(id(2), 60, 160).await, Owner::None);
    assert_eq!(whose("run-99-1-0123abcd".to_owned(), 60, 0).await, Owner::None);
    assert_eq!(whose("mine".to_owned(), 60, 0).await, Owner::None);
}

#[tokio::test]
async fn a_run_that_waits_does_not_own_what_an_attempt_left_half_made() {
    let scene = Scene::new().await;
    let run = scene.claimed(None).await;
    scene.store.release_run(&run.claim(), "stopped", 9).await.unwrap();
    let id = format!("run-{}-1-0123abcd", run.id);
    assert_eq!(owner(&scene.store, &id, 0, 10).await.unwrap(), Owner::None);
}
