//! The native agent: asks a model, runs its tool calls, until one of them, a budget or a caller ends it.
//!
//! Each pass of the loop looks only at the history, so a run that was cut off anywhere goes on as if it had not been.
//! To cut it off for a restart drop the future; the stop token ends the run for good.

use std::{collections::HashSet, sync::Arc, time::Duration};

use codegen_sandbox::Sandbox;
use futures::{StreamExt, stream};
use rand::Rng;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Budget, Delta, Entry, Error, Limit, Log, LogResult, Outcome, Reply, Task, ToolCall,
    budget::{Halt, Spent},
    history::{self, Ended, OpenCall},
    models::{Model, ModelError, Request, ToolSpec},
    prompt,
    tools::{self, Context, Output, Tool, ToolError},
};

/// Tries of one question to the model.
const TRIES: u32 = 8;
/// Time for all of them.
const PATIENCE: Duration = Duration::from_secs(600);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Read-only calls of one reply that run at once.
const SIDE_BY_SIDE: usize = 8;
/// What a model is told that has ended its work without the structured result.
const ASK_FOR_OUTPUT: &str = "[codegen] The work is not at its end: the person asks for a structured result. Call `finish` with it in \
`output`, or with success false and the reason if the task cannot be done.";
const INTERRUPTED: &str = "interrupted: it was under way when its sandbox was lost; its effect is unknown";

/// Works on the task until it ends.
///
/// # Errors
/// When the log or the sandbox fails; what the log holds is enough to go on later.
pub async fn run(
    task: Task,
    sandbox: Arc<dyn Sandbox>,
    log: &mut dyn Log,
    stop: CancellationToken,
) -> Result<Outcome, Error> {
    let wants_output = task.output.is_some();
    let tools = tools::all(task.output);
    let mut agent = Agent {
        specs: tools.iter().map(|tool| tool.spec()).collect(),
        tools,
        system: prompt::system(&*sandbox, &task.rules, wants_output),
        halt: Halt::new(stop, task.budget.max_time),
        spent: Spent::of(&task.history),
        call_ids: call_ids(&task.history),
        history: task.history,
        model: task.model,
        budget: task.budget,
        env: task.env,
        sandbox,
        log,
    };
    loop {
        let messages = agent.log.take_messages().await;
        agent.history.extend(messages);
        let open = history::open_calls(&agent.history);
        if !open.is_empty() {
            agent.run_calls(open).await?;
            continue;
        }
        match history::ended(&agent.history, wants_output) {
            Some(Ended::With(outcome)) => return Ok(outcome),
            Some(Ended::WithoutOutput) => {
                agent.append(Entry::Notice { text: ASK_FOR_OUTPUT.to_owned(), to_model: true }).await?;
            }
            None => {}
        }
        if let Some(outcome) = agent.halt.due() {
            return Ok(outcome);
        }
        if let Some(limit) = agent.spent.over(&agent.budget) {
            return Ok(Outcome::OutOf(limit));
        }
        if !agent.log.may_spend().await {
            return Ok(Outcome::OutOf(Limit::Allowance));
        }
        match agent.ask().await? {
            Asked::Reply(reply) => agent.take(reply).await?,
            Asked::End(outcome) => return Ok(outcome),
        }
    }
}

/// Gives calls that were under way in a sandbox that is gone a result that says so, and their names; whether they had their effect
/// is unknown. To be done before the next sandbox is known as the run's: found again there, they would be run.
///
/// # Errors
/// The log's.
pub async fn close_interrupted_calls(history: &[Entry], log: &mut dyn Log) -> LogResult<Vec<String>> {
    let mut interrupted = Vec::new();
    for OpenCall { call, started } in history::open_calls(history) {
        if started {
            interrupted.push(call.name.clone());
            log.append(&failed(call, INTERRUPTED.to_owned())).await?;
        }
    }
    Ok(interrupted)
}

/// What came of a question to the model.
enum Asked {
    Reply(Reply),
    End(Outcome),
}

struct Agent<'a> {
    history: Vec<Entry>,
    spent: Spent,
    call_ids: HashSet<String>,
    system: String,
    specs: Vec<ToolSpec>,
    tools: Vec<Box<dyn Tool>>,
    model: Arc<dyn Model>,
    budget: Budget,
    env: std::collections::BTreeMap<String, String>,
    halt: Halt,
    sandbox: Arc<dyn Sandbox>,
    log: &'a mut dyn Log,
}

