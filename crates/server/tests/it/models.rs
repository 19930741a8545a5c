//! Providers of models with accounts of an organization's own: what is kept, what is shown, whom runs ask.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use codegen_store::Role;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    api::{TOKEN, TestApp, answer, failure, failures},
    engine::engine,
};

const PROVIDERS: &str = "/v1/organizations/1/model-providers";
const MODELS: &str = "/v1/organizations/1/models";
const KEY: &str = "sk-org-0123456789-abcdefgh-LAST";
const PRIVATE: (&str, &str) = ("CODEGEN_ALLOW_PRIVATE_ADDRESSES", "on");

/// A provider in OpenAI's words, that takes one key and repeats what it is asked with where it refuses.
#[derive(Clone, Default)]
struct Provider {
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Provider {
    async fn start() -> (Self, String) {
        let provider = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let router = Router::new().fallback(reply).with_state(provider.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        (provider, url)
    }

    fn models(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|body| body["model"].as_str().unwrap().to_owned()).collect()
    }
}

async fn reply(State(provider): State<Provider>, headers: HeaderMap, body: String) -> Response {
    let key = headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned();
    let body: Value = serde_json::from_str(&body).unwrap();
    let refused = |status, said: String| (status, json!({"error": {"message": said}}).to_string()).into_response();
    if key != KEY {
        return refused(StatusCode::UNAUTHORIZED, format!("Incorrect API key provided: {key}."));
    }
    if body["model"] == "broken" {
        return refused(StatusCode::BAD_REQUEST, format!("the key {key} may not use this"));
    }
    provider.asked.lock().unwrap().push(body);
    let chunk = json!({"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]});
    ([("content-type", "text/event-stream")], format!("data: {chunk}\n\ndata: [DONE]\n\n")).into_response()
}

async fn send(app: &TestApp, method: Method, path: &str, token: &str, body: &Value) -> (u16, Value) {
    answer(app.asks(method, path, Some(token)).json(body).send().await.unwrap()).await
}

async fn working() -> TestApp {
    let dir = tempfile::tempdir().unwrap();
    let made = engine(dir.path());
    TestApp::on(dir, &[PRIVATE], made).await
}

async fn ended(app: &TestApp, run: &Value) -> Value {
    let path = format!("/v1/organizations/1/agent/run/{}", run["id"]);
    app.asks(Method::GET, &format!("{path}/events"), Some(TOKEN)).send().await.unwrap().text().await.unwrap();
    app.get(&path).await.1
}

fn said(body: &Value) -> &str {
    body["detail"][0]["msg"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_key_is_tried_before_it_is_kept_and_never_shown_again() {
    let app = TestApp::with(&[PRIVATE]).await;
    let (provider, url) = Provider::start().await;
    let mut account =
        json!({"provider": "acme", "base_url": url, "api_key": "sk-wrong-0123456789", "allowed_models": ["big"]});
    let (status, body) = app.post(PROVIDERS, &account).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("body.api_key", "value_error")]));
    assert!(said(&body).contains("refuses the key") && !body.to_string().contains("0123456789"), "{body}");
    assert_eq!(app.get(PROVIDERS).await.1["total"], 0, "nothing is kept");

    account["api_key"] = json!(KEY);
    let (status, made) = app.post(PROVIDERS, &account).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!((&made["key_hint"], &made["has_key"]), (&json!("LAST"), &json!(true)));
    assert_eq!(provider.models(), ["big"]);
    let (_, list) = app.get(PROVIDERS).await;
    let (_, log) = app.get("/v1/organizations/1/audit-log").await;
    let export = app.asks(Method::GET, "/v1/organizations/1/export", Some(TOKEN)).send().await.unwrap();
    let export = export.text().await.unwrap();
    for shown in [made.to_string(), list.to_string(), log.to_string(), export] {
        assert!(!shown.contains("0123456789"), "{shown}");
    }
    assert!(log.to_string().contains("model_provider.created"), "{log}");
    for file in std::fs::read_dir(app.dir()).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes()), "{}", file.display());
    }
    let (status, body) = app.post(PROVIDERS, &account).await;
    assert_eq!((status, &body["status_code"]), (409, &json!(409)));
}

