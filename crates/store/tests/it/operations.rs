//! Bans of pull requests, settings of checks, sessions elsewhere, connected accounts.

use codegen_store::{
    CheckSuiteChange, CheckSuiteSettings, Error, NewLog, NewPullRequest, NewRepo, NewRun, Phase, Place, PullRequest,
    Reason, Repo, Run, Sealed, SessionNews, SessionStatus,
};

use crate::Fixture;

/// A run with an open pull request.
async fn opened(fixture: &Fixture) -> (Repo, Run, PullRequest) {
    let (store, org) = (&fixture.store, fixture.org.id);
    let repo = store.create_repo(org, NewRepo::of_origin("/srv/shop", Some("main")), 1).await.unwrap();
    let run = fixture.queue("mend it").await;
    let new =
        NewPullRequest { repo_id: repo.id, run_id: run.id, forge: "local".to_owned(), ..NewPullRequest::default() };
    let pull = store.create_pull_request(org, new, 11).await.unwrap();
    (repo, run, pull)
}

fn for_checks(fixture: &Fixture) -> NewRun {
    NewRun { source_type: "GITHUB_CHECK_SUITE".to_owned(), ..fixture.asks("the tests fail") }
}

#[tokio::test]
async fn a_banned_pull_request_has_its_runs_stopped_and_check_events_start_none_until_it_is_unbanned() {
    let fixture = Fixture::new().await;
    let (store, org, me) = (&fixture.store, fixture.org.id, fixture.user.id);
    let (_, run, pull) = opened(&fixture).await;
    let queued = store.create_check_run(org, pull.id, for_checks(&fixture), 20).await.unwrap().unwrap();
    let other = fixture.queue("another pull request").await;
    // The first run is live, the second waits, and the ban is asked for by way of the second.
    assert_eq!(store.claim_run_by_id(run.id, "w", 21).await.unwrap().unwrap().id, run.id);
    let banned = store.ban_checks(org, queued.id, me, 30).await.unwrap();
    assert_eq!((banned.opener_id, banned.stopped), (run.id, vec![run.id, queued.id]));
    assert!(store.run(org, run.id).await.unwrap().stop_requested);
    assert_eq!(store.run(org, queued.id).await.unwrap().reason, Some(Reason::Cancelled));
    assert_eq!(store.run(org, other.id).await.unwrap().phase, Phase::Queued);
    assert_eq!(store.create_check_run(org, pull.id, for_checks(&fixture), 31).await.unwrap(), None);
    // Again changes nothing, but what came to life since is stopped.
    store.add_message(org, queued.id, "go on", &[], 32).await.unwrap();
    assert_eq!(store.ban_checks(org, run.id, me, 33).await.unwrap().stopped, [run.id, queued.id]);
    assert!(store.unban_checks(org, queued.id).await.unwrap().was_banned);
    assert!(!store.unban_checks(org, run.id).await.unwrap().was_banned, "the mark is gone, by whichever run");
    assert!(store.create_check_run(org, pull.id, for_checks(&fixture), 34).await.unwrap().is_some());
}

#[tokio::test]
async fn a_ban_before_the_pull_request_is_opened_holds_for_it_and_is_nobody_else_s() {
    let fixture = Fixture::new().await;
    let (store, org, me) = (&fixture.store, fixture.org.id, fixture.user.id);
    let repo = store.create_repo(org, NewRepo::of_origin("/srv/shop", None), 1).await.unwrap();
    let run = fixture.queue("mend it").await;
    store.ban_checks(org, run.id, me, 12).await.unwrap();
    let new =
        NewPullRequest { repo_id: repo.id, run_id: run.id, forge: "local".to_owned(), ..NewPullRequest::default() };
    let pull = store.create_pull_request(org, new, 13).await.unwrap();
    assert_eq!(store.create_check_run(org, pull.id, for_checks(&fixture), 14).await.unwrap(), None);
    let theirs = store.create_org("Other", 1).await.unwrap().id;
    for refused in [
        store.ban_checks(theirs, run.id, me, 15).await.map(drop),
        store.unban_checks(theirs, run.id).await.map(drop),
        store.create_check_run(theirs, pull.id, for_checks(&fixture), 15).await.map(drop),
        store.check_suite_settings(theirs, repo.id).await.map(drop),
        store.change_check_suite_settings(theirs, repo.id, CheckSuiteChange::default()).await.map(drop),
    ] {
        assert!(matches!(refused, Err(Error::NotFound)), "{refused:?}");
    }
    assert!(store.unban_checks(org, run.id).await.unwrap().was_banned, "another organization lifted nothing");
}

