//! The API through HTTP, on a temporary data directory, with an engine that makes no sandboxes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use codegen_sandbox::{Engine, Error, Fence, Isolation, Sandbox, Spec};
use codegen_server::{App, Clock, Config};
use codegen_store::{NewUser, Reason, Role};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::database;

pub const TOKEN: &str = "cgn_a-preset-token-for-tests";

/// Makes nothing.
struct NoSandboxes;

#[async_trait]
impl Engine for NoSandboxes {
    fn isolation(&self) -> Isolation {
        Isolation { engine: "none".to_owned(), ..Isolation::default() }
    }
    async fn create(&self, _: &Spec) -> Result<Arc<dyn Sandbox>, Error> {
        Err(Error::HostRefuses("no sandboxes here".to_owned()))
    }
    async fn attach(&self, id: &str, _: Fence) -> Result<Arc<dyn Sandbox>, Error> {
        Err(Error::Gone(id.to_owned()))
    }
    async fn destroy(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }
    async fn inventory(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }
}

/// A server on a free port.
pub struct TestApp {
    pub app: Arc<App>,
    pub base: String,
    http: Client,
    dir: tempfile::TempDir,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl TestApp {
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    pub async fn with(env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("script.json"), "{\"turns\":[]}").unwrap();
        Self::on(dir, env, Arc::new(NoSandboxes)).await
    }

    /// Ends this server and starts another on its data directory.
    pub async fn restart(self) -> Self {
        self.restart_with(&[]).await
    }

    /// The same with other settings.
    pub async fn restart_with(self, env: &[(&str, &str)]) -> Self {
        self.app.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
        Self::on(self.dir, env, Arc::new(NoSandboxes)).await
    }

    /// On a data directory of the caller's, with an engine of theirs.
    pub async fn on(dir: tempfile::TempDir, env: &[(&str, &str)], engine: Arc<dyn Engine>) -> Self {
        Self::start(dir, env, engine, Clock::system()).await
    }

    /// By a clock that stands still until the test moves it.
    pub async fn at(clock: Clock, env: &[(&str, &str)]) -> Self {
        Self::start(tempfile::tempdir().unwrap(), env, Arc::new(NoSandboxes), clock).await
    }

    async fn start(dir: tempfile::TempDir, env: &[(&str, &str)], engine: Arc<dyn Engine>, clock: Clock) -> Self {
        codegen_server::install_tls();
        // A key that is never used: runs end at the engine.
        let usual = [("CODEGEN_ADMIN_TOKEN", TOKEN), ("CODEGEN_RATE_LIMITS", "off"), ("ANTHROPIC_API_KEY", "sk-none")];
        let url = database::url(dir.path());
        let database = url.as_deref().map(|url| ("DATABASE_URL", url));
        let env = database.iter().chain(&usual).chain(env).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut config = Config::load(Some(dir.path()), env).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        config.set_addr(listener.local_addr().unwrap());
        let base = config.public_url.clone();
        let (app, _) = App::open_at(config, engine, clock).await.unwrap();
        let serving = tokio::spawn(codegen_server::serve(app.clone(), listener));
        Self { app, base, http: Client::builder().no_proxy().build().unwrap(), dir, serving }
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn asks(&self, method: Method, path: &str, token: Option<&str>) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.asks(Method::GET, path, Some(TOKEN)).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.asks(Method::POST, path, Some(TOKEN)).json(body).send().await.unwrap()).await
    }

    /// Adds a member with a token of their own.
    pub async fn member(&self, org_id: i64, name: &str, role: Role) -> String {
        let user = NewUser { github_user_id: name.to_owned(), github_username: name.to_owned(), ..NewUser::default() };
        let user = self.app.store.add_member(org_id, user, role, 0).await.unwrap();
        let token = format!("cgn_token_of_{name}");
        self.app.store.add_token(user.id, "test", &sha256(&token), 0).await.unwrap();
        token
    }
}

pub fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

pub async fn answer(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}")))
}

/// (place, type) of each failure.
pub fn failures(body: &Value) -> Vec<(String, String)> {
    let one = |failure: &Value| {
        let loc: Vec<String> =
            failure["loc"].as_array().unwrap().iter().map(|l| l.to_string().replace('"', "")).collect();
        (loc.join("."), failure["type"].as_str().unwrap().to_owned())
    };
    body["detail"].as_array().unwrap().iter().map(one).collect()
}

