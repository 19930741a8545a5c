use codegen_store::{ChangeKind, Error, NewLog, Phase, Reason};

use crate::Fixture;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn seqs_are_gap_free_under_concurrent_writers() {
    let fixture = Fixture::new().await;
    let run = fixture.queue("task").await;
    let claim = fixture.store.claim_run("w", 20).await.unwrap().unwrap().claim();
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (store, org_id) = (fixture.store.clone(), fixture.org.id);
        writers.spawn(async move {
            for m in 0..20 {
                if n == 0 {
                    store.add_message(org_id, claim.run_id, "and this", &[], 21).await.unwrap();
                } else {
                    // A refused write in between must not use up a number.
                    let stale = codegen_store::Claim { attempt: 0, ..claim };
                    assert!(store.append_log(&stale, "notice", "{}", false, 21).await.is_err());
                    let body = format!("{{\"n\":{n},\"m\":{m}}}");
                    store.append_log(&claim, "notice", &body, m % 2 == 0, 21).await.unwrap();
                }
            }
        });
    }
    writers.join_all().await;
    let log = fixture.store.log(run.id, 0, 1000).await.unwrap();
    let seqs: Vec<i64> = log.iter().map(|row| row.seq).collect();
    assert_eq!(seqs, (1..=161).collect::<Vec<_>>());
    assert_eq!(fixture.store.run_by_id(run.id).await.unwrap().log_seq, 161);
    let tail = fixture.store.log(run.id, 159, 1).await.unwrap();
    assert_eq!(tail, log[159..160]);
    let (_, total) = fixture.store.contract_logs(fixture.org.id, run.id, (0, i64::MAX), 0, 1, false).await.unwrap();
    assert_eq!(total, 20 + 7 * 10);
}

#[tokio::test]
async fn the_first_entry_is_the_prompt_and_is_no_contract_log() {
    let fixture = Fixture::new().await;
    let mut new = fixture.asks("say \"hi\"\n\u{1F980}");
    new.images = vec!["data:image/png;base64,AA==".to_owned()];
    let run = fixture.store.create_run(fixture.org.id, new, 10).await.unwrap();
    let log = fixture.store.log(run.id, 0, 10).await.unwrap();
    let body: serde_json::Value = serde_json::from_str(&log[0].body).unwrap();
    assert_eq!((log.len(), log[0].seq, log[0].kind.as_str(), log[0].contract), (1, 1, "user_message", false));
    assert_eq!(
        body,
        serde_json::json!({
            "kind": "user_message", "text": "say \"hi\"\n\u{1F980}", "images": ["data:image/png;base64,AA=="],
        })
    );
    assert_eq!((run.log_seq, run.message_seq), (1, 1));
}

#[tokio::test]
async fn contract_logs_page_both_ways_and_stay_in_their_organization() {
    let fixture = Fixture::new().await;
    let run = fixture.queue("task").await;
    let claim = fixture.store.claim_run("w", 20).await.unwrap().unwrap().claim();
    let entries = (0..6)
        .map(|n| NewLog { kind: "call_finished".to_owned(), body: format!("{n}"), contract: n % 2 == 0 })
        .collect();
    let seqs = fixture.store.append_log_batch(&claim, entries, 21).await.unwrap();
    assert_eq!(seqs, [2, 3, 4, 5, 6, 7]);
    let page = async |skip, limit, reverse| {
        let (rows, total) =
            fixture.store.contract_logs(fixture.org.id, run.id, (0, i64::MAX), skip, limit, reverse).await.unwrap();
        assert_eq!(total, 3);
        rows.into_iter().map(|row| row.seq).collect::<Vec<_>>()
    };
    assert_eq!(page(0, 2, false).await, [2, 4]);
    assert_eq!(page(2, 2, false).await, [6]);
    assert_eq!(page(0, 2, true).await, [6, 4]);
    assert_eq!(page(9, 2, true).await, [0; 0]);
    let other = fixture.store.create_org("Other", 1).await.unwrap();
    assert!(matches!(
        fixture.store.contract_logs(other.id, run.id, (0, i64::MAX), 0, 9, false).await,
        Err(Error::NotFound)
    ));
}

#[tokio::test]
async fn a_message_to_a_run_that_is_done_queues_it_again() {
    let fixture = Fixture::new().await;
    let (store, org_id) = (&fixture.store, fixture.org.id);
    let run = fixture.queue("task").await;
    let claim = store.claim_run("w", 20).await.unwrap().unwrap().claim();
    store.finish_run(&claim, Reason::Error, "could not", Some("cause"), 21).await.unwrap();
    let mut changes = store.subscribe();
    let resumed = store.add_message(org_id, run.id, "try again", &[], 30).await.unwrap();
    assert_eq!((resumed.status(), resumed.phase, resumed.stop_requested), ("ACTIVE", Phase::Queued, false));
    assert_eq!((&resumed.result, &resumed.error_cause, resumed.reason, resumed.ended_at), (&None, &None, None, None));
    let mut kinds = Vec::new();
    while let Ok(change) = changes.try_recv() {
        kinds.push(change.kind);
    }
    assert!(kinds.contains(&ChangeKind::RunQueued) && kinds.contains(&ChangeKind::LogAppended), "{kinds:?}");
    let again = store.claim_run("w", 31).await.unwrap().unwrap();
    assert_eq!((again.id, again.attempt), (run.id, 2));
    let log: Vec<String> = store.log(run.id, 0, 10).await.unwrap().into_iter().map(|row| row.kind).collect();
    assert_eq!(log, ["user_message", "status", "user_message", "status"]);
}

