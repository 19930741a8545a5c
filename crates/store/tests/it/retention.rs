//! Dropping what ended runs left, and copying the database while it is written.

use codegen_store::{Ended, Reason, Run, Store};

use crate::Fixture;

const NOTICE: &str = "Gone, as the settings say.";

async fn ended(fixture: &Fixture, prompt: &str, at: i64) -> Run {
    let store = &fixture.store;
    let run = fixture.queue(prompt).await;
    let run = store.claim_run_by_id(run.id, "w", 11).await.unwrap().unwrap();
    for n in 0..1200 {
        let body = format!(r#"{{"kind":"notice","text":"entry {n}"}}"#);
        store.append_log(&run.claim(), "notice", &body, n % 2 == 0, 12).await.unwrap();
    }
    store.put_blob(run.org_id, run.id, "output/1", &vec![1; 6 << 20]).await.unwrap();
    store.put_blob(run.org_id, run.id, "diff", b"the work").await.unwrap();
    store.finish_run(&run.claim(), Reason::Complete, "Done.", None, at).await.unwrap();
    store.run_by_id(run.id).await.unwrap()
}

async fn drop_all(store: &Store, ended: Ended) -> i64 {
    let mut bytes = 0;
    loop {
        let batch = store.drop_outputs(ended, NOTICE, 50).await.unwrap();
        assert!(batch.bytes <= 16 * 256 * 1024, "a batch stays small");
        bytes += batch.bytes;
        if batch.complete {
            return bytes;
        }
    }
}

#[tokio::test]
async fn outputs_go_in_small_batches_and_the_run_its_diff_and_a_sentence_stay() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let run = ended(&fixture, "old", 20).await;
    let found = store.ended_with_outputs().await.unwrap();
    assert_eq!(found, [Ended { run_id: run.id, ended_at: 20, bytes: 6 << 20 }]);
    assert_eq!(drop_all(store, found[0]).await, 6 << 20);
    assert_eq!(store.blob(run.org_id, run.id, "output/1").await.unwrap(), None);
    assert_eq!(store.blob(run.org_id, run.id, "diff").await.unwrap().unwrap(), b"the work");
    assert_eq!(store.dropped(run.id).await.unwrap().outputs_dropped_at, Some(50));
    assert!(store.ended_with_outputs().await.unwrap().is_empty());
    let log = store.log(run.id, 1000, 1000).await.unwrap();
    assert!(log.last().unwrap().body.contains(NOTICE));
    assert_eq!(store.run_by_id(run.id).await.unwrap().result.as_deref(), Some("Done."));
}

#[tokio::test]
async fn a_trace_goes_but_for_what_people_wrote_and_how_it_ended() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (old, new) = (ended(&fixture, "old", 20).await, ended(&fixture, "new", 30).await);
    let found = store.ended_with_trace(30).await.unwrap();
    assert_eq!(found.iter().map(|e| e.run_id).collect::<Vec<_>>(), [old.id]);
    while !store.drop_trace(found[0], NOTICE, 50).await.unwrap().complete {}
    let kinds: Vec<String> = store.log(old.id, 0, 5000).await.unwrap().into_iter().map(|row| row.kind).collect();
    assert_eq!(kinds, ["user_message", "status", "notice"]);
    let (rows, total) = store.contract_logs(old.org_id, old.id, (0, i64::MAX), 0, 100, false).await.unwrap();
    assert_eq!((rows.len(), total), (1, 1), "the page's total follows");
    assert!(rows[0].body.contains(NOTICE));
    assert!(store.ended_with_trace(30).await.unwrap().is_empty(), "nothing is dropped twice");
    assert_eq!(store.log(new.id, 0, 5000).await.unwrap().len(), 1202, "the younger run's is whole");
}

#[tokio::test]
async fn a_run_that_was_resumed_meanwhile_keeps_everything() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let run = ended(&fixture, "old", 20).await;
    let found = store.ended_with_outputs().await.unwrap()[0];
    store.add_message(run.org_id, run.id, "Go on.", &[], 40).await.unwrap();
    assert_eq!(drop_all(store, found).await, 0);
    assert!(store.drop_trace(found, NOTICE, 50).await.unwrap().complete);
    assert!(store.blob(run.org_id, run.id, "output/1").await.unwrap().is_some());
    assert_eq!(store.log(run.id, 0, 5000).await.unwrap().len(), 1204);
}

#[tokio::test]
async fn the_file_shrinks_when_empty_pages_are_given_back() {
    let fixture = Fixture::on_sqlite().await;
    let store = &fixture.store;
    ended(&fixture, "old", 20).await;
    drop_all(store, store.ended_with_outputs().await.unwrap()[0]).await;
    assert!(store.shrinks().await.unwrap());
    assert!(store.space().await.unwrap().free > 6 << 20);
    let mut left = i64::MAX;
    while left > 0 {
        let now = store.shrink(256).await.unwrap();
        assert!(now < left, "each step gives something back");
        left = now;
    }
    let path = fixture.dir.path().join(codegen_store::DATABASE);
    fixture.store.close().await;
    assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
}

#[tokio::test]
async fn a_rebuild_between_writes_keeps_everything_and_leaves_no_empty_page() {
    let fixture = Fixture::on_sqlite().await;
    let store = &fixture.store;
    let run = ended(&fixture, "old", 20).await;
    drop_all(store, store.ended_with_outputs().await.unwrap()[0]).await;
    let (queued, rebuilt) = tokio::join!(fixture.queue("meanwhile"), store.rebuild());
    rebuilt.unwrap();
    assert_eq!(store.space().await.unwrap().free, 0);
    assert_eq!(store.run_by_id(queued.id).await.unwrap().prompt, "meanwhile");
    assert_eq!(store.blob(run.org_id, run.id, "diff").await.unwrap().unwrap(), b"the work");
}

#[tokio::test]
async fn an_operator_drops_beside_the_server_and_neither_waits_for_the_lock() {
    let fixture = Fixture::on_sqlite().await;
    let run = ended(&fixture, "old", 20).await;
    let beside = Store::open_beside(fixture.dir.path()).await.unwrap();
    let found = beside.ended_with_outputs().await.unwrap()[0];
    let (bytes, queued) = tokio::join!(drop_all(&beside, found), fixture.queue("meanwhile"));
    assert_eq!(bytes, 6 << 20);
    assert_eq!(fixture.store.blob(run.org_id, run.id, "output/1").await.unwrap(), None);
    assert_eq!(beside.run_by_id(queued.id).await.unwrap().id, queued.id);
    beside.close().await;
    assert!(codegen_store::is_locked(fixture.dir.path()), "the server still has its directory");
    fixture.queue("after").await;
}

#[tokio::test]
async fn a_database_that_cannot_give_pages_back_can_after_a_rebuild() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join(codegen_store::DATABASE);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("CREATE TABLE earlier (id INTEGER)").execute(&pool).await.unwrap();
    pool.close().await;
    let store = Store::open(dir.path()).await.unwrap();
    assert!(!store.shrinks().await.unwrap());
    store.rebuild().await.unwrap();
    assert!(store.shrinks().await.unwrap());
}
