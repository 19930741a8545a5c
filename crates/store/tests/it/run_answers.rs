//! Runs as the contract tells of them, and who asks by which token.

use codegen_store::{Cursor, Error, NewPullRequest, NewRepo, NewRun, Role, RunFilter};

use crate::Fixture;

#[tokio::test]
async fn a_new_run_is_answered_as_its_row_has_it() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let repo = store.create_repo(org, NewRepo::of_origin("/srv/shop", None), 2).await.unwrap();
    let whole = NewRun {
        repo_id: Some(repo.id),
        images: vec!["data:image/png;base64,AA==".to_owned()],
        metadata: Some(r#"{"a":  1}"#.to_owned()),
        model: Some("anthropic/m".to_owned()),
        agent_type: Some("codegen".to_owned()),
        base_branch: Some("main".to_owned()),
        base_commit: Some("c0ffee".to_owned()),
        push: true,
        open_pr: true,
        tags: vec!["weekly".to_owned(), "näh".to_owned()],
        output_schema: Some(r#"{"type":"object"}"#.to_owned()),
        ..fixture.asks("do it")
    };
    for new in [fixture.asks("task"), whole] {
        let made = store.create_run(org, new, 10).await.unwrap();
        assert_eq!(made, store.run(org, made.id).await.unwrap());
        let log = store.log(made.id, 0, 9).await.unwrap();
        assert_eq!(log.iter().map(|row| (row.seq, row.kind.as_str())).collect::<Vec<_>>(), [(1, "user_message")]);
    }
}

#[tokio::test]
async fn an_answer_has_the_run_s_pull_request_and_is_its_organization_s() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let repo = store.create_repo(org, NewRepo::of_origin("/srv/shop", None), 2).await.unwrap();
    let (with, without) = (fixture.queue("one").await, fixture.queue("two").await);
    let new = NewPullRequest { repo_id: repo.id, run_id: with.id, title: "T".to_owned(), ..NewPullRequest::default() };
    let pull = store.create_pull_request(org, new, 3).await.unwrap();
    assert_eq!(store.run_answer(org, with.id).await.unwrap().pull_request, Some(pull.into()));
    assert_eq!(store.run_answer(org, without.id).await.unwrap().pull_request, None);
    let (page, _) = store.runs(org, &RunFilter::default(), Cursor::Skip(0), 9).await.unwrap();
    assert_eq!(
        page.iter().map(|run| (run.id, run.pull_request.is_some())).collect::<Vec<_>>(),
        [(without.id, false), (with.id, true)]
    );
    let other = store.create_org("Other", 1).await.unwrap();
    assert!(matches!(store.run_answer(other.id, with.id).await, Err(Error::NotFound)));
}

#[tokio::test]
async fn a_token_s_owner_has_their_role_in_the_organization_that_is_asked_about() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let other = store.create_org("Other", 1).await.unwrap();
    for (org_id, role) in [(Some(org), Some(Role::Admin)), (Some(other.id), None), (Some(i64::MAX), None), (None, None)]
    {
        let owner = store.owner_of_token("hash", org_id, 9).await.unwrap().unwrap();
        assert_eq!((owner.user, owner.role), (fixture.user.clone(), role), "{org_id:?}");
    }
}
