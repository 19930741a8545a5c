//! What ends a run but the agent's own word.

use std::{sync::Arc, time::Duration};

use codegen_agent::{
    Budget, Limit, Outcome, Reply, Usage,
    models::{self, Keys, ModelError},
    native,
};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fake::{ClosureModel, HostSandbox, MemoryLog, SilentModel, calls, message, run, says, script, task};

async fn with_budget(budget: Budget) -> (Outcome, MemoryLog) {
    let sandbox = HostSandbox::new();
    let model = ClosureModel::answering(|n, _| {
        let usage = Usage { input: 60, output: 40, ..Usage::default() };
        Ok(Reply { usage, cost: 0.5, ..calls(&[(&format!("c{n}"), "glob", json!({"pattern": "*"}))]) })
    });
    let mut log = MemoryLog { entries: vec![message("Go.")], ..MemoryLog::default() };
    let mut task = task(model, log.entries.clone());
    task.budget = budget;
    let outcome = native::run(task, sandbox, &mut log, CancellationToken::new()).await.unwrap();
    (outcome, log)
}

#[tokio::test]
async fn a_model_that_never_stops_calling_tools_runs_out_of_steps_with_its_last_calls_done() {
    let (outcome, log) = with_budget(Budget { max_steps: 3, ..Budget::default() }).await;
    assert_eq!(outcome, Outcome::OutOf(Limit::Steps));
    assert_eq!(log.results().len(), 3);
}

#[tokio::test]
async fn tokens_and_money_end_a_run() {
    let (outcome, _) = with_budget(Budget { max_tokens: 250, ..Budget::default() }).await;
    assert_eq!(outcome, Outcome::OutOf(Limit::Tokens));
    let (outcome, _) = with_budget(Budget { max_cost: 1.0, ..Budget::default() }).await;
    assert_eq!(outcome, Outcome::OutOf(Limit::Cost));
}

