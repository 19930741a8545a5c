//! A run whose trace is full ends, and says so.
#![allow(clippy::unwrap_used, missing_docs)]

use codegen_server::config::TraceLimits;
use codegen_store::{Reason, Run};

use crate::run_story::{Scene, finish, result, shell};

async fn ended(most: TraceLimits) -> (Scene, Run) {
    let scene = Scene::with(|config| config.trace = most).await;
    let repo = scene.repo(&scene.origin()).await;
    let run = scene.queue(Some(&repo), &[shell("echo kept > kept.txt"), finish("Done.")]).await;
    let run = scene.work_on(&run).await;
    (scene, run)
}

#[tokio::test]
async fn a_run_ends_at_the_entry_that_fills_its_trace_and_completes_one_before_it() {
    let (scene, run) = ended(TraceLimits::default()).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{}", result(&run));
    let rows = scene.app.store.log(run.id, 0, 1000).await.unwrap();
    let last_reply = rows.iter().rfind(|row| row.kind == "reply").unwrap().seq;
    let bytes: u64 = rows.iter().filter(|row| row.seq <= last_reply).map(|row| row.body.len() as u64).sum();

    for most in [
        TraceLimits { entries: last_reply, ..TraceLimits::default() },
        // Times are not of the same length in each run.
        TraceLimits { bytes: bytes - 100, ..TraceLimits::default() },
    ] {
        let (scene, run) = ended(most).await;
        assert_eq!(run.reason, Some(Reason::MaxIterations), "{most:?}: {} {:?}", result(&run), run.error_cause);
        assert!(result(&run).starts_with("The trace of this run is full ("), "{}", result(&run));
        assert!(scene.diff(&run).await.contains("+kept"), "the work is carried out as at any limit");
        // Who goes on with it is told the same, without a question to the model.
        scene.app.store.add_message(run.org_id, run.id, "Go on", &[], scene.app.now()).await.unwrap();
        let again = scene.work_on(&run).await;
        assert_eq!((again.reason, again.steps), (Some(Reason::MaxIterations), run.steps), "{}", result(&again));
    }
    let (_scene, run) = ended(TraceLimits { entries: last_reply + 1, bytes: bytes + 100 }).await;
    assert_eq!(run.reason, Some(Reason::Complete), "{}", result(&run));
}
