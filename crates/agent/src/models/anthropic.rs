//! Anthropic's Messages API, streamed, with prompt caching.

use async_trait::async_trait;
use reqwest::{Client, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{
    Model, ModelError, Request,
    http::{Provider, is_context_full, retry, said, secret_header},
    prices::Price,
};
use crate::{
    Delta, Reply, ToolCall, Usage,
    history::{Turn, arguments, turns},
};

/// Key of this API's blocks in [`Reply::opaque`].
const OPAQUE: &str = "anthropic";

pub(crate) struct Anthropic {
    pub(crate) name: String,
    pub(crate) provider: Provider,
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) key: Option<SecretString>,
    pub(crate) price: Price,
}

#[async_trait]
impl Model for Anthropic {
    fn name(&self) -> &str {
        &self.name
    }

    async fn reply(&self, request: Request<'_>, on_delta: &mut (dyn FnMut(Delta) + Send)) -> Result<Reply, ModelError> {
        let mut http = self.client.post(&self.url).header("anthropic-version", "2023-06-01");
        if let Some(key) = &self.key {
            http = http.header("x-api-key", secret_header("", key)?);
        }
        let mut events = self.provider.stream(http.json(&body(&self.provider.model, &request))).await?;
        let mut answer = Answer::default();
        while let Some(event) = events.next().await? {
            let Ok(data) = serde_json::from_str::<Value>(&event.data) else {
                return Err(retry("anthropic sent an event that is not JSON".to_owned()));
            };
            match data["type"].as_str() {
                Some("error") => return Err(self.failure(&data)),
                Some("message_stop") => return self.whole(answer),
                Some(kind) => answer.add(kind, &data, on_delta),
                None => {}
            }
        }
        Err(self.provider.broke_off())
    }
}

impl Anthropic {
    /// An error in the middle of a stream, whose status was 200.
    fn failure(&self, data: &Value) -> ModelError {
        let status = match data["error"]["type"].as_str() {
            Some("invalid_request_error") => StatusCode::BAD_REQUEST,
            Some("authentication_error") => StatusCode::UNAUTHORIZED,
            Some("permission_error") => StatusCode::FORBIDDEN,
            Some("not_found_error") => StatusCode::NOT_FOUND,
            Some("rate_limit_error") => StatusCode::TOO_MANY_REQUESTS,
            Some("overloaded_error") => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if is_context_full(&said(&data.to_string())) {
            return ModelError::ContextFull;
        }
        self.provider.refusal(status, None, &data.to_string())
    }

    fn whole(&self, answer: Answer) -> Result<Reply, ModelError> {
        match answer.stop_reason.as_deref() {
            Some("model_context_window_exceeded") => return Err(ModelError::ContextFull),
            Some("refusal") => {
                return Err(ModelError::Fatal(format!(
                    "{} declines to go on with this conversation; reword the task or choose another model",
                    self.name
                )));
            }
            _ => {}
        }
        let cut_off = answer.stop_reason.as_deref() == Some("max_tokens");
        let mut reply = Reply { cut_off, usage: answer.usage, cost: self.price.cost(answer.usage), ..Reply::default() };
        let mut thought = false;
        let mut content = Vec::new();
        for Block { mut value, text } in answer.blocks {
            match value["type"].as_str() {
                Some("text") => {
                    reply.text.push_str(&text);
                    value["text"] = Value::String(text);
                }
                Some("tool_use") => {
                    let input = super::parse_arguments(&text, &value["input"]);
                    value["input"] = arguments(&input);
                    reply.calls.push(ToolCall {
                        id: value["id"].as_str().unwrap_or_default().to_owned(),
                        name: value["name"].as_str().unwrap_or_default().to_owned(),
                        input,
                    });
                }
                _ => thought = true,
            }
            content.push(value);
        }
        if thought {
            reply.opaque = Some(json!({ OPAQUE: content }));
        }
        Ok(reply)
    }
}

/// One content block as it grows; `text` is its text, or its arguments as JSON.
#[derive(Debug, Default)]
struct Block {
    value: Value,
    text: String,
}

#[derive(Debug, Default)]
struct Answer {
    blocks: Vec<Block>,
    usage: Usage,
    stop_reason: Option<String>,
}

impl Answer {
    fn add(&mut self, kind: &str, data: &Value, on_delta: &mut (dyn FnMut(Delta) + Send)) {
        match kind {
            "message_start" => self.count(&data["message"]["usage"]),
            "content_block_start" => {
                let value = Value::Object(data["content_block"].as_object().cloned().unwrap_or_default());
                let text = value["text"].as_str().unwrap_or_default().to_owned();
                self.blocks.push(Block { value, text });
            }
            "content_block_delta" => {
                let Some(block) = self.blocks.last_mut() else { return };
                let delta = &data["delta"];
                match delta["type"].as_str() {
                    Some("text_delta") => {
                        let text = delta["text"].as_str().unwrap_or_default();
                        block.text.push_str(text);
                        on_delta(Delta::Text { text: text.to_owned() });
                    }
                    Some("input_json_delta") => block.text.push_str(delta["partial_json"].as_str().unwrap_or_default()),
                    Some("thinking_delta") => extend(&mut block.value, "thinking", &delta["thinking"]),
                    Some("signature_delta") => extend(&mut block.value, "signature", &delta["signature"]),
                    _ => {}
                }
            }
            "message_delta" => {
                self.count(&data["usage"]);
                if let Some(reason) = data["delta"]["stop_reason"].as_str() {
                    self.stop_reason = Some(reason.to_owned());
                }
            }
            _ => {}
        }
    }

