//! `Idempotency-Key` through HTTP.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashSet;

use codegen_store::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{TOKEN, TestApp, answer, failure, failures};

const CREATE: &str = "/v1/organizations/1/agent/run";
const RESUME: &str = "/v1/organizations/1/agent/run/resume";
const STOP: &str = "/v1/organizations/1/agent/run/stop";

async fn send(app: &TestApp, path: &str, key: &str, body: &Value) -> (u16, Value, bool) {
    let sent =
        app.asks(Method::POST, path, Some(TOKEN)).header("idempotency-key", key).json(body).send().await.unwrap();
    let replayed = sent.headers().contains_key("idempotent-replayed");
    let (status, body) = answer(sent).await;
    (status, body, replayed)
}

async fn total(app: &TestApp) -> i64 {
    app.get("/v1/organizations/1/agent/runs").await.1["total"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_concurrent_creates_with_one_key_make_one_run() {
    let app = TestApp::new().await;
    let body = json!({"prompt": "hello"});
    let sent = futures::future::join_all((0..50).map(|_| send(&app, CREATE, "one", &body))).await;
    let ids: HashSet<i64> = sent.iter().filter(|s| s.0 == 200).map(|s| s.1["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), 1, "{sent:?}");
    assert!(sent.iter().all(|s| matches!(s.0, 200 | 409)), "{sent:?}");
    assert_eq!(sent.iter().filter(|s| s.0 == 200 && !s.2).count(), 1, "one is the first, the others are told so");
    assert_eq!(total(&app).await, 1);
}

#[tokio::test]
async fn an_answer_is_replayed_as_it_was_also_after_a_restart_and_another_body_is_refused() {
    let app = TestApp::new().await;
    let body = json!({"prompt": "hello", "metadata": {"z": 1, "a": [2.50]}});
    let first = send(&app, CREATE, "k-1", &body).await;
    assert_eq!((first.0, first.2), (200, false), "{}", first.1);
    // The run has ended meanwhile or will; the answer is still the first one.
    let stop = send(&app, STOP, "k-1", &json!({"agent_run_id": first.1["id"]})).await;
    assert_eq!((stop.0, stop.2), (200, false), "another path has keys of its own");
    let app = app.restart().await;
    let again = send(&app, CREATE, "k-1", &body).await;
    assert_eq!((again.0, &again.1, again.2), (200, &first.1, true));
    let (status, refused, _) = send(&app, CREATE, "k-1", &json!({"prompt": "other"})).await;
    assert_eq!((status, failures(&refused)), (422, vec![failure("header.idempotency-key", "value_error")]));
    assert_eq!(total(&app).await, 1);
    let token = app.member(1, "ben", Role::Member).await;
    let theirs = app.asks(Method::POST, CREATE, Some(&token)).header("idempotency-key", "k-1").json(&body);
    let (status, theirs) = answer(theirs.send().await.unwrap()).await;
    assert_eq!((status, theirs["id"] == first.1["id"]), (200, false), "another token has keys of its own");
    assert_eq!(total(&app).await, 2);
}

#[tokio::test]
async fn a_follow_up_sent_twice_is_said_once_and_stop_twice_is_no_error() {
    let app = TestApp::new().await;
    let id = app.post(CREATE, &json!({"prompt": "hello"})).await.1["id"].clone();
    for path in [RESUME, "/v1/beta/organizations/1/agent/run/resume"] {
        let body = json!({"agent_run_id": id, "prompt": format!("more over {path}")});
        let first = send(&app, path, "r", &body).await;
        assert_eq!((first.0, &first.1["new_agent_run_id"]), (200, &id));
        assert_eq!(send(&app, path, "r", &body).await, (200, first.1, true));
    }
    let log = app.app.store.log(id.as_i64().unwrap(), 0, 1000).await.unwrap();
    assert_eq!(log.iter().filter(|row| row.kind == "user_message").count(), 3);
    for path in [STOP, "/v1/beta/organizations/1/agent/run/stop"] {
        for _ in 0..2 {
            assert_eq!(app.post(path, &json!({"agent_run_id": id})).await.0, 200);
            assert_eq!(send(&app, path, "s", &json!({"agent_run_id": id})).await.0, 200);
        }
    }
}

#[tokio::test]
async fn what_was_refused_leaves_its_key_free_and_odd_keys_are_refused() {
    let app = TestApp::new().await;
    let missing = json!({"prompt": "hello", "repo_id": 77});
    assert_eq!(send(&app, CREATE, "k", &missing).await.0, 404);
    assert_eq!(send(&app, CREATE, "k", &json!({"prompt": "hello"})).await.0, 200);
    for key in ["", "a b", "ü", &"x".repeat(256)] {
        let request = app.asks(Method::POST, CREATE, Some(TOKEN)).json(&json!({"prompt": 1}));
        let value = reqwest::header::HeaderValue::from_bytes(key.as_bytes()).unwrap();
        let (status, body) = answer(request.header("idempotency-key", value).send().await.unwrap()).await;
        let both = vec![failure("body.prompt", "string_type"), failure("header.idempotency-key", "value_error")];
        assert_eq!((status, failures(&body)), (422, both), "{key:?}");
    }
    assert_eq!(send(&app, CREATE, &"x".repeat(255), &json!({"prompt": "hello"})).await.0, 200);
    assert_eq!(total(&app).await, 2);
}