#[tokio::test]
async fn a_budget_counts_what_earlier_attempts_used() {
    let (_, log) = with_budget(Budget { max_steps: 3, ..Budget::default() }).await;
    let sandbox = HostSandbox::new();
    let mut task = task(ClosureModel::answering(|_, _| Ok(says("never asked"))), log.entries);
    task.budget.max_steps = 3;
    let mut log = MemoryLog::default();
    let outcome = native::run(task, sandbox, &mut log, CancellationToken::new()).await.unwrap();
    assert_eq!(outcome, Outcome::OutOf(Limit::Steps));
    assert!(log.entries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn time_ends_a_run_in_the_middle_of_an_answer() {
    let sandbox = HostSandbox::new();
    let mut task = task(Arc::new(SilentModel), vec![message("Go.")]);
    task.budget.max_time = Duration::from_secs(7);
    let outcome = native::run(task, sandbox, &mut MemoryLog::default(), CancellationToken::new()).await.unwrap();
    assert_eq!(outcome, Outcome::OutOf(Limit::Time));
}

#[tokio::test]
async fn stop_cuts_an_answer_off() {
    let sandbox = HostSandbox::new();
    let stop = CancellationToken::new();
    let token = stop.clone();
    let mut log = MemoryLog { watch: Some(Box::new(move |_| token.cancel())), ..MemoryLog::default() };
    let task = task(Arc::new(SilentModel), vec![message("Go.")]);
    assert_eq!(native::run(task, sandbox, &mut log, stop).await.unwrap(), Outcome::Stopped);
    assert_eq!(
        log.notices(),
        ["[codegen] This answer was cut off, for the run was stopped:\n\nwell"],
        "its words are kept"
    );
}

#[tokio::test]
async fn stop_kills_the_running_command_and_does_not_run_the_next() {
    let sandbox = HostSandbox::new();
    let stop = CancellationToken::new();
    let token = stop.clone();
    let begun = move |what: &str| {
        if what.contains("begun") && what.contains("\"kind\":\"output\"") {
            token.cancel();
        }
    };
    let mut log = MemoryLog { watch: Some(Box::new(begun)), ..MemoryLog::default() };
    let model = ClosureModel::answering(|_, _| {
        Ok(calls(&[
            ("a", "shell", json!({"command": "echo begun; sleep 600"})),
            ("b", "shell", json!({"command": "touch after"})),
        ]))
    });
    let outcome = native::run(task(model, vec![message("Go.")]), sandbox.clone(), &mut log, stop).await.unwrap();
    assert_eq!(outcome, Outcome::Stopped);
    let results = log.results();
    assert!(results[0].0.starts_with("begun\n[killed: the run was stopped"), "{results:?}");
    assert_eq!(results[1], ("not run: the run was stopped".to_owned(), true));
    assert!(!sandbox.dir.path().join("workspace/after").exists());
}

#[tokio::test(start_paused = true)]
async fn a_busy_model_is_asked_again_after_the_time_it_names_and_each_try_is_noticed() {
    let began = Instant::now();
    let model = ClosureModel::answering(|asked, _| match asked {
        0 => Err(ModelError::Retry { message: "busy".to_owned(), after: Some(Duration::from_secs(42)) }),
        1 => Err(ModelError::Retry { message: "broken".to_owned(), after: None }),
        _ => Ok(says("at last")),
    });
    let mut log = MemoryLog::default();
    assert_eq!(run(model, HostSandbox::new(), &mut log).await.unwrap(), Outcome::Finished("at last".to_owned()));
    let waited = began.elapsed().as_secs_f64();
    assert!((42.0 + 1.5..42.0 + 2.6).contains(&waited), "{waited}");
    assert_eq!(log.notices()[0], "busy; trying again in 42.0 s");
    assert_eq!(log.notices().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_stays_away_is_given_up_with_its_last_words() {
    let model =
        ClosureModel::answering(|_, _| Err(ModelError::Retry { message: "overloaded".to_owned(), after: None }));
    let mut log = MemoryLog::default();
    let outcome = run(model, HostSandbox::new(), &mut log).await.unwrap();
    assert_eq!(
        outcome,
        Outcome::ModelFailed("test/closure gave no answer in 8 tries; the last time: overloaded".to_owned())
    );
    assert_eq!(log.notices().len(), 7);
}

#[tokio::test]
async fn a_full_context_ends_the_run_as_out_of_tokens() {
    let model = ClosureModel::answering(|_, _| Err(ModelError::ContextFull));
    let mut log = MemoryLog::default();
    assert_eq!(run(model, HostSandbox::new(), &mut log).await.unwrap(), Outcome::OutOf(Limit::Tokens));
    assert!(log.notices()[0].contains("context"), "{:?}", log.notices());
}

#[tokio::test]
async fn leaving_the_script_fails_loudly() {
    for (replies, words) in [
        (json!([]), "holds 0 replies"),
        (
            json!([{"calls": [{"name": "shell", "input": {"command": "echo one"}}]}, {"expect": "two"}]),
            "expects \"two\"",
        ),
    ] {
        let sandbox = HostSandbox::new();
        let outcome = run(script(&sandbox.dir, &replies), sandbox, &mut MemoryLog::default()).await.unwrap();
        let Outcome::ModelFailed(sentence) = outcome else { panic!("{outcome:?}") };
        assert!(sentence.contains("left the script") && sentence.contains(words), "{sentence}");
    }
}

#[test]
fn a_file_that_is_no_script_is_refused_without_its_content() {
    let dir = tempfile::TempDir::new().unwrap();
    for name in ["s.json", "s.toml"] {
        let path = dir.path().join(name);
        std::fs::write(&path, "replies = \"hunter2\"").unwrap();
        let error =
            models::connect(&format!("scripted:{}", path.display()), &Keys::default()).err().unwrap().to_string();
        assert!(error.contains("is not of the form") && !error.contains("hunter2"), "{error}");
    }
    assert!(models::connect("scripted:/dev/zero", &Keys::default()).is_err());
}

#[tokio::test]
async fn a_script_may_be_toml() {
    let sandbox = HostSandbox::new();
    let path = sandbox.dir.path().join("script.toml");
    std::fs::write(&path, "[[replies]]\ntext = \"end\"\n").unwrap();
    let model = models::connect(&format!("scripted:{}", path.display()), &Keys::default()).unwrap();
    let outcome = run(model, sandbox, &mut MemoryLog::default()).await.unwrap();
    assert_eq!(outcome, Outcome::Finished("end".to_owned()));
}
