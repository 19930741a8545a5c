//! What pages ask of the store: the list of runs by filter, and a log from its end, by a word, by its stages.

use codegen_store::{Error, NewLog, NewRepo, Reason, RunFilter, RunList};

use crate::Fixture;

async fn listed(fixture: &Fixture, list: RunList) -> Vec<i64> {
    let list = RunList { limit: if list.limit == 0 { 100 } else { list.limit }, ..list };
    fixture.store.list_runs(fixture.org.id, list).await.unwrap().into_iter().map(|run| run.id).collect()
}

#[tokio::test]
async fn runs_are_listed_newest_first_by_every_filter_and_by_key() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let repo = store.create_repo(org, NewRepo::of_origin("/srv/shop", None), 1).await.unwrap();
    let done = fixture.queue("done").await.id;
    let claim = store.claim_run("w", 20).await.unwrap().unwrap().claim();
    store.finish_run(&claim, Reason::MaxIterations, "out of steps", None, 30).await.unwrap();
    let mut new = fixture.asks(&"long ".repeat(1000));
    new.repo_id = Some(repo.id);
    new.images = vec!["data:image/png;base64,AA==".to_owned()];
    new.source_type = "SLACK".to_owned();
    let slack = store.create_run(org, new, 10).await.unwrap().id;
    let stopped = fixture.queue("stopped").await.id;
    store.request_stop(org, stopped, 40).await.unwrap();
    let other = store.create_org("Other", 1).await.unwrap();
    fixture.queue_in(other.id, "theirs").await;

    let word = |word: &str| Some(word.to_owned());
    let all = RunList::default;
    let of = |filter: RunFilter| RunList { filter, ..RunList::default() };
    assert_eq!(listed(&fixture, all()).await, [stopped, slack, done]);
    assert_eq!(listed(&fixture, RunList { before: Some(stopped), limit: 1, ..all() }).await, [slack]);
    assert_eq!(listed(&fixture, of(RunFilter { status: word("ACTIVE"), ..RunFilter::default() })).await, [slack]);
    assert_eq!(listed(&fixture, of(RunFilter { status: word("CANCELLED"), ..RunFilter::default() })).await, [stopped]);
    assert_eq!(
        listed(&fixture, of(RunFilter { status: word("MAX_ITERATIONS_REACHED"), ..RunFilter::default() })).await,
        [done]
    );
    assert!(listed(&fixture, of(RunFilter { status: word("PAUSED"), ..RunFilter::default() })).await.is_empty());
    assert_eq!(listed(&fixture, of(RunFilter { repo_id: Some(repo.id), ..RunFilter::default() })).await, [slack]);
    assert_eq!(
        listed(&fixture, of(RunFilter { source_type: word("SLACK"), status: word("ACTIVE"), ..RunFilter::default() }))
            .await,
        [slack]
    );
    assert!(
        listed(&fixture, of(RunFilter { user_id: Some(fixture.user.id + 1), ..RunFilter::default() })).await.is_empty()
    );
    let runs = store
        .list_runs(org, RunList { limit: 1, ..of(RunFilter { repo_id: Some(repo.id), ..RunFilter::default() }) })
        .await
        .unwrap();
    assert_eq!((runs[0].prompt.len(), runs[0].images.len()), (300, 0));
}

#[tokio::test]
async fn a_log_is_read_from_its_end_by_a_word_and_by_its_stages() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let run = fixture.queue("task").await.id;
    let claim = store.claim_run("w", 20).await.unwrap().unwrap().claim();
    let entries = (2..=10).map(|seq| {
        let kind = if seq % 4 == 0 { "stage" } else { "notice" };
        let text = format!("entry {seq}: 100% \"quoted\"\nand_so on");
        NewLog {
            kind: kind.to_owned(),
            body: serde_json::json!({"kind": kind, "text": text}).to_string(),
            contract: false,
        }
    });
    store.append_log_batch(&claim, entries.collect(), 21).await.unwrap();
    let seqs = |rows: Vec<codegen_store::LogRow>| rows.into_iter().map(|row| row.seq).collect::<Vec<_>>();
    assert_eq!(seqs(store.log_before(org, run, None, 3).await.unwrap()), [10, 9, 8]);
    assert_eq!(seqs(store.log_before(org, run, Some(3), 5).await.unwrap()), [2, 1]);
    assert_eq!(seqs(store.stages(org, run, 10).await.unwrap()), [4, 8]);
    assert_eq!(store.log_entry(org, run, 4).await.unwrap().kind, "stage");
    for (text, found) in
        [("ENTRY 7:", vec![7]), ("0% \"quoted\"\nand_so", (2..=10).collect()), ("andXso", vec![]), ("10_%", vec![])]
    {
        assert_eq!(store.find_in_log(org, run, text, 100).await.unwrap(), found, "{text}");
    }
    let other = store.create_org("Other", 1).await.unwrap().id;
    assert!(matches!(store.log_before(other, run, None, 3).await, Err(Error::NotFound)));
    assert!(matches!(store.log_entry(other, run, 1).await, Err(Error::NotFound)));
    assert!(matches!(store.find_in_log(other, run, "task", 3).await, Err(Error::NotFound)));
    assert!(matches!(store.stages(other, run, 3).await, Err(Error::NotFound)));
}
