//! Repositories and organizations that are changed, written out and deleted; and that no organization reaches another's.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeMap, io::Read as _, time::Duration};

use codegen_server::{Who, route_table};
use codegen_store::{NewPullRequest, Role};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::{TOKEN, TestApp},
    rights::{ABSENT, samples},
};

const ORG: &str = "/v1/organizations/1";

impl TestApp {
    /// A repository of the organization, by an admin's token.
    async fn repo(&self, org_id: i64, token: &str, name: &str) -> i64 {
        let origin = self.dir().join("origins").join(name);
        if !origin.exists() {
            std::fs::create_dir_all(&origin).unwrap();
            super::git_host::git(&origin, &["init", "-q"]);
            super::git_host::commit_file(&origin, "a", name);
        }
        let path = format!("/v1/organizations/{org_id}/repos");
        let (status, repo) = self.ask("POST", &path, token, json!({"url": origin})).await;
        assert_eq!(status, 200, "{repo}");
        repo["id"].as_i64().unwrap()
    }

    /// A run that has ended, with a blob and a pull request.
    async fn ended_run(&self, org_id: i64, token: &str, repo_id: i64) -> i64 {
        let path = format!("/v1/organizations/{org_id}/agent/run");
        let body = json!({"prompt": "do it", "repo_id": repo_id, "metadata": {"a": 1}});
        let run = self.ask("POST", &path, token, body).await.1["id"].as_i64().unwrap();
        self.ask("POST", &format!("{path}/stop"), token, json!({"agent_run_id": run})).await;
        self.until(|| async { self.app.store.run(org_id, run).await.unwrap().ended_at.is_some() }).await;
        self.app.store.put_blob(org_id, run, "diff", b"--- a\n+++ b\n").await.unwrap();
        let new = NewPullRequest {
            repo_id,
            run_id: run,
            number: None,
            title: "t".to_owned(),
            body: String::new(),
            url: "/pulls/{id}".to_owned(),
            head_branch: "h".to_owned(),
            base_branch: "b".to_owned(),
            head_commit: "c".to_owned(),
            state: "open".to_owned(),
            forge: "local".to_owned(),
        };
        self.app.store.create_pull_request(org_id, new, 0).await.unwrap();
        run
    }

