//! schemathesis asks every operation what our own document allows and what it forbids, and finds no difference between the
//! document and the answers.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use codegen_store::{NewPullRequest, Role};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::{TestApp, answer},
    git_host::{commit_file, git},
};

/// A service whose accounts may be connected; nobody answers there.
const PROVIDERS: &str = r#"[{"name": "tracker", "issuer": "http://127.0.0.1:9", "client_id": "codegen",
    "authorization_endpoint": "http://127.0.0.1:9/auth", "token_endpoint": "http://127.0.0.1:9/token"}]"#;

/// Operations that cannot succeed here, whatever is asked.
const NOT_DONE: [(&str, &str); 6] = [
    ("GET /v1/session/oidc", "no provider of log-ins is set up"),
    ("GET /v1/session/oidc/callback", "no provider of log-ins is set up"),
    ("GET /v1/organizations/{org_id}/agent/run/{agent_run_id}/entries/{seq}/output", "no call has an output"),
    ("POST /v1/invitations/accept", "who asks is a member already"),
    ("PUT /v1/users/me/password", "who asks has none to change"),
    ("POST /mcp", "which messages there are stands in the protocol's document; its real clients ask them"),
];

/// Operations whose bounds a document cannot say, so that what it allows may be refused.
const BEYOND_WORDS: [(&str, &str); 13] = [
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
    ("mcp", "a protocol of its own"),
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
[phases.stateful]
enabled = false
"#;

/// Each operation of the document with its id.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let paths = document["paths"].as_object().unwrap().values();
    paths.flat_map(|path| path.as_object().unwrap().values()).filter_map(|op| Some((op["operationId"].as_str()?, op)))
}