#[tokio::test]
async fn check_settings_have_defaults_and_keep_what_a_change_does_not_name() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let repo = store.create_repo(org, NewRepo::of_origin("/srv/shop", None), 1).await.unwrap();
    assert_eq!(store.check_suite_settings(org, repo.id).await.unwrap(), CheckSuiteSettings::default());
    let change = CheckSuiteChange {
        check_retry_count: Some(0),
        custom_prompts: Some([("lint".to_owned(), "Be \"brief\"\n".to_owned())].into()),
        ..CheckSuiteChange::default()
    };
    store.change_check_suite_settings(org, repo.id, change).await.unwrap();
    let change = CheckSuiteChange { ignored_checks: Some(vec!["slow".to_owned()]), ..CheckSuiteChange::default() };
    let changed = store.change_check_suite_settings(org, repo.id, change).await.unwrap();
    assert_eq!((changed.check_retry_count, &changed.ignored_checks), (0, &vec!["slow".to_owned()]));
    assert_eq!(changed.custom_prompts["lint"], "Be \"brief\"\n");
    assert_eq!(store.check_suite_settings(org, repo.id).await.unwrap(), changed);
}

#[tokio::test]
async fn a_session_elsewhere_is_one_run_that_no_worker_takes_and_nobody_steers() {
    let fixture = Fixture::new().await;
    let (store, org, me) = (&fixture.store, fixture.org.id, fixture.user.id);
    let run = store.claude_session(org, me, "one", 10).await.unwrap();
    assert_eq!((run.phase, run.status(), run.source_type.as_str()), (Phase::Elsewhere, "ACTIVE", "LOCAL"));
    assert_eq!(store.claude_session(org, me, "one", 11).await.unwrap().id, run.id);
    let theirs = store.create_org("Other", 1).await.unwrap().id;
    assert_ne!(store.claude_session(theirs, me, "one", 11).await.unwrap().id, run.id);
    assert!(store.claim_run("w", 12).await.unwrap().is_none());
    assert!(store.requeue_orphans("w", &[], 13).await.unwrap().is_empty());
    for ended in [false, true] {
        if ended {
            store.set_claude_session_status(org, "one", SessionStatus::Ended(Reason::Complete), 14).await.unwrap();
        } else {
            assert!(matches!(store.request_stop(org, run.id, 14).await, Err(Error::Conflict(_))));
        }
        assert!(matches!(store.add_message(org, run.id, "more", &[], 14).await, Err(Error::Conflict(_))));
    }
}

fn news(texts: &[&str]) -> SessionNews {
    let entry =
        |text: &&str| NewLog { kind: "reply".to_owned(), body: format!("{{\"t\":\"{text}\"}}"), contract: true };
    SessionNews { entries: texts.iter().map(entry).collect(), ..SessionNews::default() }
}

#[tokio::test]
async fn lines_of_a_session_follow_those_that_are_known() {
    let fixture = Fixture::new().await;
    let (store, org, me) = (&fixture.store, fixture.org.id, fixture.user.id);
    let id = store.claude_session(org, me, "s", 10).await.unwrap().id;
    assert_eq!(store.claude_session_run(org, "s").await.unwrap(), (id, 0));
    let numbered = |from, texts: &[&str]| SessionNews { lines: Some((from, texts.len() as i64)), ..news(texts) };
    store.append_claude_session(org, "s", numbered(0, &["a", "b"]), 11).await.unwrap();
    for from in [0, 1, 3] {
        let refused = store.append_claude_session(org, "s", numbered(from, &["x"]), 12).await;
        assert!(matches!(refused, Err(Error::Conflict(_))), "{from}: {refused:?}");
    }
    store.append_claude_session(org, "s", numbered(2, &["c"]), 13).await.unwrap();
    assert_eq!(store.claude_session_run(org, "s").await.unwrap(), (id, 3));
    assert_eq!(store.contract_logs(org, id, (0, i64::MAX), 0, 100, false).await.unwrap().1, 3);
}