#[tokio::test]
async fn an_untested_key_is_kept_on_request_and_tested_later() {
    let app = TestApp::with(&[PRIVATE]).await;
    let (_, url) = Provider::start().await;
    let account = json!({"provider": "acme", "base_url": url, "api_key": "sk-wrong-0123456789", "allowed_models": ["big"], "test": false});
    let (status, made) = app.post(PROVIDERS, &account).await;
    assert_eq!((status, &made["tested_at"]), (200, &Value::Null));
    let one = format!("{PROVIDERS}/{}", made["id"]);
    let (status, tested) = app.post(&format!("{one}/test"), &json!({})).await;
    assert_eq!((status, &tested["success"], &tested["model"]), (200, &json!(false), &json!("acme/big")));
    assert!(!tested.to_string().contains("0123456789"), "{tested}");
    let (status, body) = send(&app, Method::PATCH, &one, TOKEN, &json!({"api_key": "sk-also-wrong-1"})).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("body.api_key", "value_error")]));
    let (status, changed) = send(&app, Method::PATCH, &one, TOKEN, &json!({"api_key": KEY})).await;
    assert_eq!((status, &changed["key_hint"]), (200, &json!("LAST")));
    assert!(changed["tested_at"].is_string());
    assert_eq!(app.post(&format!("{one}/test"), &json!({})).await.1["success"], true);
    let (status, body) = send(&app, Method::PATCH, &one, TOKEN, &json!({"base_url": "http://127.0.0.1:9/v1"})).await;
    assert_eq!(
        (status, failures(&body)),
        (422, vec![failure("body.api_key", "value_error")]),
        "a key stays at its address"
    );
    assert_eq!(send(&app, Method::DELETE, &one, TOKEN, &json!({})).await.0, 200);
    assert_eq!(app.get(&one).await.0, 404);
}

#[tokio::test]
async fn runs_use_the_organizations_account_before_the_servers_and_its_default_model() {
    let app = working().await;
    let (provider, url) = Provider::start().await;
    let account = json!({"provider": "anthropic", "base_url": "http://127.0.0.1:9", "api_key": KEY, "test": false});
    let (_, own_anthropic) = app.post(PROVIDERS, &account).await;
    assert_eq!(own_anthropic["api"], "anthropic");
    let account = json!({"provider": "openai", "base_url": url, "api_key": KEY, "test_model": "gpt-5"});
    assert_eq!(app.post(PROVIDERS, &account).await.0, 200);
    let (status, set) =
        send(&app, Method::PUT, "/v1/organizations/1/default-model", TOKEN, &json!({"model": "openai/gpt-5"})).await;
    assert_eq!((status, &set["default_model"], &set["default_is_set"]), (200, &json!("openai/gpt-5"), &json!(true)));
    let (_, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "Say yes"})).await;
    let run = ended(&app, &run).await;
    assert_eq!((&run["status"], &run["result"]), (&json!("COMPLETE"), &json!("yes")), "{run}");
    let (_, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "x", "model": "gpt-4.1"})).await;
    assert_eq!(ended(&app, &run).await["status"], "COMPLETE");
    assert_eq!(provider.models(), ["gpt-5", "gpt-5", "gpt-4.1"]);
    let (_, choices) = app.get(MODELS).await;
    let choice = choices["models"].as_array().unwrap().iter().find(|choice| choice["name"] == "openai/gpt-5").unwrap();
    assert_eq!(choice["account"], "organization");
}

#[tokio::test]
async fn nothing_that_a_run_says_holds_the_key() {
    let app = working().await;
    let (_, url) = Provider::start().await;
    let account = json!({"provider": "acme", "base_url": url, "api_key": KEY, "test_model": "big"});
    assert_eq!(app.post(PROVIDERS, &account).await.0, 200);
    let (_, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "x", "model": "acme/broken"})).await;
    let path = format!("/v1/organizations/1/agent/run/{}", run["id"]);
    let events =
        app.asks(Method::GET, &format!("{path}/events"), Some(TOKEN)).send().await.unwrap().text().await.unwrap();
    let run = app.get(&path).await.1;
    assert_eq!(run["status"], "ERROR");
    assert!(run["result"].as_str().unwrap().contains("may not use this"), "{run}");
    let row = app.app.store.run(1, run["id"].as_i64().unwrap()).await.unwrap();
    for shown in [events, run.to_string(), app.get(&format!("{path}/logs")).await.1.to_string(), format!("{row:?}")] {
        assert!(!shown.contains(KEY), "{shown}");
    }
}

