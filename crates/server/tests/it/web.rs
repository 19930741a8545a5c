//! What the web app asks of the server: its files, log-in by cookie, views of runs and their logs.

use std::path::Path;

use codegen_store::Role;
use reqwest::{Method, Response, header};
use serde_json::json;

use crate::api::{TOKEN, TestApp, answer};

const SESSION: &str = "/v1/session";

/// Logs in and gives the cookie, and what was set with it.
async fn log_in(app: &TestApp) -> (String, String) {
    let response = app.asks(Method::POST, SESSION, None).json(&json!({"token": TOKEN})).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let set = response.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
    (set.split(';').next().unwrap().to_owned(), set)
}

async fn with_cookie(app: &TestApp, method: Method, path: &str, cookie: &str, more: &[(&str, &str)]) -> Response {
    let mut request = app.asks(method, path, None).header(header::COOKIE, cookie);
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    request.json(&json!({"prompt": "Look."})).send().await.unwrap()
}

#[tokio::test]
async fn a_token_is_traded_for_a_cookie_that_scripts_cannot_read_and_that_logging_out_ends() {
    let app = TestApp::new().await;
    let wrong = app.asks(Method::POST, SESSION, None).json(&json!({"token": "cgn_no"})).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    assert_eq!(app.asks(Method::POST, SESSION, None).json(&json!({})).send().await.unwrap().status(), 422);
    let (cookie, set) = log_in(&app).await;
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains("Secure") && !set.contains(TOKEN), "{set}");
    let (status, body) = answer(with_cookie(&app, Method::GET, SESSION, &cookie, &[]).await).await;
    assert_eq!((status, body["organizations"][0]["role"].as_str()), (200, Some("ADMIN")));
    assert_eq!(with_cookie(&app, Method::GET, "/v1/users/me", &cookie, &[]).await.status(), 200);
    let out = with_cookie(&app, Method::DELETE, SESSION, &cookie, &[("sec-fetch-site", "same-origin")]).await;
    assert_eq!(out.status(), 204);
    assert_eq!(with_cookie(&app, Method::GET, SESSION, &cookie, &[]).await.status(), 401);
}

#[tokio::test]
async fn behind_https_the_cookie_is_tied_to_its_host() {
    let mut app = TestApp::with(&[("CODEGEN_PUBLIC_URL", "https://codegen.example")]).await;
    // As a proxy in front of it does.
    app.base = format!("http://{}", app.app.config.addr);
    let (cookie, set) = log_in(&app).await;
    assert!(cookie.starts_with("__Host-codegen=") && set.contains("; Secure"), "{set}");
    assert!(!set.contains("Domain"), "{set}");
}

#[tokio::test]
async fn what_changes_something_by_cookie_must_come_from_a_page_of_this_server() {
    let app = TestApp::new().await;
    let (cookie, _) = log_in(&app).await;
    let path = "/v1/organizations/1/agent/run";
    let host = app.base.trim_start_matches("http://").to_owned();
    let cases: [(&[(&str, &str)], u16); 8] = [
        (&[], 403),
        (&[("sec-fetch-site", "same-origin")], 200),
        (&[("sec-fetch-site", "same-site"), ("origin", &app.base)], 403),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("sec-fetch-site", "none")], 403),
        (&[("origin", &app.base)], 200),
        (&[("origin", "https://evil.example")], 403),
        (&[("origin", "null")], 403),
    ];
    for (headers, status) in cases {
        let response = with_cookie(&app, Method::POST, path, &cookie, headers).await;
        assert_eq!(response.status(), status, "{headers:?} at {host}");
    }
    // Another site cannot log a person in as someone else either; a token in a header needs no page.
    let foreign = app.asks(Method::POST, SESSION, None).header("origin", "https://evil.example");
    assert_eq!(foreign.json(&json!({"token": TOKEN})).send().await.unwrap().status(), 403);
    let (status, _) = app.post(path, &json!({"prompt": "Look."})).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn views_and_logs_of_runs_are_for_members_only() {
    let app = TestApp::new().await;
    let (_, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "Mine."})).await;
    let id = run["id"].as_i64().unwrap();
    let other = app.app.store.create_org("others", 0).await.unwrap().id;
    let token = app.member(other, "mallory", Role::Admin).await;
    for (path, status) in [
        (format!("/v1/runs/{id}"), 404),
        (format!("/v1/organizations/{other}/agent/run/{id}/view"), 404),
        (format!("/v1/organizations/{other}/agent/run/{id}/entries"), 404),
        (format!("/v1/organizations/{other}/agent/run/{id}/entries/1/output"), 404),
        (format!("/v1/organizations/{other}/agent/run/{id}/matches?text=a"), 404),
        (format!("/v1/organizations/1/agent/run/{id}/entries"), 403),
        ("/v1/organizations/1/agent/runs/views".to_owned(), 403),
        ("/v1/organizations/1/agent/runs/changes".to_owned(), 403),
    ] {
        let response = app.asks(Method::GET, &path, Some(&token)).send().await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
}

