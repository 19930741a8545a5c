use codegen_store::{Error, NewPullRequest, NewRepo, NewRun, NewUser, OrgChange, Phase, Role, RunFilter};

use crate::Fixture;

#[tokio::test]
async fn blobs_come_back_whole_at_every_chunk_edge() {
    let fixture = Fixture::new().await;
    let run = fixture.queue("task").await;
    let (store, org_id) = (&fixture.store, fixture.org.id);
    const CHUNK: usize = 256 * 1024;
    for length in [3 * CHUNK + 7, 2 * CHUNK, CHUNK + 1, CHUNK, CHUNK - 1, 1, 0] {
        let bytes: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
        store.put_blob(org_id, run.id, "out", &bytes).await.unwrap();
        assert!(store.blob(org_id, run.id, "out").await.unwrap().unwrap() == bytes, "{length} bytes");
    }
    assert_eq!(store.blob(org_id, run.id, "other").await.unwrap(), None);
    let other = store.create_org("Other", 1).await.unwrap();
    assert_eq!(store.blob(other.id, run.id, "out").await.unwrap(), None);
    assert!(matches!(store.put_blob(other.id, run.id, "out", b"x").await, Err(Error::NotFound)));
}

#[tokio::test]
async fn a_repository_is_added_once_and_seen_only_in_its_organization() {
    let fixture = Fixture::new().await;
    let (store, org_id) = (&fixture.store, fixture.org.id);
    let new = NewRepo::of_origin("https://github.com/acme/shop.git", Some("main"));
    let repo = store.create_repo(org_id, new.clone(), 2).await.unwrap();
    store.set_setup_commands(org_id, repo.id, "npm ci").await.unwrap();
    let again = store.create_repo(org_id, NewRepo { name: "renamed".to_owned(), ..new.clone() }, 3).await.unwrap();
    assert_eq!((again.id, again.name.as_str(), again.setup_commands.as_str()), (repo.id, "shop", "npm ci"));
    let other = store.create_org("Other", 1).await.unwrap();
    assert_ne!(store.create_repo(other.id, new, 3).await.unwrap().id, repo.id);
    assert!(matches!(store.repo(other.id, repo.id).await, Err(Error::NotFound)));
    assert!(matches!(store.set_setup_commands(other.id, repo.id, "rm").await, Err(Error::NotFound)));
    assert_eq!(store.set_default_branch(org_id, repo.id, "trunk").await.unwrap().default_branch.unwrap(), "trunk");
    assert_eq!(store.set_repo_setup_status(org_id, repo.id, "COMPLETE").await.unwrap().setup_status, "COMPLETE");
    let (repos, total) = store.repos(org_id, 0, 10).await.unwrap();
    assert_eq!((repos.len(), total), (1, 1));
    let foreign = NewRun { repo_id: Some(repo.id), ..fixture.asks("task") };
    assert!(matches!(store.create_run(other.id, foreign, 4).await, Err(Error::NotFound)));
}

#[tokio::test]
async fn runs_are_listed_newest_first_and_counted_by_filter() {
    let fixture = Fixture::new().await;
    let (store, org_id) = (&fixture.store, fixture.org.id);
    let bob = NewUser { github_user_id: "2".to_owned(), github_username: "bob".to_owned(), ..NewUser::default() };
    let bob = store.add_member(org_id, bob, Role::Member, 2).await.unwrap();
    let mut ids = Vec::new();
    for (user_id, source_type) in [(fixture.user.id, "API"), (fixture.user.id, "SLACK"), (bob.id, "API")] {
        let new = NewRun { user_id, source_type: source_type.to_owned(), ..fixture.asks("task") };
        ids.push(store.create_run(org_id, new, 10).await.unwrap().id);
    }
    assert_eq!(store.runs_by_phase().await.unwrap(), [(Phase::Queued, 3)]);
    let list = async |user_id: Option<i64>, source_type: Option<&str>, skip, limit| {
        let filter = RunFilter { user_id, source_type: source_type.map(str::to_owned), ..RunFilter::default() };
        let (runs, total) = store.runs(org_id, &filter, codegen_store::Cursor::Skip(skip), limit).await.unwrap();
        (runs.into_iter().map(|run| run.id).collect::<Vec<_>>(), total)
    };
    assert_eq!(list(None, None, 0, 2).await, (vec![ids[2], ids[1]], 3));
    assert_eq!(list(None, None, 2, 2).await, (vec![ids[0]], 3));
    assert_eq!(list(Some(fixture.user.id), None, 0, 9).await, (vec![ids[1], ids[0]], 2));
    assert_eq!(list(None, Some("API"), 0, 9).await, (vec![ids[2], ids[0]], 2));
    assert_eq!(list(Some(bob.id), Some("SLACK"), 0, 9).await, (vec![], 0));
    let other = store.create_org("Other", 1).await.unwrap();
    assert_eq!(
        store.runs(other.id, &codegen_store::RunFilter::default(), codegen_store::Cursor::Skip(0), 9).await.unwrap(),
        (vec![], 0)
    );
    assert!(matches!(store.run(other.id, ids[0]).await, Err(Error::NotFound)));
}