    /// Looks again after each change of the store, or soon.
    async fn until<F: Future<Output = bool>>(&self, is_so: impl Fn() -> F) {
        let mut changes = self.app.store.subscribe();
        let wait = async {
            while !is_so().await {
                tokio::time::timeout(Duration::from_millis(200), changes.recv()).await.ok();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it does not come");
    }
}

#[tokio::test]
async fn a_repository_s_settings_change_and_an_archived_one_takes_no_runs() {
    let app = TestApp::new().await;
    let id = app.repo(1, TOKEN, "shop").await;
    let path = format!("{ORG}/repos/{id}");
    let change = json!({"name": "Shop", "description": "sells", "default_branch": "trunk", "archived": true});
    let (status, repo) = app.ask("PATCH", &path, TOKEN, change).await;
    assert_eq!((status, &repo["name"], &repo["archived"]), (200, &json!("Shop"), &json!(true)));
    assert_eq!(app.get(&path).await.1, repo);
    let run = json!({"prompt": "a", "repo_id": id});
    assert_eq!(app.post(&format!("{ORG}/agent/run"), &run).await.0, 409);
    assert_eq!(app.ask("PATCH", &path, TOKEN, json!({"archived": false})).await.1["description"], "sells");
    assert_eq!(app.post(&format!("{ORG}/agent/run"), &run).await.0, 200);
    for bad in ["", "a b", "-x", "a..b"] {
        assert_eq!(app.ask("PATCH", &path, TOKEN, json!({"default_branch": bad})).await.0, 422, "{bad:?}");
    }
}

#[tokio::test]
async fn a_repository_that_is_deleted_leaves_its_runs_to_be_looked_at_and_its_address_free() {
    let app = TestApp::new().await;
    let id = app.repo(1, TOKEN, "shop").await;
    let run = app.ended_run(1, TOKEN, id).await;
    let path = format!("{ORG}/repos/{id}");
    let mirror = app.dir().join(format!("mirrors/{id}.git"));
    app.until(|| async { mirror.exists() || app.app.store.repos_in_use().await.unwrap().is_empty() }).await;
    std::fs::create_dir_all(&mirror).unwrap();
    std::fs::write(mirror.with_extension("runs"), "a bundle").unwrap();
    assert_eq!(app.ask("DELETE", &path, TOKEN, json!(null)).await.0, 204);
    assert_eq!(app.get(&path).await.0, 404);
    assert_eq!(app.get(&format!("{ORG}/repos")).await.1["total"], 0);
    let (status, views) = app.get(&format!("{ORG}/agent/runs/views")).await;
    assert_eq!((status, &views["items"][0]["repo_name"]), (200, &json!("origins/shop")), "{views}");
    let more = json!({"agent_run_id": run, "prompt": "more"});
    assert_eq!(app.post(&format!("{ORG}/agent/run/resume"), &more).await.0, 409);
    assert_eq!(app.ask("DELETE", &path, TOKEN, json!(null)).await.0, 404);
    let again = app.repo(1, TOKEN, "shop").await;
    assert_ne!(again, id, "the same address is a new repository");
    app.until(|| async { !mirror.exists() && !mirror.with_extension("runs").exists() }).await;
}

#[tokio::test]
async fn an_organization_is_written_out_whole_and_without_secrets() {
    let app = TestApp::new().await;
    let repo = app.repo(1, TOKEN, "shop").await;
    let run = app.ended_run(1, TOKEN, repo).await;
    let account = app.post(&format!("{ORG}/service-accounts"), &json!({"name": "ci"})).await.1;
    let tokens = format!("{ORG}/service-accounts/{}/tokens", account["id"]);
    let secret = app.post(&tokens, &json!({"name": "t"})).await.1["token"].as_str().unwrap().to_owned();
    let link = app.post(&format!("{ORG}/invitations"), &json!({})).await.1["invitation"].as_str().unwrap().to_owned();
    let other = app.app.store.create_org("others", 0).await.unwrap().id;
    let eve = app.member(other, "eve", Role::Admin).await;
    app.ask("POST", &format!("/v1/organizations/{other}/agent/run"), &eve, json!({"prompt": "theirs"})).await;

    let answer = app.asks(Method::GET, &format!("{ORG}/export"), Some(TOKEN)).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/x-tar".parse().unwrap())
    );
    let bytes = answer.bytes().await.unwrap();
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), text);
    }
    let manifest: Value = serde_json::from_str(&files["manifest.json"]).unwrap();
    let lines = |name: &str| -> Vec<Value> {
        files[&format!("{name}.jsonl")].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert_eq!(lines("organization")[0]["name"], "codegen");
    assert_eq!(lines("runs").len(), 1);
    assert_eq!(lines("run_inputs")[0]["prompt"], "do it");
    assert_eq!(lines("pull_requests")[0]["title"], "t");
    assert_eq!(lines("repos")[0]["full_name"], "origins/shop");
    assert_eq!(lines("members").len(), 2);
    assert!(lines("log").len() >= 2 && lines("audit").len() > 5);
    assert_eq!(manifest["counts"]["log"], lines("log").len());
    assert_eq!(files[&format!("blobs/{run}/diff")], "--- a\n+++ b\n");
    let all = files.values().cloned().collect::<String>();
    for secret in [&secret[..], &link, TOKEN, &super::api::sha256(&secret), "theirs", "eve"] {
        assert!(!all.contains(secret), "{secret} is in the archive");
    }
    assert_eq!(
        std::fs::read_dir(app.dir())
            .unwrap()
            .filter(|e| { e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".export") })
            .count(),
        0,
        "no half-made file stays"
    );
}

