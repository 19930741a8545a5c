//! The file tools.

use codegen_agent::{Entry, Outcome};
use serde_json::{Value, json};

use crate::fake::{HostSandbox, MemoryLog, run, script};

/// Results of calls, one reply each.
async fn results(sandbox: &std::sync::Arc<HostSandbox>, calls: &[(&str, Value)]) -> Vec<(String, bool)> {
    let mut replies: Vec<Value> =
        calls.iter().map(|(name, input)| json!({"calls": [{"name": name, "input": input}]})).collect();
    replies.push(json!({"text": "end"}));
    let model = script(&sandbox.dir, &json!(replies));
    let mut log = MemoryLog::default();
    assert_eq!(run(model, sandbox.clone(), &mut log).await.unwrap(), Outcome::Finished("end".to_owned()));
    assert!(!log.entries.iter().any(|e| matches!(e, Entry::Notice { .. })));
    log.results()
}

#[tokio::test]
async fn files_are_written_read_edited_and_found() {
    let sandbox = HostSandbox::new();
    let done = results(
        &sandbox,
        &[
            ("write", json!({"path": "src/deep/a.py", "content": "one = 1\ntwo = 2\nthree = 3\n"})),
            ("read", json!({"path": "./src/deep/a.py", "offset": 2, "limit": 1})),
            ("edit", json!({"path": "src/deep/a.py", "old": "two = 2", "new": "two = 22"})),
            ("grep", json!({"pattern": "two = \\d+", "glob": "*.py"})),
            ("glob", json!({"pattern": "**/*.py", "path": "src"})),
            ("edit", json!({"path": "src/deep/a.py", "old": "twoo = 22", "new": "x"})),
            ("read", json!({"path": "no/such/file"})),
            ("grep", json!({"pattern": "("})),
        ],
    )
    .await;
    assert_eq!(done[0], ("wrote src/deep/a.py (3 lines, 26 bytes)".to_owned(), false));
    assert!(done[1].0.starts_with("     2\ttwo = 2\n[3 lines in all"), "{done:?}");
    assert_eq!(done[2], ("src/deep/a.py: replaced at line 2".to_owned(), false));
    assert!(done[3].0 == "src/deep/a.py:2:two = 22", "{done:?}");
    assert!(done[4].0 == "src/deep/a.py", "{done:?}");
    assert!(done[5].1 && done[5].0.contains("two = 22"), "the closest line is shown: {done:?}");
    assert!(done[6].1 && done[6].0.contains("no/such/file"), "{done:?}");
    assert!(done[7].1 && done[7].0.contains("unclosed group"), "{done:?}");
    let text = std::fs::read_to_string(sandbox.dir.path().join("workspace/src/deep/a.py")).unwrap();
    assert_eq!(text, "one = 1\ntwo = 22\nthree = 3\n");
}

#[tokio::test]
async fn read_only_calls_of_one_reply_run_side_by_side_and_their_results_keep_their_order() {
    let sandbox = HostSandbox::meeting(Some(3));
    for name in ["a", "b", "c"] {
        std::fs::write(sandbox.dir.path().join("workspace").join(name), name).unwrap();
    }
    let call = |name: &str| json!({"name": "read", "input": {"path": name}});
    let model = script(&sandbox.dir, &json!([{"calls": [call("a"), call("b"), call("c")]}, {"text": "end"}]));
    let mut log = MemoryLog::default();
    run(model, sandbox, &mut log).await.unwrap();
    let read: Vec<String> = log.results().into_iter().map(|(output, _)| output).collect();
    assert_eq!(read, ["     1\ta\n", "     1\tb\n", "     1\tc\n"]);
    assert!(!log.kinds().contains(&"call_started".to_owned()), "what changes nothing may run again after a crash");
}
