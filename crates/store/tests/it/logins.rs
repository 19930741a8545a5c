//! Sessions, attempts and identities.
#![allow(clippy::unwrap_used)]

use codegen_store::{Attempt, AttemptLimits, Entered, GivenRole, Identity, NewSession, NewUser, Role, Store};

use crate::Fixture;

fn session(hash: &str, user_id: i64, expires_at: i64) -> NewSession {
    NewSession { hash: hash.to_owned(), user_id, way: "password".to_owned(), expires_at, ..NewSession::default() }
}

#[tokio::test]
async fn a_session_ends_when_it_is_not_used_and_in_any_case_at_its_time() {
    let fixture = Fixture::new().await;
    let (store, user) = (&fixture.store, fixture.user.id);
    let made = store.add_session(session("h", user, 1_000_000), 1000).await.unwrap();
    let found = async |now| store.session_by_hash("h", now, 100_000).await.unwrap();
    assert!(found(100_999).await.is_some());
    assert!(found(101_000).await.is_none());
    // A use is noted at most each minute.
    store.session_seen(&made, 60_999).await.unwrap();
    assert!(found(101_000).await.is_none());
    store.session_seen(&made, 61_000).await.unwrap();
    let (used, token, owner) = found(101_000).await.unwrap();
    assert_eq!((used.seen_at, owner.id, token.user_id), (61_000, user, user));
    assert_eq!(store.sessions_of_user(user, 101_000, 100_000, 0, 10).await.unwrap().1, 1);
    for now in (61_000..1_000_000).step_by(90_000) {
        let (seen, ..) = found(now).await.unwrap();
        store.session_seen(&seen, now).await.unwrap();
    }
    assert!(store.session_by_hash("h", 999_999, 1_000_000).await.unwrap().is_some());
    assert!(store.session_by_hash("h", 1_000_000, 1_000_000).await.unwrap().is_none());
}

