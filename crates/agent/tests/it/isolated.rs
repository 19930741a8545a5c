//! The tools in the real sandbox.
#![allow(unsafe_code)] // The zygote is forked before the test harness starts threads.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use codegen_agent::{Budget, Outcome, Task, native};
use codegen_sandbox::{
    Engine, Spec,
    local::{Caller, LocalEngine, Zygote},
};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::fake::{MemoryLog, message, script};

static ZYGOTE: OnceLock<Arc<Zygote>> = OnceLock::new();

/// The zygote must be forked while there is one thread, which is before the tests start theirs.
#[ctor::ctor]
fn fork_zygote() {
    ZYGOTE.get_or_init(|| Arc::new(Zygote::fork(caller()).unwrap()));
}

#[tokio::test]
async fn commands_and_file_tools_work_on_the_same_files_and_carry_state_over() {
    let dir = TempDir::new().unwrap();
    let engine = LocalEngine::new(ZYGOTE.get().unwrap().clone(), dir.path().join("sandboxes")).unwrap();
    let sandbox = engine.create(&Spec { id: "agent-tools".to_owned(), ..Spec::default() }).await.unwrap();
    let model = script(
        &dir,
        &json!([
            {"calls": [{"name": "write", "input": {"path": "src/a.py", "content": "one = 1\ntwo = 2\n"}}]},
            {"calls": [{"name": "shell", "input": {"command": "export NAME='Ann\nB'; cd src; printf '.cache\n' > ../.gitignore; touch .cache"}}]},
            {"calls": [{"name": "edit", "input": {"path": "src/a.py", "old": "two = 2", "new": "two = 22"}}]},
            {"calls": [{"name": "shell", "input": {"command": "pwd; cat a.py; echo \"$NAME\"; id -u"}}]},
            {"expect": "/workspace/src\none = 1\ntwo = 22\nAnn\nB\n1000\n", "calls": [{"name": "grep", "input": {"pattern": "two"}}]},
            {"expect": "src/a.py:2:two = 22", "calls": [{"name": "glob", "input": {"pattern": "*", "path": "src"}}]},
            {"expect": "src/a.py", "calls": [{"name": "read", "input": {"path": "nowhere"}}]},
            {"expect": "No such file", "calls": [{"name": "shell", "input": {"command": "sleep 60", "timeout": 0.2}}]},
            {"expect": "[killed after 0.2 s", "calls": [{"name": "finish", "input": {"summary": "all there", "success": true}}]},
        ]),
    );
    let mut log = MemoryLog { entries: vec![message("Go.")], ..MemoryLog::default() };
    let task = Task {
        history: log.entries.clone(),
        rules: String::new(),
        model,
        budget: Budget::default(),
        env: BTreeMap::new(),
        output: None,
    };
    let outcome = native::run(task, sandbox, &mut log, CancellationToken::new()).await;
    engine.destroy("agent-tools").await.unwrap();
    assert_eq!(outcome.unwrap(), Outcome::Finished("all there".to_owned()), "{:?}", log.results());
}

fn caller() -> Caller {
    Caller::of(|name| std::env::var(name).ok())
}
