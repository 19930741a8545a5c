//! A model provider on a real socket, in Anthropic's and OpenAI's words, that answers when it is told to.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::post,
};
use codegen_server::Config;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot},
};

/// One answer.
pub enum Answer {
    /// A tool call.
    Call(&'static str, Value),
    /// The same, once the sender sends.
    CallWhen(oneshot::Receiver<()>, &'static str, Value),
    /// Half a stream and then nothing.
    Hangs,
    /// Come back in a minute.
    Busy,
}

#[derive(Clone)]
pub struct FakeModel {
    pub url: String,
    /// Bodies of the questions.
    pub asked: Arc<Mutex<Vec<Value>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    came: Arc<Notify>,
}

impl FakeModel {
    pub async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let model = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            asked: Arc::default(),
            answers: Arc::new(Mutex::new(answers.into())),
            came: Arc::default(),
        };
        let router = Router::new().fallback(post(answer)).with_state(model.clone());
        tokio::spawn(axum::serve(listener, router.layer(axum::extract::DefaultBodyLimit::disable())).into_future());
        model
    }

    pub fn configure(&self, config: &mut Config) {
        config.models.anthropic_base_url = Some(self.url.clone());
        config.models.openai_base_url = Some(self.url.clone());
        config.models.anthropic = Some("sk-test".into());
        config.models.openai = Some("sk-test".into());
    }

    /// Returns once that many questions have come.
    pub async fn asked(&self, questions: usize) {
        while self.asked.lock().unwrap().len() < questions {
            self.came.notified().await;
        }
    }

    pub fn question(&self, n: usize) -> Value {
        self.asked.lock().unwrap()[n].clone()
    }
}

async fn answer(State(model): State<FakeModel>, uri: Uri, Json(question): Json<Value>) -> Response {
    model.asked.lock().unwrap().push(question);
    model.came.notify_one();
    let answer = model.answers.lock().unwrap().pop_front().expect("an answer for each question");
    let anthropic = uri.path().ends_with("/messages");
    let said =
        |name: &str, input: &Value| if anthropic { anthropic_call(name, input) } else { openai_call(name, input) };
    let stream = [("content-type", "text/event-stream")];
    match answer {
        Answer::Call(name, input) => (stream, said(name, &input)).into_response(),
        Answer::CallWhen(told, name, input) => {
            told.await.ok();
            (stream, said(name, &input)).into_response()
        }
        Answer::Hangs => {
            let whole = said("shell", &json!({"command": "true"}));
            let half = whole[..whole.len() / 2].to_owned();
            let pieces = futures::stream::once(async move { Ok::<_, std::io::Error>(half) });
            (stream, Body::from_stream(futures::StreamExt::chain(pieces, futures::stream::pending()))).into_response()
        }
        Answer::Busy => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "60")], "busy").into_response(),
    }
}

fn anthropic_call(name: &str, input: &Value) -> String {
    let id = format!("toolu_{:x}", rand::random::<u64>());
    let events = [
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "I go on. "}}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": id, "name": name, "input": {}}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": input.to_string()}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}}),
        json!({"type": "message_stop"}),
    ];
    events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap())).collect()
}

fn openai_call(name: &str, input: &Value) -> String {
    let id = format!("call_{:x}", rand::random::<u64>());
    let call = json!({"index": 0, "id": id, "function": {"name": name, "arguments": input.to_string()}});
    let events = [
        json!({"choices": [{"delta": {"content": "I go on. "}}]}),
        json!({"choices": [{"delta": {"tool_calls": [call]}}]}),
        json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}),
    ];
    let all: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    format!("{all}data: [DONE]\n\n")
}