#[tokio::test]
async fn a_session_s_statuses_come_in_any_order_and_its_words_become_prompt_and_result() {
    let fixture = Fixture::new().await;
    let (store, org, me) = (&fixture.store, fixture.org.id, fixture.user.id);
    let id = store.claude_session(org, me, "s", 10).await.unwrap().id;
    let asked = |text: &str| Some(text.to_owned());
    store
        .append_claude_session(org, "s", SessionNews { asked: asked("Mend it"), ..news(&["a", "b"]) }, 11)
        .await
        .unwrap();
    store
        .append_claude_session(
            org,
            "s",
            SessionNews { asked: asked("Later"), said: asked("Mended."), ..news(&["c"]) },
            12,
        )
        .await
        .unwrap();
    let set = async |status| store.set_claude_session_status(org, "s", status, 13).await.unwrap();
    let done = set(SessionStatus::Ended(Reason::Complete)).await;
    assert_eq!((done.status(), done.prompt.as_str(), done.result.as_deref()), ("COMPLETE", "Mend it", Some("Mended.")));
    let seq = done.log_seq;
    assert_eq!(set(SessionStatus::Ended(Reason::Complete)).await.log_seq, seq, "said twice, told once");
    assert_eq!(set(SessionStatus::Ended(Reason::Error)).await.status(), "ERROR");
    assert_eq!(set(SessionStatus::Active).await.status(), "ACTIVE");
    store.append_claude_session(org, "s", news(&["d"]), 14).await.unwrap();
    let (logs, total) = store.contract_logs(org, id, (0, i64::MAX), 0, 100, false).await.unwrap();
    let bodies: Vec<&str> = logs.iter().map(|log| &log.body[6..7]).collect();
    assert_eq!((bodies, total), (vec!["a", "b", "c", "d"], 4));
    let (_, total) =
        store.runs(org, &codegen_store::RunFilter::default(), codegen_store::Cursor::Skip(0), 10).await.unwrap();
    assert_eq!(total, 1);
    let unknown = store.set_claude_session_status(org, "other", SessionStatus::Active, 15).await;
    assert!(matches!(unknown, Err(Error::NotFound)));
}

#[tokio::test]
async fn a_session_that_is_not_heard_of_ends_and_a_further_word_takes_it_up_again() {
    let fixture = Fixture::new().await;
    let (store, org, me) = (&fixture.store, fixture.org.id, fixture.user.id);
    let id = store.claude_session(org, me, "gone", 10).await.unwrap().id;
    let live = store.claude_session(org, me, "live", 10).await.unwrap().id;
    let word = || news(&["a"]);
    store.append_claude_session(org, "live", word(), 50).await.unwrap();
    assert_eq!(store.end_stale_claude_sessions(40, 60).await.unwrap(), 1);
    assert_eq!(store.end_stale_claude_sessions(40, 60).await.unwrap(), 0);
    let status = async |id| store.run(org, id).await.unwrap().status();
    assert_eq!((status(id).await, status(live).await), ("TIMEOUT", "ACTIVE"));
    store.append_claude_session(org, "gone", word(), 70).await.unwrap();
    assert_eq!(status(id).await, "ACTIVE");
    store.set_claude_session_status(org, "gone", SessionStatus::Ended(Reason::Complete), 71).await.unwrap();
    store.append_claude_session(org, "gone", word(), 72).await.unwrap();
    assert_eq!(status(id).await, "COMPLETE", "what its machine ended stays so");
}

#[tokio::test]
async fn connected_accounts_are_a_user_s_own_and_connect_words_are_good_once_and_for_a_while() {
    let fixture = Fixture::new().await;
    let (store, org, me) = (&fixture.store, fixture.org.id, fixture.user.id);
    let place = move |id| Place::new(org, "oauth_tokens", id, "tokens");
    let mut ids = Vec::new();
    for provider in ["linear", "linear", "notion"] {
        let tokens = move |id| Ok(Sealed { place: place(id), ciphertext: format!("of {provider}") });
        ids.push(store.connect_account(org, me, provider, tokens, 1).await.unwrap());
    }
    let kept = async || {
        let mut kept = Vec::new();
        for id in &ids {
            kept.push(store.secret(&place(*id)).await.unwrap().is_some());
        }
        kept
    };
    assert_eq!(kept().await, [false, true, true], "a later connection takes the place of the earlier");
    assert_eq!(store.revoke_oauth_tokens(org, me + 1, "linear").await.unwrap(), 0);
    assert_eq!(store.revoke_oauth_tokens(org, me, "linear").await.unwrap(), 1);
    assert_eq!(kept().await, [false, false, true], "what is revoked is forgotten");
    let left = store.oauth_tokens(org, Some(me)).await.unwrap();
    assert_eq!(left.iter().map(|t| t.provider.as_str()).collect::<Vec<_>>(), ["notion"]);
    store.add_connect_token(org, me, "h1", 10, 20).await.unwrap();
    store.add_connect_token(org, me, "h2", 10, 20).await.unwrap();
    assert_eq!(store.redeem_connect_token("h1", 19).await.unwrap(), Some((org, me)));
    assert_eq!(store.redeem_connect_token("h1", 19).await.unwrap(), None, "used");
    assert_eq!(store.redeem_connect_token("h2", 20).await.unwrap(), None, "too late");
}