#[tokio::test]
async fn a_message_at_the_last_moment_keeps_the_run_going() {
    let fixture = Fixture::new().await;
    let (store, org_id) = (&fixture.store, fixture.org.id);
    let run = fixture.queue("task").await;
    let claimed = store.claim_run("w", 20).await.unwrap().unwrap();
    let (claim, seen) = (claimed.claim(), claimed.log_seq);
    let after = store.add_message(org_id, run.id, "one more thing", &[], 21).await.unwrap();
    assert_eq!(after.phase, Phase::Preparing);
    assert!(!store.finish_run_if_read(&claim, seen, Reason::Complete, "done", 22).await.unwrap());
    assert_eq!(store.run_by_id(run.id).await.unwrap().phase, Phase::Preparing);
    assert!(store.finish_run_if_read(&claim, after.message_seq, Reason::Complete, "done", 22).await.unwrap());
    assert_eq!(store.run_by_id(run.id).await.unwrap().status(), "COMPLETE");
}

#[tokio::test]
async fn changes_are_announced_after_their_commit() {
    let fixture = Fixture::new().await;
    let mut changes = fixture.store.subscribe();
    let run = fixture.queue("task").await;
    let first = changes.recv().await.unwrap();
    assert_eq!((first.run_id, first.org_id, first.kind), (run.id, fixture.org.id, ChangeKind::LogAppended));
    assert_eq!(changes.recv().await.unwrap().kind, ChangeKind::RunQueued);
    assert!(fixture.store.run(fixture.org.id, run.id).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_appends_that_come_at_once_those_of_lost_claims_are_refused_alone_and_every_run_counts_its_own() {
    let fixture = Fixture::new().await;
    let mut claims = Vec::new();
    for n in 0..24 {
        let run = fixture.queue(&format!("task {n}")).await;
        claims.push(fixture.store.claim_run_by_id(run.id, "w", 20).await.unwrap().unwrap().claim());
    }
    let entries = |from: i64| -> Vec<NewLog> {
        let entry = |n| NewLog { kind: "notice".to_owned(), body: format!("{{\"n\":{n}}}"), contract: n % 2 == 0 };
        (from..from + 7).map(entry).collect()
    };
    let mut writers = tokio::task::JoinSet::new();
    for claim in &claims {
        for round in 0..3 {
            let (store, claim) = (fixture.store.clone(), *claim);
            writers.spawn(async move {
                let stale = codegen_store::Claim { attempt: claim.attempt - 1, ..claim };
                let seqs = store.append_log_batch(&claim, entries(round * 7), 21).await.unwrap();
                assert!(seqs.len() == 7 && seqs.windows(2).all(|two| two[0] + 1 == two[1]), "{seqs:?}");
                let refused = store.append_log_batch(&stale, entries(0), 21).await;
                assert!(matches!(refused, Err(Error::Fenced)), "{refused:?}");
                let refused = store.append_log(&claim, "notice", "a\0b", false, 21).await;
                assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
            });
        }
    }
    writers.join_all().await;
    for claim in claims {
        let log = fixture.store.log(claim.run_id, 1, 100).await.unwrap();
        assert_eq!(log.iter().map(|row| row.seq).collect::<Vec<_>>(), (2..=22).collect::<Vec<_>>());
        let mut bodies: Vec<String> = log.chunks(7).map(|rows| rows[0].body.clone()).collect();
        assert_eq!(number(&log[1].body), number(&log[0].body) + 1, "batches stay whole");
        bodies.sort();
        assert_eq!(bodies, ["{\"n\":0}", "{\"n\":14}", "{\"n\":7}"]);
        let (_, total) =
            fixture.store.contract_logs(fixture.org.id, claim.run_id, (0, i64::MAX), 0, 1, false).await.unwrap();
        assert_eq!(total, 11);
    }
}

fn number(body: &str) -> i64 {
    body.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

#[tokio::test]
async fn progress_and_messages_of_a_batch_count_as_those_of_single_appends() {
    let fixture = Fixture::new().await;
    let run = fixture.queue("task").await;
    let claim = fixture.store.claim_run("w", 20).await.unwrap().unwrap().claim();
    fixture.execute("UPDATE runs SET crashes = 2").await.unwrap();
    let entries = |kinds: &[&str]| -> Vec<NewLog> {
        kinds.iter().map(|kind| NewLog { kind: (*kind).to_owned(), body: "{}".to_owned(), contract: false }).collect()
    };
    let append = async |kinds: &[&str]| {
        fixture.store.append_log_batch(&claim, entries(kinds), 21).await.unwrap();
        let run = fixture.store.run_by_id(run.id).await.unwrap();
        (run.log_seq, run.message_seq, run.crashes)
    };
    assert_eq!(append(&["notice", "user_message", "user_message", "notice"]).await, (5, 4, 2));
    assert_eq!(append(&["notice", "reply"]).await, (7, 4, 0));
    assert_eq!(append(&[]).await, (7, 4, 0));
}