#[tokio::test]
async fn an_organization_that_is_deleted_is_gone_at_once_and_then_without_a_trace() {
    let app = TestApp::new().await;
    let other = app.app.store.create_org("others", 0).await.unwrap().id;
    let eve = app.member(other, "eve", Role::Admin).await;
    let org = format!("/v1/organizations/{other}");
    let repo = app.repo(other, &eve, "theirs").await;
    app.ended_run(other, &eve, repo).await;
    let ours = app.post(&format!("{ORG}/agent/run"), &json!({"prompt": "ours"})).await.1["id"].clone();
    let account = app.ask("POST", &format!("{org}/service-accounts"), &eve, json!({"name": "ci"})).await.1;
    let tokens = format!("{org}/service-accounts/{}/tokens", account["id"]);
    let robot = app.ask("POST", &tokens, &eve, json!({"name": "t"})).await.1["token"].as_str().unwrap().to_owned();
    app.ask("POST", &format!("{org}/invitations"), &eve, json!({})).await;
    let keyed = app
        .asks(Method::POST, &format!("{org}/agent/run"), Some(&eve))
        .header("idempotency-key", "k")
        .json(&json!({"prompt": "late"}));
    assert_eq!(keyed.send().await.unwrap().status(), 200);
    let mirror = app.dir().join(format!("mirrors/{repo}.git"));
    std::fs::create_dir_all(&mirror).unwrap();

    assert_eq!(app.ask("DELETE", &format!("{org}?name=other"), &eve, json!(null)).await.0, 422, "its name is others");
    assert_eq!(app.ask("DELETE", &org, &eve, json!(null)).await.0, 422);
    assert_eq!(app.ask("GET", &org, &eve, json!(null)).await.0, 200);
    assert_eq!(app.ask("DELETE", &format!("{org}?name=others"), &eve, json!(null)).await.0, 204);
    assert_eq!(app.ask("GET", &org, &eve, json!(null)).await.0, 403, "it is nobody's");
    assert_eq!(app.ask("GET", "/v1/users/me", &robot, json!(null)).await.0, 401);
    assert_eq!(app.ask("GET", "/v1/organizations", &eve, json!(null)).await.1["total"], 0);

    app.until(|| async { app.app.store.deleted_orgs().await.unwrap().is_empty() && !mirror.exists() }).await;
    assert_eq!(app.get(&format!("{ORG}/agent/run/{ours}")).await.0, 200, "others' rows stay");
    let app = app.restart().await;
    assert_eq!(app.get(ORG).await.0, 200);
}

/// Ids of one organization's rows, by their name in paths, queries and bodies.
async fn everything(app: &TestApp, org_id: i64, token: &str, name: &str) -> BTreeMap<String, i64> {
    let org = format!("/v1/organizations/{org_id}");
    let repo = app.repo(org_id, token, name).await;
    let run = app.ended_run(org_id, token, repo).await;
    let pr = app.app.store.pull_requests_of_run(org_id, run).await.unwrap()[0].id;
    let person = app.member(org_id, &format!("{name}-member"), Role::Member).await;
    let person = app.ask("GET", "/v1/users/me", &person, json!(null)).await.1["id"].as_i64().unwrap();
    let id = |value: &Value| value["id"].as_i64().unwrap();
    let account = id(&app.ask("POST", &format!("{org}/service-accounts"), token, json!({"name": "ci"})).await.1);
    let tokens = format!("{org}/service-accounts/{account}/tokens");
    let token_id = id(&app.ask("POST", &tokens, token, json!({"name": "t"})).await.1);
    let rule = id(&app.ask("POST", &format!("{org}/rules"), token, json!({"text": "Be kind."})).await.1);
    let account_of_models = json!({"provider": "openai", "api_key": "sk-not-a-key-0000", "test": false});
    let models = id(&app.ask("POST", &format!("{org}/model-providers"), token, account_of_models).await.1);
    let hook = json!({"url": "https://example.com/hook", "enabled": false});
    let hook = id(&app.ask("POST", &format!("{org}/webhooks"), token, hook).await.1);
    let ping = app.ask("POST", &format!("{org}/webhooks/{hook}/ping"), token, json!(null)).await;
    let delivery = ping.1["id"].as_i64().unwrap_or_else(|| panic!("{ping:?}"));
    let logged_in = app.ask("POST", "/v1/session", token, json!({"token": token})).await;
    assert!(logged_in.0 < 300, "{logged_in:?}");
    let log_ins = app.ask("GET", "/v1/users/me/sessions", token, json!(null)).await.1;
    let log_in =
        log_ins["items"].as_array().and_then(|all| all[0]["id"].as_i64()).unwrap_or_else(|| panic!("{log_ins}"));
    let invitation = id(&app.ask("POST", &format!("{org}/invitations"), token, json!({})).await.1);
    [
        ("org_id", org_id),
        ("repo_id", repo),
        ("agent_run_id", run),
        ("run_id", run),
        ("pr_id", pr),
        ("user_id", person),
        ("service_account_id", account),
        ("token_id", token_id),
        ("invitation_id", invitation),
        ("login_id", log_in),
        ("rule_id", rule),
        ("webhook_id", hook),
        ("model_provider_id", models),
        ("delivery_id", delivery),
        ("sandbox_id", run),
        ("seq", 1),
    ]
    .map(|(name, id)| (name.to_owned(), id))
    .into()
}