#[tokio::test]
async fn members_have_a_role_in_their_organization_only() {
    let fixture = Fixture::new().await;
    let (store, org_id) = (&fixture.store, fixture.org.id);
    let member = store.org_member(org_id, fixture.user.id).await.unwrap().unwrap();
    assert_eq!((member.role, member.user), (Role::Admin, fixture.user.clone()));
    let other = store.create_org("Other", 1).await.unwrap();
    assert!(store.org_member(other.id, fixture.user.id).await.unwrap().is_none());
    assert_eq!(store.orgs_of_user(fixture.user.id, 0, 9).await.unwrap(), (vec![fixture.org.clone()], 1));
    assert_eq!(store.org_members(org_id, 0, 9).await.unwrap().1, 1);
    let off = store
        .update_org(org_id, OrgChange { enable_pr_creation: Some(false), ..OrgChange::default() }, 3)
        .await
        .unwrap();
    assert_eq!((off.enable_pr_creation, off.enable_rules_detection), (false, true));
    let token = store.add_token(fixture.user.id, "ci", "hash2", 5).await.unwrap();
    assert_eq!(store.owner_of_token("hash2", None, 9).await.unwrap().unwrap().token, token);
}

#[tokio::test]
async fn a_run_has_one_pull_request_and_local_numbers_count_up() {
    let fixture = Fixture::new().await;
    let (store, org_id) = (&fixture.store, fixture.org.id);
    let repo = store.create_repo(org_id, NewRepo::of_origin("/srv/shop", None), 2).await.unwrap();
    let mut made = Vec::new();
    for title in ["one", "two"] {
        let run = fixture.queue(title).await;
        let new = NewPullRequest {
            repo_id: repo.id,
            run_id: run.id,
            title: title.to_owned(),
            url: "http://host/pulls/{id}#{number}".to_owned(),
            state: "open".to_owned(),
            forge: "local".to_owned(),
            ..NewPullRequest::default()
        };
        let first = store.create_pull_request(org_id, new.clone(), 3).await.unwrap();
        let updated = NewPullRequest { title: format!("{title}, better"), ..new };
        let second = store.create_pull_request(org_id, updated, 4).await.unwrap();
        assert_eq!((second.id, second.number, second.created_at), (first.id, first.number, 3));
        assert_eq!(second.title, format!("{title}, better"));
        assert_eq!(second.url, format!("http://host/pulls/{}#{}", second.id, second.number));
        assert_eq!(store.pull_requests_of_run(org_id, run.id).await.unwrap(), std::slice::from_ref(&second));
        made.push(second);
    }
    assert_eq!(made.iter().map(|pr| pr.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(store.set_pull_request_state(org_id, made[0].id, "merged", 9).await.unwrap().state, "merged");
    let other = store.create_org("Other", 1).await.unwrap();
    assert!(matches!(store.pull_request(other.id, made[0].id).await, Err(Error::NotFound)));
}

#[tokio::test]
async fn an_effect_is_intended_once_and_settled() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.queue("task").await;
    let claim = store.claim_run("w", 20).await.unwrap().unwrap().claim();
    assert!(matches!(store.settle(&claim, "push", "{}", 21).await, Err(Error::NotFound)));
    let first = store.intend(&claim, "push", "push", r#"{"commit":"a"}"#, 21).await.unwrap();
    store.requeue_orphans("w2", &[], 22).await.unwrap();
    let claim = store.claim_run("w2", 23).await.unwrap().unwrap().claim();
    let again = store.intend(&claim, "push", "push", r#"{"commit":"b"}"#, 24).await.unwrap();
    assert_eq!(again, first, "the next attempt sees what the last one was about to do");
    store.settle(&claim, "push", r#"{"ok":1}"#, 25).await.unwrap();
    let effects = store.effects(claim.run_id).await.unwrap();
    assert_eq!((effects[0].result.as_deref(), effects[0].settled_at), (Some(r#"{"ok":1}"#), Some(25)));
}

#[tokio::test]
async fn an_answer_is_kept_with_its_effect_or_not_at_all_and_for_a_day() {
    use codegen_store::{Answered, Ask, RequestKey};
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, &fixture.org);
    let token = store.owner_of_token("hash", None, 9).await.unwrap().unwrap().token;
    let key = |body: &str| RequestKey {
        token_id: token.id,
        path: "/run".to_owned(),
        key: "k".to_owned(),
        body_hash: body.to_owned(),
    };
    let create = || Ask::Create(fixture.asks("task"));
    let ask = async |body: &str, now: i64| {
        let answer = std::sync::Arc::new(|run: codegen_store::RunAnswer| Ok(run.id.to_string()));
        store.ask_once(org.id, key(body), create(), answer, now).await.unwrap()
    };
    let failing = store.ask_once(org.id, key("a"), create(), std::sync::Arc::new(|_| Err("no answer".into())), 2).await;
    assert!(matches!(failing, Err(codegen_store::Error::Answer(_))), "{failing:?}");
    assert_eq!(
        store.runs(org.id, &codegen_store::RunFilter::default(), codegen_store::Cursor::Skip(0), 10).await.unwrap().1,
        0,
        "no effect without its answer"
    );
    let Answered::Now(first) = ask("a", 3).await else { panic!("the key is free") };
    assert_eq!(ask("a", 4).await, Answered::Before(first.clone()));
    assert_eq!(ask("b", 5).await, Answered::OtherBody);
    let day = 24 * 3600 * 1000;
    assert_eq!(ask("a", 3 + day - 1).await, Answered::Before(first.clone()));
    assert!(matches!(ask("b", 3 + day).await, Answered::Now(second) if second != first));
}
