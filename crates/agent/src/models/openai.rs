//! Chat completions, streamed: OpenAI and the many that speak its API (Ollama, vLLM, OpenRouter, xAI, Gemini).

use async_trait::async_trait;
use reqwest::{Client, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{
    Model, ModelError, Request,
    http::{Provider, retry, secret_header},
    prices::Price,
};
use crate::{
    Delta, Reply, ToolCall, Usage,
    history::{Turn, arguments, turns},
};

/// Key of what this API wants back in [`Reply::opaque`]: one entry a call (Gemini's thought signatures), null where none.
const OPAQUE: &str = "openai_extra_content";

pub(crate) struct OpenAi {
    pub(crate) name: String,
    pub(crate) provider: Provider,
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) key: Option<SecretString>,
    pub(crate) price: Price,
}

#[async_trait]
impl Model for OpenAi {
    fn name(&self) -> &str {
        &self.name
    }

    async fn reply(&self, request: Request<'_>, on_delta: &mut (dyn FnMut(Delta) + Send)) -> Result<Reply, ModelError> {
        let mut http = self.client.post(&self.url);
        if let Some(key) = &self.key {
            http = http.header("authorization", secret_header("Bearer ", key)?);
        }
        let mut events = self.provider.stream(http.json(&body(&self.provider.model, &request))).await?;
        let mut answer = Answer::default();
        while let Some(event) = events.next().await? {
            if event.data.trim() == "[DONE]" {
                // The end of nothing is no answer.
                let is_empty = answer.finish_reason.is_none() && answer.text.is_empty() && answer.calls.is_empty();
                return if is_empty { Err(self.provider.broke_off()) } else { self.whole(answer) };
            }
            let Ok(data) = serde_json::from_str::<Value>(&event.data) else {
                return Err(retry(format!("{} sent an event that is not JSON", self.provider.name)));
            };
            if data.get("error").is_some_and(|error| !error.is_null()) {
                return Err(self.failure(&data));
            }
            answer.add(&data, on_delta);
        }
        // Not every server says [DONE].
        if answer.finish_reason.is_some() { self.whole(answer) } else { Err(self.provider.broke_off()) }
    }
}

impl OpenAi {
    /// An error in the middle of a stream, whose status was 200.
    fn failure(&self, data: &Value) -> ModelError {
        let code = data["error"]["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        let status = code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::BAD_GATEWAY);
        self.provider.refusal(status, None, &data.to_string())
    }

    fn whole(&self, answer: Answer) -> Result<Reply, ModelError> {
        let finish = answer.finish_reason.as_deref();
        if finish == Some("content_filter") && answer.calls.is_empty() {
            return Err(ModelError::Fatal(format!(
                "{} declines to go on with this conversation; reword the task or choose another model",
                self.name
            )));
        }
        if finish == Some("error") {
            return Err(self.provider.broke_off());
        }
        let cost = answer.cost.unwrap_or_else(|| self.price.cost(answer.usage));
        let cut_off = finish == Some("length");
        let mut reply = Reply { cut_off, text: answer.text, usage: answer.usage, cost, ..Reply::default() };
        let extra: Vec<Value> = answer.calls.iter().map(|call| call.extra.clone()).collect();
        if extra.iter().any(|extra| !extra.is_null()) {
            reply.opaque = Some(json!({ OPAQUE: extra }));
        }
        reply.calls = answer
            .calls
            .into_iter()
            .map(|call| ToolCall {
                input: super::parse_arguments(&call.arguments, &Value::Null),
                id: call.id,
                name: call.name,
            })
            .collect();
        Ok(reply)
    }
}

#[derive(Debug, Default)]
struct PartialCall {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    extra: Value,
}

#[derive(Debug, Default)]
struct Answer {
    text: String,
    calls: Vec<PartialCall>,
    usage: Usage,
    /// As the provider says, where it does (OpenRouter).
    cost: Option<f64>,
    finish_reason: Option<String>,
}

impl Answer {
    fn add(&mut self, data: &Value, on_delta: &mut (dyn FnMut(Delta) + Send)) {
        if let Some(usage) = data.get("usage").filter(|usage| usage.is_object()) {
            self.count(usage);
        }
        let choice = &data["choices"][0];
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish_reason = Some(reason.to_owned());
        }
        let delta = &choice["delta"];
        if let Some(text) = delta["content"].as_str().filter(|text| !text.is_empty()) {
            self.text.push_str(text);
            on_delta(Delta::Text { text: text.to_owned() });
        }
        for piece in delta["tool_calls"].as_array().into_iter().flatten() {
            let call = self.call(piece);
            if let Some(id) = piece["id"].as_str().filter(|id| !id.is_empty()) {
                id.clone_into(&mut call.id);
            }
            // Some servers repeat the name in each piece, none sends it in parts.
            if let Some(name) = piece["function"]["name"].as_str().filter(|name| !name.is_empty()) {
                name.clone_into(&mut call.name);
            }
            match &piece["function"]["arguments"] {
                Value::String(more) => call.arguments.push_str(more),
                Value::Object(whole) => call.arguments = Value::Object(whole.clone()).to_string(),
                _ => {}
            }
            if let Some(extra) = piece.get("extra_content").filter(|extra| !extra.is_null()) {
                call.extra = extra.clone();
            }
        }
    }

