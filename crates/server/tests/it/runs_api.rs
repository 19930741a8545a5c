//! Runs through HTTP: pages by key, filters, tags, the search, archiving, removal.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use codegen_server::forge::git::{Kept, Mirror};
use codegen_store::{NewRun, Reason, Role};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::{TOKEN, TestApp, answer, failure, failures},
    engine::engine,
    outputs,
    run_story::{Scene, finish, mending, shell},
};

const RUNS: &str = "/v1/organizations/1/agent/runs";

async fn send(app: &TestApp, method: Method, path: &str, token: &str, body: Option<&Value>) -> (u16, Value) {
    let request = app.asks(method, path, Some(token));
    let request = if let Some(body) = body { request.json(body) } else { request };
    answer(request.send().await.unwrap()).await
}

async fn create(app: &TestApp, body: Value) -> i64 {
    let (status, run) = app.post("/v1/organizations/1/agent/run", &body).await;
    assert_eq!(status, 200, "{run}");
    run["id"].as_i64().unwrap()
}

fn ids(page: &Value) -> Vec<i64> {
    page["items"].as_array().unwrap().iter().map(|run| run["id"].as_i64().unwrap()).collect()
}

/// The search's answer once it has as many runs as that.
async fn found(app: &TestApp, query: &str, runs: usize) -> Value {
    let path = format!("{RUNS}/search?{query}");
    let asking = async {
        loop {
            let (status, body) = app.get(&path).await;
            assert_eq!(status, 200, "{body}");
            if body["items"].as_array().unwrap().len() == runs {
                return body;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking).await.expect("the search follows the logs")
}

#[tokio::test]
async fn pages_by_key_go_through_all_runs_in_both_directions() {
    let app = TestApp::new().await;
    let mut all = Vec::new();
    for n in 0..5 {
        all.insert(0, create(&app, json!({"prompt": format!("task {n}")})).await);
    }
    let (_, first) = app.get(&format!("{RUNS}?limit=2")).await;
    assert_eq!((ids(&first), &first["next"], &first["total"]), (all[..2].to_vec(), &json!(all[1]), &json!(5)));
    let (_, second) = app.get(&format!("{RUNS}?limit=2&before={}", all[1])).await;
    assert_eq!((ids(&second), &second["next"]), (all[2..4].to_vec(), &json!(all[3])));
    let (_, third) = app.get(&format!("{RUNS}?limit=2&before={}", all[3])).await;
    assert_eq!((ids(&third), third.get("next")), (all[4..].to_vec(), None));
    assert_eq!(ids(&app.get(&format!("{RUNS}?limit=2&after={}", all[3])).await.1), all[1..3]);
    assert_eq!(ids(&app.get(&format!("{RUNS}?limit=2&skip=1")).await.1), all[1..3]);
    let (status, body) = app.get(&format!("{RUNS}?before=1&after=1&since=soon&archived=perhaps&status=odd")).await;
    assert_eq!(status, 422);
    let expected = [
        failure("query.status", "enum"),
        failure("query.since", "datetime_parsing"),
        failure("query.archived", "bool_parsing"),
        failure("query.after", "value_error"),
    ];
    assert_eq!(failures(&body), expected);
}

#[tokio::test]
async fn tags_are_set_on_create_and_later_and_found_again() {
    let app = TestApp::new().await;
    let one = create(&app, json!({"prompt": "one", "tags": ["nightly", "api", "api"]})).await;
    let two = create(&app, json!({"prompt": "two"})).await;
    let path = |id: i64| format!("/v1/organizations/1/agent/run/{id}");
    assert_eq!(app.get(&path(one)).await.1["tags"], json!(["nightly", "api"]));
    let (status, run) = send(&app, Method::PATCH, &path(two), TOKEN, Some(&json!({"tags": ["nightly"]}))).await;
    assert_eq!((status, &run["tags"], &run["archived"]), (200, &json!(["nightly"]), &json!(false)));
    assert_eq!(ids(&app.get(&format!("{RUNS}?tag=nightly")).await.1), [two, one]);
    assert_eq!(ids(&app.get(&format!("{RUNS}?tag=api")).await.1), [one]);
    let (_, run) = send(&app, Method::PATCH, &path(one), TOKEN, Some(&json!({"archived": true}))).await;
    assert_eq!((&run["archived"], &run["tags"]), (&json!(true), &json!(["nightly", "api"])), "what is not named stays");
    assert_eq!(app.get(RUNS).await.1["total"], 1);
    assert_eq!(ids(&app.get(&format!("{RUNS}?archived=true")).await.1), [one]);
    send(&app, Method::PATCH, &path(one), TOKEN, Some(&json!({"archived": false, "tags": []}))).await;
    assert_eq!(app.get(RUNS).await.1["total"], 2);
    assert_eq!(ids(&app.get(&format!("{RUNS}?tag=nightly")).await.1), [two]);

    let many: Vec<String> = (0..21).map(|n| n.to_string()).collect();
    let bad = json!({"prompt": "x", "tags": ["", " a", "b\n", "ok", "x".repeat(65)]});
    let (status, body) = app.post("/v1/organizations/1/agent/run", &bad).await;
    assert_eq!(status, 422);
    let places: Vec<String> = failures(&body).into_iter().map(|(place, _)| place).collect();
    assert_eq!(places, ["body.tags.0", "body.tags.1", "body.tags.2", "body.tags.4"]);
    let (_, body) = send(&app, Method::PATCH, &path(one), TOKEN, Some(&json!({"archived": 1, "tags": many}))).await;
    assert_eq!(failures(&body), [failure("body.archived", "bool_type"), failure("body.tags", "too_long")]);
    let outsider = app.member(app.app.store.create_org("Other", 0).await.unwrap().id, "outsider", Role::Admin).await;
    assert_eq!(send(&app, Method::PATCH, &path(one), &outsider, Some(&json!({"archived": true}))).await.0, 403);
    assert_eq!(send(&app, Method::PATCH, &path(99), TOKEN, Some(&json!({"archived": true}))).await.0, 404);
}

#[tokio::test]
async fn words_are_found_in_prompts_with_their_places_and_only_in_the_own_organization() {
    let app = TestApp::new().await;
    let one = create(&app, json!({"prompt": "Mend the parser of the calculator"})).await;
    let two = create(&app, json!({"prompt": "Mend the printer"})).await;
    let body = found(&app, "text=mend+pars", 1).await;
    let item = &body["items"][0];
    assert_eq!(item["run"]["id"], one);
    assert_eq!(item["matches"][0]["snippet"], "Mend the parser of the calculator");
    assert_eq!(item["matches"][0]["highlights"], json!([[0, 4], [9, 15]]));
    found(&app, "text=printer", 1).await;
    let body = found(&app, "text=mend&limit=1", 1).await;
    assert_eq!((&body["items"][0]["run"]["id"], &body["next"]), (&json!(two), &json!(two)));
    assert_eq!(found(&app, &format!("text=mend&before={two}"), 1).await["items"][0]["run"]["id"], one);
    assert_eq!(ids(&app.get(&format!("{RUNS}?text=mend")).await.1), [two, one]);
    assert_eq!(ids(&app.get(&format!("{RUNS}?text=%22the+printer%22")).await.1), [two]);
    let (status, body) = app.get(&format!("{RUNS}/search")).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("query.text", "missing")]));

    let other = app.app.store.create_org("Other", 0).await.unwrap().id;
    let outsider = app.member(other, "outsider", Role::Admin).await;
    let theirs = format!("/v1/organizations/{other}/agent/runs/search?text=mend");
    assert_eq!(send(&app, Method::GET, &theirs, &outsider, None).await.1["items"], json!([]));
    assert_eq!(send(&app, Method::GET, &format!("{RUNS}/search?text=mend"), &outsider, None).await.0, 403);
}

