//! A run's trace as lines for a person in a terminal.

use std::io::{IsTerminal as _, Write};

use serde_json::Value;

use crate::out::fitted;

/// Most lines of a command's output that are shown; the trace keeps all.
const OUTPUT_LINES: usize = 16;
/// Most columns of a line that is written over.
const WIDTH: usize = 78;

/// Writes events as text, or as JSON lines.
pub struct Renderer {
    json: bool,
    colour: bool,
    /// The last line of output under way is shown in place.
    in_place: bool,
    /// Columns of such a line; one that the terminal breaks could not be taken back.
    width: usize,
    state: State,
}

#[derive(Default)]
struct State {
    tokens: u64,
    cost: f64,
    steps: u64,
    branch: Option<String>,
    /// Words of the answer under way that are on the screen.
    streamed: String,
    /// A line is on the screen that the next one takes the place of.
    is_passing: bool,
    /// Output after its last line break.
    rest: String,
}

impl Renderer {
    /// `json` gives one JSON object a line instead of text.
    pub fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colour = crate::colours(&std::io::stdout());
        // A terminal that does not know its width says 0.
        let columns = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| usize::from(size.ws_col));
        let width = if columns == 0 { WIDTH } else { WIDTH.min(columns - 1) };
        Self { json, colour, in_place: terminal, width, state: State::default() }
    }

    /// The branch of the run's work, once there is one.
    pub fn branch(&self) -> Option<&str> {
        self.state.branch.as_deref()
    }

    /// What the events so far used.
    pub fn used(&self) -> String {
        let State { steps, tokens, cost, .. } = &self.state;
        format!("{steps} steps, {tokens} tokens, ${cost:.4}")
    }

    /// Shows one event of a run: its kind and its body.
    pub fn event(&mut self, kind: &str, body: &Value) {
        let mut out = std::io::stdout().lock();
        // A closed pipe is the reader's wish to see no more; the run goes on.
        if self.json { writeln!(out, "{body}") } else { self.text(&mut out, kind, &plain(body)) }.ok();
        out.flush().ok();
    }

    /// Leaves the screen at the beginning of a line.
    pub fn end(&mut self) {
        if !self.json {
            let mut out = std::io::stdout().lock();
            self.clear(&mut out).and_then(|()| out.flush()).ok(); // As above.
        }
    }

    fn text(&mut self, out: &mut impl Write, kind: &str, body: &Value) -> std::io::Result<()> {
        let field = |key: &str| body[key].as_str().unwrap_or_default();
        match kind {
            "text" => {
                self.unpass(out)?;
                self.state.streamed.push_str(field("text"));
                return write!(out, "{}", field("text"));
            }
            "output" => return self.passing_output(out, field("text")),
            "call" => return Ok(()),
            "reply" => return self.reply(out, body),
            _ => self.clear(out)?,
        }
        match kind {
            "user_message" => writeln!(out, "{} {}", self.paint("36", "you"), field("text")),
            "messages_read" => writeln!(out, "{}", self.paint("2", "· the agent has read your message")),
            "stage" => self.stage(out, body),
            "call_finished" => self.call_finished(out, body),
            "notice" => writeln!(out, "{} {}", self.paint("33", "note"), field("text")),
            "refusal" => {
                writeln!(out, "{} the network refused {}: {}", self.paint("33", "note"), field("host"), field("reason"))
            }
            "branch" => {
                self.state.branch = Some(field("name").to_owned());
                writeln!(out, "{} {}", self.paint("32", "branch"), field("name"))
            }
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

    fn stage(&mut self, out: &mut impl Write, body: &Value) -> std::io::Result<()> {
        let field = |key: &str| body[key].as_str().unwrap_or_default();
        let seconds = body["ms"].as_u64().map(|ms| std::time::Duration::from_millis(ms).as_secs_f64());
        let line = match field("state") {
            "started" if self.in_place => return self.pass(out, &format!("· {} …", field("name"))),
            "started" => return Ok(()),
            "running" => {
                format!("· {} for {:.0} s: {}", field("name"), seconds.unwrap_or_default(), field("last_line"))
            }
            state => {
                let detail = Some(field("detail")).filter(|d| !d.is_empty()).map(|d| format!(": {d}"));
                let took = seconds.map(|s| format!(" {s:.2} s")).unwrap_or_default();
                format!("· {} {state}{took}{}", field("name"), detail.unwrap_or_default())
            }
        };
        writeln!(out, "{}", self.paint("2", &line))
    }

    fn reply(&mut self, out: &mut impl Write, body: &Value) -> std::io::Result<()> {
        let usage = &body["usage"];
        let fields = ["input", "output", "cache_read", "cache_write"];
        self.state.steps += 1;
        self.state.tokens += fields.iter().filter_map(|k| usage[k].as_u64()).sum::<u64>();
        self.state.cost += body["cost"].as_f64().unwrap_or_default();
        let text = body["text"].as_str().unwrap_or_default();
        self.unpass(out)?;
        // Words that were lost on the way are made up for; others were of an answer that broke off.
        match text.strip_prefix(self.state.streamed.as_str()).filter(|_| !self.state.streamed.is_empty()) {
            Some(rest) => write!(out, "{rest}")?,
            None => {
                self.clear(out)?;
                write!(out, "{text}")?;
            }
        }
        self.state.streamed.clear();
        if !text.is_empty() && !text.ends_with('\n') {
            writeln!(out)?;
        }
        for call in body["calls"].as_array().into_iter().flatten() {
            let name = call["name"].as_str().unwrap_or_default();
            writeln!(out, "{}", self.paint("1", &call_line(name, &call["input"])))?;
        }
        Ok(())
    }

    fn call_finished(&mut self, out: &mut impl Write, body: &Value) -> std::io::Result<()> {
        let lines: Vec<&str> = body["output"].as_str().unwrap_or_default().lines().collect();
        let skipped = lines.len().saturating_sub(OUTPUT_LINES);
        if skipped > 0 {
            writeln!(out, "{}", self.paint("2", &format!("  … {skipped} lines before")))?;
        }
        for line in &lines[skipped..] {
            writeln!(out, "{}", self.paint("2", &format!("  {line}")))?;
        }
        let failed = body["is_error"] == true || body["exit_code"].as_i64().is_some_and(|code| code != 0);
        let exit = body["exit_code"].as_i64().map(|code| format!("exit {code}, ")).unwrap_or_default();
        let State { steps, tokens, cost, .. } = self.state;
        let line = format!("  {exit}{} ms · step {steps}, {tokens} tokens, ${cost:.4}", body["duration_ms"]);
        writeln!(out, "{}", self.paint(if failed { "31" } else { "2" }, &line))
    }

    /// Shows the last line of output that comes; all of it follows when it is done.
    fn passing_output(&mut self, out: &mut impl Write, text: &str) -> std::io::Result<()> {
        if !self.in_place {
            return Ok(());
        }
        self.state.rest.push_str(text);
        let shown = self.state.rest.split(['\n', '\r']).rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let shown = format!("  {}", shown.chars().filter(|c| !c.is_control()).collect::<String>());
        if let Some(end) = self.state.rest.rfind(['\n', '\r']) {
            self.state.rest.drain(..=end);
        }
        self.pass(out, &shown)
    }

    /// Writes a line that the next one takes the place of.
    fn pass(&mut self, out: &mut impl Write, line: &str) -> std::io::Result<()> {
        self.clear(out)?;
        let line = fitted(line, self.width);
        self.state.is_passing = true;
        write!(out, "{}", self.paint("2", line))
    }

    fn unpass(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        if std::mem::take(&mut self.state.is_passing) {
            write!(out, "\r\x1b[2K")?;
        }
        Ok(())
    }

    /// Goes to the beginning of an empty line.
    fn clear(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        self.unpass(out)?;
        if !self.state.streamed.is_empty() && !self.state.streamed.ends_with('\n') {
            writeln!(out)?;
        }
        self.state.streamed.clear();
        Ok(())
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

/// Text without what a terminal would obey.
pub fn plain_text(text: &str) -> String {
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
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn shown(in_place: bool, events: &[(&str, Value)]) -> String {
        let mut renderer = Renderer { json: false, colour: false, in_place, width: 20, state: State::default() };
        let mut out = Vec::new();
        for (kind, body) in events {
            renderer.text(&mut out, kind, body).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    fn words(text: &str) -> (&'static str, Value) {
        ("text", json!({ "text": text }))
    }

    #[test]
    fn words_that_streamed_are_not_said_again_and_lost_ones_are_made_up_for() {
        let reply = ("reply", json!({"text": "I look.", "calls": [{"name": "shell", "input": {"command": "ls"}}]}));
        let once = "I look.\n$ ls\n";
        assert_eq!(shown(false, &[words("I "), words("look."), reply.clone()]), once);
        assert_eq!(shown(false, &[words("I "), reply.clone()]), once);
        assert_eq!(shown(false, std::slice::from_ref(&reply)), once);
        assert_eq!(shown(false, &[words("You "), reply]), format!("You \n{once}"), "an answer that broke off stays");
    }

    #[test]
    fn output_passes_by_in_a_terminal_and_a_pipe_gets_only_its_end() {
        let lines: String = (1..=20).map(|n| format!("{n}\n")).collect();
        let output = ("output", json!({ "text": lines }));
        let finished = ("call_finished", json!({"output": lines, "exit_code": 0, "duration_ms": 5}));
        let end = "  … 4 lines before\n";
        assert!(shown(false, &[output.clone(), finished.clone()]).starts_with(end));
        assert!(shown(true, &[output, finished]).starts_with(&format!("  20\r\x1b[2K{end}")));
        let long = ("output", json!({ "text": "x".repeat(100) }));
        assert_eq!(shown(true, &[long]), format!("  {}", "x".repeat(18)), "one line of the terminal");
        let wide = ("output", json!({ "text": "測".repeat(100) }));
        assert_eq!(shown(true, &[wide]), format!("  {}", "測".repeat(9)), "characters that take two columns");
    }

    #[test]
    fn nothing_that_a_terminal_would_obey_is_shown() {
        let body = json!({"output": ["\x1b[31mred\x1b[0m\tand\nnext", "\x1b]0;title\x07 \u{9b}2J\r\x08", "\x1b", "\x1b["], "n": 1});
        assert_eq!(plain(&body), json!({"output": ["red\tand\nnext", "]0;title 2J", "", ""], "n": 1}));
    }
}
