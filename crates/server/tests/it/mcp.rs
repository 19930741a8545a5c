//! `/mcp` through HTTP: its tools are the API's operations, and its calls are let in, counted, recorded and ended as theirs.
#![allow(clippy::unwrap_used, missing_docs)]

use codegen_server::sse::EventParser;
use codegen_store::{NewRepo, NewToken, Role};
use futures::StreamExt as _;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::{
    api::{TOKEN, TestApp, answer, sha256},
    events::Watched,
};

impl TestApp {
    /// A message to `/mcp`, as a client sends it.
    pub fn tells(&self, token: &str, message: &Value) -> RequestBuilder {
        self.asks(Method::POST, "/mcp", Some(token))
            .header("accept", "application/json, text/event-stream")
            .json(message)
    }

    async fn told(&self, token: &str, method: &str, params: Value) -> Value {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let (status, body) = answer(self.tells(token, &message).send().await.unwrap()).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// What a tool answers: its text, and whether that is a refusal.
    pub async fn calls(&self, token: &str, tool: &str, arguments: Value) -> (String, bool) {
        let body = self.told(token, "tools/call", json!({"name": tool, "arguments": arguments})).await;
        let result = &body["result"];
        (
            result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned(),
            result["isError"] == json!(true),
        )
    }
}

/// Tells a wait as `id` of `session`.
fn wait(watched: &Watched, token: &str, session: &str, id: i64) -> RequestBuilder {
    let message = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {
        "name": "wait_for_agent_run", "_meta": {"progressToken": "t"},
        "arguments": {"agent_run_id": watched.run.id, "timeout_seconds": 600},
    }});
    watched.app.tells(token, &message).header("mcp-session-id", session)
}

/// The messages of a stream, as they come.
struct Messages(
    std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    EventParser,
    Vec<Value>,
);

impl Messages {
    fn of(response: Response) -> Self {
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self(Box::pin(response.bytes_stream()), EventParser::default(), Vec::new())
    }

    /// The next; none at the end.
    async fn next(&mut self) -> Option<Value> {
        while self.2.is_empty() {
            let next = tokio::time::timeout(std::time::Duration::from_secs(30), self.0.next()).await;
            let bytes = next.expect("something comes")?.unwrap();
            let parsed = self.1.push(&bytes);
            self.2.extend(parsed.into_iter().filter_map(|event| serde_json::from_str(&event.data).ok()));
        }
        Some(self.2.remove(0))
    }

    async fn until_answered(&mut self) -> Value {
        loop {
            let message = self.next().await.expect("an answer comes");
            if message["method"].is_null() {
                return message;
            }
        }
    }
}

#[tokio::test]
async fn the_tools_of_mcp_are_those_of_the_api() {
    let app = TestApp::new().await;
    let (_, listed) = app.get("/v1/organizations/1/tools").await;
    let of_mcp = app.told(TOKEN, "tools/list", json!({})).await;
    let shape = |tool: &Value, schema: &str| (tool["name"].clone(), tool["description"].clone(), tool[schema].clone());
    let ours: Vec<_> = listed["tools"].as_array().unwrap().iter().map(|tool| shape(tool, "parameters")).collect();
    let theirs: Vec<_> =
        of_mcp["result"]["tools"].as_array().unwrap().iter().map(|tool| shape(tool, "inputSchema")).collect();
    assert_eq!(ours, theirs);
    let (users, refused) = app.calls(TOKEN, "list_users", json!({})).await;
    let (_, of_api) = app.get("/v1/organizations/1/users").await;
    assert_eq!((serde_json::from_str::<Value>(&users).unwrap(), refused), (of_api, false));
    let (text, refused) = app.calls(TOKEN, "get_agent_run", json!({"agent_run_id": 99})).await;
    assert_eq!((text.as_str(), refused), ("Agent run not found.", true));
    let (text, refused) = app.calls(TOKEN, "create_agent_run", json!({"repo_id": "x"})).await;
    assert!(refused && text.contains("prompt: Field required") && text.contains("repo_id: "), "{text}");
}