impl Agent<'_> {
    async fn append(&mut self, mut entry: Entry) -> Result<(), Error> {
        self.log.append(&entry).await.map_err(Error::Log)?;
        if let Entry::CallFinished { full_output, .. } = &mut entry {
            *full_output = None;
        }
        self.history.push(entry);
        Ok(())
    }

    async fn notice(&mut self, text: String) -> Result<(), Error> {
        self.append(Entry::Notice { text, to_model: false }).await
    }

    /// One answer of the model, however many tries that takes.
    async fn ask(&mut self) -> Result<Asked, Error> {
        let began = Instant::now();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let request = Request { system: &self.system, history: &self.history, tools: &self.specs };
            let (log, mut said) = (&mut *self.log, String::new());
            let mut on_delta = |delta| {
                if let Delta::Text { text } = &delta {
                    said.push_str(text);
                }
                log.delta(delta);
            };
            let answer = tokio::select! {
                biased;
                outcome = self.halt.wait() => Err(outcome),
                answer = self.model.reply(request, &mut on_delta) => Ok(answer),
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(outcome) => {
                    self.keep_cut_words(&said).await?;
                    return Ok(Asked::End(outcome));
                }
            };
            let (message, after) = match answer {
                Ok(reply) => return Ok(Asked::Reply(reply)),
                Err(ModelError::Retry { message, after }) => (message, after),
                Err(ModelError::ContextFull) => {
                    self.notice(format!("the conversation is longer than the context of {}", self.model.name()))
                        .await?;
                    return Ok(Asked::End(Outcome::OutOf(Limit::Tokens)));
                }
                Err(ModelError::Fatal(sentence)) => return Ok(Asked::End(Outcome::ModelFailed(sentence))),
            };
            let wait = after.unwrap_or_else(|| backoff(attempt));
            if attempt >= TRIES || began.elapsed() + wait > PATIENCE {
                let tries = if attempt == 1 { "1 try".to_owned() } else { format!("{attempt} tries") };
                let asks = after.map(|after| format!("; it asks to wait {} s", after.as_secs())).unwrap_or_default();
                let sentence =
                    format!("{} gave no answer in {tries}; the last time: {message}{asks}", self.model.name());
                return Ok(Asked::End(Outcome::ModelFailed(sentence)));
            }
            self.notice(format!("{message}; trying again in {:.1} s", wait.as_secs_f64())).await?;
            tokio::select! {
                biased;
                outcome = self.halt.wait() => return Ok(Asked::End(outcome)),
                () = sleep(wait) => {}
            }
        }
    }

    /// Keeps what the model had said of an answer that was cut off, for people and for when the conversation goes on.
    async fn keep_cut_words(&mut self, said: &str) -> Result<(), Error> {
        if said.trim().is_empty() {
            return Ok(());
        }
        let text = format!("[codegen] This answer was cut off, for {}:\n\n{}", self.halt.reason(), said.trim());
        self.append(Entry::Notice { text, to_model: true }).await
    }

    /// Makes an answer part of the run's memory.
    async fn take(&mut self, mut reply: Reply) -> Result<(), Error> {
        let step = self.spent.steps + 1;
        for (n, call) in reply.calls.iter_mut().enumerate() {
            // Some servers leave ids out or count from zero in each answer.
            if call.id.is_empty() || self.call_ids.contains(&call.id) {
                call.id = format!("call-{step}-{}", n + 1);
            }
            self.call_ids.insert(call.id.clone());
        }
        self.spent.add(&reply);
        self.append(Entry::Reply(reply)).await
    }

    fn tool(&self, name: &str) -> Option<&dyn Tool> {
        self.specs.iter().zip(&self.tools).find_map(|(spec, tool)| (spec.name == name).then_some(&**tool))
    }

    /// Gives every call a result: in order, those without effect side by side.
    async fn run_calls(&mut self, open: Vec<OpenCall>) -> Result<(), Error> {
        let has_effect = |agent: &Self, call: &ToolCall| agent.tool(&call.name).is_some_and(|tool| !tool.read_only());
        // What an earlier attempt started in this sandbox is followed there, not run again: calls are named by their ids.
        let begun: HashSet<String> = open.iter().filter(|open| open.started).map(|open| open.call.id.clone()).collect();
        let mut calls = open.into_iter().map(|open| open.call).peekable();
        while let Some(call) = calls.next() {
            let again = begun.contains(&call.id);
            if !again && self.halt.due().is_some() {
                let text = format!("not run: {}", self.halt.reason());
                self.append(failed(call, text)).await?;
                continue;
            }
            let effect = has_effect(self, &call);
            if effect && !again {
                self.append(Entry::CallStarted { call_id: call.id.clone() }).await?;
            }
            let mut group = vec![call];
            while !effect && let Some(call) = calls.next_if(|call| !has_effect(self, call)) {
                group.push(call);
            }
            for call in &group {
                self.log.delta(Delta::Call {
                    call_id: call.id.clone(),
                    name: call.name.clone(),
                    input: call.input.clone(),
                });
            }
            let results = self.run_group(&group, again).await;
            for (call, (result, duration)) in group.into_iter().zip(results) {
                self.append(finished(call, result, duration)?).await?;
            }
        }
        Ok(())
    }

    /// Runs calls side by side, passing on what they show live; results in the calls' order.
    async fn run_group(&mut self, group: &[ToolCall], again: bool) -> Vec<(Result<Output, ToolError>, Duration)> {
        let (deltas, mut shown) = mpsc::unbounded_channel();
        let (log, agent) = (
            &mut *self.log,
            Calls {
                tools: &self.tools,
                specs: &self.specs,
                sandbox: &*self.sandbox,
                env: &self.env,
                halt: &self.halt,
                again,
            },
        );
        // Made before the first await: a closure held across one would make this future not Send for its callers.
        let calls: Vec<_> = group.iter().map(|call| agent.run(call, deltas.clone())).collect();
        let running = stream::iter(calls).buffered(SIDE_BY_SIDE).collect::<Vec<_>>();
        tokio::pin!(running);
        let results = loop {
            tokio::select! {
                biased;
                Some(delta) = shown.recv() => log.delta(delta),
                results = &mut running => break results,
            }
        };
        while let Ok(delta) = shown.try_recv() {
            log.delta(delta);
        }
        results
    }
}

