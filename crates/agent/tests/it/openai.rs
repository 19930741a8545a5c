//! Chat completions.

use std::sync::Arc;

use codegen_agent::{
    Entry, ToolCall, Usage,
    models::{self, ConnectError, Keys, Model, ModelError},
};
use serde_json::{Value, json};

use crate::{
    fake::message,
    serve::{Answer, Server, ask, ask_stalling, cut, whole},
};

fn connect(server: &Server, name: &str) -> Arc<dyn Model> {
    let base = Some(format!("{}/v1beta/openai", server.url));
    let key = || Some("sk-secret".into());
    let keys = Keys {
        openai: key(),
        openai_base_url: base.clone(),
        gemini: key(),
        gemini_base_url: base.clone(),
        ollama_base_url: Some(server.url.clone()),
        ..Keys::default()
    };
    models::connect(name, &keys).unwrap()
}

fn stream(chunks: &[Value]) -> String {
    chunks.iter().map(|c| format!("data: {c}\n\n")).collect::<String>() + "data: [DONE]\n\n"
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn piece(index: u64, id: Option<&str>, name: Option<&str>, arguments: &str) -> Value {
    delta(json!({"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]}))
}

fn answer() -> String {
    stream(&[
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"content": "Grüße, "})),
        delta(json!({"content": "Welt"})),
        piece(0, Some("a"), Some("shell"), ""),
        piece(0, None, None, "{\"comm"),
        piece(0, None, None, "and\": \"ls\"}"),
        piece(1, Some("b"), Some("shell"), "{\"command\": "),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_tokens_details": {"cached_tokens": 90}}}),
    ])
}

fn call(id: &str, input: Value) -> ToolCall {
    ToolCall { id: id.to_owned(), name: "shell".to_owned(), input }
}

#[tokio::test]
async fn a_stream_in_pieces_becomes_text_calls_usage_and_cost() {
    let server = Server::start(vec![cut(&answer())]).await;
    let (reply, streamed) = ask(&*connect(&server, "gpt-5"), &[message("Go.")]).await;
    let reply = reply.unwrap();
    assert_eq!((streamed.as_str(), reply.text.as_str()), ("Grüße, Welt", "Grüße, Welt"));
    assert_eq!(reply.usage, Usage { input: 10, output: 20, cache_read: 90, cache_write: 0 });
    assert!((reply.cost - (10.0 * 1.25 + 20.0 * 10.0 + 90.0 * 0.125) / 1e6).abs() < 1e-12);
    assert_eq!(reply.calls, [call("a", json!({"command": "ls"})), call("b", json!("{\"command\": "))]);
}

#[tokio::test]
async fn requests_carry_history_images_and_the_key() {
    let server = Server::start(vec![cut(&answer()), cut(&answer())]).await;
    let model = connect(&server, "gpt-5");
    let picture = Entry::UserMessage { text: "See.".to_owned(), images: vec!["data:image/png;base64,AAAA".to_owned()] };
    let reply = ask(&*model, std::slice::from_ref(&picture)).await.0.unwrap();
    ask(&*model, &[picture, Entry::Reply(reply)]).await.0.unwrap();
    let asked = server.asked.lock().unwrap();
    let (head, body) = &asked[1];
    assert!(head.starts_with("post /v1beta/openai/chat/completions ") && head.contains("bearer sk-secret"), "{head}");
    assert_eq!(body["model"], "gpt-5");
    assert_eq!(body["stream_options"], json!({"include_usage": true}));
    let messages = body["messages"].as_array().unwrap();
    assert_eq!(messages[1]["content"][1]["image_url"]["url"], "data:image/png;base64,AAAA");
    assert_eq!(messages[2]["tool_calls"][0]["function"]["arguments"], "{\"command\":\"ls\"}");
    let malformed = messages[2]["tool_calls"][1]["function"]["arguments"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(malformed).is_ok(), "what goes back is always JSON: {malformed}");
    assert_eq!(messages[3]["tool_call_id"], "a");
    assert_eq!(messages[4]["tool_call_id"], "b");
}

#[tokio::test]
async fn an_answer_at_the_limit_is_marked_and_the_model_told_to_go_on() {
    let text =
        stream(&[delta(json!({"content": "half"})), json!({"choices": [{"delta": {}, "finish_reason": "length"}]})]);
    let server = Server::start(vec![cut(&text), cut(&text)]).await;
    let model = connect(&server, "gpt-5");
    let reply = ask(&*model, &[message("Go.")]).await.0.unwrap();
    assert!(reply.cut_off);
    ask(&*model, &[message("Go."), Entry::Reply(reply)]).await.0.unwrap();
    let told = server.asked.lock().unwrap()[1].1["messages"][3].to_string();
    assert!(told.contains("cut off") && told.contains("user"), "{told}");
}

#[tokio::test]
async fn gemini_gets_its_thought_signatures_back_and_may_repeat_an_index() {
    let whole = |id: &str, extra: Value| {
        delta(
            json!({"tool_calls": [{"index": 0, "id": id, "extra_content": extra, "function": {"name": "shell", "arguments": "{}"}}]}),
        )
    };
    let signature = json!({"google": {"thought_signature": "SIG"}});
    let text = stream(&[
        whole("a", signature.clone()),
        whole("b", Value::Null),
        json!({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 9}}),
    ]);
    let server = Server::start(vec![cut(&text), cut(&text)]).await;
    let model = connect(&server, "gemini-2.5-pro");
    let reply = ask(&*model, &[message("Go.")]).await.0.unwrap();
    assert_eq!(reply.calls, [call("a", json!({})), call("b", json!({}))]);
    assert_eq!(reply.usage.output, 4, "thinking is counted");
    ask(&*model, &[message("Go."), Entry::Reply(reply)]).await.0.unwrap();
    let asked = server.asked.lock().unwrap();
    let calls = &asked[1].1["messages"][2]["tool_calls"];
    assert_eq!(calls[0]["extra_content"], signature);
    assert!(calls[1].get("extra_content").is_none());
}