pub fn failure(place: &str, r#type: &str) -> (String, String) {
    (place.to_owned(), r#type.to_owned())
}

#[tokio::test]
async fn refusals_come_in_the_order_401_422_403_404() {
    let app = TestApp::new().await;
    let bad = "/v1/organizations/abc/agent/runs?limit=0";
    for token in [None, Some("None"), Some("cgn_wrong")] {
        let (status, body) = answer(app.asks(Method::GET, bad, token).send().await.unwrap()).await;
        assert_eq!((status, &body["status_code"]), (401, &json!(401)));
        assert_eq!(body["message"], body["detail"]);
    }
    let (status, body) = app.get(bad).await;
    assert_eq!(status, 422);
    assert_eq!(failures(&body), [failure("path.org_id", "int_parsing"), failure("query.limit", "greater_than_equal")]);
    assert_eq!(app.get("/v1/organizations/99/agent/runs?limit=101").await.0, 422);
    let (status, body) = app.get("/v1/organizations/99/agent/run/1").await;
    assert_eq!((status, &body["status_code"]), (403, &json!(403)));
    let (status, body) = app.get("/v1/organizations/1/agent/run/12345").await;
    assert_eq!((status, &body["message"]), (404, &json!("Agent run not found.")));
}

#[tokio::test]
async fn another_organizations_rows_are_not_there() {
    let app = TestApp::new().await;
    let other = app.app.store.create_org("other", 0).await.unwrap();
    let stranger = app.member(other.id, "stranger", Role::Admin).await;
    let (_, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "hello"})).await;
    let ask = |path: String| app.asks(Method::GET, &path, Some(&stranger)).send();
    let id = &run["id"];
    assert_eq!(ask(format!("/v1/organizations/1/agent/run/{id}")).await.unwrap().status(), 403);
    for tail in ["", "/logs", "/diff", "/events"] {
        let path = format!("/v1/organizations/{}/agent/run/{id}{tail}", other.id);
        assert_eq!(ask(path).await.unwrap().status(), 404, "{tail}");
    }
    let (status, _) = app.post(&format!("/v1/organizations/{}/agent/run", other.id), &json!({"prompt": "x"})).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn metadata_that_usual_parsers_cannot_read_is_refused_and_lists_stay_readable() {
    let app = TestApp::new().await;
    let path = "/v1/organizations/1/agent/run";
    let deep = |levels: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    for (metadata, good) in [
        (deep(99), true),
        (deep(100), false),
        (deep(200_000), false),
        (r#"{"a":1e400}"#.to_owned(), false),
        (r#"{"a":"\ud800"}"#.to_owned(), false),
        (r#"{"a":123456789012345678901234567890,"b":"\u0000"}"#.to_owned(), true),
    ] {
        let body = format!(r#"{{"prompt":"x","metadata":{metadata}}}"#);
        let ask = app.asks(Method::POST, path, Some(TOKEN)).header("Content-Type", "application/json").body(body);
        let (status, body) = answer(ask.send().await.unwrap()).await;
        let start: String = metadata.chars().take(40).collect();
        assert_eq!(status, if good { 200 } else { 422 }, "{start}");
        if !good {
            assert_eq!(failures(&body), [failure("body.metadata", "value_error")], "{start}");
        }
    }
    assert_eq!(app.get("/v1/organizations/1/agent/runs").await.1["total"], 2);
}

#[tokio::test]
async fn only_managers_change_repositories() {
    let app = TestApp::new().await;
    let token = app.member(1, "intern", Role::Member).await;
    let path = "/v1/organizations/1/repos";
    let sent = app.asks(Method::POST, path, Some(&token)).json(&json!({"url": "/nowhere"})).send().await.unwrap();
    assert_eq!(sent.status(), 403);
    assert_eq!(app.asks(Method::GET, path, Some(&token)).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_body_s_failures_come_all_at_once_in_fastapi_s_words() {
    let app = TestApp::new().await;
    let path = "/v1/organizations/1/agent/run";
    let (status, body) = app
        .post(
            path,
            &json!({"prompt": 1, "images": ["x", 2], "metadata": [], "repo_id": "a", "model": 5, "agent_type": "x"}),
        )
        .await;
    assert_eq!(status, 422);
    let expected = [
        ("body.prompt", "string_type"),
        ("body.images.1", "string_type"),
        ("body.metadata", "dict_type"),
        ("body.repo_id", "int_parsing"),
        ("body.model", "string_type"),
        ("body.agent_type", "literal_error"),
    ];
    assert_eq!(failures(&body), expected.map(|(place, word)| failure(place, word)));
    for (body, place, word) in [
        (json!({}), "body.prompt", "missing"),
        (json!({"prompt": null}), "body.prompt", "string_type"),
        (json!({"prompt": " "}), "body.prompt", "string_too_short"),
        (json!({"prompt": "a".repeat(1_000_000)}), "body.prompt", "string_too_long"),
        (json!({"prompt": "a\0b"}), "body.prompt", "value_error"),
        (json!({"prompt": "a", "repo_id": 1.5}), "body.repo_id", "int_from_float"),
        (json!({"prompt": "a", "model": "nonsense"}), "body.model", "value_error"),
        (json!({"prompt": "a", "model": "gpt-5"}), "body.model", "value_error"),
        (json!({"prompt": "a", "images": {}}), "body.images", "list_type"),
        (json!({"prompt": "a", "images": ["data:image/png;base64,?"]}), "body.images.0", "value_error"),
        (json!({"prompt": "a", "images": ["data:image/png;base64,aGVsbG8="]}), "body.images.0", "value_error"),
        (json!({"prompt": "a", "agent_type": "claude_code"}), "body.agent_type", "value_error"),
        (json!([1]), "body", "model_attributes_type"),
    ] {
        let (status, answer) = app.post(path, &body).await;
        assert_eq!((status, failures(&answer)), (422, vec![failure(place, word)]));
    }
    let (_, body) = app.post(path, &json!({"prompt": "a", "model": "gpt-5"})).await;
    assert!(body["detail"][0]["msg"].as_str().unwrap().contains("OPENAI_API_KEY"), "{body}");
    let raw = |text: &'static str| {
        app.asks(Method::POST, path, Some(TOKEN)).header("content-type", "application/json").body(text)
    };
    let (status, body) = answer(raw("{\"prompt\": oops}").send().await.unwrap()).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("body.11", "json_invalid")]));
    let (_, body) = answer(raw("").send().await.unwrap()).await;
    assert_eq!(failures(&body), [failure("body", "missing")]);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_in_the_contract_s_shape() {
    let app = TestApp::new().await;
    let body = vec![b' '; (20 << 20) + 1];
    let sent =
        app.asks(Method::POST, "/v1/organizations/1/agent/run/stop", Some(TOKEN)).body(body).send().await.unwrap();
    let (status, body) = answer(sent).await;
    assert_eq!((status, &body["status_code"]), (413, &json!(413)));
}

#[tokio::test]
async fn a_run_is_created_read_listed_continued_and_stopped() {
    let app = TestApp::new().await;
    let raw = r#"{ "b":1,"a" : [1.0e3, "é"], "z":{"x":null} }"#;
    let body = format!(r#"{{"prompt":"hello","metadata":{raw},"repo_id":null,"unknown":true}}"#);
    let request = app.asks(Method::POST, "/v1/organizations/1/agent/run", Some(TOKEN));
    let sent = request.header("content-type", "application/json").body(body).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    let text = sent.text().await.unwrap();
    assert!(text.contains(&format!(r#""metadata":{raw}"#)), "{text}");
    let run: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&run["status"], &run["source_type"], &run["organization_id"]),
        (&json!("ACTIVE"), &json!("API"), &json!(1))
    );
    assert_eq!(run["github_pull_requests"], json!([]));
    assert_eq!(run["web_url"], json!(format!("{}/runs/{}", app.base, run["id"])));
    assert!(run["created_at"].as_str().unwrap().ends_with("+00:00"));
    let id = &run["id"];
    let (status, same) = app.get(&format!("//v1//organizations/1/agent/run/{id}")).await;
    assert_eq!((status, &same["id"]), (200, id));
    for list in ["agent/runs?source_type=API&user_id=1&page=1&size=2", "agent/run?limit=1"] {
        let (_, page) = app.get(&format!("/v1/organizations/1/{list}")).await;
        assert_eq!((&page["total"], &page["page"], &page["pages"]), (&json!(1), &json!(1), &json!(1)));
        assert_eq!(page["items"][0]["id"], *id);
    }
    assert_eq!(app.get("/v1/organizations/1/agent/runs?source_type=SLACK").await.1["total"], json!(0));
    let (status, body) = app.get("/v1/organizations/1/agent/runs?source_type=api").await;
    assert_eq!((status, failures(&body)), (422, vec![failure("query.source_type", "enum")]));
    for version in ["v1", "v1/beta"] {
        let (status, resumed) = app
            .post(
                &format!("/{version}/organizations/1/agent/run/resume"),
                &json!({"agent_run_id": id, "prompt": "more"}),
            )
            .await;
        assert_eq!((status, &resumed["id"], &resumed["new_agent_run_id"]), (200, id, id));
        let (status, stopped) =
            app.post(&format!("/{version}/organizations/1/agent/run/stop"), &json!({"agent_run_id": id})).await;
        assert_eq!((status, &stopped["id"]), (200, id));
    }
    let (status, _) = app.post("/v1/organizations/1/agent/run/stop", &json!({"agent_run_id": 777})).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn an_unknown_repository_is_404() {
    let app = TestApp::new().await;
    let (status, body) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "a", "repo_id": 5})).await;
    assert_eq!((status, &body["message"]), (404, &json!("Repository 5 not found.")));
    assert_eq!(app.get("/v1/organizations/1/prs/5").await.1["message"], json!("Pull request not found."));
}

#[tokio::test]
async fn a_repository_is_added_once_and_keeps_its_setup_commands() {
    let app = TestApp::new().await;
    let origin = app.dir.path().join("ann/tool");
    std::fs::create_dir_all(&origin).unwrap();
    super::git_host::git(&origin, &["init", "-q"]);
    super::git_host::commit_file(&origin, "a", "b");
    let url = json!({"url": origin});
    let (status, repo) = app.post("/v1/organizations/1/repos", &url).await;
    assert_eq!((status, &repo["full_name"]), (200, &json!("ann/tool")), "{repo}");
    assert_eq!(app.post("/v1/organizations/1/repos", &url).await.1["id"], repo["id"]);
    assert_eq!(app.get("/v1/organizations/1/repositories").await.1["items"][0], repo);
    let path = format!("/v1/organizations/1/repos/{}/setup-commands", repo["id"]);
    let put =
        app.asks(Method::PUT, &path, Some(TOKEN)).json(&json!({"setup_commands": "make deps"})).send().await.unwrap();
    assert_eq!(put.status(), 200);
    assert_eq!(app.get(&path).await.1, json!({"setup_commands": "make deps"}));
    let (status, body) = app.post("/v1/organizations/1/repos", &json!({"url": app.dir.path().join("none")})).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("body.url", "value_error")]));
}

