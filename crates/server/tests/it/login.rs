//! Log-in of people by password, where they are logged in, and how that ends.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use codegen_sandbox::{Engine, Error, Fence, Isolation, Sandbox, Spec};
use reqwest::{Method, Response, header};
use serde_json::{Value, json};

use crate::api::{TOKEN, TestApp, answer};

const SESSION: &str = "/v1/session";
const PASSWORD: &str = "correct horse battery";

/// Runs that begin and go no further.
struct Stuck;

#[async_trait]
impl Engine for Stuck {
    fn isolation(&self) -> Isolation {
        Isolation { engine: "none".to_owned(), ..Isolation::default() }
    }
    async fn create(&self, _: &Spec) -> Result<Arc<dyn Sandbox>, Error> {
        std::future::pending().await
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

impl TestApp {
    pub async fn set_password(&self, name: &str, password: &str) {
        codegen_server::people::set_password(&self.app.config, name, &password.into()).await.unwrap();
    }

    async fn try_password(&self, name: &str, password: &str) -> Response {
        let body = json!({"name": name, "password": password});
        self.asks(Method::POST, SESSION, None).json(&body).send().await.unwrap()
    }

    /// Logs in and gives the cookie.
    async fn by_password(&self, name: &str, password: &str) -> String {
        cookie(&self.try_password(name, password).await)
    }

    /// As a page of this server asks.
    pub async fn page_asks(&self, method: Method, path: &str, cookie: &str, body: Option<Value>) -> Response {
        let request =
            self.asks(method, path, None).header(header::COOKIE, cookie).header("sec-fetch-site", "same-origin");
        match body {
            Some(body) => request.json(&body),
            None => request,
        }
        .send()
        .await
        .unwrap()
    }
}

/// The cookie that an answer sets.
pub fn cookie(response: &Response) -> String {
    assert_eq!(response.status(), 200);
    let set = response.headers()[header::SET_COOKIE].to_str().unwrap();
    set.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_password_logs_in_by_name_and_its_owner_changes_it() {
    let app = TestApp::new().await;
    let (_, ways) = answer(app.asks(Method::GET, "/v1/session/ways", None).send().await.unwrap()).await;
    assert_eq!(ways, json!({"token": true, "password": false, "oidc": null}));
    assert_eq!(app.try_password("admin", PASSWORD).await.status(), 401);
    app.set_password("admin", PASSWORD).await;
    let (_, ways) = answer(app.asks(Method::GET, "/v1/session/ways", None).send().await.unwrap()).await;
    assert_eq!(ways["password"], true);
    assert_eq!(
        app.asks(Method::POST, SESSION, None).json(&json!({"name": "admin"})).send().await.unwrap().status(),
        422
    );

    let mine = app.by_password("Admin", PASSWORD).await;
    let elsewhere = app.by_password("admin", PASSWORD).await;
    let (_, session) = answer(app.page_asks(Method::GET, SESSION, &mine, None).await).await;
    assert_eq!((&session["way"], &session["has_password"]), (&json!("password"), &json!(true)));
    assert_eq!(session["organizations"][0]["role"], "ADMIN");
    // A run started by it has a person, as one by token.
    let run = json!({"prompt": "Look."});
    let run = app.page_asks(Method::POST, "/v1/organizations/1/agent/run", &mine, Some(run)).await;
    assert_eq!(run.status(), 200);

    let path = "/v1/users/me/password";
    let change = |current: &str, new: &str| Some(json!({"current_password": current, "password": new}));
    assert_eq!(app.page_asks(Method::PUT, path, &mine, change(PASSWORD, "too short")).await.status(), 422);
    let wrong = app.page_asks(Method::PUT, path, &mine, change("wrong", "another long password")).await;
    assert_eq!(wrong.status(), 400);
    let changed = app.page_asks(Method::PUT, path, &mine, change(PASSWORD, "another long password")).await;
    let renewed = cookie(&changed);
    for (cookie, status) in [(&mine, 401), (&elsewhere, 401), (&renewed, 200)] {
        assert_eq!(app.page_asks(Method::GET, SESSION, cookie, None).await.status(), status);
    }
    assert_eq!(app.try_password("admin", PASSWORD).await.status(), 401);
    assert_eq!(app.try_password("admin", "another long password").await.status(), 200);
    // Who has none gets the first from the operator.
    let token = app.member(1, "bea", codegen_store::Role::Member).await;
    let none =
        app.asks(Method::PUT, path, Some(&token)).json(&change("", "another long password")).send().await.unwrap();
    assert_eq!(none.status(), 409);
}

#[tokio::test]
async fn the_eleventh_log_in_waits_after_ten_have_failed_for_an_account_known_or_not() {
    let app = TestApp::new().await;
    app.set_password("admin", PASSWORD).await;
    let mut answers = Vec::new();
    for name in ["admin", "nobody"] {
        for _ in 0..10 {
            let (status, body) = answer(app.try_password(name, "wrong password").await).await;
            assert_eq!(status, 401);
            answers.push(body);
        }
        let late = app.try_password(name, PASSWORD).await;
        assert_eq!(late.status(), 429, "{name}");
        let wait: u64 = late.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((890..=900).contains(&wait), "{wait}");
    }
    assert!(answers.iter().all(|body| *body == answers[0]), "{answers:?}");
    // Another way of writing it is the same account; another account is not.
    assert_eq!(app.try_password(" ADMIN ", PASSWORD).await.status(), 429);
    assert_eq!(app.try_password("somebody", PASSWORD).await.status(), 401);
    // A token goes on being one.
    let token = app.asks(Method::POST, SESSION, None).json(&json!({"token": TOKEN})).send().await.unwrap();
    assert_eq!(token.status(), 200);
}

#[tokio::test]
async fn a_success_forgets_the_failures_of_its_account_but_not_those_of_the_address() {
    let app = TestApp::new().await;
    app.set_password("admin", PASSWORD).await;
    for _ in 0..5 {
        for _ in 0..9 {
            assert_eq!(app.try_password("admin", "wrong password").await.status(), 401);
        }
        assert_eq!(app.try_password("admin", PASSWORD).await.status(), 200);
    }
    // 45 failures so far.
    for nr in 45..50 {
        assert_eq!(app.try_password(&format!("user {nr}"), "wrong password").await.status(), 401);
    }
    for name in ["admin", "user 50"] {
        assert_eq!(app.try_password(name, PASSWORD).await.status(), 429, "{name}");
    }
    let token = app.asks(Method::POST, SESSION, None).json(&json!({"token": TOKEN})).send().await.unwrap();
    assert_eq!(token.status(), 429);
}

#[tokio::test]
async fn a_name_that_does_not_exist_takes_as_long_as_a_wrong_password() {
    let app = TestApp::new().await;
    app.set_password("admin", PASSWORD).await;
    let mut least = [Duration::MAX; 2];
    for nr in 0..20 {
        if nr % 5 == 0 {
            // Forgets the failures so far.
            assert_eq!(app.try_password("admin", PASSWORD).await.status(), 200);
        }
        for (name, least) in ["admin".to_owned(), format!("nobody {nr}")].iter().zip(&mut least) {
            let began = Instant::now();
            assert_eq!(app.try_password(name, "wrong password").await.status(), 401);
            *least = began.elapsed().min(*least);
        }
    }
    let [known, unknown] = least;
    assert!(unknown * 2 > known && known * 2 > unknown, "{known:?} and {unknown:?}");
}

#[tokio::test]
async fn people_see_where_they_are_logged_in_and_end_it_there() {
    let app = TestApp::new().await;
    app.set_password("admin", PASSWORD).await;
    let mine = app.by_password("admin", PASSWORD).await;
    let others = app.by_password("admin", PASSWORD).await;
    let path = "/v1/users/me/sessions";
    let (_, list) = answer(app.page_asks(Method::GET, path, &mine, None).await).await;
    assert_eq!(list["total"], 2);
    let (other, current) = (&list["items"][0], &list["items"][1]);
    assert_eq!((&other["current"], &current["current"]), (&json!(false), &json!(true)));
    assert_eq!((&other["way"], &other["address"]), (&json!("password"), &json!("127.0.0.1")));
    let one = format!("{path}/{}", other["id"]);
    // Nobody else's.
    let token = app.member(1, "bea", codegen_store::Role::Admin).await;
    assert_eq!(app.asks(Method::DELETE, &one, Some(&token)).send().await.unwrap().status(), 404);
    assert_eq!(app.asks(Method::DELETE, &one, None).header(header::COOKIE, &mine).send().await.unwrap().status(), 403);
    assert_eq!(app.page_asks(Method::DELETE, &one, &mine, None).await.status(), 204);
    assert_eq!(app.page_asks(Method::GET, SESSION, &others, None).await.status(), 401);
    assert_eq!(app.page_asks(Method::DELETE, &one, &mine, None).await.status(), 404);
    let third = app.by_password("admin", PASSWORD).await;
    let (_, ended) = answer(app.page_asks(Method::DELETE, path, &mine, None).await).await;
    assert_eq!(ended["ended"], 1);
    assert_eq!(app.page_asks(Method::GET, SESSION, &third, None).await.status(), 401);
    assert_eq!(app.page_asks(Method::GET, SESSION, &mine, None).await.status(), 200);
}

#[tokio::test]
async fn the_streams_of_a_session_end_with_it_at_once_and_no_others_do() {
    let app = TestApp::on(tempfile::tempdir().unwrap(), &[], Arc::new(Stuck)).await;
    app.set_password("admin", PASSWORD).await;
    let (_, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "Wait."})).await;
    let paths = [
        format!("/v1/organizations/1/agent/run/{}/events", run["id"]),
        "/v1/organizations/1/agent/runs/changes".to_owned(),
    ];
    let (mine, elsewhere) = (app.by_password("admin", PASSWORD).await, app.by_password("admin", PASSWORD).await);
    let mut streams = Vec::new();
    for cookie in [Some(&mine), Some(&elsewhere), None] {
        for path in &paths {
            let response = match cookie {
                Some(cookie) => app.page_asks(Method::GET, path, cookie, None).await,
                None => app.asks(Method::GET, path, Some(TOKEN)).send().await.unwrap(),
            };
            assert_eq!(response.status(), 200);
            streams.push(tokio::spawn(response.bytes()));
        }
    }
    let at_once = Duration::from_secs(5);
    assert_eq!(app.page_asks(Method::DELETE, SESSION, &mine, None).await.status(), 204);
    for stream in streams.drain(..2) {
        tokio::time::timeout(at_once, stream).await.expect("a log-out ends its streams").unwrap().unwrap();
    }
    assert!(streams.iter().all(|stream| !stream.is_finished()));
    let change = json!({"current_password": PASSWORD, "password": "another long password"});
    assert_eq!(app.page_asks(Method::PUT, "/v1/users/me/password", &elsewhere, Some(change)).await.status(), 200);
    for stream in streams.drain(..2) {
        tokio::time::timeout(at_once, stream).await.expect("a new password ends all streams").unwrap().unwrap();
    }
    // The token's go on.
    assert!(streams.iter().all(|stream| !stream.is_finished()));
    app.app.shutdown.cancel();
}

#[tokio::test]
async fn a_request_from_behind_a_trusted_proxy_is_counted_by_its_own_address() {
    let app = TestApp::with(&[("CODEGEN_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let from = async |address: &str, nr: usize| {
        let request = app.asks(Method::POST, SESSION, None).header("x-forwarded-for", format!("6.6.6.6, {address}"));
        request.json(&json!({"token": format!("cgn_{nr}")})).send().await.unwrap().status().as_u16()
    };
    for nr in 0..50 {
        assert_eq!(from("203.0.113.1", nr).await, 401);
    }
    assert_eq!((from("203.0.113.1", 50).await, from("203.0.113.2", 50).await), (429, 401));
}
