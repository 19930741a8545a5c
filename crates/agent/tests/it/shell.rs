//! The shell tool.

use std::sync::Arc;

use codegen_agent::{Entry, native};
use codegen_sandbox::Sandbox;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::fake::{ClosureModel, HostSandbox, MemoryLog, calls, message, says, task};

/// Results of commands, one a step, in one run.
async fn shell(sandbox: &Arc<HostSandbox>, commands: &[&str]) -> Vec<(String, bool)> {
    let commands: Vec<String> = commands.iter().map(|c| (*c).to_owned()).collect();
    let model = ClosureModel::answering(move |asked, _| {
        Ok(match commands.get(asked) {
            Some(command) => calls(&[(&format!("c{asked}"), "shell", json!({"command": command, "timeout": 20}))]),
            None => says("end"),
        })
    });
    let mut log = MemoryLog::default();
    let mut task = task(model, vec![message("Go.")]);
    task.env.insert("FROM_SETUP".to_owned(), "yes".to_owned());
    native::run(task, sandbox.clone(), &mut log, CancellationToken::new()).await.unwrap();
    log.results()
}

#[tokio::test]
async fn folder_and_exported_variables_carry_over_whatever_they_hold() {
    let sandbox = HostSandbox::new();
    let results = shell(
        &sandbox,
        &[
            "export A=\"line one\nline 'two' \\$(x)\"; NOT=exported; mkdir -p 'a b'; cd 'a b'",
            "printf '%s|%s|%s|%s' \"$A\" \"$NOT\" \"${PWD##*/}\" \"$FROM_SETUP\"",
        ],
    )
    .await;
    assert_eq!(results[1].0, "line one\nline 'two' $(x)||a b|yes");
}

#[tokio::test]
async fn state_survives_exit_errexit_and_a_failed_exec() {
    let sandbox = HostSandbox::new();
    let results = shell(
        &sandbox,
        &[
            "export A=1; exit 3",
            "set -eu; export B=2; false; export B=no",
            "export C=3; exec /no/such/program",
            "trap 'echo bye' EXIT; export D=4",
            "set -u; export E=5; echo $UNSET_VARIABLE",
            "export F=6; if",
            "echo $A$B$C$D$E${F-}; exit",
        ],
    )
    .await;
    assert_eq!(results[0].0, "[exit code 3]");
    assert_eq!(results[1].0, "[exit code 1]");
    assert_eq!(results[3].0, "bye\n");
    assert!(results[5].1 && results[5].0.contains("syntax error"), "{results:?}");
    assert_eq!(results[6].0, "12345\n");
}

#[tokio::test]
async fn a_vanished_folder_is_said_and_left() {
    let sandbox = HostSandbox::new();
    let results = shell(&sandbox, &["mkdir gone; cd gone; rmdir ../gone", "pwd"]).await;
    let (output, _) = &results[1];
    assert!(output.contains("the working folder is gone") && output.contains(sandbox.workspace()), "{output}");
}

#[tokio::test]
async fn a_timeout_is_told_in_words_with_the_output_so_far() {
    let sandbox = HostSandbox::new();
    let model = ClosureModel::answering(|asked, _| {
        Ok(match asked {
            0 => calls(&[("a", "shell", json!({"command": "echo so far; sleep 600", "timeout": 0.3}))]),
            _ => says("end"),
        })
    });
    let mut log = MemoryLog::default();
    native::run(task(model, vec![message("Go.")]), sandbox.clone(), &mut log, CancellationToken::new()).await.unwrap();
    assert!(log.results()[0].0.starts_with("so far\n[killed after 0.3 s, its timeout"), "{:?}", log.results());
}

#[tokio::test]
async fn long_output_loses_its_middle_for_the_model_and_is_whole_in_the_trace() {
    let sandbox = HostSandbox::new();
    let model = ClosureModel::answering(|asked, history| {
        let kept = history.iter().any(|e| matches!(e, Entry::CallFinished { full_output: Some(_), .. }));
        assert!(!kept, "the loop need not remember it");
        Ok(match asked {
            0 => calls(&[("a", "shell", json!({"command": "seq 1 20000; printf '\\377\\000'"}))]),
            _ => says("end"),
        })
    });
    let mut log = MemoryLog::default();
    native::run(task(model, vec![message("Go.")]), sandbox.clone(), &mut log, CancellationToken::new()).await.unwrap();
    let Some(Entry::CallFinished { output, full_output: Some(full), .. }) =
        log.entries.iter().find(|e| matches!(e, Entry::CallFinished { .. }))
    else {
        panic!("{:?}", log.entries)
    };
    assert!(output.len() < 31_000 && output.starts_with("1\n2\n") && output.contains("left out of the middle"));
    assert!(full.len() > 100_000 && full.ends_with("20000\n\u{FFFD}\u{FFFD}"));
}

#[tokio::test]
async fn a_command_longer_than_an_argument_may_be_runs() {
    let sandbox = HostSandbox::new();
    let command = format!("cat > big <<'X'\n{}\nX\nwc -c < big", "x".repeat(300_000));
    assert_eq!(shell(&sandbox, &[&command]).await[0].0.trim(), "300001");
}
