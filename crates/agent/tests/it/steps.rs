//! What the loop does with replies.

use codegen_agent::{Delta, Entry, Outcome, Reply, Usage};
use serde_json::{Value, json};

use crate::fake::{ClosureModel, HostSandbox, MemoryLog, calls, message, run, says, script};

#[tokio::test]
async fn a_reply_is_durable_before_its_calls_and_results_come_in_order() {
    let sandbox = HostSandbox::new();
    let model = script(
        &sandbox.dir,
        &json!([
            {"text": "two", "calls": [{"name": "shell", "input": {"command": "echo one"}}, {"name": "shell", "input": {"command": "echo two >&2; exit 4"}}]},
            {"text": "", "expect": "two\n[exit code 4]", "calls": [{"name": "finish", "input": {"summary": "both ran", "success": true}}]},
        ]),
    );
    let mut log = MemoryLog::default();
    let outcome = run(model, sandbox, &mut log).await.unwrap();
    assert_eq!(outcome, Outcome::Finished("both ran".to_owned()));
    let kinds = [
        "user_message",
        "reply",
        "call_started",
        "call_finished",
        "call_started",
        "call_finished",
        "reply",
        "call_finished",
    ];
    assert_eq!(log.kinds(), kinds);
    assert_eq!(log.results()[0], ("one\n".to_owned(), false));
    assert!(log.results()[1].1);
    assert!(log.deltas.iter().any(|d| matches!(d, Delta::Output { text, .. } if text == "one\n")), "{:?}", log.deltas);
    assert!(log.deltas.iter().any(|d| matches!(d, Delta::Call { name, .. } if name == "shell")));
}

#[tokio::test]
async fn text_without_calls_is_the_final_answer() {
    let mut log = MemoryLog::default();
    let outcome =
        run(ClosureModel::answering(|_, _| Ok(says("All is well."))), HostSandbox::new(), &mut log).await.unwrap();
    assert_eq!(outcome, Outcome::Finished("All is well.".to_owned()));
}

#[tokio::test]
async fn the_agent_may_say_that_it_cannot() {
    let model = ClosureModel::answering(|_, _| {
        Ok(calls(&[("a", "finish", json!({"summary": "no such file", "success": false}))]))
    });
    let outcome = run(model, HostSandbox::new(), &mut MemoryLog::default()).await.unwrap();
    assert_eq!(outcome, Outcome::GaveUp("no such file".to_owned()));
}

#[tokio::test]
async fn malformed_arguments_unknown_tools_and_wrong_types_go_back_to_the_model() {
    let model = ClosureModel::answering(|asked, _| {
        Ok(match asked {
            0 => calls(&[
                ("a", "shell", Value::String("{\"command\": \"ec".to_owned())),
                ("b", "launch_missiles", json!({})),
                ("c", "shell", json!({"cmd": "echo"})),
                ("d", "finish", json!({"success": true})),
            ]),
            _ => says("sorry"),
        })
    });
    let mut log = MemoryLog::default();
    assert_eq!(run(model, HostSandbox::new(), &mut log).await.unwrap(), Outcome::Finished("sorry".to_owned()));
    let results = log.results();
    assert!(results.iter().all(|(_, is_error)| *is_error), "{results:?}");
    assert!(results[0].0.contains("not valid JSON"), "{results:?}");
    assert!(results[1].0.contains("no tool \"launch_missiles\"") && results[1].0.contains("shell"), "{results:?}");
    assert!(results[2].0.contains("missing field `command`"), "{results:?}");
    assert!(results[3].0.contains("missing field `summary`"), "{results:?}");
}

#[tokio::test]
async fn follow_ups_are_taken_at_the_next_step_boundary_and_keep_a_run_from_ending() {
    let sandbox = HostSandbox::new();
    let model = ClosureModel::answering(|asked, history| {
        let heard = history.iter().any(|e| matches!(e, Entry::UserMessage { text, .. } if text == "Also the docs."));
        assert_eq!(heard, asked > 0, "question {asked}");
        Ok(says(if heard { "docs done" } else { "done" }))
    });
    let mut log = MemoryLog { arriving: [(2, message("Also the docs."))].into(), ..MemoryLog::default() };
    assert_eq!(run(model, sandbox, &mut log).await.unwrap(), Outcome::Finished("docs done".to_owned()));
}

#[tokio::test]
async fn an_answer_that_was_cut_off_is_not_the_final_one() {
    let model =
        ClosureModel::answering(|asked, _| Ok(Reply { cut_off: asked == 0, ..says(["half an", "end"][asked]) }));
    let mut log = MemoryLog::default();
    assert_eq!(run(model, HostSandbox::new(), &mut log).await.unwrap(), Outcome::Finished("end".to_owned()));
}

#[tokio::test]
async fn calls_with_repeated_or_missing_ids_get_their_own() {
    let model = ClosureModel::answering(|asked, _| {
        Ok(match asked {
            0 | 1 => calls(&[("x", "shell", json!({"command": "true"})), ("", "shell", json!({"command": "true"}))]),
            _ => says("end"),
        })
    });
    let mut log = MemoryLog::default();
    run(model, HostSandbox::new(), &mut log).await.unwrap();
    let mut ids: Vec<String> = log
        .entries
        .iter()
        .filter_map(|e| if let Entry::CallFinished { call_id, .. } = e { Some(call_id.clone()) } else { None })
        .collect();
    assert_eq!(ids.len(), 4);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "{ids:?}");
}

#[tokio::test]
async fn a_log_that_refuses_stops_the_agent_before_the_effect() {
    let sandbox = HostSandbox::new();
    let file = sandbox.dir.path().join("workspace/touched");
    let model = ClosureModel::answering(|_, _| Ok(calls(&[("a", "shell", json!({"command": "touch touched"}))])));
    let mut log = MemoryLog { full_after: Some(2), ..MemoryLog::default() };
    let error = run(model, sandbox, &mut log).await.unwrap_err();
    assert_eq!(error.to_string(), "writing the run's log");
    assert!(!file.exists());
}

#[test]
fn usage_counts_cached_tokens_too() {
    assert_eq!(Usage { input: 1, output: 2, cache_read: 3, cache_write: 4 }.total(), 10);
}
