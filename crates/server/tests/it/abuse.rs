//! What a hostile or broken client sends: each gets a 4xx in the contract's shape or a closed connection, and the server goes on.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::api::{TOKEN, TestApp, answer, failure, failures};

const RUN: &str = "/v1/organizations/1/agent/run";

async fn connect(app: &TestApp) -> TcpStream {
    TcpStream::connect(app.base.strip_prefix("http://").unwrap()).await.unwrap()
}

/// What comes back until the server closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is a closed connection, too.
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes)).await.expect("it is closed").ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends these bytes on a connection of their own.
async fn raw(app: &TestApp, bytes: &[u8]) -> String {
    let mut stream = connect(app).await;
    stream.write_all(bytes).await.unwrap();
    rest(&mut stream).await
}

fn request(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n{more}\r\n")
}

fn status_of(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

async fn lives(app: &TestApp) {
    assert_eq!(app.get("/v1/users/me").await.0, 200);
}

#[tokio::test]
async fn bodies_that_are_no_json_object_are_422_in_fastapi_s_words() {
    let app = TestApp::new().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: [(&[u8], &str, &str); 12] = [
        (b"", "body", "missing"),
        (b"{", "body.1", "json_invalid"),
        (b"{\"prompt\": }", "body.11", "json_invalid"),
        (b"{'prompt': 1}", "body.1", "json_invalid"),
        (b"{\"prompt\":\"x\"}}", "body.14", "json_invalid"),
        (b"null", "body", "model_attributes_type"),
        (b"\"text\"", "body", "model_attributes_type"),
        (b"5e999", "body", "model_attributes_type"),
        (b"[]", "body", "model_attributes_type"),
        (b"{\"prompt\":\"\xff\xfe\"}", "body.prompt", "string_type"),
        (b"{\"prompt\":\"\\ud800\"}", "body.prompt", "string_type"),
        (b"{\"prompt\":\"a\\u0000b\"}", "body.prompt", "value_error"),
    ];
    for (body, place, word) in cases {
        let asks = app.asks(Method::POST, RUN, Some(TOKEN)).header("content-type", "application/json");
        let (status, answer) = answer(asks.body(body.to_vec()).send().await.unwrap()).await;
        let shown = String::from_utf8_lossy(body).into_owned();
        assert_eq!(status, 422, "{shown}");
        let found = failures(&answer);
        // Where broken JSON breaks is the parser's affair.
        let broken = found.len() == 1 && found[0].0.starts_with("body.") && found[0].1 == "json_invalid";
        let may_be_broken = word == "json_invalid" || body == b"5e999" || body.contains(&0xff);
        assert!(found == [failure(place, word)] || (broken && may_be_broken), "{shown}: {found:?}");
    }
    for body in [deep.clone(), format!("{{\"prompt\":{deep}}}"), format!("{{\"x\":{deep}}}")] {
        let asks = app.asks(Method::POST, RUN, Some(TOKEN)).header("content-type", "application/json");
        assert_eq!(asks.body(body).send().await.unwrap().status(), 422);
    }
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jso"]
    {
        let asks = app.asks(Method::POST, RUN, Some(TOKEN)).header("content-type", kind);
        let (status, answer) = answer(asks.body("{\"prompt\":\"x\"}").send().await.unwrap()).await;
        assert_eq!((status, failures(&answer)), (422, vec![failure("body", "model_attributes_type")]), "{kind}");
    }
    assert_eq!(app.get("/v1/organizations/1/agent/runs").await.1["total"], json!(0), "nothing was started");
}

#[tokio::test]
async fn numbers_that_fit_nowhere_are_422_wherever_they_stand() {
    let app = TestApp::new().await;
    let huge = "9".repeat(400);
    for number in ["99999999999999999999", "-99999999999999999999", huge.as_str()] {
        for path in [
            format!("/v1/organizations/{number}/agent/runs"),
            format!("/v1/organizations/1/agent/run/{number}"),
            format!("/v1/organizations/1/agent/runs?skip={number}"),
            format!("/v1/organizations/1/agent/runs?user_id={number}"),
            format!("/v1/organizations/1/repos/check-suite-settings?repo_id={number}"),
        ] {
            let (status, body) = app.get(&path).await;
            assert_eq!((status, failures(&body)[0].1.as_str()), (422, "int_parsing_size"), "{path}");
        }
        let body = format!("{{\"prompt\":\"x\",\"repo_id\":{number}}}");
        let asks = app.asks(Method::POST, RUN, Some(TOKEN)).header("content-type", "application/json");
        let (status, answer) = answer(asks.body(body).send().await.unwrap()).await;
        assert_eq!(status, 422, "{number}");
        assert_eq!(failures(&answer)[0].0, "body.repo_id");
    }
    for path in
        ["/v1/organizations/1/agent/runs?skip=9223372036854775807", "/v1/organizations/9223372036854775807/users"]
    {
        assert!(matches!(app.get(path).await.0, 200 | 403), "{path}");
    }
}

/// A value of a schema whose every text has a NUL.
fn with_nul(document: &Value, schema: &Value, depth: usize) -> Value {
    if let Some(name) = schema["$ref"].as_str() {
        return with_nul(document, document.pointer(&name[1..]).unwrap(), depth);
    }
    if let Some(choices) = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| schema[key].as_array()) {
        let choice = choices.iter().find(|choice| choice["type"] != "null").unwrap();
        return with_nul(document, choice, depth);
    }
    let of = schema["type"].as_array().and_then(|types| types.first()).unwrap_or(&schema["type"]);
    match of.as_str() {
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") if depth < 5 => json!([with_nul(document, &schema["items"], depth + 1)]),
        Some("array") => json!([]),
        Some("object") => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            let fields = fields.filter(|_| depth < 5).map(|(k, s)| (k.clone(), with_nul(document, s, depth + 1)));
            fields.chain([("a\0b".to_owned(), json!("c\0d"))]).collect()
        }
        Some(_) | None => json!("a\0b"),
    }
}