    /// Counts are totals so far, and each message names only some of them.
    fn count(&mut self, usage: &Value) {
        let take = |field: &str, into: &mut u64| {
            if let Some(n) = usage[field].as_u64() {
                *into = n;
            }
        };
        take("input_tokens", &mut self.usage.input);
        take("output_tokens", &mut self.usage.output);
        take("cache_read_input_tokens", &mut self.usage.cache_read);
        take("cache_creation_input_tokens", &mut self.usage.cache_write);
    }
}

fn extend(block: &mut Value, field: &str, more: &Value) {
    let more = more.as_str().unwrap_or_default();
    match &mut block[field] {
        Value::String(text) => text.push_str(more),
        other => *other = Value::String(more.to_owned()),
    }
}

/// Longest answer to ask for: what the model gives at most, else a size all newer ones have.
fn max_tokens(model: &str) -> u64 {
    if model.starts_with("claude-3-5") {
        8192
    } else if model.starts_with("claude-3-") && !model.starts_with("claude-3-7") {
        4096
    } else {
        32_000
    }
}

fn body(model: &str, request: &Request<'_>) -> Value {
    let cached = json!({"type": "ephemeral"});
    let mut tools: Vec<Value> = request
        .tools
        .iter()
        .map(|tool| json!({"name": tool.name, "description": tool.description, "input_schema": tool.parameters}))
        .collect();
    if let Some(last) = tools.last_mut() {
        last["cache_control"] = cached.clone();
    }
    let mut messages = messages(request);
    // The newest question, and the one before it, whose prefix the last request wrote to the cache.
    for message in messages.iter_mut().rev().filter(|m| m["role"] == "user").take(2) {
        if let Some(last) = message["content"].as_array_mut().and_then(|blocks| blocks.last_mut()) {
            last["cache_control"] = cached.clone();
        }
    }
    json!({
        "model": model,
        "max_tokens": max_tokens(model),
        "stream": true,
        "system": [{"type": "text", "text": request.system, "cache_control": cached}],
        "tools": tools,
        "messages": messages,
    })
}

fn messages(request: &Request<'_>) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::new();
    let mut say = |role: &str, mut blocks: Vec<Value>| match messages.last_mut() {
        // Roles must take turns: a follow-up joins the results before it.
        Some(last) if last["role"] == role => {
            if let Some(content) = last["content"].as_array_mut() {
                content.append(&mut blocks);
            }
        }
        _ => messages.push(json!({"role": role, "content": blocks})),
    };
    for turn in turns(request.history) {
        match turn {
            Turn::User { text, images } => {
                let mut blocks: Vec<Value> = images.iter().map(|image| image_block(image)).collect();
                blocks.extend(text_block(text));
                if blocks.is_empty() {
                    blocks.push(json!({"type": "text", "text": "(an empty message)"}));
                }
                say("user", blocks);
            }
            Turn::Assistant(reply) => say("assistant", assistant_blocks(reply)),
            Turn::Results(results) => say(
                "user",
                results
                    .iter()
                    .map(|result| {
                        json!({
                            "type": "tool_result",
                            "tool_use_id": result.call_id,
                            "content": text_block(result.output).into_iter().collect::<Vec<_>>(),
                            "is_error": result.is_error,
                        })
                    })
                    .collect(),
            ),
        }
    }
    messages
}

/// Empty text is refused.
fn text_block(text: &str) -> Option<Value> {
    (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text}))
}

fn assistant_blocks(reply: &Reply) -> Vec<Value> {
    if let Some(blocks) = reply.opaque.as_ref().and_then(|o| o[OPAQUE].as_array()) {
        let is_empty =
            |block: &Value| block["type"] == "text" && block["text"].as_str().unwrap_or_default().trim().is_empty();
        return blocks.iter().filter(|block| !is_empty(block)).cloned().collect();
    }
    // Trailing whitespace of a last assistant message is refused.
    let mut blocks: Vec<Value> = text_block(reply.text.trim_end()).into_iter().collect();
    blocks.extend(
        reply
            .calls
            .iter()
            .map(|call| json!({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments(&call.input)})),
    );
    blocks
}

fn image_block(image: &str) -> Value {
    if let Some((media_type, data)) = super::data_uri(image) {
        json!({"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}})
    } else if image.starts_with("https://") {
        json!({"type": "image", "source": {"type": "url", "url": image}})
    } else {
        json!({"type": "text", "text": "[an image that cannot be read]"})
    }
}
