use std::collections::HashSet;

use codegen_store::{ChangeKind, Claim, Error, MAX_CRASHES, Phase, Reason, RunUpdate};

use crate::Fixture;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_claimers_claim_each_run_once() {
    let fixture = Fixture::new().await;
    let mut queued = HashSet::new();
    for n in 0..100 {
        queued.insert(fixture.queue(&format!("task {n}")).await.id);
    }
    let mut claimers = tokio::task::JoinSet::new();
    for n in 0..16 {
        let store = fixture.store.clone();
        claimers.spawn(async move {
            let mut mine = Vec::new();
            while let Some(run) = store.claim_run(&format!("w{n}"), 20).await.unwrap() {
                assert_eq!((run.attempt, run.phase), (1, Phase::Preparing));
                mine.push(run.id);
            }
            mine
        });
    }
    let claimed: Vec<i64> = claimers.join_all().await.into_iter().flatten().collect();
    assert_eq!(claimed.len(), 100);
    assert_eq!(claimed.into_iter().collect::<HashSet<_>>(), queued);
}

#[tokio::test]
async fn organizations_take_turns() {
    let fixture = Fixture::new().await;
    let second = fixture.store.create_org("Second", 1).await.unwrap().id;
    let third = fixture.store.create_org("Third", 1).await.unwrap().id;
    for org_id in [fixture.org.id, fixture.org.id, fixture.org.id, second, second, third] {
        fixture.queue_in(org_id, "task").await;
    }
    let mut turns = Vec::new();
    let mut last_of_first = 0;
    while let Some(run) = fixture.store.claim_run("w", 20).await.unwrap() {
        turns.push(run.org_id);
        if run.org_id == fixture.org.id {
            assert!(run.id > last_of_first, "the oldest of an organization comes first");
            last_of_first = run.id;
        }
    }
    let first = fixture.org.id;
    assert_eq!(turns, [first, second, third, first, second, first]);
}

