//! Lists of runs by key and by skip, the search, and runs put away or removed.

use codegen_store::{Cursor, Error, Found, NewLog, NewRun, Reason, RunFilter, RunList, Store};

use crate::Fixture;

async fn ids(store: &Store, org_id: i64, filter: &RunFilter, from: Cursor, limit: i64) -> (Vec<i64>, i64) {
    let (runs, total) = store.runs(org_id, filter, from, limit).await.unwrap();
    (runs.into_iter().map(|run| run.id).collect(), total)
}

async fn index(store: &Store) {
    for run_id in store.unindexed_runs(0, 1000).await.unwrap() {
        while store.index_log(run_id).await.unwrap() {}
    }
}

fn runs(found: &[Found]) -> Vec<i64> {
    found.iter().map(|found| found.run_id).collect()
}

#[tokio::test]
async fn a_page_is_the_same_by_skip_however_deep_and_by_key_in_both_directions() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let other = store.create_org("Other", 1).await.unwrap().id;
    let mut queueing = tokio::task::JoinSet::new();
    for n in 0..10_000 {
        let org_id = if n % 10 == 0 { other } else { org };
        let (store, new) = (store.clone(), fixture.asks("task"));
        queueing.spawn(async move { (org_id, store.create_run(org_id, new, 10).await.unwrap().id) });
    }
    let mut all: Vec<i64> =
        queueing.join_all().await.into_iter().filter(|(org_id, _)| *org_id == org).map(|(_, id)| id).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    let everything = RunFilter::default();
    for skip in [0, 1, 4095, 4096, 4097, 7000, 8191, 8192, 8900, 8999, 9000, 100_000] {
        let expected: Vec<i64> = all.iter().skip(usize::try_from(skip).unwrap()).take(100).copied().collect();
        assert_eq!(ids(store, org, &everything, Cursor::Skip(skip), 100).await, (expected, 9000), "skip {skip}");
    }
    let (mut by_key, mut before) = (Vec::new(), i64::MAX);
    loop {
        let (page, total) = ids(store, org, &everything, Cursor::Before(before), 900).await;
        let Some(last) = page.last() else { break };
        (before, by_key) = (*last, [by_key, page].concat());
        assert_eq!(total, 9000);
    }
    assert_eq!(by_key, all);
    assert_eq!(ids(store, org, &everything, Cursor::After(all[10]), 5).await.0, all[5..10]);
    assert!(ids(store, org, &everything, Cursor::After(all[0]), 5).await.0.is_empty());
}

#[tokio::test]
async fn archived_runs_leave_lists_and_counts_and_come_back() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let (one, two) = (fixture.queue("one").await.id, fixture.queue("two").await.id);
    let (all, archived) = (RunFilter::default(), RunFilter { archived: true, ..RunFilter::default() });
    assert!(store.set_run(org, one, Some(true), None, 20).await.unwrap().archived);
    store.set_run(org, one, Some(true), None, 20).await.unwrap();
    assert_eq!(ids(store, org, &all, Cursor::Skip(0), 9).await, (vec![two], 1));
    assert_eq!(ids(store, org, &archived, Cursor::Skip(0), 9).await, (vec![one], 1));
    store.set_run(org, one, Some(false), None, 20).await.unwrap();
    assert_eq!(ids(store, org, &all, Cursor::Skip(0), 9).await, (vec![two, one], 2));
    let other = store.create_org("Other", 1).await.unwrap().id;
    assert!(matches!(store.set_run(other, one, Some(true), None, 20).await, Err(Error::NotFound)));
}

#[tokio::test]
async fn runs_are_filtered_by_tag_time_and_words_together() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let tagged = |tags: &[&str], prompt: &str| NewRun {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..fixture.asks(prompt)
    };
    let one = store.create_run(org, tagged(&["nightly", "api"], "mend the parser"), 1000).await.unwrap();
    let two = store.create_run(org, tagged(&["nightly"], "mend the printer"), 2000).await.unwrap();
    assert_eq!(one.tags, ["nightly", "api"]);
    index(store).await;
    let found = async |filter: RunFilter| ids(store, org, &filter, Cursor::Skip(0), 9).await;
    let all = RunFilter::default;
    let word = |word: &str| Some(word.to_owned());
    assert_eq!(found(RunFilter { tag: word("nightly"), ..all() }).await, (vec![two.id, one.id], 2));
    assert_eq!(found(RunFilter { tag: word("api"), ..all() }).await, (vec![one.id], 1));
    assert_eq!(found(RunFilter { since: Some(2000), ..all() }).await, (vec![two.id], 1));
    assert_eq!(found(RunFilter { until: Some(2000), ..all() }).await, (vec![one.id], 1));
    assert_eq!(found(RunFilter { text: word("mend pars"), tag: word("nightly"), ..all() }).await, (vec![one.id], 1));
    assert_eq!(found(RunFilter { text: word("()"), ..all() }).await, (vec![], 0));
    let listed = RunList { filter: RunFilter { tag: word("api"), ..all() }, limit: 9, before: None };
    assert_eq!(store.list_runs(org, listed).await.unwrap()[0].tags, ["nightly", "api"]);
    store.set_run(org, one.id, None, Some(vec!["weekly".to_owned()]), 3000).await.unwrap();
    assert_eq!(found(RunFilter { tag: word("nightly"), ..all() }).await, (vec![two.id], 1));
    assert_eq!(found(RunFilter { tag: word("weekly"), ..all() }).await, (vec![one.id], 1));
}

