//! Structured results through HTTP: a schema is checked when it is given, the agent is held to it, the run answers with it.
#![allow(clippy::unwrap_used, missing_docs)]

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::{TOKEN, TestApp, failure, failures},
    engine::engine,
    run_story::{call, expecting, finish},
};

const CREATE: &str = "/v1/organizations/1/agent/run";
const RESUME: &str = "/v1/organizations/1/agent/run/resume";

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"files": {"type": "array", "items": {"$ref": "#/$defs/file"}}},
        "required": ["files"],
        "additionalProperties": false,
        "$defs": {"file": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
    })
}

fn with_output(output: &Value) -> Value {
    call("finish", json!({ "summary": "Listed.", "success": true, "output": output }))
}

async fn server() -> TestApp {
    let dir = tempfile::tempdir().unwrap();
    let made = engine(dir.path());
    TestApp::on(dir, &[], made).await
}

pub fn script(app: &TestApp, replies: &[Value]) -> String {
    let path = app.dir().join(format!("script-{:x}.json", rand::random::<u64>()));
    std::fs::write(&path, json!({ "replies": replies }).to_string()).unwrap();
    format!("scripted:{}", path.display())
}

/// Creates a run and returns it as it ended.
pub async fn run(app: &TestApp, body: &Value) -> Value {
    let (status, created) = app.post(CREATE, body).await;
    assert_eq!(status, 200, "{created}");
    ended(app, &created).await
}

async fn ended(app: &TestApp, run: &Value) -> Value {
    let path = format!("{CREATE}/{}", run["id"]);
    app.asks(Method::GET, &format!("{path}/events"), Some(TOKEN)).send().await.unwrap().text().await.unwrap();
    app.get(&path).await.1
}

#[tokio::test]
async fn a_run_answers_with_the_result_that_fits_its_schema() {
    let app = server().await;
    let output = json!({"files": [{"name": "a.rs"}]});
    let replies = [
        with_output(&json!({"files": [{"title": "a.rs"}]})),
        expecting("/files/0", with_output(&json!({"files": "a.rs"}))),
        expecting("want array", with_output(&output)),
    ];
    let asked = json!({"prompt": "List the files", "model": script(&app, &replies), "output_schema": schema()});
    let (_, created) = app.post(CREATE, &asked).await;
    assert_eq!((&created["output"], &created["output_schema"]), (&Value::Null, &schema()));
    let run = ended(&app, &created).await;
    assert_eq!(
        (&run["status"], &run["result"], &run["output"]),
        (&json!("COMPLETE"), &json!("Listed."), &output),
        "{run}"
    );
    let (_, page) = app.get("/v1/organizations/1/agent/runs").await;
    assert_eq!(page["items"][0]["output"], output);
    let (_, view) = app.get(&format!("{CREATE}/{}/view", run["id"])).await;
    assert_eq!(view["output"], output);
}

#[tokio::test]
async fn a_run_that_gives_no_result_that_fits_ends_as_an_error_that_says_so() {
    let app = server().await;
    let bad = with_output(&json!({"files": 1}));
    let replies = vec![bad; 5];
    let run = run(&app, &json!({"prompt": "List", "model": script(&app, &replies), "output_schema": schema()})).await;
    assert_eq!((&run["status"], &run["output"]), (&json!("ERROR"), &Value::Null), "{run}");
    let said = run["result"].as_str().unwrap();
    assert!(said.contains("no structured result") && said.contains("/files"), "{said}");
}

#[tokio::test]
async fn a_run_that_cannot_be_done_says_that_it_has_no_result() {
    let app = server().await;
    let replies = [call("finish", json!({"summary": "There are none.", "success": false}))];
    let run = run(&app, &json!({"prompt": "List", "model": script(&app, &replies), "output_schema": schema()})).await;
    assert_eq!((&run["status"], &run["output"]), (&json!("ERROR"), &Value::Null), "{run}");
    assert_eq!(run["result"], "There are none.\n\nThere is no structured result.");
}

#[tokio::test]
async fn a_follow_up_may_ask_for_another_result_once_the_run_has_ended() {
    let app = server().await;
    let first = json!({"files": []});
    let replies = [with_output(&first), finish("No output."), expecting("`output` is missing", with_output(&json!(7)))];
    let run = run(&app, &json!({"prompt": "List", "model": script(&app, &replies), "output_schema": schema()})).await;
    assert_eq!(run["output"], first);
    let asked = json!({"agent_run_id": run["id"], "prompt": "How many?", "output_schema": {"type": "integer"}});
    let (status, resumed) = app.post(RESUME, &asked).await;
    assert_eq!((status, &resumed["output"], &resumed["output_schema"]["type"]), (200, &Value::Null, &json!("integer")));
    let run = ended(&app, &run).await;
    assert_eq!((&run["status"], &run["output"]), (&json!("COMPLETE"), &json!(7)), "{run}");
}

#[tokio::test]
async fn a_live_run_keeps_its_schema() {
    let app = server().await;
    let replies = [call("shell", json!({"command": "sleep 600"}))];
    let (_, run) = app.post(CREATE, &json!({"prompt": "Wait", "model": script(&app, &replies)})).await;
    let asked = json!({"agent_run_id": run["id"], "prompt": "How many?", "output_schema": {"type": "integer"}});
    let (status, body) = app.post(RESUME, &asked).await;
    assert_eq!((status, &body["status_code"]), (409, &json!(409)), "{body}");
    app.post("/v1/organizations/1/agent/run/stop", &json!({"agent_run_id": run["id"]})).await;
}

#[tokio::test]
async fn a_schema_that_cannot_be_used_is_refused_with_its_reason() {
    let app = TestApp::new().await;
    // Each definition leads to the next one twice.
    let next = |level: i32| json!({"$ref": format!("#/$defs/{}", level + 1)});
    let defs = (0..20).map(|level| (level.to_string(), json!({"allOf": [next(level), next(level)]})));
    let defs: serde_json::Map<_, _> = defs.chain([("20".to_owned(), json!({"type": "string"}))]).collect();
    let doubling = json!({"$ref": "#/$defs/0", "$defs": defs});
    for (schema, word, reason) in [
        (json!([]), "dict_type", "dictionary"),
        (json!({"type": "strin"}), "value_error", "not a valid JSON schema"),
        (json!({"$ref": "https://example.com/schema.json"}), "value_error", "elsewhere"),
        (json!({"$ref": "file:///etc/passwd"}), "value_error", "elsewhere"),
        (json!({"$ref": "#"}), "value_error", "itself"),
        (doubling, "value_error", "hold for the same value"),
        (json!({"pattern": "(a{1000}){1000}"}), "value_error", "too large"),
        (json!({"description": "x".repeat(70_000)}), "value_error", "64 KiB"),
    ] {
        for (path, mut body) in [(CREATE, json!({"prompt": "x"})), (RESUME, json!({"agent_run_id": 1, "prompt": "x"}))]
        {
            body["output_schema"] = schema.clone();
            let (status, answer) = app.post(path, &body).await;
            assert_eq!((status, failures(&answer)), (422, vec![failure("body.output_schema", word)]), "{schema}");
            let said = answer["detail"][0]["msg"].as_str().unwrap();
            assert!(said.contains(reason), "{said}");
        }
    }
    assert_eq!(app.get("/v1/organizations/1/agent/runs").await.1["total"], 0);
}