#[tokio::test]
async fn every_write_of_an_earlier_claim_is_refused() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let run = fixture.queue("task").await;
    let old = store.claim_run("w1", 20).await.unwrap().unwrap().claim();
    store.requeue_orphans("w2", &[], 21).await.unwrap();
    let refuses = async |claim: Claim| {
        let update = RunUpdate { steps: Some(9), ..RunUpdate::default() };
        let fenced = [
            store.append_log(&claim, "notice", "{}", false, 22).await.map(drop),
            store.append_log_batch(&claim, vec![], 22).await.map(drop),
            store.set_phase(&claim, Phase::Running).await,
            store.update_run(&claim, update, 22).await,
            store.intend(&claim, "k", "push", "{}", 22).await.map(drop),
            store.settle(&claim, "k", "{}", 22).await,
            store.release_run(&claim, "stopped", 9).await,
            store.finish_run(&claim, Reason::Complete, "", None, 22).await,
            store.finish_run_if_read(&claim, 99, Reason::Complete, "", 22).await.map(drop),
        ];
        for (n, outcome) in fenced.into_iter().enumerate() {
            assert!(matches!(outcome, Err(Error::Fenced)), "write {n}: {outcome:?}");
        }
    };
    refuses(old).await;
    let new = store.claim_run("w2", 23).await.unwrap().unwrap().claim();
    assert_eq!(new.attempt, old.attempt + 1);
    refuses(old).await;
    store.finish_run(&new, Reason::Complete, "done", None, 24).await.unwrap();
    refuses(new).await;
    let run = store.run_by_id(run.id).await.unwrap();
    assert_eq!((run.status(), run.steps, run.result.as_deref()), ("COMPLETE", 0, Some("done")));
    assert!(store.effects(run.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_released_run_is_claimed_again_without_a_crash() {
    let fixture = Fixture::new().await;
    let first = fixture.queue("first").await;
    fixture.queue("second").await;
    let claim = fixture.store.claim_run("w1", 20).await.unwrap().unwrap().claim();
    fixture.store.release_run(&claim, "stopped", 9).await.unwrap();
    let again = fixture.store.claim_run("w1", 21).await.unwrap().unwrap();
    assert_eq!((again.id, again.crashes, again.attempt), (first.id, 0, 2), "it keeps its place");
    assert_eq!(again.started_at, Some(20));
}

#[tokio::test]
async fn one_run_can_be_claimed_by_its_id_once() {
    let fixture = Fixture::new().await;
    fixture.queue("first").await;
    let second = fixture.queue("second").await;
    let claimed = fixture.store.claim_run_by_id(second.id, "w", 20).await.unwrap().unwrap();
    assert_eq!(claimed.id, second.id);
    assert!(fixture.store.claim_run_by_id(second.id, "w", 20).await.unwrap().is_none());
}

#[tokio::test]
async fn a_run_that_keeps_losing_its_worker_is_given_up() {
    let fixture = Fixture::new().await;
    let run = fixture.queue("task").await;
    for crash in 1..=MAX_CRASHES {
        fixture.store.claim_run("gone", 20).await.unwrap().unwrap();
        let orphans = fixture.store.requeue_orphans("live", &[], 21).await.unwrap();
        assert_eq!((orphans[0].phase, orphans[0].crashes), (Phase::Queued, crash));
    }
    fixture.store.claim_run("gone", 20).await.unwrap().unwrap();
    let orphans = fixture.store.requeue_orphans("live", &[], 21).await.unwrap();
    assert!(orphans[0].phase == Phase::Queued && orphans[0].is_given_up(), "one attempt more, for its work");
    fixture.store.claim_run("gone", 20).await.unwrap().unwrap();
    let orphans = fixture.store.requeue_orphans("live", &[], 22).await.unwrap();
    assert_eq!((orphans[0].status(), orphans[0].ended_at), ("FAILED", Some(22)));
    let mut entries = fixture.store.log(run.id, 0, 100).await.unwrap();
    let (last, result) = (entries.pop().unwrap(), entries.pop().unwrap());
    assert_eq!((last.kind.as_str(), result.kind.as_str()), ("status", "result"));
    assert!(last.body.contains("FAILED") && result.body.contains("given up"), "{} {}", last.body, result.body);
    assert!(fixture.store.claim_run("live", 23).await.unwrap().is_none());
}

#[tokio::test]
async fn progress_forgives_crashes_and_a_live_workers_runs_are_left_alone() {
    let fixture = Fixture::new().await;
    fixture.queue("task").await;
    for kind in ["reply", "call_finished"] {
        fixture.store.claim_run("gone", 20).await.unwrap().unwrap();
        fixture.store.requeue_orphans("live", &[], 21).await.unwrap();
        let run = fixture.store.claim_run("live", 22).await.unwrap().unwrap();
        assert_eq!(run.crashes, 1);
        assert!(fixture.store.requeue_orphans("live", &[], 23).await.unwrap().is_empty());
        fixture.store.append_log(&run.claim(), "call_started", "{}", false, 24).await.unwrap();
        assert_eq!(fixture.store.run_by_id(run.id).await.unwrap().crashes, 1);
        fixture.store.append_log(&run.claim(), kind, "{}", true, 24).await.unwrap();
        assert_eq!(fixture.store.run_by_id(run.id).await.unwrap().crashes, 0);
        fixture.store.release_run(&run.claim(), "stopped", 9).await.unwrap();
    }
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_nothing_else() {
    let fixture = Fixture::new().await;
    fixture.queue("task").await;
    let claimed = fixture.store.claim_run("w", 20).await.unwrap().unwrap();
    let claim = claimed.claim();
    let first = RunUpdate { branch: Some("codegen/1-task".to_owned()), cost: Some(0.25), ..RunUpdate::default() };
    fixture.store.update_run(&claim, first, 22).await.unwrap();
    let second = RunUpdate { steps: Some(3), ..RunUpdate::default() };
    fixture.store.update_run(&claim, second, 22).await.unwrap();
    let run = fixture.store.run_by_id(claim.run_id).await.unwrap();
    let expected = codegen_store::Run { branch: Some("codegen/1-task".to_owned()), cost: 0.25, steps: 3, ..claimed };
    assert_eq!(run, expected);
    assert!(matches!(fixture.store.set_phase(&claim, Phase::Done).await, Err(Error::Conflict(_))));
}

#[tokio::test]
async fn a_stop_ends_a_queued_run_asks_a_live_one_and_leaves_a_done_one() {
    let fixture = Fixture::new().await;
    let (store, org_id) = (&fixture.store, fixture.org.id);
    let queued = fixture.queue("queued").await;
    let stopped = store.request_stop(org_id, queued.id, 20).await.unwrap();
    assert_eq!((stopped.status(), stopped.ended_at), ("CANCELLED", Some(20)));
    assert!(store.claim_run("w", 21).await.unwrap().is_none());

    let live = fixture.queue("live").await;
    let claim = store.claim_run("w", 21).await.unwrap().unwrap().claim();
    let mut changes = store.subscribe();
    let asked = store.request_stop(org_id, live.id, 22).await.unwrap();
    assert_eq!((asked.status(), asked.stop_requested), ("ACTIVE", true));
    let change = changes.recv().await.unwrap();
    assert_eq!((change.run_id, change.kind), (live.id, ChangeKind::RunChanged));

    store.finish_run(&claim, Reason::Complete, "too late", None, 23).await.unwrap();
    let done = store.request_stop(org_id, live.id, 24).await.unwrap();
    assert_eq!((done.status(), done.ended_at), ("COMPLETE", Some(23)));
    let other = store.create_org("Other", 1).await.unwrap();
    assert!(matches!(store.request_stop(other.id, live.id, 25).await, Err(Error::NotFound)));
}

#[tokio::test]
async fn a_worker_whose_place_was_taken_claims_nothing_and_learns_of_it() {
    let fixture = Fixture::new().await;
    let run = fixture.queue("x").await;
    fixture.store.register_worker("here-1", "http://a", 1).await.unwrap();
    assert!(fixture.store.renew_worker("here-1", 2).await.unwrap());
    fixture.store.register_worker("here-2", "http://a", 3).await.unwrap();
    assert!(!fixture.store.renew_worker("here-1", 4).await.unwrap());
    assert!(fixture.store.claim_run("here-1", 5).await.unwrap().is_none());
    assert!(fixture.store.claim_run_by_id(run.id, "here-1", 5).await.unwrap().is_none());
    assert_eq!(fixture.store.claim_run("here-2", 6).await.unwrap().unwrap().id, run.id);
}