#[tokio::test]
async fn a_message_without_a_good_token_is_refused_and_so_is_one_from_a_page_elsewhere() {
    let app = TestApp::new().await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    assert_eq!(app.asks(Method::POST, "/mcp", None).json(&list).send().await.unwrap().status(), 401);
    assert_eq!(app.tells("cgn_wrong", &list).send().await.unwrap().status(), 401);
    for (header, value, status) in [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("host", "evil.example", 403),
        ("origin", "http://127.0.0.1:1", 403),
        ("origin", app.base.as_str(), 200),
        ("origin", app.base.replace("127.0.0.1", "localhost").as_str(), 200),
        ("accept", "*/*", 200),
        ("accept", "text/html", 406),
        ("x-organization-id", "99", 403),
        ("x-organization-id", "one", 422),
        ("x-organization-id", "", 200),
        ("mcp-protocol-version", "1999-01-01", 400),
    ] {
        let request = app.asks(Method::POST, "/mcp", Some(TOKEN)).json(&list).header(header, value);
        let (said, body) = answer(request.send().await.unwrap()).await;
        assert_eq!(said, status, "{header}: {value}: {body}");
    }
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(app.asks(method, "/mcp", Some(TOKEN)).send().await.unwrap().status(), 405);
    }
    // A cookie stands for nobody here.
    let log_in = app.asks(Method::POST, "/v1/session", None).json(&json!({"token": TOKEN})).send().await.unwrap();
    let cookie = log_in.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let request = app.asks(Method::POST, "/mcp", None).json(&list).header("cookie", cookie).header("origin", &app.base);
    assert_eq!(request.send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_call_needs_the_scope_of_its_operation_counts_against_its_limit_and_is_recorded() {
    let app = TestApp::with(&[("CODEGEN_RATE_LIMITS", "on")]).await;
    let new = NewToken { user_id: 1, name: "reader".to_owned(), hash: sha256("cgn_reader"), ..NewToken::default() };
    app.app.store.create_token(NewToken { scopes: Some("runs:read".to_owned()), ..new }, 0).await.unwrap();
    assert!(!app.calls("cgn_reader", "list_agent_runs", json!({})).await.1);
    for (tool, arguments, scope) in [
        ("create_agent_run", json!({"prompt": "x"}), "runs:write"),
        ("list_repositories", json!({}), "repos:read"),
        ("list_users", json!({}), "org:read"),
    ] {
        let (text, refused) = app.calls("cgn_reader", tool, arguments).await;
        assert!(refused && text.contains(scope), "{tool}: {text}");
    }
    let repo = app.app.store.create_repo(1, NewRepo::of_origin("/srv/ann/shop", Some("main")), 1).await.unwrap();
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "create_agent_run", "arguments": {"prompt": "hello"}}});
    let request = app.tells(TOKEN, &call).header("x-repo-id", repo.id.to_string());
    let (_, body) = answer(request.header("x-organization-id", "1").send().await.unwrap()).await;
    let run: Value = serde_json::from_str(body["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    let id = run["id"].as_i64().unwrap();
    assert_eq!(app.app.store.run(1, id).await.unwrap().repo_id, Some(repo.id));
    let (_, log) = app.get("/v1/organizations/1/audit-log?action=run.created").await;
    assert_eq!((&log["items"][0]["target"], &log["items"][0]["user_id"]), (&json!(format!("run:{id}")), &json!(1)));
    for _ in 1..10 {
        assert!(!app.calls(TOKEN, "create_agent_run", json!({"prompt": "more"})).await.1);
    }
    let (text, refused) = app.calls(TOKEN, "create_agent_run", json!({"prompt": "too many"})).await;
    assert!(refused && text.contains("Rate limit exceeded"), "{text}");
}

#[tokio::test]
async fn someone_in_several_organizations_says_which() {
    let app = TestApp::new().await;
    let (_, made) = app.post("/v1/organizations", &json!({"name": "Second"})).await;
    let second = made["id"].as_i64().unwrap();
    let (text, refused) = app.calls(TOKEN, "list_users", json!({})).await;
    assert!(refused && text.contains("x-organization-id") && text.contains("Second"), "{text}");
    let (text, refused) = app.calls(TOKEN, "list_organizations", json!({})).await;
    assert!(!refused && text.contains("Second"), "{text}");
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_users"}});
    let request = app.tells(TOKEN, &message).header("x-organization-id", second.to_string());
    let (_, body) = answer(request.send().await.unwrap()).await;
    assert_eq!(body["result"]["isError"], json!(false), "{body}");
    let stranger = app.member(second, "stranger", Role::Member).await;
    let (text, refused) = app.calls(&stranger, "get_agent_run", json!({"agent_run_id": 1})).await;
    assert!(refused && text == "Agent run not found.", "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_tells_how_it_goes_and_ends_with_the_run() {
    let watched = Watched::new().await;
    let mut messages = Messages::of(wait(&watched, TOKEN, "s", 7).send().await.unwrap());
    let first = messages.next().await.unwrap();
    assert_eq!((&first["method"], &first["params"]["progressToken"]), (&json!("notifications/progress"), &json!("t")));
    assert_eq!(first["params"]["total"], json!(600.0), "{first}");
    watched.append("at work").await;
    watched.finish().await;
    let answered = messages.until_answered().await;
    assert_eq!(answered["id"], json!(7));
    let run: Value = serde_json::from_str(answered["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!((&run["status"], &run["result"]), (&json!("COMPLETE"), &json!("done")));
    assert!(messages.next().await.is_none(), "nothing follows");
    // One that has ended is waited for no longer than it takes to say so.
    let again = wait(&watched, TOKEN, "s", 8).send().await.unwrap();
    assert_eq!(Messages::of(again).until_answered().await["id"], json!(8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_when_its_client_cancels_it_and_no_other_does() {
    let watched = Watched::new().await;
    let mut mine = Messages::of(wait(&watched, TOKEN, "mine", 7).send().await.unwrap());
    let mut other = Messages::of(wait(&watched, TOKEN, "other", 7).send().await.unwrap());
    mine.next().await.unwrap();
    other.next().await.unwrap();
    let message = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}});
    let told = watched.app.tells(TOKEN, &message).header("mcp-session-id", "mine").send().await.unwrap();
    assert_eq!(told.status(), 202);
    assert_eq!(mine.until_answered().await["error"]["message"], json!("The call was cancelled."));
    watched.finish().await;
    assert!(other.until_answered().await["result"]["content"][0]["text"].as_str().unwrap().contains("COMPLETE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_with_the_right_to_look() {
    let watched = Watched::new().await;
    let member = watched.app.member(1, "leaver", Role::Member).await;
    let mut messages = Messages::of(wait(&watched, &member, "s", 1).send().await.unwrap());
    messages.next().await.unwrap();
    let (_, users) = watched.app.get("/v1/organizations/1/users").await;
    let users = users["items"].as_array().unwrap();
    let id = &users.iter().find(|user| user["github_username"] == "leaver").unwrap()["id"];
    let path = format!("/v1/organizations/1/users/{id}");
    let removed = watched.app.asks(Method::DELETE, &path, Some(TOKEN)).send().await.unwrap();
    assert!(removed.status().is_success());
    let answered = messages.until_answered().await;
    assert_eq!(answered["result"]["isError"], json!(true), "{answered}");
    assert!(!answered.to_string().contains("ACTIVE"), "{answered}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_with_its_connection() {
    let watched = Watched::new().await;
    let holders = || std::sync::Arc::strong_count(&watched.app.app);
    // The connection that goes with the wait counts too.
    watched.app.get("/v1/users/me").await;
    let before = holders();
    let mut messages = Messages::of(wait(&watched, TOKEN, "s", 1).send().await.unwrap());
    messages.next().await.unwrap();
    assert!(holders() > before);
    drop(messages);
    let over = async {
        while holders() > before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), over).await.expect("nothing waits any more");
}

#[tokio::test]
async fn rules_are_prompts_and_what_there_is_none_of_is_said() {
    let app = TestApp::new().await;
    let repo = app.app.store.create_repo(1, NewRepo::of_origin("/srv/ann/shop", Some("main")), 1).await.unwrap();
    for (path, text) in [
        ("/v1/organizations/1/rules".to_owned(), "Of all."),
        (format!("/v1/organizations/1/repos/{}/rules", repo.id), "Of one."),
        ("/v1/organizations/1/my-rules".to_owned(), "Of mine."),
    ] {
        assert_eq!(app.post(&path, &json!({"text": text})).await.0, 200);
        let off = json!({"text": format!("Not {text}"), "enabled": false});
        assert_eq!(app.post(&path, &off).await.0, 200);
    }
    for (name, repo_id, text) in [
        ("organization_rules", json!(null), "Of all."),
        // Arguments of prompts are texts.
        ("repository_rules", json!(repo.id.to_string()), "Of one."),
        ("my_rules", json!(null), "Of mine."),
    ] {
        let arguments = if repo_id.is_null() { json!({}) } else { json!({"repo_id": repo_id}) };
        let prompt = app.told(TOKEN, "prompts/get", json!({"name": name, "arguments": arguments})).await;
        assert_eq!(prompt["result"]["messages"][0]["content"]["text"], json!(text), "{prompt}");
    }
    for (method, params, words) in [
        ("prompts/get", json!({"name": "no_rules"}), "There is no prompt no_rules."),
        ("prompts/get", json!({"name": "repository_rules"}), "repo_id: Field required"),
        (
            "prompts/get",
            json!({"name": "repository_rules", "arguments": {"repo_id": "99"}}),
            "Repository 99 not found.",
        ),
        ("resources/read", json!({"uri": "codegen://runs/99/log"}), "Agent run not found."),
        ("resources/read", json!({"uri": "file:///etc/passwd"}), "There is nothing at file:///etc/passwd."),
        ("resources/list", json!({"cursor": "x"}), "This cursor is not of this server."),
        ("tools/call", json!({"name": "no_tool"}), "There is no tool no_tool."),
    ] {
        let refused = app.told(TOKEN, method, params).await;
        assert_eq!(refused["error"]["message"], json!(words), "{refused}");
    }
}
