//! Limits: requests in windows that servers share, allowances of a month, and who is next.

use std::collections::BTreeMap;

use codegen_store::{Error, NewRun, NewUser, OrgLimits, Rate, Reason, Role, RunUpdate, Store, month};

use crate::Fixture;

const RATE: Rate = Rate { requests: 60, period_ms: 30_000 };
const NOV: i64 = 1_795_532_400_000; // 2026-11-24

fn none() -> OrgLimits {
    OrgLimits { rate_limits: "{}".to_owned(), ..OrgLimits::default() }
}

/// Takes blocks until there are no more.
async fn drain(stores: &[&Store], token_id: i64, now: i64) -> (i64, usize) {
    let (mut requests, mut writes) = (0, 0);
    loop {
        let block = stores[writes % stores.len()].take_requests(token_id, "read", RATE, now).await.unwrap();
        writes += 1;
        requests += block.granted;
        if block.granted == 0 {
            assert_eq!(block.left, 0);
            return (requests, writes);
        }
    }
}

#[tokio::test]
async fn two_servers_give_a_window_away_once_and_a_new_one_when_it_is_over() {
    let fixture = Fixture::new().await;
    let beside = fixture.beside().await;
    let servers = [&fixture.store, &beside];
    let token = fixture.store.add_token(fixture.user.id, "one", "one", 1).await.unwrap().id;
    let other = fixture.store.add_token(fixture.user.id, "two", "two", 1).await.unwrap().id;

    let first = fixture.store.take_requests(token, "read", RATE, NOV).await.unwrap();
    assert_eq!((first.started_at, first.granted, first.left), (NOV, 10, 50));
    let (requests, writes) = drain(&servers, token, NOV + 29_999).await;
    assert_eq!(first.granted + requests, 60, "never more than the window has, whoever asks");
    assert!(writes < 25, "{writes} writes for 60 requests");
    assert_eq!(drain(&servers, other, NOV + 29_999).await.0, 60, "a token of its own");
    let longer = Rate { period_ms: 60_000, ..RATE };
    assert_eq!(beside.take_requests(token, "read", longer, NOV).await.unwrap().left, 50, "a size of its own");

    let again = beside.take_requests(token, "read", RATE, NOV + 30_000).await.unwrap();
    assert_eq!((again.started_at, again.left), (NOV + 30_000, 50), "a new window at its very end");
    // A server's clock may be behind that of the one that began the window, but not by more than the window.
    assert_eq!(fixture.store.take_requests(token, "read", RATE, NOV + 1).await.unwrap().started_at, NOV + 30_000);
    assert_eq!(fixture.store.take_requests(token, "read", RATE, NOV - 1).await.unwrap().started_at, NOV - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_that_ask_at_once_share_a_window_too() {
    let fixture = Fixture::new().await;
    let beside = fixture.beside().await;
    let token = fixture.store.add_token(fixture.user.id, "one", "one", 1).await.unwrap().id;
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..100 {
        let store = if n % 2 == 0 { fixture.store.clone() } else { beside.clone() };
        asking.spawn(async move { store.take_requests(token, "read", RATE, NOV).await.unwrap().granted });
    }
    assert_eq!(asking.join_all().await.into_iter().sum::<i64>(), 60);
}

#[tokio::test]
async fn an_allowance_of_runs_is_used_up_by_its_last_run_and_new_in_the_next_month() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    assert_eq!(month(NOV), "2026-11");
    let december = 1_796_083_200_000;
    assert_eq!((month(december - 1), month(december)), ("2026-11".to_owned(), "2026-12".to_owned()));

    store.create_run(org, fixture.asks("before there was a limit"), NOV).await.unwrap();
    store.set_org_limits(org, OrgLimits { runs_per_month: Some(3), ..none() }, 1).await.unwrap();
    for _ in 0..2 {
        store.create_run(org, fixture.asks("task"), december - 1).await.unwrap();
    }
    let refused = store.create_run(org, fixture.asks("one too many"), december - 1).await;
    assert!(matches!(&refused, Err(Error::UsedUp(why)) if why.contains("all of its 3 runs")), "{refused:?}");
    assert_eq!(store.org_usage(org, december - 1).await.unwrap().runs, 3, "what was refused does not count");
    let other = store.create_org("Other", 1).await.unwrap().id;
    store.create_run(other, fixture.asks("theirs"), december - 1).await.unwrap();
    store.create_run(org, fixture.asks("task"), december).await.unwrap();
    assert_eq!(store.org_usage(org, december).await.unwrap().runs, 1);
}

#[tokio::test]
async fn money_counts_in_the_month_in_which_it_was_spent_and_once() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    store.set_org_limits(org, OrgLimits { cost_per_month: Some(2.5), ..none() }, 1).await.unwrap();
    store.create_run(org, fixture.asks("task"), NOV).await.unwrap();
    let claim = store.claim_run("w", NOV).await.unwrap().unwrap().claim();
    let spend = async |cost: f64, now: i64| {
        let update = RunUpdate { cost: Some(cost), ..RunUpdate::default() };
        store.update_run(&claim, update, now).await.unwrap();
        (store.org_usage(org, now).await.unwrap().cost, store.money_is_spent(org, now).await.unwrap())
    };
    assert_eq!(spend(1.0, NOV).await, (1.0, false));
    // Said again after a crash, and a smaller figure of a trace that was cut, count nothing.
    assert_eq!(spend(1.0, NOV).await, (1.0, false));
    assert_eq!(spend(0.5, NOV).await, (1.0, false));
    store.create_run(org, fixture.asks("while there is some left"), NOV).await.unwrap();
    assert_eq!(spend(2.5, NOV).await, (2.5, true), "used up at exactly what is allowed");
    assert!(matches!(store.create_run(org, fixture.asks("late"), NOV).await, Err(Error::UsedUp(_))));
    assert_eq!(spend(3.0, NOV + 31 * 86_400_000).await, (0.5, false), "the same run in the next month");
    store.set_org_limits(org, none(), 1).await.unwrap();
    assert!(!store.money_is_spent(org, NOV).await.unwrap(), "no limit, nothing to use up");
}

