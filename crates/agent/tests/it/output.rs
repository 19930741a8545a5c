//! Structured results: what a model is told until it gives one that fits, and what becomes of a run that gives none.

use std::sync::Arc;

use codegen_agent::{Entry, Outcome, OutputSchema, Reply, models::Model, native};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::fake::{ClosureModel, HostSandbox, MemoryLog, calls, message, says, task};

async fn run_for_output(model: Arc<dyn Model>, log: &mut MemoryLog) -> Outcome {
    log.entries.push(message("Count."));
    let schema = json!({
        "type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"], "additionalProperties": false,
    });
    let mut task = task(model, log.entries.clone());
    task.output = Some(OutputSchema::parse(&schema.to_string()).unwrap());
    native::run(task, HostSandbox::new(), log, CancellationToken::new()).await.unwrap()
}

fn finish(id: &str, output: &Value) -> Reply {
    calls(&[(id, "finish", json!({"summary": "counted", "success": true, "output": output}))])
}

#[tokio::test]
async fn a_result_that_does_not_fit_goes_back_with_what_is_wrong_and_one_that_fits_ends_the_run() {
    let model = ClosureModel::answering(|asked, _| {
        Ok(match asked {
            0 => calls(&[("a", "finish", json!({"summary": "counted", "success": true}))]),
            1 => finish("b", &json!({"count": "three", "unit": "files"})),
            _ => finish("c", &json!({"count": 3})),
        })
    });
    let mut log = MemoryLog::default();
    let outcome = run_for_output(model, &mut log).await;
    assert_eq!(outcome, Outcome::Answered { summary: "counted".to_owned(), output: json!({"count": 3}) });
    let results = log.results();
    assert!(results[0].1 && results[0].0.contains("`output` is missing"), "{results:?}");
    assert!(results[1].1 && results[1].0.contains("/count") && results[1].0.contains("unit"), "{results:?}");
    assert!(!results[2].1, "{results:?}");
}

#[tokio::test]
async fn a_model_that_only_talks_is_asked_for_its_result() {
    let model = ClosureModel::answering(|asked, _| {
        Ok(if asked == 0 { says("Three.") } else { finish("a", &json!({"count": 3})) })
    });
    let mut log = MemoryLog::default();
    let outcome = run_for_output(model, &mut log).await;
    assert!(matches!(outcome, Outcome::Answered { .. }), "{outcome:?}");
    let told = log.entries.iter().filter(|e| matches!(e, Entry::Notice { to_model: true, .. })).count();
    assert_eq!(told, 1);
}

#[tokio::test]
async fn a_model_that_never_gives_a_result_is_given_up_after_five_tries() {
    let model = ClosureModel::answering(|asked, _| {
        Ok(if asked % 2 == 0 { says("Three.") } else { finish(&format!("c{asked}"), &json!({"count": "x"})) })
    });
    let mut log = MemoryLog::default();
    let outcome = run_for_output(model, &mut log).await;
    assert_eq!(outcome, Outcome::NoOutput("it ended without a result".to_owned()));
    assert_eq!(log.entries.iter().filter(|e| matches!(e, Entry::Reply(_))).count(), 5);
}

#[tokio::test]
async fn a_task_that_cannot_be_done_needs_no_result() {
    let model =
        ClosureModel::answering(|_, _| Ok(calls(&[("a", "finish", json!({"summary": "no files", "success": false}))])));
    let outcome = run_for_output(model, &mut MemoryLog::default()).await;
    assert_eq!(outcome, Outcome::GaveUp("no files".to_owned()));
}