#[tokio::test]
async fn no_organization_reaches_anothers_rows_nor_learns_that_they_are_there() {
    let app = TestApp::new().await;
    let samples = samples(&app);
    let theirs_id = app.app.store.create_org("others", 0).await.unwrap().id;
    let eve = app.member(theirs_id, "eve", Role::Admin).await;
    let _ours = everything(&app, 1, TOKEN, "ours").await;
    let theirs = everything(&app, theirs_id, &eve, "theirs").await;
    let theirs_before = dump(&app, theirs_id, &eve).await;

    let mut asked = 0;
    for route in route_table().iter().filter(|route| route.who != Who::Anyone) {
        let place = format!("{} {}", route.method, route.path);
        let absent = |name: &str| if name == "seq" { 1 } else { ABSENT };
        // Their organization: refused, as one that does not exist is.
        let known = |name: &str| {
            *theirs.get(name).unwrap_or_else(|| panic!("{place}: what is a {name}? `everything` has to make one"))
        };
        let sample = samples.of(route, &known);
        let names_org = route.path.contains("{org_id}")
            || sample.path.contains("org_id=")
            || sample.body.as_ref().is_some_and(|b| b.get("org_id").is_some());
        if names_org {
            let none = samples.of(route, &absent);
            let (status, text) = app.sends(&route.method, &sample, Some(TOKEN)).await;
            let as_absent = app.sends(&route.method, &none, Some(TOKEN)).await;
            assert_eq!(status, 403, "{place}: {text}");
            assert_eq!((status, &text), (as_absent.0, &as_absent.1), "{place} tells their organization from none");
            asked += 1;
        }
        // Their rows, asked for in our own organization: as rows that are not there.
        let in_ours = |id: &dyn Fn(&str) -> i64| samples.of(route, &|name| if name == "org_id" { 1 } else { id(name) });
        let (with_theirs, with_none) = (in_ours(&known), in_ours(&absent));
        if with_theirs.path == with_none.path && with_theirs.body == with_none.body {
            continue;
        }
        let (status, text) = app.sends(&route.method, &with_theirs, Some(TOKEN)).await;
        let (status_of_none, text_of_none) = app.sends(&route.method, &with_none, Some(TOKEN)).await;
        let mut text_of_none = text_of_none.replace(&ABSENT.to_string(), "ID");
        let mut text = text;
        for id in theirs.values().filter(|id| **id != 1) {
            text = text.replace(&format!(" {id} "), " ID ");
        }
        text_of_none = text_of_none.replace("  ", " ");
        assert_eq!((status, text), (status_of_none, text_of_none), "{place} tells their rows from none");
        asked += 1;
    }
    assert!(asked > 50, "only {asked} were asked");
    assert_eq!(dump(&app, theirs_id, &eve).await, theirs_before, "something of theirs was changed");
}

/// All that an organization's admin sees written out, but for the time of the archive.
async fn dump(app: &TestApp, org_id: i64, token: &str) -> BTreeMap<String, Vec<u8>> {
    let path = format!("/v1/organizations/{org_id}/export");
    let bytes = app.asks(Method::GET, &path, Some(token)).send().await.unwrap().bytes().await.unwrap();
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), content);
    }
    files.remove("manifest.json");
    files
}
