//! Reads a line of Claude Code's transcript as entries of a run's log. What a line says is a stranger's: nothing in it is
//! relied upon, and what is not understood is kept as it is.

use codegen_agent::{Usage, models::prices::price};
use codegen_store::{NewLog, SessionNews};
use serde_json::{Map, Value, json};

/// Characters of a text that are kept.
const LONGEST: usize = 200_000;
/// Characters of an output that an entry shows; the whole is kept apart.
const SHOWN: usize = 30_000;
/// Characters of a text that stands for a run.
const LINE: usize = 2_000;

/// What lines told.
#[derive(Debug, Default)]
pub struct Told {
    /// For the store.
    pub news: SessionNews,
    /// Long outputs, by name, to be kept before their entries.
    pub outputs: Vec<(String, Vec<u8>)>,
}

/// Whether a line is read by what came before it: results by their calls, and parts of an answer by its other parts.
pub fn needs_replies(line: &Value) -> bool {
    line["type"] == "assistant" || blocks(line).iter().any(|block| block["type"] == "tool_result")
}

/// Reads lines. `replies` are bodies of earlier `reply` entries, newest first.
pub fn read(lines: Vec<Value>, mut replies: Vec<Value>) -> Told {
    let mut told = Told::default();
    for line in lines {
        let before = told.news.entries.len();
        told.line(line, &replies);
        let new = told.news.entries.iter().skip(before).filter(|entry| entry.kind == "reply");
        for reply in new.filter_map(|entry| serde_json::from_str(&entry.body).ok()) {
            replies.insert(0, reply);
        }
    }
    told
}

impl Told {
    fn line(&mut self, line: Value, replies: &[Value]) {
        let before = self.news.entries.len();
        match (line["type"].as_str(), line["isMeta"] == true) {
            (Some("user"), false) => self.user(&line, replies),
            (Some("assistant"), _) => self.assistant(&line, replies),
            (Some("summary"), _) if line["summary"].is_string() => {
                let text = format!("Summary so far: {}", cut(line["summary"].as_str().unwrap_or_default(), LONGEST));
                self.add("notice", false, json!({ "text": text }));
            }
            (Some("system"), _) if line["content"].is_string() => {
                self.add(
                    "notice",
                    false,
                    json!({ "text": cut(line["content"].as_str().unwrap_or_default(), LONGEST) }),
                );
            }
            _ => {}
        }
        if self.news.entries.len() == before {
            self.add("claude_code", true, json!({ "line": line }));
        }
    }

    fn add(&mut self, kind: &str, contract: bool, mut body: Value) {
        body["kind"] = kind.into();
        self.news.entries.push(NewLog { kind: kind.to_owned(), body: body.to_string(), contract });
    }

    fn user(&mut self, line: &Value, replies: &[Value]) {
        let text = words(&line["message"]["content"]);
        if !text.trim().is_empty() {
            self.news.asked.get_or_insert_with(|| plain(&text));
            self.add("user_message", true, json!({ "text": cut(&text, LONGEST) }));
        }
        for block in blocks(line).iter().filter(|block| block["type"] == "tool_result") {
            let id = block["tool_use_id"].as_str().unwrap_or_default();
            let calls = replies.iter().flat_map(|reply| reply["calls"].as_array().into_iter().flatten());
            let call = calls.into_iter().find(|call| call["id"] == id);
            let output = words(&block["content"]);
            let mut body = json!({
                "call_id": id,
                "name": call.map_or(json!("tool"), |call| call["name"].clone()),
                "input": call.map_or(json!({}), |call| call["input"].clone()),
                "output": cut(&output, SHOWN),
                "is_error": block["is_error"] == true,
                "duration_ms": 0,
            });
            if output.chars().count() > SHOWN {
                let name = format!("output/{}", crate::token::random(20));
                body["full_output_blob"] = json!(name);
                self.outputs.push((name, output.into_bytes()));
            }
            self.add("call_finished", true, body);
        }
    }

    fn assistant(&mut self, line: &Value, replies: &[Value]) {
        let text = words(&line["message"]["content"]);
        let mut calls = Vec::new();
        for block in blocks(line).iter().filter(|block| block["type"] == "tool_use") {
            calls.push(json!({ "id": block["id"], "name": block["name"], "input": block["input"] }));
        }
        let thought = blocks(line).iter().filter_map(|block| block["thinking"].as_str()).collect::<Vec<_>>().join("\n");
        if text.trim().is_empty() && calls.is_empty() && thought.trim().is_empty() {
            return;
        }
        // Each part of an answer is a line of its own, and each has the usage of all.
        let id = &line["message"]["id"];
        let is_counted = id.is_string() && replies.first().is_some_and(|reply| reply["message_id"] == *id);
        let count = |key: &str| if is_counted { 0 } else { line["message"]["usage"][key].as_u64().unwrap_or_default() };
        let usage = Usage {
            input: count("input_tokens"),
            output: count("output_tokens"),
            cache_read: count("cache_read_input_tokens"),
            cache_write: count("cache_creation_input_tokens"),
        };
        let model = line["message"]["model"].as_str().unwrap_or_default();
        let cost = price(&format!("anthropic/{model}")).cost(usage);
        let read = usage.input.saturating_add(usage.cache_read).saturating_add(usage.cache_write);
        self.news.tokens_in = self.news.tokens_in.saturating_add(i64::try_from(read).unwrap_or(i64::MAX));
        self.news.tokens_out = self.news.tokens_out.saturating_add(i64::try_from(usage.output).unwrap_or(i64::MAX));
        self.news.cost += cost;
        self.news.steps += i64::from(!is_counted);
        let shown = if text.trim().is_empty() { &thought } else { &text };
        let body = json!({
            "text": cut(shown, LONGEST), "calls": calls, "usage": usage, "cost": cost, "model": line["message"]["model"],
            "message_id": id,
        });
        self.add("reply", !shown.trim().is_empty(), body);
        for call in &calls {
            self.add("call_started", false, json!({ "call_id": call["id"] }));
        }
        if !text.trim().is_empty() {
            self.news.said = Some(plain(&text));
        }
    }
}

