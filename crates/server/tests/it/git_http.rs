//! Git over HTTP with a password, against `git http-backend`, and pull requests at a GitHub-like API.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, StatusCode},
    routing::{get, patch},
};
use codegen_server::forge::{
    Forge, GitHub, PullRequestSpec,
    git::{self, Mirror, Pushed},
};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::git_host::{commit_file, git as person};

/// The server of `githttp.py`, ended on drop.
struct Remote {
    child: Child,
    port: u16,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Remote {
    async fn serve(root: &Path, password: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/githttp.py");
        let child = Command::new("python3")
            .arg(script)
            .arg(port.to_string())
            .arg(root)
            .arg(password)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let remote = Self { child, port };
        let up = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), up).await.unwrap();
        remote
    }

    fn url(&self, password: Option<&str>) -> String {
        let login = password.map(|p| format!("x-access-token:{p}@")).unwrap_or_default();
        format!("http://{login}127.0.0.1:{}/acme/demo.git", self.port)
    }
}

#[tokio::test]
async fn an_origin_over_http_is_fetched_and_pushed_with_its_password_and_refused_without() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("srv/acme")).unwrap();
    person(dir.path(), &["init", "-q", "--bare", "-b", "main", "srv/acme/demo.git"]);
    let origin = dir.path().join("srv/acme/demo.git");
    person(&origin, &["config", "http.receivepack", "true"]);
    person(dir.path(), &["clone", "-q", "srv/acme/demo.git", "work"]);
    let work = dir.path().join("work");
    person(&work, &["checkout", "-q", "-B", "main"]);
    let commit = commit_file(&work, "a.txt", "a\n");
    person(&work, &["push", "-q", "origin", "main"]);
    let remote = Remote::serve(&dir.path().join("srv"), "p@ss/word").await;

    let url = remote.url(Some("p%40ss%2Fword"));
    assert_eq!(git::probe(&url).await.unwrap().default_branch.as_deref(), Some("main"));
    let mirror = Mirror::of(&dir.path().join("data"), 1);
    mirror.fetch(&url, None).await.unwrap();
    assert_eq!(mirror.push(&commit, "codegen/1-x", &url, None).await.unwrap(), Pushed::Now);
    assert_eq!(person(&origin, &["rev-parse", "codegen/1-x"]), commit);
    let config = std::fs::read_to_string(mirror.dir().join("config")).unwrap();
    assert!(!config.contains("word"), "no password is written down: {config}");

    for refused in [remote.url(None), remote.url(Some("wrong"))] {
        let error = git::probe(&refused).await.unwrap_err().to_string();
        assert!(error.contains("does not accept the credentials") && !error.contains("wrong"), "{error}");
    }
}

type Pulls = Arc<Mutex<Vec<Value>>>;

async fn list(State(pulls): State<Pulls>) -> Json<Value> {
    Json(Value::Array(pulls.lock().unwrap().clone()))
}

async fn create(State(pulls): State<Pulls>, headers: HeaderMap, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    if headers.get("authorization").is_none_or(|v| v != "Bearer tok") {
        return (StatusCode::UNAUTHORIZED, Json(json!({ "message": "Bad credentials" })));
    }
    if body["base"] == "gone" {
        let refusal = json!({ "message": "Validation Failed", "errors": [{ "field": "base", "message": "base does not exist" }] });
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(refusal));
    }
    let mut pulls = pulls.lock().unwrap();
    let number = pulls.len() + 1;
    let pull = json!({ "number": number, "html_url": format!("https://example.com/pull/{number}"), "state": "open", "head": { "ref": body["head"] }, "title": body["title"], "body": body["body"] });
    pulls.push(pull.clone());
    (StatusCode::CREATED, Json(pull))
}

async fn update(State(pulls): State<Pulls>, UrlPath(number): UrlPath<usize>, Json(body): Json<Value>) -> Json<Value> {
    let mut pulls = pulls.lock().unwrap();
    let pull = pulls.get_mut(number - 1).unwrap();
    pull["title"] = body["title"].clone();
    Json(pull.clone())
}

#[tokio::test]
async fn a_pull_request_at_github_is_opened_once_and_then_updated() {
    let pulls = Pulls::default();
    let routes = Router::new()
        .route("/repos/acme/demo/pulls", get(list).post(create))
        .route("/repos/acme/demo/pulls/{number}", patch(update))
        .with_state(pulls.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
    let forge = |token: &str| GitHub::new(&api, SecretString::from(token), "acme".into(), "demo".into()).unwrap();
    let mut spec = PullRequestSpec {
        org_id: 1,
        repo_id: 1,
        run_id: 7,
        title: "One".into(),
        body: "Words.".into(),
        head_branch: "codegen/7-x".into(),
        base_branch: "main".into(),
        head_commit: "c".into(),
        now: 0,
    };
    assert_eq!(forge("tok").find(&spec).await.unwrap(), None);
    let opened = forge("tok").open_or_update(&spec).await.unwrap();
    spec.title = "Two".into();
    assert_eq!(forge("tok").open_or_update(&spec).await.unwrap(), opened);
    {
        let pulls = pulls.lock().unwrap();
        assert_eq!((pulls.len(), &pulls[0]["title"]), (1, &json!("Two")));
        assert!(pulls[0]["body"].as_str().unwrap().contains("codegen-run: 7"));
    }
    spec.head_branch = "codegen/8-x".into();
    let error = forge("bad").open_or_update(&spec).await.unwrap_err().to_string();
    assert!(error.contains("not valid") && error.contains("Bad credentials"), "{error}");
    spec.base_branch = "gone".into();
    let error = forge("tok").open_or_update(&spec).await.unwrap_err().to_string();
    assert!(error.contains("base does not exist"), "{error}");
    serving.abort();
}
