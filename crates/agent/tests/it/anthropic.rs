//! Anthropic's Messages API.

use std::{sync::Arc, time::Duration};

use codegen_agent::{
    Entry, Outcome, Reply, ToolCall, Usage,
    models::{self, Keys, Model, ModelError},
};
use serde_json::{Value, json};

use crate::{
    fake::{HostSandbox, MemoryLog, message, run},
    serve::{Answer, Server, ask, ask_stalling, cut, whole},
};

fn connect(server: &Server) -> Arc<dyn Model> {
    let keys = Keys {
        anthropic: Some("sk-secret".into()),
        anthropic_base_url: Some(format!("{}/team/a", server.url)),
        ..Keys::default()
    };
    models::connect("claude-sonnet-4-5", &keys).unwrap()
}

fn stream(events: &[Value]) -> String {
    events.iter().map(|e| format!("event: {}\ndata: {e}\n\n", e["type"].as_str().unwrap())).collect()
}

fn answer() -> String {
    stream(&[
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 10, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 100, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "SIG"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "ping"}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Grüße, "}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Welt"}}),
        json!({"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "t1", "name": "shell", "input": {}}}),
        json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{\"comm"}}),
        json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "and\": \"ls\"}"}}),
        json!({"type": "content_block_start", "index": 3, "content_block": {"type": "tool_use", "id": "t2", "name": "shell", "input": {}}}),
        json!({"type": "content_block_delta", "index": 3, "delta": {"type": "input_json_delta", "partial_json": "{\"command\": "}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 20}}),
        json!({"type": "message_stop"}),
    ])
}

#[tokio::test]
async fn a_stream_in_pieces_becomes_text_calls_thinking_usage_and_cost() {
    let server = Server::start(vec![cut(&answer())]).await;
    let (reply, streamed) = ask(&*connect(&server), &[message("Go.")]).await;
    let reply = reply.unwrap();
    assert_eq!(streamed, "Grüße, Welt");
    assert_eq!(reply.text, streamed);
    assert_eq!(reply.usage, Usage { input: 10, output: 20, cache_read: 100, cache_write: 3 });
    assert!((reply.cost - (10.0 * 3.0 + 20.0 * 15.0 + 100.0 * 0.3 + 3.0 * 3.75) / 1e6).abs() < 1e-12);
    let call = |id: &str, input: Value| ToolCall { id: id.to_owned(), name: "shell".to_owned(), input };
    assert_eq!(reply.calls[0], call("t1", json!({"command": "ls"})));
    assert_eq!(reply.calls[1], call("t2", json!("{\"command\": ")), "malformed arguments are kept as text");
    let blocks = &reply.opaque.as_ref().unwrap()["anthropic"];
    assert_eq!(blocks[0], json!({"type": "thinking", "thinking": "hm", "signature": "SIG"}));
}

#[tokio::test]
async fn requests_carry_history_images_cache_marks_and_thinking_as_it_came() {
    let server = Server::start(vec![cut(&answer()), cut(&answer())]).await;
    let model = connect(&server);
    let picture = Entry::UserMessage { text: "See.".to_owned(), images: vec!["data:image/png;base64,AAAA".to_owned()] };
    let reply = ask(&*model, std::slice::from_ref(&picture)).await.0.unwrap();
    let finished = |id: &str, output: &str| Entry::CallFinished {
        call_id: id.to_owned(),
        name: "shell".to_owned(),
        input: json!({}),
        output: output.to_owned(),
        is_error: id == "t2",
        exit_code: None,
        duration_ms: 1,
        full_output: None,
    };
    let history = [
        picture,
        Entry::Reply(reply),
        Entry::Notice { text: "not for the model".to_owned(), to_model: false },
        finished("t1", "files"),
        message("And hurry."),
        finished("t2", "bad"),
    ];
    ask(&*model, &history).await.0.unwrap();
    let asked = server.asked.lock().unwrap();
    let (head, body) = &asked[1];
    assert!(head.starts_with("post /team/a/v1/messages ") && head.contains("x-api-key: sk-secret"), "{head}");
    let mark = json!({"type": "ephemeral"});
    assert_eq!(body["system"][0]["cache_control"], mark);
    assert_eq!(body["tools"][0]["cache_control"], mark);
    let messages = body["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert_eq!(
        messages[0]["content"][0]["source"],
        json!({"type": "base64", "media_type": "image/png", "data": "AAAA"})
    );
    assert_eq!(messages[0]["content"][1]["cache_control"], mark);
    assert_eq!(messages[1]["content"][0], json!({"type": "thinking", "thinking": "hm", "signature": "SIG"}));
    assert_eq!(messages[1]["content"][3]["input"], json!({"malformed": "{\"command\": "}));
    let last = messages[2]["content"].as_array().unwrap();
    assert_eq!(last[0]["tool_use_id"], "t1");
    assert_eq!((&last[1]["tool_use_id"], &last[1]["is_error"]), (&json!("t2"), &json!(true)));
    assert_eq!(last[2], json!({"type": "text", "text": "And hurry.", "cache_control": mark}));
    assert!(!body.to_string().contains("not for the model"));
}

#[tokio::test]
async fn a_plain_reply_is_sent_back_as_blocks() {
    let server = Server::start(vec![cut(&answer())]).await;
    let reply = Reply { text: "Done. ".to_owned(), ..Reply::default() };
    ask(&*connect(&server), &[message("Go."), Entry::Reply(reply), message("More.")]).await.0.unwrap();
    assert_eq!(server.asked.lock().unwrap()[0].1["messages"][1]["content"], json!([{"type": "text", "text": "Done."}]));
}