#[tokio::test]
async fn folders_are_refused_where_the_settings_say_so() {
    let app = TestApp::with(&[("CODEGEN_ALLOW_LOCAL_REPOS", "off")]).await;
    let (status, body) = app.post("/v1/organizations/1/repos", &json!({"url": "/tmp"})).await;
    assert_eq!(status, 422);
    assert!(body["detail"][0]["msg"].as_str().unwrap().contains("allow_local_repos"), "{body}");
    let script = json!({"prompt": "a", "model": "scripted:/etc/passwd"});
    let (status, body) = app.post("/v1/organizations/1/agent/run", &script).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("body.model", "value_error")]));
}

#[tokio::test]
async fn pages_count_from_one() {
    let app = TestApp::new().await;
    for name in ["b", "c"] {
        app.member(1, name, Role::Member).await;
    }
    let (_, page) = app.get("/v1/organizations/1/users?skip=2&limit=2").await;
    let numbers = ["total", "page", "size", "pages"].map(|key| page[key].as_i64().unwrap());
    assert_eq!((numbers, page["items"].as_array().unwrap().len()), ([3, 2, 2, 2], 1));
    let (_, me) = app.get("/v1/users/me").await;
    assert_eq!((&me["role"], &me["is_admin"]), (&json!("ADMIN"), &json!(true)));
    assert_eq!(app.get("/v1/organizations").await.1["items"][0]["settings"]["enable_pr_creation"], json!(true));
    assert_eq!(app.get("/v1/organizations/1/users/99").await.1["message"], json!("User not found."));
}

