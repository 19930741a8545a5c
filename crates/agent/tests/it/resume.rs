//! A run that was cut off anywhere comes to the same end.

use codegen_agent::{Entry, Outcome, Reply, ToolCall, native};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::fake::{ClosureModel, HostSandbox, MemoryLog, calls, message, run, says, script, task};

#[tokio::test]
async fn resuming_after_each_entry_gives_the_same_end() {
    let sandbox = HostSandbox::new();
    let replies = json!([
        {"text": "look", "calls": [{"name": "glob", "input": {"pattern": "*"}}, {"name": "grep", "input": {"pattern": "x"}}]},
        {"text": "", "calls": [{"name": "shell", "input": {"command": "echo a"}}, {"name": "nonsense", "input": {}}, {"name": "shell", "input": {"command": "echo b"}}]},
        {"text": "more", "calls": [{"name": "write", "input": {"path": "a.txt", "content": "a"}}]},
        {"text": "", "calls": [{"name": "shell", "input": {"command": "false"}}, {"name": "finish", "input": {"summary": "the end", "success": true}}]},
    ]);
    let model = script(&sandbox.dir, &replies);
    let mut whole = MemoryLog::default();
    let end = run(model.clone(), sandbox.clone(), &mut whole).await.unwrap();
    assert_eq!(end, Outcome::Finished("the end".to_owned()));
    let reply_texts = |entries: &[Entry]| -> Vec<Reply> {
        entries.iter().filter_map(|e| if let Entry::Reply(r) = e { Some(r.clone()) } else { None }).collect()
    };
    for cut in 1..=whole.entries.len() {
        let history = whole.entries[..cut].to_vec();
        let mut log = MemoryLog { entries: history.clone(), ..MemoryLog::default() };
        let again = native::run(task(model.clone(), history), sandbox.clone(), &mut log, CancellationToken::new());
        assert_eq!(again.await.unwrap(), end, "cut after entry {cut}");
        assert_eq!(reply_texts(&log.entries), reply_texts(&whole.entries), "cut after entry {cut}");
        let finished = |log: &MemoryLog| log.kinds().iter().filter(|kind| *kind == "call_finished").count();
        assert_eq!(finished(&log), finished(&whole), "cut after entry {cut}: each call has one result");
    }
}

#[tokio::test]
async fn a_call_under_way_in_a_lost_sandbox_is_marked_interrupted_and_one_not_begun_is_run() {
    let sandbox = HostSandbox::new();
    let call = |id: &str, command: &str| ToolCall {
        id: id.to_owned(),
        name: "shell".to_owned(),
        input: json!({"command": command}),
    };
    let reply = Reply { calls: vec![call("a", "touch twice"), call("b", "echo fresh")], ..Reply::default() };
    let history = vec![message("Go."), Entry::Reply(reply), Entry::CallStarted { call_id: "a".to_owned() }];
    let mut log = MemoryLog { entries: history.clone(), ..MemoryLog::default() };
    assert_eq!(native::close_interrupted_calls(&history, &mut log).await.unwrap(), ["shell"]);
    let model = ClosureModel::answering(|_, _| Ok(says("end")));
    native::run(task(model, log.entries.clone()), sandbox.clone(), &mut log, CancellationToken::new()).await.unwrap();
    let results = log.results();
    assert_eq!(
        results[0],
        ("interrupted: it was under way when its sandbox was lost; its effect is unknown".to_owned(), true)
    );
    assert_eq!(results[1], ("fresh\n".to_owned(), false));
    assert!(!sandbox.dir.path().join("workspace/twice").exists());
}

#[tokio::test]
async fn a_message_to_an_ended_run_continues_it() {
    let sandbox = HostSandbox::new();
    let mut log = MemoryLog::default();
    let first =
        ClosureModel::answering(|_, _| Ok(calls(&[("a", "finish", json!({"summary": "first", "success": true}))])));
    assert_eq!(run(first, sandbox.clone(), &mut log).await.unwrap(), Outcome::Finished("first".to_owned()));
    log.entries.push(message("And now the rest."));
    let second = ClosureModel::answering(|_, _| Ok(says("second")));
    let task = task(second, log.entries.clone());
    let outcome = native::run(task, sandbox, &mut log, CancellationToken::new()).await.unwrap();
    assert_eq!(outcome, Outcome::Finished("second".to_owned()));
}