#[tokio::test]
async fn a_run_s_first_screen_is_one_answer_and_its_log_is_paged_from_the_end() {
    let app = TestApp::new().await;
    let repo = json!({"prompt": "Read \"this\" twice.", "base_branch": "main"});
    let (_, run) = app.post("/v1/organizations/1/agent/run", &repo).await;
    let id = run["id"].as_i64().unwrap();
    let one = format!("/v1/organizations/1/agent/run/{id}");
    // Ends by itself: the engine refuses.
    app.asks(Method::GET, &format!("{one}/events"), Some(TOKEN)).send().await.unwrap().text().await.unwrap();
    let (status, screen) = app.get(&format!("/v1/runs/{id}")).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&screen["run"]["phase"], &screen["run"]["base_branch"], &screen["run"]["user_name"]),
        (&json!("done"), &json!("main"), &json!("Admin"))
    );
    let entries = screen["entries"].as_array().unwrap();
    let last = screen["run"]["log_seq"].as_i64().unwrap();
    assert_eq!((entries[0]["seq"].as_i64(), entries.last().unwrap()["seq"].as_i64()), (Some(1), Some(last)));
    assert!(screen["stages"].as_array().unwrap().iter().all(|stage| stage["kind"] == "stage"));
    let (_, page) = app.get(&format!("{one}/entries?before={last}&limit=1")).await;
    assert_eq!(page["entries"][0]["seq"].as_i64(), Some(last - 1));
    assert_eq!(app.get(&format!("{one}/entries?limit=501")).await.0, 422);
    let (_, found) = app.get(&format!("{one}/matches?text=%22THIS%22%20tw")).await;
    assert_eq!(found["seqs"], json!([1]));
    assert_eq!(app.get(&format!("{one}/matches")).await.0, 422);
    assert_eq!(app.get(&format!("{one}/entries/1/output")).await.0, 404);
    let (_, list) = app.get("/v1/organizations/1/agent/runs/views?status=ACTIVE").await;
    assert_eq!((&list["items"], &list["next"]), (&json!([]), &json!(null)));
    let (_, list) = app.get("/v1/organizations/1/agent/runs/views?source_type=API&user_id=1&limit=1").await;
    assert_eq!((list["items"][0]["id"].as_i64(), list["next"].as_i64()), (Some(id), Some(id)));
    assert_eq!(app.get("/v1/organizations/1/agent/runs/views?status=NEVER").await.0, 422);
}

#[tokio::test]
async fn changes_of_runs_are_told_as_they_happen() {
    let app = TestApp::new().await;
    let path = "/v1/organizations/1/agent/runs/changes";
    let mut stream = app.asks(Method::GET, path, Some(TOKEN)).send().await.unwrap();
    let (_, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "Appear."})).await;
    let mut seen = String::new();
    while !(seen.contains("\"phase\":\"done\"") && seen.ends_with("\n\n")) {
        seen.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert!(seen.contains("event: run") && seen.contains(&format!("\"id\":{}", run["id"])), "{seen}");
}

