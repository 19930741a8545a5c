//! Reads a run's entries as a conversation: turns in the order models demand, calls still open, and whether it has ended.

use std::collections::HashMap;

use serde_json::Value;

use crate::{Entry, Outcome, Reply, ToolCall, tools::finish};

/// What models are told of a call that has no result.
const NO_RESULT: &str = "(no result was recorded)";

/// What models are told after an answer that ended at their limit.
const GO_ON: &str = "Your answer was cut off at its longest. Go on from there, in smaller steps.";

/// One turn of the conversation.
#[derive(Debug)]
pub(crate) enum Turn<'a> {
    User {
        text: &'a str,
        images: &'a [String],
    },
    Assistant(&'a Reply),
    /// Results of the calls of the assistant turn before, one each, in its order.
    Results(Vec<CallResult<'a>>),
}

/// One call's result.
#[derive(Debug)]
pub(crate) struct CallResult<'a> {
    pub(crate) call_id: &'a str,
    pub(crate) output: &'a str,
    pub(crate) is_error: bool,
}

/// The conversation. Results follow their calls at once, even where a follow-up message came in between.
pub(crate) fn turns(history: &[Entry]) -> Vec<Turn<'_>> {
    let mut turns = Vec::with_capacity(history.len());
    let mut rest = history;
    while let Some((entry, after)) = rest.split_first() {
        rest = after;
        match entry {
            Entry::UserMessage { text, images } => turns.push(Turn::User { text, images }),
            Entry::Reply(reply) if reply.text.trim().is_empty() && reply.calls.is_empty() => {
                if reply.cut_off {
                    turns.push(Turn::User { text: GO_ON, images: &[] });
                }
            }
            Entry::Reply(reply) => {
                turns.push(Turn::Assistant(reply));
                let step = rest.iter().take_while(|e| !matches!(e, Entry::Reply(_)));
                let mut outputs: HashMap<&str, (&str, bool)> = HashMap::new();
                for entry in step {
                    if let Entry::CallFinished { call_id, output, is_error, .. } = entry {
                        outputs.insert(call_id, (output, *is_error));
                    }
                }
                if is_cut_off(reply) {
                    turns.push(Turn::User { text: GO_ON, images: &[] });
                }
                if !reply.calls.is_empty() {
                    turns.push(Turn::Results(
                        reply
                            .calls
                            .iter()
                            .map(|call| {
                                let (output, is_error) = *outputs.get(call.id.as_str()).unwrap_or(&(NO_RESULT, true));
                                CallResult { call_id: &call.id, output, is_error }
                            })
                            .collect(),
                    ));
                }
            }
            Entry::Notice { text, to_model: true } => turns.push(Turn::User { text, images: &[] }),
            Entry::CallStarted { .. } | Entry::CallFinished { .. } | Entry::Notice { to_model: false, .. } => {}
        }
    }
    turns
}

/// Whether the model would have said more, and no result of a call makes it go on.
fn is_cut_off(reply: &Reply) -> bool {
    reply.cut_off && reply.calls.is_empty()
}

/// The last reply and what came after it.
fn last_step(history: &[Entry]) -> Option<(&Reply, &[Entry])> {
    history.iter().enumerate().rev().find_map(|(i, entry)| match entry {
        Entry::Reply(reply) => Some((reply, history.get(i + 1..).unwrap_or_default())),
        _ => None,
    })
}

/// A call of the last reply without a result.
#[derive(Debug)]
pub(crate) struct OpenCall {
    pub(crate) call: ToolCall,
    /// Its effect had begun.
    pub(crate) started: bool,
}

/// Calls of the last reply without a result, in order.
pub(crate) fn open_calls(history: &[Entry]) -> Vec<OpenCall> {
    let Some((reply, after)) = last_step(history) else { return Vec::new() };
    let (mut started, mut finished) = (Vec::new(), Vec::new());
    for entry in after {
        match entry {
            Entry::CallStarted { call_id } => started.push(call_id),
            Entry::CallFinished { call_id, .. } => finished.push(call_id),
            _ => {}
        }
    }
    reply
        .calls
        .iter()
        .filter(|call| !finished.contains(&&call.id))
        .map(|call| OpenCall { call: call.clone(), started: started.contains(&&call.id) })
        .collect()
}

/// Ends without a good structured result, in calls or words, after which a run that is asked for one is given up.
const MOST_TRIES: usize = 5;

/// How the agent's own words end.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The run ends so.
    With(Outcome),
    /// It has yet to be told that a structured result is missing.
    WithoutOutput,
}

/// The agent's own end, when all calls have results and no message came after its last reply.
pub(crate) fn ended(history: &[Entry], wants_output: bool) -> Option<Ended> {
    let (reply, after) = last_step(history)?;
    if is_cut_off(reply) || after.iter().any(|e| matches!(e, Entry::UserMessage { .. })) {
        return None;
    }
    let called = after.iter().find_map(|entry| match entry {
        Entry::CallFinished { name, input, is_error: false, .. } if name == finish::NAME => {
            finish::outcome(input, wants_output)
        }
        _ => None,
    });
    if let Some(outcome) = called {
        return Some(Ended::With(outcome));
    }
    let only_words = reply.calls.is_empty();
    if !wants_output {
        return only_words.then(|| Ended::With(Outcome::Finished(last_text(history))));
    }
    if let Some(why) = last_try(history) {
        return Some(Ended::With(Outcome::NoOutput(why)));
    }
    let was_told = after.iter().any(|e| matches!(e, Entry::Notice { to_model: true, .. }));
    (only_words && !was_told).then_some(Ended::WithoutOutput)
}

/// What was wrong with the last try to end with a structured result, where there were as many as there may be since the
/// last message.
fn last_try(history: &[Entry]) -> Option<String> {
    let since = history.iter().rev().take_while(|e| !matches!(e, Entry::UserMessage { .. }));
    let mut tries = since.filter_map(|entry| match entry {
        Entry::CallFinished { name, output, is_error: true, .. } if name == finish::NAME => Some(output.as_str()),
        Entry::Reply(reply) if reply.calls.is_empty() && !reply.cut_off => Some("it ended without a result"),
        _ => None,
    });
    let last = tries.next()?;
    (tries.count() + 1 >= MOST_TRIES).then(|| last.to_owned())
}

/// The newest words of the model; it may end with an empty answer after them.
fn last_text(history: &[Entry]) -> String {
    let texts = history.iter().rev().filter_map(|entry| match entry {
        Entry::Reply(reply) => Some(reply.text.trim()),
        _ => None,
    });
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default().to_owned()
}

/// Arguments as a JSON object, which every API demands: malformed ones are wrapped.
pub(crate) fn arguments(input: &Value) -> Value {
    match input {
        Value::Object(_) => input.clone(),
        other => serde_json::json!({ "malformed": other }),
    }
}