    /// The call that a piece belongs to: by index, else by a new id, else the last one.
    fn call(&mut self, piece: &Value) -> &mut PartialCall {
        let index = piece["index"].as_u64();
        let id = piece["id"].as_str().filter(|id| !id.is_empty());
        let found = self.calls.iter().rposition(|call| match (index, id) {
            // Gemini has sent several whole calls under one index.
            (Some(_), Some(id)) => call.index == index && (call.id.is_empty() || call.id == id),
            (Some(_), None) => call.index == index,
            (None, Some(id)) => call.id == id,
            (None, None) => piece["function"]["name"].as_str().is_none_or(str::is_empty),
        });
        let at = found.unwrap_or_else(|| {
            self.calls.push(PartialCall { index, ..PartialCall::default() });
            self.calls.len() - 1
        });
        &mut self.calls[at]
    }

    fn count(&mut self, usage: &Value) {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let prompt = number(&usage["prompt_tokens"]);
        let cached = number(&usage["prompt_tokens_details"]["cached_tokens"]).min(prompt);
        // xAI and Gemini leave thinking out of the completion but not out of the total.
        let output = number(&usage["completion_tokens"]).max(number(&usage["total_tokens"]).saturating_sub(prompt));
        self.usage = Usage { input: prompt - cached, output, cache_read: cached, cache_write: 0 };
        self.cost = usage["cost"].as_f64().filter(|cost| *cost > 0.0);
    }
}

fn body(model: &str, request: &Request<'_>) -> Value {
    let tools: Vec<Value> = request
        .tools
        .iter()
        .map(|tool| {
            json!({"type": "function", "function": {
                "name": tool.name, "description": tool.description, "parameters": tool.parameters,
            }})
        })
        .collect();
    let mut body = json!({
        "model": model,
        "stream": true,
        "stream_options": {"include_usage": true},
        "messages": messages(request),
    });
    // An empty list is refused.
    if !tools.is_empty() {
        body["tools"] = tools.into();
    }
    body
}

fn messages(request: &Request<'_>) -> Vec<Value> {
    let mut messages = vec![json!({"role": "system", "content": request.system})];
    for turn in turns(request.history) {
        match turn {
            Turn::User { text, images: [] } => messages.push(json!({"role": "user", "content": text})),
            Turn::User { text, images } => {
                let mut parts = vec![json!({"type": "text", "text": text})];
                parts.extend(images.iter().map(|image| json!({"type": "image_url", "image_url": {"url": image}})));
                messages.push(json!({"role": "user", "content": parts}));
            }
            Turn::Assistant(reply) => messages.push(assistant(reply)),
            Turn::Results(results) => messages.extend(results.iter().map(|result| {
                let content =
                    if result.is_error { format!("error: {}", result.output) } else { result.output.to_owned() };
                json!({"role": "tool", "tool_call_id": result.call_id, "content": content})
            })),
        }
    }
    messages
}

fn assistant(reply: &Reply) -> Value {
    let mut message = json!({"role": "assistant", "content": reply.text});
    if !reply.calls.is_empty() {
        let extra = reply.opaque.as_ref().map(|o| &o[OPAQUE]);
        let calls = reply.calls.iter().enumerate().map(|(n, call)| {
            let mut value = json!({"id": call.id, "type": "function", "function": {
                "name": call.name, "arguments": arguments(&call.input).to_string(),
            }});
            if let Some(extra) = extra.and_then(|all| all.get(n)).filter(|extra| !extra.is_null()) {
                value["extra_content"] = extra.clone();
            }
            value
        });
        message["tool_calls"] = calls.collect();
    }
    message
}