#[tokio::test]
async fn what_a_model_and_a_program_say_with_nul_characters_is_kept_and_found() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let says = shell("printf 'binary\\0output\\n'; echo \"$(printf x) xylophone\" > made");
    let run = scene.queue(Some(&repo), &[says, finish("The marimba\0 is done.")]).await;
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{:?}", run.error_cause);
    assert_eq!(run.result.as_deref(), Some("The marimba\u{fffd} is done."));
    let pulls = scene.app.store.pull_requests_of_run(run.org_id, run.id).await.unwrap();
    assert_eq!(pulls.len(), 1);
    let output = scene.entries(&run, "call_finished").await[0]["output"].as_str().unwrap().to_owned();
    assert_eq!(output, "binary\u{fffd}output\n");
    let store = &scene.app.store;
    while store.index_log(run.id).await.unwrap() {}
    for words in ["\"binary output\"", "marimba"] {
        assert_eq!(store.search(run.org_id, words, None, 9).await.unwrap().len(), 1, "{words}");
    }
}

#[tokio::test]
async fn logs_are_read_on_from_an_entry() {
    let app = TestApp::new().await;
    let store = &app.app.store;
    let (org, user) = store.first_org_and_admin().await.unwrap();
    let new =
        NewRun { user_id: user.id, prompt: "task".to_owned(), source_type: "API".to_owned(), ..NewRun::default() };
    let run = store.create_run(org.id, new, 1).await.unwrap();
    store.request_stop(org.id, run.id, 1).await.unwrap();
    for n in 0..5 {
        store.add_message(org.id, run.id, &format!("message {n}"), &[], 1).await.unwrap();
        store.request_stop(org.id, run.id, 1).await.unwrap();
    }
    // To its end, for the worker may have begun with it.
    let events = format!("/v1/organizations/1/agent/run/{}/events", run.id);
    app.asks(Method::GET, &events, Some(TOKEN)).send().await.unwrap().text().await.unwrap();
    let logs = async |query: &str| {
        let (_, body) = app.get(&format!("/v1/organizations/1/agent/run/{}/logs?{query}", run.id)).await;
        let seqs = body["logs"].as_array().unwrap().iter().map(|log| log["seq"].as_i64().unwrap());
        seqs.collect::<Vec<_>>()
    };
    let all = logs("").await;
    assert!(all.len() >= 5, "{all:?}");
    assert_eq!(logs(&format!("after={}&limit=2", all[1])).await, all[2..4]);
    assert_eq!(logs(&format!("before={}&limit=2&reverse=true", all[3])).await, [all[2], all[1]]);
}

