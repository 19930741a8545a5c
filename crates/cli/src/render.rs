//! A run's trace as lines for a person in a terminal.

use std::io::Write;

use serde_json::Value;

/// Most lines of a command's output that are shown; the trace keeps all.
const OUTPUT_LINES: usize = 16;

/// Writes events as text, or as JSON lines.
pub struct Renderer {
    json: bool,
    colour: bool,
    tokens: u64,
    cost: f64,
    steps: u64,
}

impl Renderer {
    /// `json` gives one JSON object a line instead of text.
    pub fn new(json: bool) -> Self {
        let colour = crate::colours(&std::io::stdout());
        Self { json, colour, tokens: 0, cost: 0.0, steps: 0 }
    }

    /// Shows one event of a run: its kind and its body.
    pub fn event(&mut self, kind: &str, body: &Value) {
        let mut out = std::io::stdout().lock();
        // A closed pipe is the reader's wish to see no more; the run goes on.
        if self.json { writeln!(out, "{body}") } else { self.text(&mut out, kind, &plain(body)) }.ok();
        out.flush().ok();
    }

    fn text(&mut self, out: &mut impl Write, kind: &str, body: &Value) -> std::io::Result<()> {
        let field = |key: &str| body[key].as_str().unwrap_or_default();
        match kind {
            "user_message" => writeln!(out, "{} {}", self.paint("36", "you"), field("text")),
            "stage" => {
                let ms = body["ms"].as_u64().map(|ms| format!(" {ms} ms")).unwrap_or_default();
                let detail =
                    Some(field("detail")).filter(|d| !d.is_empty()).map(|d| format!(": {d}")).unwrap_or_default();
                writeln!(out, "{}", self.paint("2", &format!("· {} {}{ms}{detail}", field("name"), field("state"))))
            }
            "reply" => {
                self.steps += 1;
                let usage = &body["usage"];
                self.tokens += ["input", "output", "cache_read", "cache_write"]
                    .iter()
                    .filter_map(|k| usage[k].as_u64())
                    .sum::<u64>();
                self.cost += body["cost"].as_f64().unwrap_or_default();
                if !field("text").is_empty() {
                    writeln!(out, "{}", field("text"))?;
                }
                for call in body["calls"].as_array().into_iter().flatten() {
                    let name = call["name"].as_str().unwrap_or_default();
                    writeln!(out, "{}", self.paint("1", &call_line(name, &call["input"])))?;
                }
                Ok(())
            }
            "call_finished" => {
                let lines: Vec<&str> = field("output").lines().collect();
                let skipped = lines.len().saturating_sub(OUTPUT_LINES);
                if skipped > 0 {
                    writeln!(out, "{}", self.paint("2", &format!("  … {skipped} lines before")))?;
                }
                for line in &lines[skipped..] {
                    writeln!(out, "{}", self.paint("2", &format!("  {line}")))?;
                }
                let failed = body["is_error"] == true || body["exit_code"].as_i64().is_some_and(|code| code != 0);
                let exit = body["exit_code"].as_i64().map(|code| format!("exit {code}, ")).unwrap_or_default();
                let line = format!(
                    "  {exit}{} ms · step {}, {} tokens, ${:.4}",
                    body["duration_ms"], self.steps, self.tokens, self.cost
                );
                writeln!(out, "{}", self.paint(if failed { "31" } else { "2" }, &line))
            }
            "notice" => writeln!(out, "{} {}", self.paint("33", "note"), field("text")),
            "refusal" => {
                writeln!(out, "{} the network refused {}: {}", self.paint("33", "note"), field("host"), field("reason"))
            }
            "branch" => writeln!(out, "{} {}", self.paint("32", "branch"), field("name")),
            "pull_request" => {
                writeln!(out, "{} #{} {}", self.paint("32", "pull request"), body["number"], field("url"))
            }
            "result" => {
                let colour = if body["is_error"] == true { "31" } else { "32" };
                writeln!(out, "{} {}", self.paint(colour, "result"), field("text"))
            }
            "status" => writeln!(out, "{} {}", self.paint("2", "· status"), field("status")),
            _ => Ok(()),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A body without what a terminal would obey: its words come from models, commands and repositories.
fn plain(body: &Value) -> Value {
    match body {
        Value::String(text) => Value::String(plain_text(text)),
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(fields) => Value::Object(fields.iter().map(|(key, value)| (key.clone(), plain(value))).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) => body.clone(),
    }
}

fn plain_text(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => kept.push(c),
            // A whole sequence such as a colour; of others the rest is harmless without its beginning.
            '\x1b' if chars.next_if_eq(&'[').is_some() => {
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            c if c.is_control() => {}
            c => kept.push(c),
        }
    }
    kept
}

/// A tool call as what it is: a command as a command, a file tool by its path.
fn call_line(name: &str, input: &Value) -> String {
    let field = |key: &str| input[key].as_str().unwrap_or_default();
    match name {
        "shell" => format!("$ {}", field("command")),
        "read" | "edit" | "write" => format!("{name} {}", field("path")),
        "glob" | "grep" => format!("{name} {}", field("pattern")),
        "finish" => "finish".to_owned(),
        _ => format!("{name} {input}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::plain;

    #[test]
    fn nothing_that_a_terminal_would_obey_is_shown() {
        let body = json!({"output": ["\x1b[31mred\x1b[0m\tand\nnext", "\x1b]0;title\x07 \u{9b}2J\r\x08", "\x1b", "\x1b["], "n": 1});
        assert_eq!(plain(&body), json!({"output": ["red\tand\nnext", "]0;title 2J", "", ""], "n": 1}));
    }
}