#[tokio::test]
async fn ollama_needs_no_key_and_may_end_without_done() {
    let text = stream(&[
        delta(json!({"tool_calls": [{"id": "", "function": {"name": "shell", "arguments": {"command": "ls"}}}]})),
        json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
    ]);
    let server = Server::start(vec![cut(text.trim_end().trim_end_matches("data: [DONE]").trim_end())]).await;
    let reply = ask(&*connect(&server, "ollama/qwen3"), &[message("Go.")]).await.0.unwrap();
    assert_eq!(reply.calls, [call("", json!({"command": "ls"}))]);
    assert_eq!(reply.cost, 0.0);
    assert!(server.asked.lock().unwrap()[0].0.starts_with("post /v1/chat/completions "));
}

async fn refused(answer: Answer) -> ModelError {
    let server = Server::start(vec![answer]).await;
    ask(&*connect(&server, "gpt-5"), &[message("Go.")]).await.0.unwrap_err()
}

#[tokio::test]
async fn refusals_are_sorted_by_what_to_do_about_them() {
    let page = refused(whole(200, "content-type: text/html; charset=utf-8\r\n", "<html>log in</html>")).await;
    assert!(matches!(&page, ModelError::Fatal(s) if s.contains("check its base URL")), "{page:?}");
    let error = |code: &str, words: &str| json!({"error": {"code": code, "message": words}}).to_string();
    let key = refused(whole(401, "", &error("invalid_api_key", "Incorrect API key"))).await;
    assert!(matches!(&key, ModelError::Fatal(s) if s.contains("OPENAI_API_KEY")), "{key:?}");
    let poor = refused(whole(429, "", &error("insufficient_quota", "You exceeded your current quota"))).await;
    assert!(matches!(poor, ModelError::Fatal(_)), "{poor:?}");
    let busy = refused(whole(429, "retry-after-ms: 1500\r\n", &error("rate_limit_exceeded", "slow"))).await;
    assert!(matches!(&busy, ModelError::Retry { after: Some(a), .. } if a.as_millis() == 1500), "{busy:?}");
    let long = refused(whole(400, "", &error("context_length_exceeded", "too many tokens"))).await;
    assert!(matches!(long, ModelError::ContextFull), "{long:?}");
    let down = refused(whole(502, "content-type: text/html\r\n", "<html>bad gateway</html>")).await;
    assert!(matches!(&down, ModelError::Retry { message, .. } if message.contains("bad gateway")), "{down:?}");
    let inside =
        refused(cut(&format!("data: {}\n\n", json!({"error": {"code": 502, "message": "provider down"}})))).await;
    assert!(matches!(inside, ModelError::Retry { .. }), "{inside:?}");
    let garbage = refused(cut("data: {\"choi\n\n")).await;
    assert!(matches!(garbage, ModelError::Retry { .. }), "{garbage:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_stalls_is_asked_for_again() {
    let nothing = refused(cut("data: null\n\ndata: [DONE]\n\n")).await;
    assert!(matches!(&nothing, ModelError::Retry { message, .. } if message.contains("broke off")), "{nothing:?}");
    let half = answer().split("data: {\"choices\":[{\"index\":0,\"delta\":{},").next().unwrap().to_owned();
    let broken = refused(cut(&half)).await;
    assert!(matches!(&broken, ModelError::Retry { message, .. } if message.contains("broke off")), "{broken:?}");
    let server = Server::start(vec![Answer { stalls: true, ..cut(&half) }]).await;
    let stalled = ask_stalling(&*connect(&server, "gpt-5"), &[message("Go.")]).await.unwrap_err();
    assert!(
        matches!(&stalled, ModelError::Retry { message, .. } if message.contains("nothing for 120 s")),
        "{stalled:?}"
    );
}

#[test]
fn names_keys_and_addresses_are_checked_when_connecting() {
    let error = |name: &str, keys: &Keys| models::connect(name, keys).err().unwrap();
    assert!(matches!(error("nonsense-1", &Keys::default()), ConnectError::Unknown(_)));
    assert!(matches!(
        error("grok-4", &Keys::default()),
        ConnectError::NoKey { provider: "xai", variable: "XAI_API_KEY" }
    ));
    assert!(matches!(error("scripted:/no/such/file", &Keys::default()), ConnectError::Script(_)));
    let bad = Keys { openai_base_url: Some("localhost:8000".to_owned()), ..Keys::default() };
    assert!(matches!(error("gpt-5", &bad), ConnectError::BaseUrl { provider, .. } if provider == "openai"));
    assert!(!format!("{:?}", Keys { openai: Some("sk-secret".into()), ..Keys::default() }).contains("sk-secret"));
}