/// What calls need of the agent while its log is in use.
struct Calls<'a> {
    tools: &'a [Box<dyn Tool>],
    specs: &'a [ToolSpec],
    sandbox: &'a dyn Sandbox,
    env: &'a std::collections::BTreeMap<String, String>,
    halt: &'a Halt,
    again: bool,
}

impl Calls<'_> {
    async fn run(
        &self,
        call: &ToolCall,
        deltas: mpsc::UnboundedSender<Delta>,
    ) -> (Result<Output, ToolError>, Duration) {
        let began = Instant::now();
        let context = Context {
            sandbox: self.sandbox,
            env: self.env,
            call_id: &call.id,
            deltas,
            halt: self.halt,
            again: self.again,
        };
        let found = self.specs.iter().zip(self.tools).find(|(spec, _)| spec.name == call.name);
        let result = match found {
            None => {
                let names: Vec<&str> = self.specs.iter().map(|spec| spec.name).collect();
                Err(ToolError::ForModel(format!("there is no tool {:?}; there are {}", call.name, names.join(", "))))
            }
            Some((_, tool)) if tool.read_only() => tokio::select! {
                result = tool.call(&call.input, &context) => result,
                _ = self.halt.wait() => Err(ToolError::ForModel(format!("not run: {}", self.halt.reason()))),
            },
            Some((_, tool)) => tool.call(&call.input, &context).await,
        };
        let took = result.as_ref().ok().and_then(|output| output.took);
        (result, took.unwrap_or_else(|| began.elapsed()))
    }
}

fn call_ids(history: &[Entry]) -> HashSet<String> {
    let calls = history.iter().filter_map(|entry| match entry {
        Entry::Reply(reply) => Some(&reply.calls),
        _ => None,
    });
    calls.flatten().map(|call| call.id.clone()).collect()
}

/// Doubles with each try, with up to a quarter of jitter either way.
fn backoff(attempt: u32) -> Duration {
    let wait = FIRST_WAIT.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_WAIT);
    wait.mul_f64(rand::rng().random_range(0.75..1.25))
}

fn failed(call: ToolCall, output: String) -> Entry {
    entry(call, Output { text: output, is_error: true, ..Output::default() }, Duration::ZERO)
}

fn finished(call: ToolCall, result: Result<Output, ToolError>, duration: Duration) -> Result<Entry, Error> {
    let output = match result {
        Ok(output) => output,
        Err(ToolError::ForModel(text)) => Output { text, is_error: true, ..Output::default() },
        Err(ToolError::Fatal(error)) => return Err(error.into()),
    };
    Ok(entry(call, output, duration))
}

fn entry(call: ToolCall, output: Output, duration: Duration) -> Entry {
    let ToolCall { id, name, input } = call;
    let input: Value = input;
    Entry::CallFinished {
        call_id: id,
        name,
        input,
        output: output.text,
        is_error: output.is_error,
        exit_code: output.exit_code,
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        full_output: output.full,
    }
}
