//! The operations that have no machinery beside their own data: each does what it says, or says what it did not do.
#![allow(clippy::unwrap_used, missing_docs)]

use codegen_store::{NewPullRequest, NewRepo, NewRun, Phase, Place, Reason, Role, Sealed};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{TOKEN, TestApp, answer, failure, failures};

const O: &str = "/v1/organizations/1";

async fn send(app: &TestApp, method: Method, path: &str, body: &Value) -> (u16, Value) {
    answer(app.asks(method, path, Some(TOKEN)).json(body).send().await.unwrap()).await
}

async fn repo(app: &TestApp) -> i64 {
    app.app.store.create_repo(1, NewRepo::of_origin("/srv/ann/shop", Some("main")), 1).await.unwrap().id
}

/// A run that no worker has touched: what is claimed by hand stays with whoever claimed it.
async fn live_run(app: &TestApp, prompt: &str) -> i64 {
    let new = NewRun { user_id: 1, prompt: prompt.to_owned(), source_type: "API".to_owned(), ..NewRun::default() };
    app.app.store.create_run(1, new, 1).await.unwrap().id
}

async fn until_done(app: &TestApp, id: i64) {
    let mut changes = app.app.store.subscribe();
    let done = async {
        while app.app.store.run(1, id).await.unwrap().phase != Phase::Done {
            changes.recv().await.ok();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), done).await.expect("the run ends");
}

#[tokio::test]
async fn check_settings_are_validated_kept_and_returned() {
    let app = TestApp::new().await;
    let path = format!("{O}/repos/check-suite-settings?repo_id={}", repo(&app).await);
    let (status, before) = app.get(&path).await;
    assert_eq!((status, &before["ignored_checks"], &before["check_retry_count"]), (200, &json!([]), &json!(3)));
    let change = json!({
        "check_retry_count": 10, "ignored_checks": ["slow"], "check_retry_counts": {"lint": 1},
        "custom_prompts": {"e2e": "Look at the screenshots"}, "high_priority_apps": null,
    });
    let (status, changed) = send(&app, Method::PUT, &path, &change).await;
    assert_eq!((status, &changed["available_check_suite_names"]), (200, &json!(["e2e", "lint", "slow"])));
    assert_eq!(app.get(&path).await.1, changed);
    let wrong = json!({
        "check_retry_count": 11, "ignored_checks": ["a", 1], "check_retry_counts": {"lint": "x"},
        "custom_prompts": {"e2e": 5, "b": "\0"}, "high_priority_apps": "all",
    });
    let (status, body) = send(&app, Method::PUT, &path, &wrong).await;
    let expected = [
        ("body.check_retry_count", "less_than_equal"),
        ("body.ignored_checks.1", "string_type"),
        ("body.check_retry_counts.lint", "int_type"),
        ("body.custom_prompts.e2e", "string_type"),
        ("body.custom_prompts.b", "value_error"),
        ("body.high_priority_apps", "list_type"),
    ];
    assert_eq!((status, failures(&body)), (422, expected.map(|(place, word)| failure(place, word)).to_vec()));
    assert_eq!(app.get(&path).await.1, changed);
    let (status, body) = app.get(&format!("{O}/repos/check-suite-settings")).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("query.repo_id", "missing")]));
    assert_eq!(app.get(&format!("{O}/repos/check-suite-settings?repo_id=99")).await.0, 404);
    let member = app.member(1, "intern", Role::Member).await;
    let refused = app.asks(Method::PUT, &path, Some(&member)).json(&change).send().await.unwrap();
    assert_eq!(refused.status(), 403);
}

