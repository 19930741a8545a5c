//! schemathesis asks every operation what our own document allows and what it forbids, and finds no difference between the
//! document and the answers.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use serde_json::{Value, json};

use crate::api::{TOKEN, TestApp};

/// Operations whose bounds a document cannot say, so that what it allows may be refused.
const BEYOND_WORDS: [(&str, &str); 12] = [
    ("list_agent_runs_v1_organizations__org_id__agent_run_get", "`before` and `after` exclude each other"),
    ("create_session", "a token, or a name with a password"),
    ("resume_agent_run_v1_beta_organizations__org_id__agent_run_resume_post", "it takes the body of the contract's"),
    ("delete_organization", "the organization's name stands in no document"),
    ("update_repository", "what a name of a branch is"),
    ("create_webhook", "which addresses may be called"),
    ("update_webhook", "which addresses may be called"),
    ("create_model_provider", "which addresses may be called, and whether a key is good"),
    ("update_model_provider", "which addresses may be called, and whether a key is good"),
    ("set_default_model", "which models there are"),
    ("put_limits", "the names of limits are keys"),
    ("add_repository_v1_organizations__org_id__repos_post", "what an address of a repository is"),
];

const SETTINGS: &str = r#"
seed = 1
continue-on-failure = true
[generation]
max-examples = 3
no-shrink = true
# Texts with it are refused everywhere, in one sentence.
allow-x00 = false
[phases.examples]
enabled = false
[phases.stateful]
enabled = false
"#;

/// Each operation of the document with its id.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let paths = document["paths"].as_object().unwrap().values();
    paths.flat_map(|path| path.as_object().unwrap().values()).filter_map(|op| Some((op["operationId"].as_str()?, op)))
}

/// The document, about the one organization that there is: others answer 403 whatever is asked.
fn about_ours(mut document: Value) -> Value {
    for path in document["paths"].as_object_mut().unwrap().values_mut() {
        for operation in path.as_object_mut().unwrap().values_mut() {
            for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
                if parameter["name"] == "org_id" {
                    parameter["schema"] = json!({"type": "integer", "enum": [1]});
                }
            }
        }
    }
    document
}

/// What is allowed, as the document says it, may be refused by these.
fn loose(document: &Value) -> BTreeSet<String> {
    let contract: Value = serde_json::from_str(include_str!("contract.json")).unwrap();
    // Bounds are a part of the contract: one that its document leaves out may not stand in ours.
    let theirs: BTreeSet<String> = operations(&contract).map(|(id, _)| id.to_owned()).collect();
    assert_eq!(theirs.len(), 25);
    let ours: BTreeSet<&str> = operations(document).map(|(id, _)| id).collect();
    for (id, why) in BEYOND_WORDS {
        assert!(ours.contains(id), "{id} ({why}) is not in the document");
    }
    theirs.into_iter().chain(BEYOND_WORDS.map(|(id, _)| id.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_as_the_document_says_whatever_it_is_asked() {
    let parts =
        std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/parts/schemathesis")).unwrap();
    assert!(parts.exists(), "schemathesis is not in target/parts; run `scripts/bootstrap test` (`make test` does it)");
    let app = TestApp::new().await;
    let (status, document) = app.get("/openapi.json").await;
    assert_eq!(status, 200);
    let dir = tempfile::tempdir().unwrap();
    let mut settings = SETTINGS.to_owned();
    for id in loose(&document) {
        write!(
            settings,
            "[[operations]]\ninclude-operation-id = \"{id}\"\nchecks.positive_data_acceptance.enabled = false\n"
        )
        .unwrap();
    }
    std::fs::write(dir.path().join("schemathesis.toml"), settings).unwrap();
    std::fs::write(dir.path().join("openapi.json"), about_ours(document).to_string()).unwrap();
    let run = tokio::process::Command::new("python3")
        .args(["-c", "from schemathesis.cli import schemathesis; schemathesis()", "--no-color", "run", "openapi.json"])
        .args(["--url", &app.base, "--header", &format!("Authorization: Bearer {TOKEN}")])
        // An endless answer, which the tests of its own read.
        .args(["--exclude-path", "/v1/organizations/{org_id}/agent/run/{agent_run_id}/events"])
        .env("PYTHONPATH", parts)
        .env("NO_PROXY", "127.0.0.1")
        .current_dir(dir.path())
        .output()
        .await
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{said}");
    assert_eq!(app.get("/v1/users/me").await.0, 200, "the server and the token are still good");
}
