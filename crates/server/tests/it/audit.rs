//! The audit log through HTTP: every change has its entry, and what changed nothing has none.
#![allow(clippy::unwrap_used, missing_docs)]

use codegen_server::{Who, route_table};
use codegen_store::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::{TOKEN, TestApp, failure, failures},
    rights::{ABSENT, samples},
};

const LOG: &str = "/v1/organizations/1/audit-log";

impl TestApp {
    /// Newest first.
    async fn audit(&self, query: &str) -> Vec<Value> {
        let (status, page) = self.get(&format!("{LOG}{query}")).await;
        assert_eq!(status, 200, "{page}");
        page["items"].as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn a_change_is_kept_with_who_by_which_token_what_and_from_where() {
    let app = TestApp::new().await;
    let ben = app.member(1, "ben", Role::Manager).await;
    let run = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "hush"})).await.1["id"].clone();
    let newest = app.audit("").await[0].clone();
    assert_eq!(newest["action"], "run.created");
    assert_eq!(newest["target"], format!("run:{run}"));
    assert_eq!((&newest["user_name"], &newest["token_name"]), (&json!("admin"), &json!("first")));
    assert_eq!(newest["address"], "127.0.0.1");
    assert!(!newest.to_string().contains("hush"), "what a run is asked is not the log's business: {newest}");

    let origin = app.dir().join("shop");
    std::fs::create_dir_all(&origin).unwrap();
    super::git_host::git(&origin, &["init", "-q"]);
    super::git_host::commit_file(&origin, "a", "b");
    let add = app.asks(Method::POST, "/v1/organizations/1/repos", Some(&ben)).json(&json!({"url": origin}));
    assert_eq!(add.send().await.unwrap().status(), 200);
    let setup = app
        .asks(Method::PUT, "/v1/organizations/1/repos/1/setup-commands", Some(&ben))
        .json(&json!({"setup_commands": "export KEY=secret-value"}));
    assert_eq!(setup.send().await.unwrap().status(), 200);
    let log = app.audit("?limit=2").await;
    assert_eq!((&log[1]["action"], &log[1]["user_name"]), (&json!("repository.added"), &json!("ben")));
    assert_eq!(log[0]["target"], "repo:1");
    assert!(!json!(log).to_string().contains("secret-value"));

    // Asked for and refused, or done before: no entry.
    let before = app.audit("").await.len();
    assert_eq!(app.post("/v1/organizations/1/agent/run/stop", &json!({"agent_run_id": ABSENT})).await.0, 404);
    let again = app.asks(Method::POST, "/v1/organizations/1/repos", Some(&ben)).json(&json!({"url": origin}));
    assert_eq!(again.send().await.unwrap().status(), 200);
    let keyed = || {
        app.asks(Method::POST, "/v1/organizations/1/agent/run", Some(TOKEN))
            .header("idempotency-key", "once")
            .json(&json!({"prompt": "b"}))
            .send()
    };
    for _ in 0..3 {
        assert_eq!(keyed().await.unwrap().status(), 200);
    }
    assert_eq!(app.audit("").await.len(), before + 1, "only the first of the keyed requests");
}

#[tokio::test]
async fn every_request_that_changes_something_is_in_the_log() {
    let app = TestApp::new().await;
    let samples = samples(&app);
    let run = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "a"})).await.1["id"].as_i64().unwrap();
    app.member(1, "ben", Role::Member).await;
    let account = app.post("/v1/organizations/1/service-accounts", &json!({"name": "ci"})).await.1;
    let token = app.post("/v1/tokens", &json!({"name": "spare"})).await.1;
    let invitation = app.post("/v1/organizations/1/invitations", &json!({})).await.1;
    let id = |name: &str| match name {
        "agent_run_id" => run,
        "user_id" => 2,
        "service_account_id" => account["id"].as_i64().unwrap(),
        "token_id" => token["id"].as_i64().unwrap(),
        "invitation_id" => invitation["id"].as_i64().unwrap(),
        _ => 1,
    };
    let mut done = 0;
    for route in route_table().iter().filter(|route| route.who != Who::Anyone && route.method != Method::GET) {
        // A token, unlike the cookie of a log-in, has no session to end; a new organization has a log of its own.
        if ["/v1/session", "/v1/organizations"].contains(&route.path.as_str()) {
            continue;
        }
        let sample = samples.of(route, &id);
        let before = app.audit("?limit=1").await[0]["id"].clone();
        let (status, text) = app.sends(&route.method, &sample, Some(TOKEN)).await;
        assert!(status < 500, "{} {}: {text}", route.method, sample.path);
        if status < 300 {
            done += 1;
            let log = app.audit("?limit=1").await;
            assert!(log[0]["id"].as_i64() > before.as_i64(), "{} {} left no entry", route.method, route.path);
            assert_eq!(log[0]["user_name"], "admin", "{} {} does not say who", route.method, route.path);
        }
    }
    assert!(done >= 15, "only {done} routes could be tried");
    let made = app.post("/v1/organizations", &json!({"name": "new"})).await.1["id"].clone();
    let log = app.get(&format!("/v1/organizations/{made}/audit-log")).await.1["items"].clone();
    let actions: Vec<&str> = log.as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["member.added", "organization.created"]);
    assert_eq!(log[1]["user_name"], "admin");
}

#[tokio::test]
async fn the_log_is_paged_by_key_filtered_and_exported_for_admins_alone() {
    let app = TestApp::new().await;
    for n in 0..5 {
        app.post("/v1/organizations/1/agent/run", &json!({"prompt": format!("{n}")})).await;
    }
    let (_, first) = app.get(&format!("{LOG}?limit=3")).await;
    let (_, second) = app.get(&format!("{LOG}?limit=100&before={}", first["next"])).await;
    assert!(second["next"].is_null());
    let ids = |page: &Value| -> Vec<i64> {
        page["items"].as_array().unwrap().iter().map(|entry| entry["id"].as_i64().unwrap()).collect()
    };
    let all: Vec<i64> = ids(&first).into_iter().chain(ids(&second)).collect();
    assert!(all.is_sorted_by(|a, b| a > b) && all.len() == 7, "five runs, the organization, its admin: {all:?}");

    assert_eq!(app.audit("?action=run.").await.len(), 5);
    assert_eq!(app.audit("?action=run.created&target=run:2").await.len(), 1);
    assert_eq!(app.audit("?user_id=1").await.len(), 5, "the first organization was made by nobody");
    assert_eq!(app.audit("?until=2001-01-01T00:00:00Z").await.len(), 0);
    assert_eq!(app.audit("?since=2001-01-01T00:00:00%2B00:00").await.len(), 7);
    let (status, body) = app.get(&format!("{LOG}?since=yesterday")).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("query.since", "datetime_parsing")]));

    let answer = app.asks(Method::GET, &format!("{LOG}/export?action=run."), Some(TOKEN)).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let lines: Vec<Value> =
        answer.text().await.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.is_sorted_by_key(|entry| entry["id"].as_i64()) && lines.len() == 5, "{lines:?}");
}