#[tokio::test]
async fn a_removed_run_is_told_as_gone_also_after_someone_lost_rights() {
    let app = TestApp::new().await;
    let path = "/v1/organizations/1/agent/runs/changes";
    let mut stream = app.asks(Method::GET, path, Some(TOKEN)).send().await.unwrap();
    let (_, account) = app.post("/v1/organizations/1/service-accounts", &json!({"name": "Leaves"})).await;
    let account = format!("/v1/organizations/1/service-accounts/{}", account["id"]);
    assert_eq!(app.asks(Method::DELETE, &account, Some(TOKEN)).send().await.unwrap().status(), 204);
    let (_, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "Go."})).await;
    let path = format!("/v1/organizations/1/agent/run/{}", run["id"]);
    assert_eq!(app.asks(Method::DELETE, &path, Some(TOKEN)).send().await.unwrap().status(), 200);
    let (mut seen, gone) = (String::new(), format!("event: gone\ndata: {}\n\n", run["id"]));
    while !seen.contains(&gone) {
        seen.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap());
    }
}

#[tokio::test]
async fn models_are_offered_and_branches_come_from_the_origin() {
    let app = TestApp::new().await;
    let (status, models) = app.get("/v1/models").await;
    assert_eq!(status, 200);
    assert!(models["models"].as_array().unwrap().iter().any(|name| name == "openai/gpt-5"), "{models}");
    assert_eq!(app.get("/v1/organizations/1/repos/9/branches").await.0, 404);
}

#[tokio::test]
async fn every_page_is_the_app_or_says_that_it_was_not_built() {
    let app = TestApp::new().await;
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web/build/index.html").exists();
    for path in ["/", "/runs/1", "/pulls/1", "/repos", "/new", "/login", "/account", "/settings", "/models", "/join"] {
        let response = app.asks(Method::GET, path, None).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        let page = response.text().await.unwrap();
        if !built {
            assert!(page.contains("no web app"), "{page}");
            continue;
        }
        assert!(policy.contains("script-src 'self' 'sha256-") && !policy.contains("unsafe-inline"), "{policy}");
        let script =
            page.split('"').find(|part| part.starts_with("/_app/immutable/") && part.ends_with(".js")).unwrap();
        for (coding, sent) in [("br", "br"), ("gzip", "gzip"), ("gzip, br", "br")] {
            let file =
                app.asks(Method::GET, script, None).header(header::ACCEPT_ENCODING, coding).send().await.unwrap();
            assert_eq!(file.headers()[header::CONTENT_ENCODING], sent);
            assert_eq!(file.headers()[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
            assert_eq!(file.headers()[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
        }
        let plain = app.asks(Method::GET, script, None).send().await.unwrap();
        let tag = plain.headers()[header::ETAG].clone();
        assert!(plain.headers().get(header::CONTENT_ENCODING).is_none());
        let again = app.asks(Method::GET, script, None).header(header::IF_NONE_MATCH, tag).send().await.unwrap();
        assert_eq!(again.status(), 304);
    }
    assert_eq!(app.asks(Method::GET, "/_app/../../../etc/passwd", None).send().await.unwrap().status(), 404);
    assert_eq!(app.asks(Method::GET, "/_app/none.js", None).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn long_answers_are_packed_for_who_takes_that_and_event_streams_never_are() {
    let app = TestApp::new().await;
    let ask = async |path: &str, takes: Option<&str>| {
        let mut request = app.asks(Method::GET, path, Some(TOKEN));
        if let Some(takes) = takes {
            request = request.header(header::ACCEPT_ENCODING, takes);
        }
        request.send().await.unwrap()
    };
    let (packed, plain) = (ask("/openapi.json", Some("br, gzip")).await, ask("/openapi.json", None).await);
    assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
    assert!(plain.headers().get(header::CONTENT_ENCODING).is_none());
    let (packed, plain) = (packed.bytes().await.unwrap(), plain.bytes().await.unwrap());
    assert!(packed.starts_with(&[0x1f, 0x8b]) && packed.len() * 4 < plain.len(), "{} of {}", packed.len(), plain.len());
    assert!(ask("/v1/users/me", Some("gzip")).await.headers().get(header::CONTENT_ENCODING).is_none());
    let (_, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "x".repeat(5000)})).await;
    for path in ["runs/changes", &format!("run/{}/events", run["id"])] {
        let stream = ask(&format!("/v1/organizations/1/agent/{path}"), Some("gzip")).await;
        assert_eq!(stream.status(), 200);
        assert!(stream.headers().get(header::CONTENT_ENCODING).is_none(), "{path}");
    }
}
