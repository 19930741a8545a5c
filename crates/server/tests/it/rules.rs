//! Rules: who sets and sees them, and what a model is told of them.
#![allow(clippy::unwrap_used, missing_docs)]

use codegen_store::{NewRun, Role, RuleChange, RuleOwner};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::{TOKEN, TestApp, answer, failure, failures},
    fake_model::{Answer, FakeModel},
    git_host::{commit_file, git},
    run_story::Scene,
};

const O: &str = "/v1/organizations/1";

async fn ask(app: &TestApp, method: Method, path: &str, token: &str, body: Value) -> (u16, Value) {
    answer(app.asks(method, &format!("{O}{path}"), Some(token)).json(&body).send().await.unwrap()).await
}

#[tokio::test]
async fn rules_are_added_ordered_turned_off_and_removed_and_command_lines_get_those_in_force() {
    let app = TestApp::new().await;
    let none = app.get(&format!("{O}/cli/rules")).await;
    assert_eq!(none, (200, json!({"organization_rules": null, "user_custom_prompt": null})));
    for text in ["second", "third"] {
        assert_eq!(app.post(&format!("{O}/rules"), &json!({"text": text})).await.0, 200);
    }
    let (_, first) = app.post(&format!("{O}/rules"), &json!({"text": "first", "position": 0})).await;
    app.post(&format!("{O}/my-rules"), &json!({"text": "mine"})).await;
    let (_, rules) = app.get(&format!("{O}/cli/rules")).await;
    assert_eq!(rules, json!({"organization_rules": "first\n\nsecond\n\nthird", "user_custom_prompt": "mine"}));
    let path = format!("/rules/{}", first["id"]);
    ask(&app, Method::PATCH, &path, TOKEN, json!({"enabled": false})).await;
    assert_eq!(app.get(&format!("{O}/cli/rules")).await.1["organization_rules"], "second\n\nthird");
    let (_, moved) =
        ask(&app, Method::PATCH, &path, TOKEN, json!({"enabled": true, "position": 9, "text": "last"})).await;
    assert_eq!((&moved["text"], &moved["position"]), (&json!("last"), &json!(9)));
    assert_eq!(app.get(&format!("{O}/cli/rules")).await.1["organization_rules"], "second\n\nthird\n\nlast");
    assert_eq!(ask(&app, Method::DELETE, &path, TOKEN, json!({})).await.0, 200);
    assert_eq!(ask(&app, Method::DELETE, &path, TOKEN, json!({})).await.0, 404);

    for (text, word) in [(json!(" "), "string_too_short"), (json!("x".repeat(10_001)), "string_too_long")] {
        let (status, body) = app.post(&format!("{O}/rules"), &json!({"text": text})).await;
        assert_eq!((status, failures(&body)), (422, vec![failure("body.text", word)]));
    }
    for _ in 0..2 {
        assert_eq!(app.post(&format!("{O}/rules"), &json!({"text": "ü".repeat(10_000)})).await.0, 200);
    }
    let much = json!({"text": "x".repeat(10_000), "enabled": false});
    let (_, off) = app.post(&format!("{O}/rules"), &much).await;
    let (status, refused) =
        ask(&app, Method::PATCH, &format!("/rules/{}", off["id"]), TOKEN, json!({"enabled": true})).await;
    assert_eq!(status, 409, "{refused}");
}

#[tokio::test]
async fn a_user_s_rules_are_that_user_s_alone_and_members_only_read_the_others() {
    let app = TestApp::new().await;
    let member = app.member(1, "member", Role::Member).await;
    let (_, shared) = app.post(&format!("{O}/rules"), &json!({"text": "shared"})).await;
    let (_, mine) = app.post(&format!("{O}/my-rules"), &json!({"text": "secret of the admin"})).await;
    assert_eq!(ask(&app, Method::GET, "/rules", &member, json!(null)).await.1["total"], 1);
    assert_eq!(ask(&app, Method::POST, "/rules", &member, json!({"text": "x"})).await.0, 403);
    let path = format!("/rules/{}", shared["id"]);
    assert_eq!(ask(&app, Method::PATCH, &path, &member, json!({"text": "x"})).await.0, 403);
    assert_eq!(ask(&app, Method::DELETE, &path, &member, json!({})).await.0, 403);
    assert_eq!(ask(&app, Method::GET, "/my-rules", &member, json!(null)).await.1["total"], 0);
    for path in [format!("/my-rules/{}", mine["id"]), format!("/my-rules/{}", shared["id"])] {
        assert_eq!(ask(&app, Method::PATCH, &path, &member, json!({"text": "x"})).await.0, 404, "{path}");
        assert_eq!(ask(&app, Method::DELETE, &path, &member, json!({})).await.0, 404, "{path}");
    }
    let as_shared = ask(&app, Method::PATCH, &format!("/rules/{}", mine["id"]), TOKEN, json!({"text": "x"})).await;
    assert_eq!(as_shared.0, 404, "not by the way of another list");
    assert_eq!(ask(&app, Method::POST, "/my-rules", &member, json!({"text": "own"})).await.0, 200);
    assert_eq!(app.get(&format!("{O}/repos/77/rules")).await.0, 404);
    let (_, log) = app.get(&format!("{O}/audit-log")).await;
    assert!(log.to_string().contains("shared") && !log.to_string().contains("secret of the admin"), "{log}");
}

#[tokio::test]
async fn a_run_follows_the_user_s_rules_before_the_repository_s_before_the_organization_s() {
    let model = FakeModel::start(vec![Answer::Call("finish", json!({"summary": "done", "success": true}))]).await;
    let scene = Scene::with(|config| model.configure(config)).await;
    commit_file(&scene.work(), "AGENTS.md", "words of the file\n");
    git(&scene.work(), &["push", "-q", "origin", "main"]);
    let repo = scene.repo(&scene.origin()).await;
    let (org, user) = scene.app.store.first_org_and_admin().await.unwrap();
    for (owner, text) in [
        (RuleOwner::Org, "words of the organization"),
        (RuleOwner::Repo(repo.id), "words of the repository"),
        (RuleOwner::User(user.id), "words of the user"),
        (RuleOwner::User(user.id), "words that are off"),
    ] {
        let enabled = Some(!text.ends_with("off"));
        let new = RuleChange { text: Some(text.to_owned()), enabled, ..RuleChange::default() };
        scene.app.store.create_rule(org.id, owner, new, 1).await.unwrap();
    }
    let new = NewRun {
        user_id: user.id,
        repo_id: Some(repo.id),
        prompt: "Go.".to_owned(),
        model: Some("anthropic/claude-sonnet-4-5".to_owned()),
        source_type: "API".to_owned(),
        ..NewRun::default()
    };
    let run = scene.app.store.create_run(org.id, new, scene.app.now()).await.unwrap();
    let run = scene.work_on(&run).await;
    assert_eq!(run.result.as_deref(), Some("done"));
    let system = model.question(0)["system"].to_string();
    let places: Vec<_> =
        ["words of the user", "words of the repository", "words of the file", "words of the organization"]
            .iter()
            .map(|words| system.find(words))
            .collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}: {system}");
    assert!(!system.contains("words that are off"));
    let told = scene.entries(&run, "notice").await;
    let told = serde_json::to_string(&told).unwrap();
    assert!(told.contains("the user's own (3), the repository's (2), the organization's (1)"), "{told}");
    assert!(told.contains("AGENTS.md") && !told.contains("words of"), "{told}");
}