#[tokio::test]
async fn words_of_prompts_logs_and_results_are_found_with_their_place_and_never_by_others() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let other = store.create_org("Other", 1).await.unwrap().id;
    let run = fixture.queue("Mend the Überweisung module").await.id;
    let theirs = fixture.queue_in(other, "Mend the Überweisung module org1 \"org1\"").await.id;
    let claim = store.claim_run_by_id(run, "w", 20).await.unwrap().unwrap().claim();
    let entry =
        |kind: &str, body: serde_json::Value| NewLog { kind: kind.to_owned(), body: body.to_string(), contract: true };
    let entries = vec![
        entry(
            "call_finished",
            serde_json::json!({"kind": "call_finished", "name": "shell", "call_id": "secretid",
            "input": {"command": "cargo test"}, "output": "error[E0425]: cannot find value `tmp` in this scope"}),
        ),
        entry("result", serde_json::json!({"kind": "result", "text": "The sum is right now."})),
    ];
    store.append_log_batch(&claim, entries, 21).await.unwrap();
    assert!(store.search(org, "sum", None, 9).await.unwrap().is_empty(), "not before it was taken in");
    index(store).await;
    assert!(store.unindexed_runs(0, 9).await.unwrap().is_empty());
    let found = async |words: &str| store.search(org, words, None, 9).await.unwrap();
    for (words, seq) in [
        ("uberweisung", 1),
        ("\"the ÜBERWEISUNG\"", 1),
        ("E0425 scope", 2),
        ("\"find value\"", 2),
        ("carg", 2),
        ("sum right", 3),
    ] {
        let hits = found(words).await;
        assert_eq!((runs(&hits), hits[0].matches[0].seq), (vec![run], seq), "{words}");
    }
    assert_eq!(found("sum").await[0].matches[0].snippet, "The \u{2}sum\u{3} is right now.");
    let snippet = found("uber").await[0].matches[0].snippet.clone();
    assert_eq!(snippet, "Mend the \u{2}Überweisung\u{3} module");
    for words in
        ["\"value find\"", "secretid", "call_finished", "sum absent", "", "\"", "org : org2", "x\" OR org : \"org2"]
    {
        assert!(found(words).await.is_empty(), "{words}");
    }
    // The other organization's words are its own, also where they name this one.
    assert_eq!(runs(&found("mend").await), [run]);
    assert_eq!(runs(&store.search(other, "mend", None, 9).await.unwrap()), [theirs]);
    assert!(store.search(other, "sum", None, 9).await.unwrap().is_empty());

    let later = fixture.queue("mend it again").await.id;
    index(store).await;
    assert_eq!(runs(&found("mend").await), [later, run]);
    assert_eq!(runs(&store.search(org, "mend", Some(later), 9).await.unwrap()), [run]);
    assert_eq!(runs(&store.search(org, "mend", None, 1).await.unwrap()), [later]);
}

#[tokio::test]
async fn a_removed_run_leaves_nothing_behind_and_a_live_one_is_not_removed() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let other = store.create_org("Other", 1).await.unwrap().id;
    let new = NewRun { tags: vec!["nightly".to_owned()], ..fixture.asks("a word: xylophone") };
    let run = store.create_run(org, new, 10).await.unwrap().id;
    let kept = fixture.queue("kept").await.id;
    let claim = store.claim_run("w", 20).await.unwrap().unwrap().claim();
    let entries =
        (0..5000).map(|n| NewLog { kind: "notice".to_owned(), body: format!("{{\"n\":{n}}}"), contract: true });
    store.append_log_batch(&claim, entries.collect(), 21).await.unwrap();
    store.put_blob(org, run, "output/1", &vec![7; 3 << 20]).await.unwrap();
    store.intend(&claim, "push", "push", "{}", 22).await.unwrap();
    index(store).await;
    assert!(matches!(store.remove_run(org, run, 30).await, Err(Error::Conflict(_))));
    store.finish_run(&claim, Reason::Complete, "done", None, 30).await.unwrap();
    assert!(matches!(store.remove_run(other, run, 30).await, Err(Error::NotFound)));
    store.remove_run(org, run, 31).await.unwrap();

    assert!(matches!(store.run(org, run).await, Err(Error::NotFound)));
    assert!(matches!(store.remove_run(org, run, 31).await, Err(Error::NotFound)));
    assert!(store.log(run, 0, 9).await.unwrap().is_empty());
    assert!(store.search(org, "xylophone", None, 9).await.unwrap().is_empty());
    let all = RunFilter::default();
    assert_eq!(ids(store, org, &all, Cursor::Skip(0), 9).await, (vec![kept], 1));
    assert_eq!(ids(store, org, &RunFilter { tag: Some("nightly".to_owned()), ..all }, Cursor::Skip(0), 9).await.1, 0);
    assert_eq!(store.space().await.unwrap().outputs, 0);
    assert!(!store.index_log(run).await.unwrap());
    assert_eq!(store.org_usage(org, 10).await.unwrap().runs, 2, "it was made, all the same");
}