/// What there is to ask about.
struct There {
    /// An admin's token, which is not the first, so that few ids that are made up are its own.
    token: String,
    /// An id of each kind, by the end of its path.
    ids: Vec<(&'static str, Value)>,
    /// What succeeds, by the end of the path.
    bodies: Vec<(&'static str, Value)>,
}

/// An organization with one of everything, so that what is asked about it has its effect.
async fn with_one_of_each(app: &TestApp) -> There {
    let origins = ["shop", "other", "third"].map(|name| app.dir().join("origins").join(name));
    for origin in &origins {
        std::fs::create_dir_all(origin).unwrap();
        git(origin, &["init", "-q", "-b", "main"]);
        commit_file(origin, "a", "one");
    }
    app.member(1, "bea", Role::Member).await;
    for n in 0..20 {
        app.member(1, &format!("member-{n}"), Role::Member).await;
    }
    let token = app.member(1, "carl", Role::Admin).await;
    let asks = async |path: &str, body: Value| {
        let path = if path.starts_with("/v1") { path.to_owned() } else { format!("/v1/organizations/1{path}") };
        let (status, made) =
            answer(app.asks(Method::POST, &path, Some(&token)).json(&body).send().await.unwrap()).await;
        assert_eq!(status, 200, "{path}: {made}");
        made
    };
    let make = async |path: &str, body: Value| asks(path, body).await["id"].clone();
    let repo = make("/repos", json!({"url": origins[0]})).await;
    let run = make("/agent/run", json!({"prompt": "Try.", "repo_id": repo})).await;
    // Its events end with it.
    let events = format!("/v1/organizations/1/agent/run/{run}/events");
    app.asks(Method::GET, &events, Some(&token)).send().await.unwrap().text().await.unwrap();
    let new = NewPullRequest {
        repo_id: repo.as_i64().unwrap(),
        run_id: run.as_i64().unwrap(),
        state: "open".to_owned(),
        forge: "local".to_owned(),
        ..NewPullRequest::default()
    };
    let pull = app.app.store.create_pull_request(1, new, 1).await.unwrap();
    let login = app.asks(Method::POST, "/v1/session", None).json(&json!({"token": token}));
    assert_eq!(login.send().await.unwrap().status(), 200);
    let account = make("/service-accounts", json!({"name": "builds"})).await;
    let provider =
        json!({"provider": "acme", "base_url": "http://127.0.0.1:9/v1", "allowed_models": ["big"], "test": false});
    let link = asks("/invitations", json!({"role": "MEMBER"})).await["url"].as_str().unwrap().to_owned();
    let of_run =
        json!({"agent_run_id": run, "prompt": "Go on.", "before_card_order_id": "a", "after_card_order_id": "b"});
    let bodies = vec![
        ("agent/run/resume", of_run.clone()),
        ("agent/run/stop", of_run.clone()),
        ("agent/run/ban", of_run.clone()),
        ("agent/run/unban", of_run.clone()),
        ("agent/run/remove-from-pr", of_run),
        ("/model-providers", json!({"provider": "other", "base_url": "http://127.0.0.1:9/v1", "test": false})),
        ("{org_id}/repos", json!({"url": origins[2]})),
        ("setup-commands/generate", json!({"repo_id": repo})),
        ("tools/execute", json!({"tool_name": "list_agent_runs", "arguments": {}})),
        ("/v1/session", json!({"token": token})),
        ("/v1/invitations/join", json!({"invitation": link.split_once('#').unwrap().1, "name": "Dan"})),
    ];
    let ids = vec![
        ("rules/{rule_id}", make("/rules", json!({"text": "Be brief."})).await),
        ("my-rules/{rule_id}", make("/my-rules", json!({"text": "Be brief."})).await),
        ("repos/{repo_id}/rules/{rule_id}", make("/repos/1/rules", json!({"text": "Be brief."})).await),
        ("webhooks/{webhook_id}", make("/webhooks", json!({"url": "http://127.0.0.1:9/hooks"})).await),
        ("deliveries/{delivery_id}", make("/webhooks/1/ping", json!({})).await),
        ("model-providers/{model_provider_id}", make("/model-providers", provider).await),
        ("invitations/{invitation_id}", make("/invitations", json!({"role": "MEMBER"})).await),
        ("tokens/{token_id}", make("/v1/tokens", json!({"name": "mine"})).await),
        (
            "service-accounts/{service_account_id}/tokens/{token_id}",
            make(&format!("/service-accounts/{account}/tokens"), json!({"name": "its"})).await,
        ),
        ("service-accounts/{service_account_id}", account),
        ("users/{user_id}", json!(2)),
        ("sessions/{login_id}", json!(1)),
        ("prs/{pr_id}", json!(pull.id)),
        ("repos/{repo_id}", repo),
        // What is removed itself is another one than that of which something is removed.
        ("repos/{repo_id}$", make("/repos", json!({"url": origins[1]})).await),
        ("service-accounts/{service_account_id}$", make("/service-accounts", json!({"name": "others"})).await),
        ("agent/run/{agent_run_id}", run.clone()),
        ("runs/{agent_run_id}", run),
        ("entries/{seq}", json!(1)),
    ];
    There { token, ids, bodies }
}

/// The document, about the one organization that there is, since others answer 403 whatever is asked, and with ids of what
/// there is in it as examples.
fn about_ours(mut document: Value, there: &There) -> Value {
    for (path, operations) in document["paths"].as_object_mut().unwrap() {
        for (method, operation) in operations.as_object_mut().unwrap() {
            let body = there.bodies.iter().find(|(end, _)| method == "post" && path.ends_with(end));
            if let (Some((_, body)), Some(kind)) =
                (body, operation.pointer_mut("/requestBody/content/application~1json"))
            {
                kind["example"] = body.clone();
            }
            // Whether a key is free to use depends on what was asked with it before.
            if let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) {
                parameters.retain(|parameter| parameter["name"] != "Idempotency-Key");
            }
            for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap_or_default().to_owned();
                let till = path.split_once(&format!("/{{{name}}}")).map(|(before, _)| format!("{before}/{{{name}}}"));
                let till = till.map(|till| if till == *path { till + "$" } else { till });
                // The longest says most about which is meant.
                let id = till.and_then(|till| {
                    there
                        .ids
                        .iter()
                        .filter(|(end, _)| till.ends_with(&format!("/{end}")) || till.ends_with(&format!("/{end}$")))
                        .max_by_key(|(end, _)| end.len())
                });
                match (name.as_str(), id) {
                    ("org_id", _) => parameter["schema"] = json!({"type": "integer", "enum": [1]}),
                    (_, Some((_, id))) => parameter["example"] = id.clone(),
                    ("repo_id", _) => parameter["example"] = json!(1),
                    ("provider", _) => parameter["example"] = json!("tracker"),
                    ("name", _) if path == "/v1/organizations/{org_id}" => parameter["example"] = json!("codegen"),
                    _ => {}
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

/// Asks a new server all that these arguments choose; gives the statuses that each operation answered with.
async fn ask(which: &[&str]) -> BTreeMap<String, BTreeSet<i64>> {
    let parts =
        std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/parts/schemathesis")).unwrap();
    assert!(parts.exists(), "schemathesis is not in target/parts; run `scripts/bootstrap test` (`make test` does it)");
    let app = TestApp::with(&[
        ("CODEGEN_ALLOW_PRIVATE_ADDRESSES", "on"),
        ("CODEGEN_MCP_PROVIDERS", PROVIDERS),
        ("CODEGEN_MCP_CLIENT_SECRETS", "tracker=none"),
    ])
    .await;
    let there = with_one_of_each(&app).await;
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
    std::fs::write(dir.path().join("openapi.json"), about_ours(document, &there).to_string()).unwrap();
    let run = tokio::process::Command::new("python3")
        .args(["-c", "from schemathesis.cli import schemathesis; schemathesis()", "--no-color", "run", "openapi.json"])
        .args(["--url", &app.base, "--header", &format!("Authorization: Bearer {}", there.token)])
        .args(["--report", "ndjson", "--report-ndjson-path", "answers.ndjson"])
        .args(which)
        .env("PYTHONPATH", parts)
        .env("NO_PROXY", "127.0.0.1")
        .current_dir(dir.path())
        .output()
        .await
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{said}");
    let me = app.asks(Method::GET, "/v1/users/me", Some(&there.token)).send().await.unwrap();
    assert_eq!(me.status(), 200, "the server and the token are still good");
    let mut answers: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for line in std::fs::read_to_string(dir.path().join("answers.ndjson")).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let recorder = &event["ScenarioFinished"]["recorder"];
        let Some(label) = recorder["label"].as_str() else { continue };
        let seen = recorder["interactions"].as_object().into_iter().flat_map(|all| all.values());
        // An example may ask with another method than that of the operation, to see that it is refused.
        let method = label.split(' ').next();
        let own = seen.filter(|seen| seen["request"]["method"].as_str() == method);
        answers
            .entry(label.to_owned())
            .or_default()
            .extend(own.filter_map(|seen| seen["response"]["status_code"].as_i64()));
    }
    answers
}

/// That each was really done once, but those that cannot be here.
fn all_done(answers: &BTreeMap<String, BTreeSet<i64>>) {
    let done = |statuses: &BTreeSet<i64>| statuses.iter().any(|status| *status < 400);
    let excused: BTreeSet<&str> = NOT_DONE.map(|(label, _)| label).into();
    let undone: Vec<_> =
        answers.iter().filter(|(label, statuses)| !done(statuses) && !excused.contains(label.as_str())).collect();
    assert!(undone.is_empty(), "{undone:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_as_the_document_says_whatever_it_is_asked() {
    // Events have an endless answer, which the tests of its own read.
    let events = ["--exclude-path", "/v1/organizations/{org_id}/agent/run/{agent_run_id}/events"];
    let answers = ask(&[&events[..], &["--exclude-method", "DELETE"]].concat()).await;
    assert!(answers.len() > 100, "{}", answers.len());
    all_done(&answers);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_removal_answers_as_the_document_says_whatever_it_is_asked() {
    // That of the organization would take all others' away.
    let answers = ask(&["--include-method", "DELETE", "--exclude-operation-id", "delete_organization"]).await;
    assert!(answers.len() > 10, "{}", answers.len());
    all_done(&answers);
    all_done(&ask(&["--include-operation-id", "delete_organization"]).await);
}