#[tokio::test]
async fn ten_thousand_queued_runs_of_one_tenant_delay_another_by_no_more_than_one_slot() {
    let fixture = Fixture::new().await;
    let (store, busy) = (&fixture.store, fixture.org.id);
    let small = store.create_org("Small", 1).await.unwrap().id;
    let mut queueing = tokio::task::JoinSet::new();
    // Each is a durable commit of its own on PostgreSQL; what is asked there is the order, not the depth.
    for _ in 0..if fixture.url.is_some() { 300 } else { 10_000 } {
        let (store, new) = (store.clone(), fixture.asks("task"));
        queueing.spawn(async move { store.create_run(busy, new, 10).await.unwrap() });
    }
    queueing.join_all().await;
    for n in 0..50 {
        assert_eq!(store.claim_run("w", 20).await.unwrap().unwrap().org_id, busy);
        let theirs = fixture.queue_in(small, "theirs").await.id;
        let mut next = store.claim_run("w", 20).await.unwrap().unwrap();
        let mut slots = 0;
        while next.id != theirs {
            slots += 1;
            next = store.claim_run("w", 20).await.unwrap().unwrap();
        }
        assert!(slots <= 1, "run {n} waited for {slots} slots");
    }
}

#[tokio::test]
async fn users_of_an_organization_take_turns_whatever_each_has_queued() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let mut users = vec![fixture.user.id];
    for name in ["ben", "cid"] {
        let user = NewUser { github_user_id: name.into(), github_username: name.into(), ..NewUser::default() };
        users.push(store.add_member(org, user, Role::Member, 1).await.unwrap().id);
    }
    let queue = async |user_id: i64| {
        let new = NewRun { user_id, ..fixture.asks("task") };
        store.create_run(org, new, 10).await.unwrap();
    };
    for _ in 0..200 {
        queue(users[0]).await;
    }
    for _ in 0..3 {
        queue(users[1]).await;
        queue(users[2]).await;
    }
    let mut turns = Vec::new();
    for _ in 0..12 {
        turns.push(store.claim_run("w", 20).await.unwrap().unwrap().user_id);
    }
    let round = [users[0], users[1], users[2]];
    assert_eq!(turns[..9], [round, round, round].concat());
    assert_eq!(turns[9..], [users[0]; 3], "who has nothing queued is not waited for");
    queue(users[1]).await;
    assert_eq!(store.claim_run("w", 20).await.unwrap().unwrap().user_id, users[1]);
}

#[tokio::test]
async fn runs_at_once_are_bounded_per_organization_and_per_user_and_the_next_starts_when_one_ends() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let ben = NewUser { github_user_id: "2".into(), github_username: "ben".into(), ..NewUser::default() };
    let ben = store.add_member(org, ben, Role::Member, 1).await.unwrap().id;
    for user_id in [fixture.user.id, fixture.user.id, fixture.user.id, ben, ben, ben] {
        store.create_run(org, NewRun { user_id, ..fixture.asks("task") }, 10).await.unwrap();
    }
    let limits = OrgLimits { concurrent_runs: Some(3), concurrent_runs_per_user: Some(2), ..none() };
    store.set_org_limits(org, limits, 1).await.unwrap();
    let other = store.create_org("Other", 1).await.unwrap().id;

    let mut claims = Vec::new();
    let mut by_user = BTreeMap::new();
    while let Some(run) = store.claim_run("w", 20).await.unwrap() {
        claims.push(run.claim());
        *by_user.entry(run.user_id).or_insert(0) += 1;
    }
    assert_eq!(claims.len(), 3, "as many as the organization may have");
    assert!(by_user.values().all(|runs| *runs <= 2), "{by_user:?}");
    fixture.queue_in(other, "theirs").await;
    assert_eq!(store.claim_run("w", 20).await.unwrap().unwrap().org_id, other, "others are not held up");
    assert!(store.claim_run("w", 20).await.unwrap().is_none());
    store.finish_run(&claims[0], Reason::Complete, "done", None, 30).await.unwrap();
    assert_eq!(store.claim_run("w", 30).await.unwrap().unwrap().org_id, org);
    assert!(store.claim_run("w", 30).await.unwrap().is_none());

    // Without the organization's bound each user has two, and one who has them is passed over.
    let limits = OrgLimits { concurrent_runs_per_user: Some(2), ..none() };
    store.set_org_limits(org, limits, 1).await.unwrap();
    let mut all = 3;
    while store.claim_run("w", 40).await.unwrap().is_some() {
        all += 1;
    }
    assert_eq!(all, 4, "two of each");
}