#[tokio::test]
async fn logs_and_events_tell_the_same_story_and_events_replay() {
    let app = TestApp::new().await;
    let store = &app.app.store;
    // The run is claimed here before the server's worker can see it: it belongs to no repository and is made by hand.
    let (_, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "hello"})).await;
    let id = run["id"].as_i64().unwrap();
    let read = async |after: i64| {
        let request = app.asks(Method::GET, &format!("/v1/organizations/1/agent/run/{id}/events"), Some(TOKEN));
        let sent = request.header("last-event-id", after.to_string()).send().await.unwrap();
        assert_eq!(sent.headers()["content-type"], "text/event-stream");
        sent.text().await.unwrap()
    };
    // The engine refuses, so the run ends by itself.
    let all = read(0).await;
    let ids = |text: &str| -> Vec<i64> {
        text.lines().filter_map(|l| l.strip_prefix("id: ")).map(|id| id.parse().unwrap()).collect()
    };
    let seen = ids(&all);
    assert_eq!(seen, (1..=i64::try_from(seen.len()).unwrap()).collect::<Vec<_>>());
    assert!(all.contains("event: user_message"), "{all}");
    assert!(all.trim_end().lines().rev().nth(1).unwrap().starts_with("event: end"), "{all}");
    assert_eq!(ids(&read(1).await), seen[1..]);
    assert_ne!(store.run(1, id).await.unwrap().reason, Some(Reason::Complete));
    for version in ["v1", "v1/alpha"] {
        let path = format!("/{version}/organizations/1/agent/run/{id}/logs?reverse=true&limit=1");
        let (status, logs) = app.get(&path).await;
        assert_eq!((status, &logs["size"], &logs["page"]), (200, &json!(1), &json!(1)));
        assert_eq!(logs["logs"][0]["message_type"], json!("ERROR"), "{logs}");
    }
    let sent = app.asks(Method::GET, &format!("/v1/organizations/1/agent/run/{id}/events"), Some(TOKEN));
    let (status, body) = answer(sent.header("last-event-id", "x").send().await.unwrap()).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("header.last-event-id", "int_parsing")]));
}