async fn refused(answer: Answer) -> ModelError {
    let server = Server::start(vec![answer]).await;
    ask(&*connect(&server), &[message("Go.")]).await.0.unwrap_err()
}

#[tokio::test]
async fn refusals_are_sorted_by_what_to_do_about_them() {
    let error =
        |kind: &str, words: &str| json!({"type": "error", "error": {"type": kind, "message": words}}).to_string();
    let busy = refused(whole(429, "retry-after: 7\r\n", &error("rate_limit_error", "slow down"))).await;
    assert!(
        matches!(&busy, ModelError::Retry { after: Some(after), .. } if *after == Duration::from_secs(7)),
        "{busy:?}"
    );
    let overloaded = refused(whole(529, "", &error("overloaded_error", "Overloaded"))).await;
    assert!(matches!(&overloaded, ModelError::Retry { after: None, .. }), "{overloaded:?}");
    let key = refused(whole(401, "", &error("authentication_error", "invalid x-api-key"))).await;
    assert!(
        matches!(&key, ModelError::Fatal(s) if s.contains("ANTHROPIC_API_KEY") && !s.contains("sk-secret")),
        "{key:?}"
    );
    let model = refused(whole(404, "", &error("not_found_error", "model: x"))).await;
    assert!(matches!(&model, ModelError::Fatal(s) if s.contains("no model \"claude-sonnet-4-5\"")), "{model:?}");
    let long =
        refused(whole(400, "", &error("invalid_request_error", "prompt is too long: 210000 tokens > 200000"))).await;
    assert!(matches!(long, ModelError::ContextFull), "{long:?}");
    let poor = refused(whole(400, "", &error("invalid_request_error", "Your credit balance is too low"))).await;
    assert!(matches!(&poor, ModelError::Fatal(s) if s.contains("credit")), "{poor:?}");
    let inside = refused(cut(&format!("event: error\ndata: {}\n\n", error("overloaded_error", "Overloaded")))).await;
    assert!(matches!(inside, ModelError::Retry { .. }), "{inside:?}");
    let moved = refused(whole(302, "location: http://127.0.0.1:9/\r\n", "")).await;
    assert!(matches!(moved, ModelError::Fatal(_)), "a redirect is not followed: {moved:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_stalls_is_asked_for_again() {
    let half = answer().split("event: message_delta").next().unwrap().to_owned();
    let broken = refused(cut(&half)).await;
    assert!(matches!(&broken, ModelError::Retry { message, .. } if message.contains("broke off")), "{broken:?}");
    let server = Server::start(vec![Answer { stalls: true, ..cut(&half) }]).await;
    let stalled = ask_stalling(&*connect(&server), &[message("Go.")]).await.unwrap_err();
    assert!(
        matches!(&stalled, ModelError::Retry { message, .. } if message.contains("nothing for 120 s")),
        "{stalled:?}"
    );
}

#[tokio::test]
async fn answers_and_refusals_without_end_are_cut_by_their_size() {
    let begin = json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}});
    let words = "word ".repeat(200_000);
    let delta =
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": words.as_str()}});
    let piece = stream(&[delta]).into_bytes();
    let pieces = std::iter::once(stream(&[begin]).into_bytes()).chain(std::iter::repeat_n(piece, 80)).collect();
    let endless = refused(Answer { pieces, stalls: true, ..cut("") }).await;
    assert!(matches!(&endless, ModelError::Fatal(s) if s.contains("over 64 MiB in one answer")), "{endless:?}");
    let pieces = vec![words.into_bytes(); 3];
    let chatty = refused(Answer { pieces, stalls: true, ..whole(503, "", "") }).await;
    assert!(
        matches!(&chatty, ModelError::Retry { message, .. } if message.contains("503") && message.len() < 400),
        "{chatty:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again() {
    let keys = Keys { anthropic_base_url: Some("http://127.0.0.1:1".to_owned()), ..Keys::default() };
    let model = models::connect("claude-sonnet-4-5", &keys).unwrap();
    let error = ask(&*model, &[message("Go.")]).await.0.unwrap_err();
    assert!(matches!(&error, ModelError::Retry { message, .. } if message.contains("cannot be reached")), "{error:?}");
}

#[tokio::test]
async fn a_run_comes_through_a_busy_server_and_ends_by_finish() {
    let finish = stream(&[
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 1, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "f", "name": "finish", "input": {}}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{\"summary\": \"done\", \"success\": true}"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}}),
        json!({"type": "message_stop"}),
    ]);
    let server = Server::start(vec![whole(429, "retry-after: 0\r\n", "{}"), cut(&answer()), cut(&finish)]).await;
    let mut log = MemoryLog::default();
    let outcome = run(connect(&server), HostSandbox::new(), &mut log).await.unwrap();
    assert_eq!(outcome, Outcome::Finished("done".to_owned()));
    assert!(log.notices()[0].contains("429"), "{:?}", log.notices());
    let (_, body) = &server.asked.lock().unwrap()[2];
    let told = body["messages"][2]["content"].to_string();
    assert!(told.contains("not valid JSON"), "the model hears of its malformed call: {told}");
    assert!(body["system"][0]["text"].as_str().unwrap().contains("data"), "the system prompt tells data from orders");
    assert_eq!(body["tools"].as_array().unwrap().len(), 7);
}