#[tokio::test]
async fn a_nul_in_a_text_of_any_operation_is_no_failure_of_the_server() {
    let app = TestApp::new().await;
    let document = codegen_server::openapi();
    let mut asked = 0;
    let ask = async |method: &str, path: &str, body: Option<Value>| {
        let asks = app.asks(method.to_uppercase().parse().unwrap(), path, Some(TOKEN));
        let asks = if let Some(body) = &body { asks.json(body) } else { asks };
        let sent = asks.send().await.unwrap();
        assert!(sent.status().as_u16() < 500, "{method} {path} {body:?}: {}", sent.status());
    };
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let mut place = path.replace("{org_id}", "1");
            let mut query = Vec::new();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                let is_text = with_nul(&document, &parameter["schema"], 0).is_string();
                match parameter["in"].as_str() {
                    Some("path") => {
                        place = place.replace(&format!("{{{name}}}"), if is_text { "a%00b" } else { "1" });
                    }
                    Some("query") if is_text => query.push(format!("{name}=a%00b")),
                    Some("query") => {}
                    _ => continue,
                }
            }
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let body = schema.is_object().then(|| with_nul(&document, schema, 0));
            // Without any text it is not what is tested here, and might end what the rest needs.
            let bare = (body.is_some() || place.contains("%00")).then_some("");
            for query in query.iter().map(String::as_str).chain(bare) {
                ask(method, &format!("{place}?{query}"), body.clone()).await;
                asked += 1;
            }
            // Each text alone, for the others' failures may keep it from being looked at.
            for (field, value) in body.iter().filter_map(Value::as_object).flatten() {
                ask(method, &place, Some(json!({ field: value }))).await;
                asked += 1;
            }
        }
    }
    assert!(asked > 200, "{asked}");
    lives(&app).await;
}

