//! `codegen models` against a provider on a socket, and structured results from the commands.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
};

use serde_json::json;

use crate::{
    fixture::{Fixture, text},
    server::Server,
};

pub const KEY: &str = "sk-of-the-organization-0001";

/// A provider that answers each question with a word, where it comes with the key. Its address.
pub fn provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut key, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                let (name, value) = line.split_once(':').unwrap_or_default();
                match name.to_ascii_lowercase().as_str() {
                    "authorization" => key = value.trim().to_owned(),
                    "content-length" => length = value.trim().parse().unwrap(),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok();
            let (status, kind, body) = if key == format!("Bearer {KEY}") {
                let chunk = json!({"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]});
                ("200 OK", "text/event-stream", format!("data: {chunk}\n\ndata: [DONE]\n\n"))
            } else {
                ("401 Unauthorized", "application/json", json!({"error": {"message": "no such key"}}).to_string())
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            reader.into_inner().write_all(format!("{head}{body}").as_bytes()).ok();
        }
    });
    url
}

#[test]
fn an_account_is_added_tested_used_as_the_default_and_removed() {
    let fixture = Fixture::new();
    let server = Server::logged_in(&fixture, &[("CODEGEN_ALLOW_PRIVATE_ADDRESSES", "on")]);
    let (url, file) = (provider(), fixture.dir.path().join("key"));
    let file = file.to_str().unwrap();
    let add = ["models", "add", "acme", "--base-url", &url, "--model", "big", "--key-file", file];
    std::fs::write(file, "sk-of-somebody-else-0002\n").unwrap();
    let output = server.client(&add);
    assert!(!output.status.success());
    assert!(text(&output).contains("refuses the key") && !text(&output).contains("0002"), "{}", text(&output));
    std::fs::write(file, format!("{KEY}\n")).unwrap();
    let output = server.client(&add);
    assert!(output.status.success() && text(&output).contains("key ...0001"), "{}", text(&output));
    assert_eq!(server.json(&["models", "test", "acme"])["success"], true);
    assert_eq!(server.json(&["models", "default", "acme/big"])["default_model"], "acme/big");
    assert!(text(&server.client(&["models", "list"])).contains("acme/big"));
    let output = server.client(&["agent", "--prompt", "Say yes", "--follow"]);
    assert!(output.status.success(), "{}", text(&output));
    let output = server.client(&["models", "remove", "acme"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(server.json(&["models", "accounts"])["total"], 0);
}

#[test]
fn a_structured_result_comes_from_codegen_run_and_codegen_agent() {
    let fixture = Fixture::new();
    let schema = fixture.dir.path().join("schema.json");
    std::fs::write(&schema, json!({"type": "object", "required": ["count"]}).to_string()).unwrap();
    let input = json!({"summary": "Counted.", "success": true, "output": {"count": 3}});
    let script = fixture.script(&json!([{"text": "", "calls": [{"name": "finish", "input": input}]}]));
    let mut run = fixture.codegen();
    run.args(["run", "Count", "--json", "--script"]).arg(&script).arg("--output-schema").arg(&schema);
    let output = run.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("\"output\":{\"count\":3}"), "{}", text(&output));

    let model = format!("scripted:{}", script.display());
    let server = Server::logged_in(&fixture, &[]);
    let schema = schema.to_str().unwrap();
    let agent = ["agent", "--prompt", "Count", "--model", &model, "--output-schema", schema, "--follow"];
    let output = server.client(&agent);
    assert!(output.status.success() && text(&output).contains("{\"count\":3}"), "{}", text(&output));
    assert_eq!(server.json(&["agent", "--id", "1"])["output"], json!({"count": 3}));
    std::fs::write(schema, "{\"type\": \"strin\"}").unwrap();
    let output = server.client(&agent);
    assert!(!output.status.success() && text(&output).contains("not a valid JSON schema"), "{}", text(&output));
}