#[tokio::test]
async fn requests_are_limited_per_token() {
    let app = TestApp::with(&[("CODEGEN_RATE_LIMITS", "on")]).await;
    for _ in 0..10 {
        assert_eq!(app.post("/v1/organizations/1/agent/run", &json!({})).await.0, 422);
    }
    let path = "/v1/organizations/1/agent/run";
    let sent = app.asks(Method::POST, path, Some(TOKEN)).json(&json!({})).send().await.unwrap();
    assert!(sent.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(answer(sent).await.1["status_code"], json!(429));
    assert_eq!(app.get("/v1/users/me").await.0, 200);
}

#[tokio::test]
async fn unknown_paths_and_methods_answer_in_the_contract_s_shape() {
    let app = TestApp::new().await;
    assert_eq!(app.get("/v1/nothing").await.1["status_code"], json!(404));
    assert_eq!(app.get("/v1/organizations/1/agent/run/resume/x").await.0, 404);
    let (status, body) = app.post("/v1/users/me", &json!({})).await;
    assert_eq!((status, &body["status_code"]), (405, &json!(405)));
}

#[tokio::test]
async fn an_address_of_no_page_is_the_apps_to_a_browser_and_the_contracts_to_a_program() {
    let app = TestApp::new().await;
    let kind = async |path: &str, accept: &str| {
        let sent = app.asks(Method::GET, path, None).header("accept", accept).send().await.unwrap();
        (sent.status().as_u16(), sent.headers()["content-type"].to_str().unwrap().to_owned())
    };
    let browser = "text/html,application/xhtml+xml,*/*;q=0.8";
    assert_eq!(kind("/nowhere", "*/*").await, (404, "application/json".to_owned()));
    assert_eq!(kind("/v1/nowhere", browser).await, (404, "application/json".to_owned()));
    let (status, page) = kind("/nowhere", browser).await;
    assert!(status == 404 && page.starts_with("text/html"), "{status} {page}");
}

#[tokio::test]
async fn the_server_says_how_it_does_and_drains() {
    let app = TestApp::new().await;
    assert_eq!(app.get("/healthz").await.0, 200);
    assert_eq!(app.get("/readyz").await.0, 200);
    let metrics = app.asks(Method::GET, "/metrics", None).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("codegen_runs{phase=\"queued\"} 0"), "{metrics}");
    assert!(metrics.contains("route=\"/readyz\",status=\"200\"} 1"), "{metrics}");
    for page in ["/", "/runs/1", "/pulls/1", "/docs"] {
        let sent = app.asks(Method::GET, page, None).send().await.unwrap();
        assert!(sent.headers()["content-type"].to_str().unwrap().starts_with("text/html"), "{page}");
    }
    app.app.shutdown.cancel();
    app.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_api_document_on_disk_is_the_one_that_is_served() {
    let app = TestApp::new().await;
    let (_, served) = app.get("/openapi.json").await;
    assert_eq!(served, codegen_server::openapi());
    same_as_file("openapi.json", &format!("{}\n", serde_json::to_string_pretty(&served).unwrap()));
}

#[test]
fn the_settings_page_on_disk_is_made_from_the_settings() {
    same_as_file("config.md", &Config::docs());
}

/// Compares with a file in `docs/`, or writes it with `UPDATE=1`.
fn same_as_file(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == text,
        "docs/{name} is old: run UPDATE=1 cargo test -p codegen-server"
    );
}