#[tokio::test]
async fn bytes_that_are_no_text_in_path_and_query_are_refused() {
    let app = TestApp::new().await;
    for (path, least, most) in [
        ("/v1/organizations/%ff/users", 404, 422),
        ("/v1/organizations/1%00/users", 404, 422),
        ("/v1/organizations/1/users/%c3%28", 404, 422),
        ("/v1/organizations/1/agent/runs?source_type=%ff%fe", 422, 422),
        ("/v1/organizations/1/agent/runs?source_type=API%00", 422, 422),
        ("/v1/organizations/1/agent/runs?skip=%ff", 422, 422),
        ("/%", 404, 404),
        ("/v1/..%2f..%2fetc/passwd", 404, 404),
        ("/_app/..%2f..%2fetc/passwd", 404, 404),
    ] {
        let said = raw(&app, request("GET", path, "").as_bytes()).await;
        assert!((least..=most).contains(&status_of(&said)), "{path}: {said}");
        if path.starts_with("/_app/") {
            continue;
        }
        let body: Value = serde_json::from_str(said.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert!(body.get("detail").is_some(), "{path}: {body}");
    }
    let mut bad = b"GET /v1/organizations/\xff\xfe/users HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    assert!(matches!(status_of(&raw(&app, &bad).await), 400..=499));
    bad = request("GET", "/v1/users/me", "").replace("Bearer ", "Bearer \u{fffd}\u{fffd}").into_bytes();
    assert_eq!(status_of(&raw(&app, &bad).await), 401);
    for garbage in
        [&b"\0\0\0\0\r\n\r\n"[..], b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
    {
        let said = raw(&app, garbage).await;
        assert!(said.is_empty() || matches!(status_of(&said), 400..=499), "{said}");
    }
    let long = request("GET", "/v1/users/me", &format!("X-Long: {}\r\n", "a".repeat(1 << 20)));
    let mut stream = connect(&app).await;
    // It may answer and close before everything is sent.
    stream.write_all(long.as_bytes()).await.ok();
    let said = rest(&mut stream).await;
    assert!(said.is_empty() || status_of(&said) == 431, "{said}");
    lives(&app).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_before_it_is_read_and_while_it_comes() {
    let app = TestApp::new().await;
    let stop = "/v1/organizations/1/agent/run/stop";
    let head = request("POST", stop, "Content-Type: application/json\r\nContent-Length: 99999999999\r\n");
    assert_eq!(status_of(&raw(&app, head.as_bytes()).await), 413);
    let head = request("POST", stop, "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n");
    let mut stream = connect(&app).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    let (mut reading, mut writing) = stream.split();
    let send = async { while writing.write_all(&chunk).await.is_ok() {} };
    let mut start = vec![0; 12];
    let answered = tokio::select! {
        read = reading.read_exact(&mut start) => read.is_ok(),
        () = send => false,
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("neither an answer nor an end"),
    };
    // A client that goes on sending may lose the answer with the connection.
    assert!(!answered || start == b"HTTP/1.1 413", "{}", String::from_utf8_lossy(&start));
    lives(&app).await;
}

#[tokio::test]
async fn slow_heads_slow_bodies_and_idle_connections_are_ended_after_the_stated_times() {
    let app = TestApp::with(&[("CODEGEN_IDLE_S", "1"), ("CODEGEN_BODY_S", "1")]).await;
    let begun = Instant::now();
    let mut silent = connect(&app).await;
    let mut slow_head = connect(&app).await;
    slow_head.write_all(b"GET /healthz HTTP/1.1\r\nHost:").await.unwrap();
    let mut slow_body = connect(&app).await;
    let head = request("POST", RUN, "Content-Type: application/json\r\nContent-Length: 100\r\n");
    slow_body.write_all(head.as_bytes()).await.unwrap();
    slow_body.write_all(b"{\"prompt\"").await.unwrap();
    let mut kept = connect(&app).await;
    kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(rest(&mut silent).await, "");
    let said = rest(&mut slow_head).await;
    assert!(said.is_empty() || status_of(&said) == 408, "{said}");
    let said = rest(&mut slow_body).await;
    assert_eq!(status_of(&said), 408, "{said}");
    assert!(said.contains("\"status_code\":408"), "{said}");
    assert_eq!(status_of(&rest(&mut kept).await), 200, "answered, and closed when nothing more came");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(25), "{took:?}");
    lives(&app).await;
}

#[tokio::test]
async fn methods_that_a_path_does_not_have_are_405_and_head_is_get_without_a_body() {
    let app = TestApp::new().await;
    for method in ["DELETE", "TRACE", "OPTIONS", "CONNECTED", "PATCH"] {
        let said = raw(&app, request(method, "/v1/users/me", "").as_bytes()).await;
        assert_eq!(status_of(&said), 405, "{said}");
        assert!(said.to_lowercase().contains("\r\nallow: get"), "{said}");
    }
    let said = raw(&app, request("HEAD", "/v1/users/me", "").as_bytes()).await;
    assert_eq!((status_of(&said), said.split("\r\n\r\n").nth(1)), (200, Some("")));
}

#[tokio::test]
async fn ten_thousand_idle_connections_keep_nobody_else_from_an_answer() {
    let app = TestApp::new().await;
    lives(&app).await;
    // Both ends are in this process, whose limit the server has raised to what it may have.
    let limit = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limit.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: usize = files.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    let many = 10_000.min(soft.saturating_sub(5_000) / 2);
    assert!(many >= 1_000, "this host lets a process have only {soft} open files");
    let mut open = Vec::with_capacity(many);
    for _ in 0..many {
        open.push(connect(&app).await);
    }
    for stream in open.iter_mut().step_by(100) {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    }
    let asked = Instant::now();
    lives(&app).await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?} with {many} open", asked.elapsed());
    // One of them goes on where it was.
    open[0].write_all(b"Connection: close\r\n\r\n").await.unwrap();
    assert_eq!(status_of(&rest(&mut open[0]).await), 200);
}
