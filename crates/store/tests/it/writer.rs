use codegen_store::{Error, NewRun};

use crate::Fixture;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failing_change_does_not_take_its_group_along() {
    let fixture = Fixture::new().await;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (store, org_id, new) = (fixture.store.clone(), fixture.org.id, fixture.asks("task"));
        callers.spawn(async move {
            // No such user: the foreign key refuses it after the row was written.
            let new = if n % 4 == 0 { NewRun { user_id: 999, ..new } } else { new };
            (n % 4 == 0, store.create_run(org_id, new, 10).await)
        });
    }
    let mut made = 0;
    for (bad, outcome) in callers.join_all().await {
        match outcome {
            Ok(run) => {
                assert!(!bad);
                assert!(fixture.store.run(fixture.org.id, run.id).await.is_ok(), "acknowledged, so committed");
                made += 1;
            }
            Err(error) => assert!(bad && matches!(error, Error::Db(_)), "{error:?}"),
        }
    }
    let (_, total) = fixture
        .store
        .runs(fixture.org.id, &codegen_store::RunFilter::default(), codegen_store::Cursor::Skip(0), 1)
        .await
        .unwrap();
    assert_eq!((made, total), (150, 150), "the refused ones are not counted either");
}

#[tokio::test]
async fn a_caller_that_stops_waiting_does_no_harm() {
    let fixture = Fixture::new().await;
    let mut changes = fixture.store.subscribe();
    for _ in 0..20 {
        let asked = fixture.store.create_run(fixture.org.id, fixture.asks("task"), 10);
        // Polled once, so that the request is sent, then dropped.
        tokio::select! {
            biased;
            outcome = asked => drop(outcome),
            () = std::future::ready(()) => {}
        }
    }
    fixture.queue("after").await;
    // Nobody waits for the others, so they may come after it.
    let mut queued = 0;
    while queued < 21 {
        queued += usize::from(changes.recv().await.unwrap().kind == codegen_store::ChangeKind::RunQueued);
    }
    let (_, total) = fixture
        .store
        .runs(fixture.org.id, &codegen_store::RunFilter::default(), codegen_store::Cursor::Skip(0), 1)
        .await
        .unwrap();
    assert_eq!(total, 21, "what was asked is done");
}