#[tokio::test]
async fn a_removed_run_is_gone_from_everywhere() {
    let scene = Scene::new().await;
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &mending()).await;
    let run = scene.work_on(&run).await;
    assert_eq!(run.reason, Some(Reason::Complete));
    let mirror = Mirror::of(&scene.app.config.data_dir, repo.id);
    assert!(mirror.kept(Kept::Run(run.id)).await.unwrap().is_some());
    mirror.forget_run(run.id).await.unwrap();
    scene.app.store.remove_run(run.org_id, run.id, 1).await.unwrap();
    assert!(mirror.kept(Kept::Run(run.id)).await.unwrap().is_none());
    assert!(scene.app.store.run_by_id(run.id).await.is_err());
    assert!(scene.app.store.blob(run.org_id, run.id, "diff").await.unwrap().is_none());
    assert!(scene.app.engine.inventory().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_run_is_removed_by_its_user_or_a_manager_and_stopped_first() {
    let app = TestApp::new().await;
    let member = app.member(1, "member", Role::Member).await;
    let manager = app.member(1, "manager", Role::Manager).await;
    let path = |id: i64| format!("/v1/organizations/1/agent/run/{id}");
    let (_, own) =
        send(&app, Method::POST, "/v1/organizations/1/agent/run", &member, Some(&json!({"prompt": "mine"}))).await;
    let (own, admins) = (own["id"].as_i64().unwrap(), create(&app, json!({"prompt": "the admin's"})).await);
    assert_eq!(send(&app, Method::DELETE, &path(admins), &member, None).await.0, 403);
    assert_eq!(send(&app, Method::DELETE, &path(own), &member, None).await, (200, json!({"success": true})));
    assert_eq!(send(&app, Method::DELETE, &path(admins), &manager, None).await.0, 200);
    for id in [own, admins] {
        assert_eq!(app.get(&path(id)).await.0, 404);
        assert_eq!(send(&app, Method::DELETE, &path(id), TOKEN, None).await.0, 404);
    }
    assert_eq!(app.get(RUNS).await.1["total"], 0);
    let outsider = app.member(app.app.store.create_org("Other", 0).await.unwrap().id, "outsider", Role::Admin).await;
    assert_eq!(send(&app, Method::DELETE, &path(own), &outsider, None).await.0, 403);
}

#[tokio::test]
async fn a_removed_run_s_sandbox_ends_with_it_though_others_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let made = engine(dir.path());
    let app = TestApp::on(dir, &[("CODEGEN_KEEP_SANDBOXES_H", "1")], made).await;
    let (gone, kept) = (
        outputs::run(&app, &json!({"prompt": "One", "model": outputs::script(&app, &[finish("Done.")])})).await,
        outputs::run(&app, &json!({"prompt": "Two", "model": outputs::script(&app, &[finish("Done.")])})).await,
    );
    assert_eq!(app.app.engine.inventory().await.unwrap().len(), 2);
    let path = format!("/v1/organizations/1/agent/run/{}", gone["id"]);
    assert_eq!(app.asks(Method::DELETE, &path, Some(TOKEN)).send().await.unwrap().status(), 200);
    let left = app.app.engine.inventory().await.unwrap();
    assert!(left.len() == 1 && left[0].starts_with(&format!("run-{}-", kept["id"])), "{left:?}");
}
