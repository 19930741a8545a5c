//! Runs a command in bash; the working folder and exported variables carry over to the next call.

use std::time::Duration;

use async_trait::async_trait;
use codegen_sandbox::{EndedBy, Error, Event, Exec, Exit, Running, User};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Context, Output, Tool, ToolError, arguments,
    text::{CAP, Decoder, elide},
};
use crate::{Delta, models::ToolSpec};

const DEFAULT_SECONDS: f64 = 120.0;
const MAX_SECONDS: f64 = 600.0;
/// Output kept of one command, for the trace.
const OUTPUT_BYTES: u64 = 8 * 1024 * 1024;
/// Longer commands go in by standard input: the kernel refuses single arguments of 128 KiB.
const ARGUMENT_BYTES: usize = 100_000;
const WRAPPER: &str = include_str!("shell.sh");

pub(crate) struct Shell;

#[derive(Deserialize)]
struct Arguments {
    command: String,
    #[serde(default)]
    timeout: Option<f64>,
}

#[async_trait]
impl Tool for Shell {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "shell",
            description: "Run a command in bash and get its output (both streams, in order) and exit code. The working folder and exported variables carry over to the next call. There is no terminal and standard input is empty, so use flags that avoid questions and pagers. Start a server in the background with its output in a file: `nohup CMD >/tmp/log 2>&1 &`.",
            parameters: json!({
                "type": "object",
                "properties": {
                    "command": {"type": "string", "description": "One or more lines of bash."},
                    "timeout": {"type": "number", "description": "Seconds until it is killed; 120 when left out, 600 at most."}
                },
                "required": ["command"]
            }),
        }
    }

    fn read_only(&self) -> bool {
        false
    }

    async fn call(&self, input: &Value, context: &Context<'_>) -> Result<Output, ToolError> {
        let Arguments { command, timeout } = arguments(input)?;
        if command.contains('\0') {
            return Err(ToolError::ForModel("the command holds a NUL character".to_owned()));
        }
        let seconds = timeout.filter(|s| s.is_finite() && *s > 0.0).unwrap_or(DEFAULT_SECONDS).clamp(0.1, MAX_SECONDS);
        let mut argv: Vec<String> = ["bash", "-c", WRAPPER, "bash"].map(str::to_owned).to_vec();
        let mut stdin = Vec::new();
        if command.len() > ARGUMENT_BYTES {
            stdin = command.into_bytes();
        } else {
            argv.push(command);
        }
        let running = context
            .sandbox
            .start(Exec {
                key: Some(context.call_id.to_owned()),
                argv,
                env: context.env.clone(),
                cwd: None,
                stdin,
                user: User::Agent,
                timeout: Some(Duration::from_secs_f64(seconds)),
                output_cap: Some(OUTPUT_BYTES),
            })
            .await?;
        let mut text = String::new();
        let exit = follow(running, context, &mut text).await?;
        Ok(told(text, exit, seconds, context))
    }
}

/// Streams the output until the end; kills the command when the run halts. None when it was killed and did not say its end.
async fn follow(mut running: Running, context: &Context<'_>, text: &mut String) -> Result<Option<Exit>, ToolError> {
    let mut decoder = Decoder::default();
    let mut killed = false;
    let exit = loop {
        let event = tokio::select! {
            event = running.events.recv() => event,
            _ = context.halt.wait(), if !killed => {
                killed = true;
                // A command that has just ended takes no more messages.
                running.kill.send(()).await.ok();
                continue;
            }
            () = tokio::time::sleep(context.halt.last_words()), if killed => break None,
        };
        match event {
            Some(Event::Output { bytes, .. }) => {
                let more = decoder.push(&bytes);
                if !more.is_empty() {
                    text.push_str(&more);
                    // Nobody listens once the call is over.
                    context.deltas.send(Delta::Output { call_id: context.call_id.to_owned(), text: more }).ok();
                }
            }
            Some(Event::Exited(exit)) => break Some(exit),
            None if killed => break None,
            None => return Err(Error::Gone(context.sandbox.id().to_owned()).into()),
        }
    };
    text.push_str(&decoder.finish());
    Ok(exit)
}

/// The result in the model's words.
fn told(output: String, exit: Option<Exit>, seconds: f64, context: &Context<'_>) -> Output {
    let mut notes = Vec::new();
    let code = exit.as_ref().map(|exit| exit.code);
    match exit.as_ref().and_then(|exit| exit.ended_by) {
        Some(EndedBy::Timeout) => notes.push(format!(
            "killed after {seconds} s, its timeout; give a longer one (600 at most) or run it in the background"
        )),
        Some(EndedBy::Memory) => notes.push("killed: it needed more memory than the sandbox has".to_owned()),
        Some(EndedBy::Kill) => notes.push(format!("killed: {}", context.halt.reason())),
        None if code.is_none() => notes.push(format!("killed: {}", context.halt.reason())),
        None => {}
    }
    if let Some(dropped) = exit.as_ref().map(|exit| exit.dropped_bytes).filter(|n| *n > 0) {
        notes.push(format!("{dropped} more bytes of output were not kept"));
    }
    if let Some(code) = code.filter(|code| *code != 0) {
        notes.push(format!("exit code {code}"));
    }
    let cut = elide(&output, CAP);
    let full = cut.is_some().then(|| output.clone());
    let mut text = cut.unwrap_or(output);
    if !notes.is_empty() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("[{}]", notes.join("; ")));
    } else if text.is_empty() {
        text.push_str("[no output]");
    }
    Output { text, is_error: code != Some(0), exit_code: code, full, took: exit.map(|exit| exit.duration) }
}