#[tokio::test]
async fn a_session_stands_for_its_token_or_for_one_that_nobody_has_until_it_is_ended() {
    let fixture = Fixture::new().await;
    let (store, user) = (&fixture.store, fixture.user.id);
    let token = store.add_token(user, "web", "token hash", 1).await.unwrap();
    let by_token = NewSession { token_id: Some(token.id), ..session("one", user, 1000) };
    let (one, two) = (
        store.add_session(by_token, 10).await.unwrap(),
        store.add_session(session("two", user, 1000), 10).await.unwrap(),
    );
    let three = store.add_session(session("three", user, 1000), 10).await.unwrap();
    assert_eq!((one.token_id, two.token_id == token.id, two.token_id == three.token_id), (token.id, false, true));
    let (.., found, owner) = store.session_by_hash("one", 99, 1000).await.unwrap().unwrap();
    assert_eq!((found, owner.id), (token, user));
    let mut changes = store.subscribe();
    assert!(!store.end_session(user + 1, two.id).await.unwrap());
    assert!(store.end_session(user, two.id).await.unwrap());
    assert!(store.session_by_hash("two", 50, 1000).await.unwrap().is_none());
    assert_eq!(changes.recv().await.unwrap().kind, codegen_store::ChangeKind::AccessChanged);
    assert_eq!(store.end_sessions(user, Some(one.id)).await.unwrap(), 1);
    assert!(store.session_by_hash("three", 50, 1000).await.unwrap().is_none());
    assert!(store.session_by_hash("one", 50, 1000).await.unwrap().is_some());
    for hash in ["token hash", ""] {
        assert!(store.session_by_hash(hash, 50, 1000).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn attempts_are_forgotten_when_their_time_is_over() {
    let fixture = Fixture::new().await;
    let limits = AttemptLimits { within_ms: 1000, per_address: 3, per_account: 2 };
    let attempt = async |address, account, now| fixture.store.attempt(address, account, limits, now).await.unwrap();
    assert!(matches!(attempt("a", "x", 0).await, Attempt::Counted(_)));
    assert!(matches!(attempt("b", "x", 10).await, Attempt::Counted(_)));
    assert_eq!(attempt("c", "x", 20).await, Attempt::TooMany(980));
    assert_eq!(attempt("c", "x", 999).await, Attempt::TooMany(1));
    let Attempt::Counted(third) = attempt("c", "x", 1000).await else { panic!("there is room again") };
    fixture.store.attempt_succeeded(third).await.unwrap();
    for account in ["1", "2", "3"] {
        assert!(matches!(attempt("d", account, 1000).await, Attempt::Counted(_)));
    }
    assert_eq!(attempt("d", "4", 1500).await, Attempt::TooMany(500));
}

async fn enter(store: &Store, org_id: i64, subject: &str, role: GivenRole) -> Option<(i64, Option<Role>)> {
    let user = NewUser {
        github_user_id: format!("oidc-{subject}"),
        github_username: subject.to_owned(),
        ..NewUser::default()
    };
    let identity =
        Identity { issuer: "https://id.example".to_owned(), subject: subject.to_owned(), user, org_id, role };
    let hash = format!("{subject} {}", next());
    match store.enter(identity, session(&hash, 0, i64::MAX), 5).await.unwrap() {
        Entered::In(user, session) => {
            assert_eq!(session.user_id, user.id);
            Some((user.id, store.org_member(org_id, user.id).await.unwrap().map(|member| member.role)))
        }
        Entered::NoRole => None,
    }
}

/// A number that no other session has.
fn next() -> i64 {
    static NEXT: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test]
async fn groups_decide_about_roles_at_each_log_in_and_the_last_admin_stays() {
    use GivenRole::{Always, AtFirst, None as NoGroup};
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let org = store.create_org("People", 0).await.unwrap().id;
    let (ann, role) = enter(store, org, "ann", Always(Role::Admin)).await.unwrap();
    assert_eq!(role, Some(Role::Admin));
    // The only one: whatever her groups say.
    for says in [Always(Role::Member), NoGroup] {
        assert_eq!(enter(store, org, "ann", says).await, Some((ann, Some(Role::Admin))));
    }
    assert_eq!(enter(store, org, "bea", NoGroup).await, None);
    let (bea, _) = enter(store, org, "bea", Always(Role::Admin)).await.unwrap();
    assert_eq!(enter(store, org, "ann", Always(Role::Manager)).await, Some((ann, Some(Role::Manager))));
    assert_eq!(enter(store, org, "bea", Always(Role::Member)).await, Some((bea, Some(Role::Admin))));
    // Out of all groups: no member, and logged in nowhere.
    assert!(store.sessions_of_user(ann, 6, i64::MAX, 0, 10).await.unwrap().1 > 0);
    assert_eq!(enter(store, org, "ann", NoGroup).await, None);
    assert!(store.org_member(org, ann).await.unwrap().is_none());
    assert_eq!(store.sessions_of_user(ann, 6, i64::MAX, 0, 10).await.unwrap().1, 0);
    // Where groups have no say, nobody's role changes, and whom an admin removed stays out.
    assert_eq!(enter(store, org, "ann", AtFirst(Role::Member)).await, Some((ann, None)));
    assert_eq!(enter(store, org, "bea", AtFirst(Role::Member)).await, Some((bea, Some(Role::Admin))));
}

#[tokio::test]
async fn nobody_gets_a_password_under_the_name_of_another_who_has_one() {
    let fixture = Fixture::new().await;
    let (store, org) = (&fixture.store, fixture.org.id);
    let named = |id: &str, name: &str, email: Option<&str>| NewUser {
        github_user_id: id.to_owned(),
        github_username: name.to_owned(),
        email: email.map(str::to_owned),
        ..NewUser::default()
    };
    let ann = store.add_member(org, named("7", "Ann", Some("ann@example.com")), Role::Member, 0).await.unwrap();
    let other = store.add_member(org, named("8", "ann", None), Role::Member, 0).await.unwrap();
    store.set_password(ann.id, "hash", 0).await.unwrap();
    store.set_password(ann.id, "newer", 0).await.unwrap();
    assert!(matches!(store.set_password(other.id, "hash", 0).await, Err(codegen_store::Error::Conflict(_))));
    for name in ["ann", "ANN", "Ann@Example.com"] {
        let found = store.password_by_name(name).await.unwrap().unwrap();
        assert_eq!((found.user.id, &*found.hash), (ann.id, "newer"));
    }
    assert!(store.password_by_name("an").await.unwrap().is_none());
}