#[tokio::test]
async fn a_model_that_there_is_not_is_refused_with_those_that_there_are() {
    let app = TestApp::with(&[PRIVATE]).await;
    let account = json!({"provider": "acme", "base_url": "http://127.0.0.1:9/v1", "allowed_models": ["big", "small"], "test": false});
    assert_eq!(app.post(PROVIDERS, &account).await.0, 200);
    for (model, names) in [
        ("acme/medium", ["acme/big, acme/small", "acme"]),
        ("nonsense", ["acme/big, acme/small", "anthropic"]),
        ("other/model", ["acme/big", "openrouter"]),
    ] {
        let (status, body) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "x", "model": model})).await;
        assert_eq!((status, failures(&body)), (422, vec![failure("body.model", "value_error")]), "{model}");
        assert!(names.iter().all(|name| said(&body).contains(name)), "{body}");
        let set = json!({"model": model});
        let (status, body) = send(&app, Method::PUT, "/v1/organizations/1/default-model", TOKEN, &set).await;
        assert_eq!((status, failures(&body)), (422, vec![failure("body.model", "value_error")]), "{model}");
    }
    let (_, choices) = app.get(MODELS).await;
    assert_eq!(choices["default_model"], "acme/big", "its own account comes before the server's");
}

#[tokio::test]
async fn addresses_off_the_public_internet_are_refused_unless_they_are_allowed() {
    let app = TestApp::new().await;
    for url in ["http://127.0.0.1:9/v1", "http://169.254.169.254/", "https://[::1]/v1", "ftp://h.example/"] {
        let account = json!({"provider": "acme", "base_url": url, "api_key": KEY, "test": false});
        let (status, body) = app.post(PROVIDERS, &account).await;
        assert_eq!((status, failures(&body)), (422, vec![failure("body.base_url", "value_error")]), "{url}");
    }
    let account = json!({"provider": "acme", "base_url": "http://localhost:9/v1", "api_key": KEY, "test_model": "big"});
    let (status, body) = app.post(PROVIDERS, &account).await;
    assert_eq!(status, 422);
    assert!(said(&body).contains("not on the public internet"), "{body}");
    for (account, place) in [
        (json!({"provider": "acme", "api_key": KEY}), "body.base_url"),
        (json!({"provider": "ollama"}), "body.base_url"),
        (json!({"provider": "openai"}), "body.api_key"),
        (json!({"provider": "Acme Corp", "base_url": "https://h.example"}), "body.provider"),
        (json!({"provider": "openai", "api": "anthropic", "api_key": KEY}), "body.api"),
        (json!({"provider": "openai", "api_key": "short"}), "body.api_key"),
        (json!({"provider": "openai", "api_key": KEY, "prices": {"gpt-5": {"input": -1, "output": 1}}}), "body.prices"),
        (json!({"provider": "openai", "api_key": KEY, "allowed_models": ["a b"]}), "body.allowed_models.0"),
    ] {
        let (status, body) = app.post(PROVIDERS, &account).await;
        assert_eq!((status, failures(&body)), (422, vec![failure(place, "value_error")]), "{account}");
    }
    assert_eq!(app.get(PROVIDERS).await.1["total"], 0);
}

#[tokio::test]
async fn only_admins_see_accounts_and_members_see_what_they_may_use() {
    let app = TestApp::new().await;
    let account = json!({"provider": "openai", "api_key": KEY, "allowed_models": ["gpt-5"], "test": false});
    let (_, made) = app.post(PROVIDERS, &account).await;
    let manager = app.member(1, "manager", Role::Manager).await;
    let other = app.app.store.create_org("Other", 0).await.unwrap().id;
    let outsider = app.member(other, "outsider", Role::Admin).await;
    for token in [&manager, &outsider] {
        assert_eq!(send(&app, Method::GET, PROVIDERS, token, &json!({})).await.0, 403);
        assert_eq!(send(&app, Method::POST, PROVIDERS, token, &account).await.0, 403);
    }
    let theirs = format!("/v1/organizations/{other}/model-providers/{}", made["id"]);
    assert_eq!(send(&app, Method::GET, &theirs, &outsider, &json!({})).await.0, 404);
    let (status, choices) = send(&app, Method::GET, MODELS, &manager, &json!({})).await;
    assert_eq!(status, 200);
    let own: Vec<&Value> =
        choices["models"].as_array().unwrap().iter().filter(|choice| choice["account"] == "organization").collect();
    assert_eq!((own.len(), &own[0]["name"]), (1, &json!("openai/gpt-5")));
}