fn blocks(line: &Value) -> &[Value] {
    line["message"]["content"].as_array().map_or(&[], Vec::as_slice)
}

/// The texts of a content, which is a text or a list of blocks.
fn words(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let text = |block: &Map<String, Value>| match block.get("type").and_then(Value::as_str) {
                Some("text") => block.get("text").and_then(Value::as_str).map(str::to_owned),
                Some("image") => Some("[an image]".to_owned()),
                _ => None,
            };
            blocks.iter().filter_map(Value::as_object).filter_map(text).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

fn cut(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most).collect();
    format!("{kept}\n[cut here: {most} of {length} characters are shown]")
}

/// A text as the store's own columns take it.
fn plain(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(LINE).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bodies(told: &Told) -> Vec<Value> {
        told.news.entries.iter().map(|entry| serde_json::from_str(&entry.body).unwrap()).collect()
    }

    #[test]
    fn a_call_and_its_result_become_an_action_with_name_input_and_output() {
        let asked = json!({ "type": "assistant", "message": { "model": "m", "usage": { "input_tokens": 5 }, "content": [
            { "type": "text", "text": "I look." },
            { "type": "tool_use", "id": "t1", "name": "Bash", "input": { "command": "ls" } },
        ] } });
        let told = read(vec![asked], Vec::new());
        assert_eq!(told.news.said.as_deref(), Some("I look."));
        let reply = bodies(&told);
        assert_eq!((&reply[0]["text"], &reply[0]["usage"]["input"]), (&json!("I look."), &json!(5)));
        assert_eq!(reply[1], json!({ "call_id": "t1", "kind": "call_started" }));
        let answered = json!({ "type": "user", "message": { "content": [
            { "type": "tool_result", "tool_use_id": "t1", "content": [{ "type": "text", "text": "a\nb" }] },
        ] } });
        assert!(needs_replies(&answered));
        let told = read(vec![answered], reply[..1].to_vec());
        let result = &bodies(&told)[0];
        assert_eq!(
            (&result["name"], &result["input"], &result["output"]),
            (&json!("Bash"), &json!({ "command": "ls" }), &json!("a\nb"))
        );
        assert_eq!(told.news.asked, None, "a result is nobody's question");
    }

    #[test]
    fn a_long_output_is_shown_cut_and_kept_whole() {
        let long = "ü".repeat(SHOWN + 1);
        let line = json!({ "type": "user", "message": { "content": [
            { "type": "tool_result", "tool_use_id": "t", "content": long, "is_error": true },
        ] } });
        let told = read(vec![line], Vec::new());
        let body = &bodies(&told)[0];
        assert_eq!(told.outputs[0].1, long.into_bytes());
        assert_eq!(body["full_output_blob"], json!(told.outputs[0].0));
        assert!(body["output"].as_str().unwrap().contains("cut here") && body["is_error"] == true);
    }

    #[test]
    fn what_is_not_understood_is_kept_as_it_is() {
        for line in [
            json!({}),
            json!({ "type": "user" }),
            json!({ "type": "user", "isMeta": true, "message": { "content": "caveat" } }),
            json!({ "type": "assistant", "message": { "content": [7, null, { "type": "text" }] } }),
            json!({ "type": "file-history-snapshot", "x": [1] }),
            json!({ "type": 5 }),
        ] {
            assert_eq!(bodies(&read(vec![line.clone()], Vec::new()))[0]["line"], line);
        }
    }

    #[test]
    fn an_answer_in_several_lines_is_counted_once() {
        let part = |id: &str, block: Value| {
            let usage = json!({ "input_tokens": 1_000_000, "output_tokens": 7, "cache_read_input_tokens": 1 });
            let message = json!({ "id": id, "model": "claude-sonnet-4-5", "usage": usage, "content": [block] });
            json!({ "type": "assistant", "message": message })
        };
        let thought = part("m1", json!({ "type": "thinking", "thinking": "Hm." }));
        let text = part("m1", json!({ "type": "text", "text": "I look." }));
        let next = part("m2", json!({ "type": "text", "text": "Done." }));
        let told = read(vec![thought.clone(), text.clone(), next], Vec::new());
        assert_eq!((told.news.steps, told.news.tokens_in, told.news.tokens_out), (2, 2_000_002, 14));
        assert!(told.news.cost > 1.0, "{}", told.news.cost);
        let first = read(vec![thought], Vec::new());
        let second = read(vec![text], bodies(&first));
        assert_eq!((second.news.steps, second.news.tokens_in), (0, 0), "also where they come apart");
    }
}