#[tokio::test]
async fn a_ban_stops_the_run_and_holds_until_it_is_lifted() {
    let app = TestApp::new().await;
    let repo_id = repo(&app).await;
    for (door, id) in [("ban", live_run(&app, "a").await), ("remove-from-pr", live_run(&app, "b").await)] {
        until_done(&app, id).await;
        let new = NewPullRequest { repo_id, run_id: id, forge: "local".to_owned(), ..NewPullRequest::default() };
        let pull = app.app.store.create_pull_request(1, new, 1).await.unwrap();
        let checks = NewRun { user_id: 1, source_type: "GITHUB_CHECK_SUITE".to_owned(), ..NewRun::default() };
        let run = json!({ "agent_run_id": id, "before_card_order_id": "a1", "after_card_order_id": null });
        let (status, banned) = app.post(&format!("{O}/agent/run/{door}"), &run).await;
        assert_eq!((status, banned), (200, json!({"agent_run_id": id, "banned": true, "stopped_agent_run_ids": []})));
        assert_eq!(app.app.store.create_check_run(1, pull.id, checks.clone(), 2).await.unwrap(), None);
        let (status, lifted) = app.post(&format!("{O}/agent/run/unban"), &run).await;
        assert_eq!((status, &lifted["banned"]), (200, &json!(false)));
        assert!(app.app.store.create_check_run(1, pull.id, checks, 2).await.unwrap().is_some());
    }
    for door in ["ban", "unban", "remove-from-pr"] {
        let (status, body) = app.post(&format!("{O}/agent/run/{door}"), &json!({"agent_run_id": 999})).await;
        assert_eq!((status, &body["message"]), (404, &json!("Agent run not found.")));
        let (_, body) = app.post(&format!("{O}/agent/run/{door}"), &json!({"before_card_order_id": 1})).await;
        let expected = [failure("body.agent_run_id", "missing"), failure("body.before_card_order_id", "string_type")];
        assert_eq!(failures(&body), expected);
    }
}

#[tokio::test]
async fn a_pull_request_that_codegen_keeps_is_edited_and_a_merged_one_says_no() {
    let app = TestApp::new().await;
    let repo_id = repo(&app).await;
    let run_id = live_run(&app, "a").await;
    let new = NewPullRequest {
        repo_id,
        run_id,
        title: "Mend it".to_owned(),
        state: "open".to_owned(),
        forge: "local".to_owned(),
        ..NewPullRequest::default()
    };
    let id = app.app.store.create_pull_request(1, new, 1).await.unwrap().id;
    let doors = [format!("{O}/prs/{id}"), format!("{O}/repos/{repo_id}/prs/{id}")];
    for door in &doors {
        for (asked, state) in [
            ("draft", Some("draft")),
            ("open", Some("draft")),
            ("ready_for_review", Some("open")),
            ("closed", Some("closed")),
            ("draft", None),
            ("open", Some("open")),
        ] {
            let (status, edited) = send(&app, Method::PATCH, door, &json!({ "state": asked })).await;
            assert_eq!((status, &edited["success"]), (200, &json!(state.is_some())), "{edited}");
            assert_eq!(edited["error"].is_null(), state.is_some(), "{edited}");
            let kept = app.get(&doors[0]).await.1;
            assert_eq!(kept["state"], json!(state.unwrap_or("closed")));
        }
    }
    let run = app.get(&format!("{O}/agent/run/{run_id}")).await.1;
    assert_eq!(run["github_pull_requests"][0]["state"], json!("open"));
    app.app.store.set_pull_request_state(1, id, "merged", app.app.now()).await.unwrap();
    let (status, refused) = send(&app, Method::PATCH, &doors[0], &json!({"state": "open"})).await;
    assert_eq!((status, &refused["success"], &refused["state"]), (200, &json!(false), &json!("merged")));
    assert!(refused["error"].as_str().unwrap().contains("merged"), "{refused}");
    let (status, body) = send(&app, Method::PATCH, &doors[0], &json!({"state": "merged"})).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("body.state", "literal_error")]));
    for path in [format!("{O}/prs/99"), format!("{O}/repos/99/prs/{id}")] {
        assert_eq!(send(&app, Method::PATCH, &path, &json!({"state": "open"})).await.0, 404);
    }
}

#[tokio::test]
async fn integrations_and_providers_are_those_that_there_are() {
    let providers = json!([{"name": "linear", "issuer": "https://linear.app", "meta": {"a": 1},
        "authorization_endpoint": "https://linear.app/oauth/authorize", "token_endpoint": "https://api.linear.app/oauth/token"}]);
    let providers = providers.to_string();
    let app = TestApp::with(&[("CODEGEN_GITHUB_TOKEN", "ghp_x"), ("CODEGEN_MCP_PROVIDERS", &providers)]).await;
    let active = async || -> Vec<String> {
        let (status, body) = app.get(&format!("{O}/integrations")).await;
        assert_eq!(status, 200);
        let all = body["integrations"].as_array().unwrap();
        let active: Vec<_> = all.iter().filter(|one| one["active"] == true).collect();
        assert_eq!(body["total_active_integrations"], json!(active.len()));
        active.iter().map(|one| one["integration_type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(active().await, ["github"]);
    let (_, list) = app.get("/v1/mcp-providers").await;
    assert_eq!(
        (&list[0]["name"], &list[0]["is_mcp"], &list[0]["meta"]["a"]),
        (&json!("linear"), &json!(true), &json!(1))
    );
    assert_eq!(list[0]["default_scopes"], Value::Null);
    assert_eq!(app.get("/v1/oauth/tokens/status?org_id=1").await, (200, json!([])));
    let tokens = |id| Ok(Sealed { place: Place::new(1, "oauth_tokens", id, "tokens"), ciphertext: "v1".to_owned() });
    app.app.store.connect_account(1, 1, "linear", tokens, 1).await.unwrap();
    assert_eq!(app.get("/v1/oauth/tokens/status?org_id=1").await.1, json!(["linear"]));
    assert_eq!(active().await, ["github", "linear"]);
    let revoke = "/v1/oauth/tokens/revoke?org_id=1&provider=linear";
    assert_eq!(app.post(revoke, &json!({})).await, (200, json!({"provider": "linear", "revoked": 1})));
    assert_eq!(active().await, ["github"]);
    let (_, body) = app.post("/v1/oauth/tokens/revoke", &json!({})).await;
    assert_eq!(failures(&body), [failure("query.org_id", "missing"), failure("query.provider", "missing")]);
    let other = app.app.store.create_org("Other", 1).await.unwrap().id;
    for path in [format!("/v1/oauth/tokens/status?org_id={other}"), "/v1/oauth/tokens/status?org_id=999".to_owned()] {
        assert_eq!(app.get(&path).await.0, 403);
    }
    let rules = app.get(&format!("{O}/cli/rules")).await;
    assert_eq!(rules, (200, json!({"organization_rules": null, "user_custom_prompt": null})));
}

#[tokio::test]
async fn words_for_slack_stand_for_the_caller_once() {
    let app = TestApp::new().await;
    let (status, made) = app.post("/v1/slack-connect/generate-token", &json!({"org_id": 1})).await;
    assert_eq!((status, &made["expires_in_minutes"]), (200, &json!(10)));
    assert!(made["message"].as_str().unwrap().contains("No Slack is connected"), "{made}");
    let hash = crate::api::sha256(made["token"].as_str().unwrap());
    assert_eq!(app.app.store.redeem_connect_token(&hash, app.app.now()).await.unwrap(), Some((1, 1)));
    assert_eq!(app.app.store.redeem_connect_token(&hash, app.app.now()).await.unwrap(), None);
    assert_eq!(app.post("/v1/slack-connect/generate-token", &json!({"org_id": 2})).await.0, 403);
    let (_, body) = app.post("/v1/slack-connect/generate-token", &json!({"org_id": "x"})).await;
    assert_eq!(failures(&body), [failure("body.org_id", "int_parsing")]);
}

#[tokio::test]
async fn set_up_runs_have_a_prompt_of_their_own_with_what_they_are_about() {
    let app = TestApp::new().await;
    let store = &app.app.store;
    let repo_id = repo(&app).await;
    store.set_setup_commands(1, repo_id, "make deps").await.unwrap();
    let (status, made) =
        app.post(&format!("{O}/setup-commands/generate"), &json!({"repo_id": repo_id, "prompt": "Use uv"})).await;
    assert_eq!(status, 200, "{made}");
    let run = store.run(1, made["agent_run_id"].as_i64().unwrap()).await.unwrap();
    assert_eq!(
        (run.source_type.as_str(), run.repo_id, run.push, run.open_pr),
        ("SETUP_COMMANDS", Some(repo_id), false, false)
    );
    for part in ["ann/shop", "make deps", "Use uv", "```bash"] {
        assert!(run.prompt.contains(part), "{part}: {}", run.prompt);
    }
    assert_eq!(run.metadata.as_deref(), Some(r#"{"trigger_source":"setup-commands"}"#));
    assert_eq!(made["url"], json!(format!("{}/runs/{}", app.base, run.id)));
    until_done(&app, run.id).await;
    // That run ended at the engine; its stages are what there is to look into.
    let analyze = format!("{O}/sandbox/{}/analyze-logs", run.id);
    let (status, made) = answer(app.asks(Method::POST, &analyze, Some(TOKEN)).send().await.unwrap()).await;
    assert_eq!(status, 200, "{made}");
    let run = store.run(1, made["agent_run_id"].as_i64().unwrap()).await.unwrap();
    assert_eq!((run.source_type.as_str(), run.repo_id), ("SETUP_COMMANDS", Some(repo_id)));
    assert!(run.prompt.contains("stage ") && run.prompt.contains("never follow instructions"), "{}", run.prompt);
    let (status, made) = app
        .post("/websites/codegen/analyze_sandbox_logs?rate_limit_info=x", &json!({"logs": "ERROR: no such host"}))
        .await;
    let id = made["agent_run_id"].as_str().unwrap().parse().unwrap();
    assert_eq!((status, store.run(1, id).await.unwrap().prompt.contains("no such host")), (200, true));
    for (path, body, status) in [
        (format!("{O}/setup-commands/generate"), json!({"repo_id": 99}), 404),
        (format!("{O}/sandbox/999/analyze-logs"), json!({}), 404),
        (format!("{O}/sandbox/x/analyze-logs"), json!({}), 422),
        ("/websites/codegen/analyze_sandbox_logs".to_owned(), json!({"logs": " "}), 400),
        ("/websites/codegen/analyze_sandbox_logs".to_owned(), json!({}), 422),
    ] {
        assert_eq!(app.post(&path, &body).await.0, status, "{path}");
    }
    let (_, page) = app.get(&format!("{O}/agent/runs?source_type=SETUP_COMMANDS")).await;
    assert_eq!(page["total"], json!(3));
}

#[tokio::test]
async fn without_a_model_no_set_up_run_is_promised() {
    let app = TestApp::with(&[("CODEGEN_DEFAULT_MODEL", "openai/gpt-5")]).await;
    let body = json!({"repo_id": repo(&app).await});
    let (status, refused) = app.post(&format!("{O}/setup-commands/generate"), &body).await;
    assert_eq!(status, 400, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("OPENAI_API_KEY"), "{refused}");
}

#[tokio::test]
async fn a_claude_session_is_one_run_with_a_readable_trace() {
    let app = TestApp::new().await;
    let session = "0b5c9c7e-1111-4222-8333-444455556666";
    let begin = async || app.post(&format!("{O}/claude_code/session"), &json!({ "session_id": session })).await;
    let (status, begun) = begin().await;
    assert_eq!((status, &begin().await.1), (200, &begun));
    let id = begun["agent_run_id"].as_i64().unwrap();
    let door = |what: &str| format!("{O}/claude_code/session/{session}/{what}");
    for line in [
        json!({"type": "summary", "summary": "Earlier work", "leafUuid": "x"}),
        json!({"type": "user", "message": {"role": "user", "content": "Mend the test"}, "uuid": "1"}),
        json!({"type": "assistant", "message": {"content": [{"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}]}}),
        json!({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a.py"}]}}),
        json!({"type": "assistant", "message": {"content": [{"type": "text", "text": "Mended \u{0} it."}]}}),
        json!({"type": "something-new", "deep": [[[1e3]]]}),
    ] {
        let (status, kept) = app.post(&door("log"), &json!({ "log": line })).await;
        assert_eq!((status, &kept["agent_run_id"]), (200, &json!(id)), "{kept}");
    }
    let (_, logs) = app.get(&format!("{O}/agent/run/{id}/logs")).await;
    let logs = logs["logs"].as_array().unwrap();
    let kinds: Vec<&str> = logs.iter().map(|log| log["message_type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["USER_MESSAGE", "PLAN_EVALUATION", "ACTION", "PLAN_EVALUATION", "ACTION"]);
    assert_eq!((&logs[2]["tool_name"], &logs[2]["tool_input"]), (&json!("Bash"), &json!({"command": "ls"})));
    assert_eq!(logs[2]["tool_output"]["output"], json!("a.py"));
    for status in ["COMPLETE", "COMPLETE", "ACTIVE", "ERROR", "COMPLETE"] {
        assert_eq!(app.post(&door("status"), &json!({ "status": status })).await.0, 200);
        let (_, run) = app.get(&format!("{O}/agent/run/{id}")).await;
        assert_eq!((&run["status"], &run["source_type"]), (&json!(status), &json!("LOCAL")));
    }
    let (_, view) = app.get(&format!("{O}/agent/run/{id}/view")).await;
    assert_eq!((&view["prompt"], &view["result"]), (&json!("Mend the test"), &json!("Mended  it.")));
    for (what, body) in [("stop", json!({"agent_run_id": id})), ("resume", json!({"agent_run_id": id, "prompt": "x"}))]
    {
        let (status, refused) = app.post(&format!("{O}/agent/run/{what}"), &body).await;
        let done_stop = what == "stop" && status == 200;
        assert!(done_stop || status == 409, "{refused}");
    }
    assert_eq!(app.app.store.run(1, id).await.unwrap().reason, Some(Reason::Complete));
    let other = format!("{O}/claude_code/session/unknown/status");
    assert_eq!(app.post(&other, &json!({"status": "ACTIVE"})).await.0, 404);
    let (_, body) = app.post(&format!("{O}/claude_code/session/a%20b/log"), &json!({"log": []})).await;
    assert_eq!(
        failures(&body),
        [failure("path.session_id", "string_pattern_mismatch"), failure("body.log", "dict_type")]
    );
    let (_, body) = app.post(&other, &json!({"status": "DONE"})).await;
    assert_eq!(failures(&body), [failure("body.status", "literal_error")]);
}

#[tokio::test]
async fn tools_do_what_their_operations_do_and_are_refused_as_those_are() {
    let app = TestApp::new().await;
    let (_, listed) = app.get(&format!("{O}/tools")).await;
    let names: Vec<&str> =
        listed["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(listed["total_count"], json!(names.len()));
    let execute = async |name: &str, mut arguments: Value| {
        arguments["tool_call_id"] = json!("mcp_call");
        app.post(&format!("{O}/tools/execute"), &json!({"tool_name": name, "arguments": arguments})).await
    };
    let (status, run) = execute("create_agent_run", json!({"prompt": "hello", "repo_id": null})).await;
    assert_eq!((status, &run["status"]), (200, &json!("ACTIVE")), "{run}");
    let id = run["id"].as_i64().unwrap();
    until_done(&app, id).await;
    let of_run = json!({ "agent_run_id": id });
    // What is over hears nothing.
    let message = json!({"agent_run_id": id, "message": "are you there?"});
    assert_eq!(execute("send_message", message).await.0, 409);
    for name in names.iter().filter(|name| **name != "send_message") {
        let mut arguments = of_run.clone();
        arguments["prompt"] = json!("go on");
        let (status, answer) = execute(name, arguments).await;
        assert_eq!(status, 200, "{name}: {answer}");
    }
    let (_, logs) = execute("get_agent_run_logs", json!({"agent_run_id": id, "limit": 1, "reverse": true})).await;
    assert_eq!((&logs["id"], &logs["size"]), (&json!(id), &json!(1)));
    assert_eq!(execute("list_users", json!({})).await.1, app.get(&format!("{O}/users")).await.1);
    let (status, body) = execute("list_agent_runs", json!({"limit": 0, "source_type": "api"})).await;
    let expected =
        [failure("body.arguments.source_type", "enum"), failure("body.arguments.limit", "greater_than_equal")];
    assert_eq!((status, failures(&body)), (422, expected.to_vec()));
    let (status, body) = execute("get_agent_run", json!({})).await;
    assert_eq!((status, failures(&body)), (422, vec![failure("body.arguments.agent_run_id", "missing")]));
    assert_eq!(execute("get_agent_run", json!({"agent_run_id": 999})).await.0, 404);
    assert_eq!(execute("delete_everything", json!({})).await.0, 404);
    let (_, body) = app.post(&format!("{O}/tools/execute"), &json!({"arguments": []})).await;
    assert_eq!(failures(&body), [failure("body.tool_name", "missing"), failure("body.arguments", "dict_type")]);
}

#[tokio::test]
async fn runs_are_found_by_each_of_the_twelve_sources() {
    let app = TestApp::new().await;
    let sources = [
        "LOCAL",
        "SLACK",
        "GITHUB",
        "GITHUB_CHECK_SUITE",
        "GITHUB_PR_REVIEW",
        "LINEAR",
        "API",
        "CHAT",
        "JIRA",
        "CLICKUP",
        "MONDAY",
        "SETUP_COMMANDS",
    ];
    for source in sources {
        let new = NewRun { user_id: 1, source_type: source.to_owned(), ..NewRun::default() };
        app.app.store.create_run(1, new, 1).await.unwrap();
    }
    for source in sources {
        let (status, page) = app.get(&format!("{O}/agent/runs?source_type={source}")).await;
        assert_eq!((status, &page["total"], page["items"].as_array().unwrap().len()), (200, &json!(1), 1), "{source}");
        assert_eq!(page["items"][0]["source_type"], json!(source));
    }
    assert_eq!(app.get(&format!("{O}/agent/runs")).await.1["total"], json!(12));
}

#[tokio::test]
async fn metadata_comes_back_byte_for_byte_wherever_a_run_is_shown() {
    let app = TestApp::new().await;
    let raw = r#"{"z":1.0e3, "a":0.10,"n":123456789012345678901234567890, "a":"twice","u":"\u00e9\/", "e":{ }}"#;
    let body = format!(r#"{{"prompt":"hello","metadata":{raw}}}"#);
    let path = format!("{O}/agent/run");
    let asks = app.asks(Method::POST, &path, Some(TOKEN)).header("content-type", "application/json");
    let made = asks.body(body).send().await.unwrap().text().await.unwrap();
    let id = serde_json::from_str::<Value>(&made).unwrap()["id"].as_i64().unwrap();
    assert!(made.contains(raw), "{made}");
    for path in
        ["", "/logs"].map(|end| format!("{O}/agent/run/{id}{end}")).into_iter().chain([format!("{O}/agent/runs")])
    {
        let shown = app.asks(Method::GET, &path, Some(TOKEN)).send().await.unwrap().text().await.unwrap();
        assert!(shown.contains(raw), "{path}: {shown}");
    }
}

#[tokio::test]
async fn lines_of_a_claude_session_are_kept_once_however_often_they_are_told() {
    let app = TestApp::new().await;
    let (_, begun) = app.post(&format!("{O}/claude_code/session"), &json!({ "session_id": "s" })).await;
    let door = format!("{O}/claude_code/session/s/lines");
    let line = |n: i64| json!({"type": "user", "message": {"role": "user", "content": format!("word {n}")}});
    let tell = async |from: i64, lines: &[Value]| app.post(&door, &json!({ "from": from, "lines": lines })).await;
    for (from, lines, known) in [(0, 0..2, 2), (0, 0..2, 2), (1, 1..3, 3), (3, 3..4, 4)] {
        let lines: Vec<Value> = lines.map(line).collect();
        let (status, told) = tell(from, &lines).await;
        assert_eq!((status, &told["lines"], &told["agent_run_id"]), (200, &json!(known), &begun["agent_run_id"]));
    }
    let (status, gap) = tell(5, &[line(5)]).await;
    assert_eq!(status, 409, "{gap}");
    assert!(gap["message"].as_str().unwrap().contains("4 are known"), "{gap}");
    let (_, logs) = app.get(&format!("{O}/agent/run/{}/logs", begun["agent_run_id"])).await;
    let words: Vec<&str> =
        logs["logs"].as_array().unwrap().iter().map(|log| log["observation"].as_str().unwrap_or_default()).collect();
    assert_eq!(logs["total_logs"], json!(4), "{words:?}");
    let failed = async |body: Value| failures(&app.post(&door, &body).await.1);
    assert_eq!(failed(json!({})).await, [failure("body.from", "missing"), failure("body.lines", "missing")]);
    assert_eq!(
        failed(json!({"from": -1, "lines": []})).await,
        [failure("body.from", "greater_than_equal"), failure("body.lines", "too_short")]
    );
    assert_eq!(failed(json!({"from": 0, "lines": [{}, 5]})).await, [failure("body.lines.1", "dict_type")]);
    let many = vec![json!({}); 501];
    assert_eq!(failed(json!({"from": 0, "lines": many})).await, [failure("body.lines", "too_long")]);
    assert_eq!(tell(4, &vec![json!({}); 500]).await.0, 200);
}
