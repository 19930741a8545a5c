//! Deliveries: written with their event, claimed once, settled by who has them.

use codegen_store::{Delivery, Endpoint, EndpointChange, Error, NewPullRequest, NewRepo, Place, Reason, Sealed, Tried};

use crate::Fixture;

const LEASE: i64 = 60_000;

async fn endpoint(fixture: &Fixture, org_id: i64, events: &[&str]) -> Endpoint {
    let new = EndpointChange {
        url: Some("https://h.example/".to_owned()),
        events: Some(events.iter().map(|event| (*event).to_owned()).collect()),
        ..EndpointChange::default()
    };
    let seal = move |id| {
        Ok(Sealed { place: Place::new(org_id, "webhook_endpoints", id, "secret"), ciphertext: format!("sealed {id}") })
    };
    fixture.store.create_endpoint(org_id, new, 20, seal, 5).await.unwrap()
}

async fn events(fixture: &Fixture, endpoint: &Endpoint) -> Vec<String> {
    let (mut rows, total) = fixture.store.deliveries(endpoint.org_id, endpoint.id, None, 0, 100).await.unwrap();
    assert_eq!(rows.len() as i64, total);
    rows.reverse();
    rows.into_iter().map(|row| row.event).collect()
}

async fn claim(fixture: &Fixture, endpoint: &Endpoint, now: i64) -> Option<Delivery> {
    fixture.store.claim_delivery(endpoint.id, "w", LEASE, now).await.unwrap()
}

fn refused(next_try_at: Option<i64>) -> Tried {
    Tried { error: Some("refused".to_owned()), next_try_at, ..Tried::default() }
}

#[tokio::test]
async fn each_event_of_a_run_is_written_for_every_endpoint_that_wants_it() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let other = store.create_org("Other", 2).await.unwrap();
    let all = endpoint(&fixture, fixture.org.id, &[]).await;
    let ends = endpoint(&fixture, fixture.org.id, &["run.completed", "run.stopped"]).await;
    let off = endpoint(&fixture, fixture.org.id, &[]).await;
    let foreign = endpoint(&fixture, other.id, &[]).await;
    let turn_off = EndpointChange { enabled: Some(false), ..EndpointChange::default() };
    store.change_endpoint(fixture.org.id, off.id, turn_off, 6).await.unwrap();

    let repo = store.create_repo(fixture.org.id, NewRepo::of_origin("/srv/shop", None), 3).await.unwrap();
    let run = fixture.queue("Mend it").await;
    let claimed = store.claim_run("w", 11).await.unwrap().unwrap();
    let pull_request = NewPullRequest {
        repo_id: repo.id,
        run_id: run.id,
        state: "open".to_owned(),
        forge: "local".to_owned(),
        ..NewPullRequest::default()
    };
    let made = store.create_pull_request(fixture.org.id, pull_request.clone(), 12).await.unwrap();
    store.create_pull_request(fixture.org.id, pull_request, 13).await.unwrap();
    store.finish_run(&claimed.claim(), Reason::Complete, "done", None, 14).await.unwrap();
    store.set_pull_request_state(fixture.org.id, made.id, "merged", 15).await.unwrap();
    store.add_message(fixture.org.id, run.id, "more", &[], 16).await.unwrap();
    store.claim_run("w", 17).await.unwrap().unwrap();
    let stopped = fixture.queue("Stop it").await;
    store.request_stop(fixture.org.id, stopped.id, 18).await.unwrap();

    assert_eq!(
        events(&fixture, &all).await,
        [
            "run.created",
            "run.started",
            "pull_request.opened",
            "run.completed",
            "pull_request.merged",
            "run.resumed",
            "run.created",
            "run.stopped"
        ]
    );
    assert_eq!(events(&fixture, &ends).await, ["run.completed", "run.stopped"]);
    assert!(events(&fixture, &off).await.is_empty() && events(&fixture, &foreign).await.is_empty());

    let (rows, _) = store.deliveries(fixture.org.id, all.id, None, 0, 100).await.unwrap();
    let data: serde_json::Value = serde_json::from_str(&rows[4].data).unwrap();
    assert_eq!(
        (rows[4].event.as_str(), &data["status"], &data["result"]),
        ("run.completed", &"COMPLETE".into(), &"done".into())
    );
    let (same, _) = store.deliveries(fixture.org.id, ends.id, None, 0, 100).await.unwrap();
    assert_eq!(rows[4].message_id, same[1].message_id, "one event has one id");
    let mut ids: Vec<_> = rows.iter().map(|row| &row.message_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), rows.len());
}

#[tokio::test]
async fn a_change_that_is_undone_tells_nobody() {
    let fixture = Fixture::new().await;
    let all = endpoint(&fixture, fixture.org.id, &[]).await;
    let mut asks = fixture.asks("In another's repository");
    asks.repo_id = Some(99);
    assert!(matches!(fixture.store.create_run(fixture.org.id, asks, 10).await, Err(Error::NotFound)));
    assert!(events(&fixture, &all).await.is_empty());
}

#[tokio::test]
async fn a_delivery_is_claimed_once_until_its_lease_or_its_worker_ends() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let all = endpoint(&fixture, fixture.org.id, &[]).await;
    store.register_worker("w", "http://w", 1).await.unwrap();
    fixture.queue("Mend it").await;
    assert_eq!(store.endpoints_due(9).await.unwrap(), [0; 0], "not before its time");
    assert_eq!(store.endpoints_due(10).await.unwrap(), [all.id]);
    let first = claim(&fixture, &all, 10).await.unwrap();
    assert!(store.claim_delivery(all.id, "other", LEASE, 11).await.unwrap().is_none());
    assert_eq!(store.endpoints_due(11).await.unwrap(), [0; 0]);
    let replay = store.replay_delivery(fixture.org.id, all.id, first.id, 11).await;
    assert!(matches!(replay, Err(Error::Conflict(_))), "{replay:?}");

    let second = claim(&fixture, &all, 10 + LEASE).await.unwrap();
    assert_eq!((second.id, second.message_id.as_str(), second.attempts), (first.id, first.message_id.as_str(), 2));
    assert!(!store.settle_delivery(&first, Tried::default(), 12).await.unwrap(), "the first claim is over");

    // A worker that takes the place of the others has theirs at once; on PostgreSQL they live side by side.
    store.register_worker("next", "http://next", 20).await.unwrap();
    let free_at = if fixture.url.is_some() { 10 + 2 * LEASE } else { 11 + LEASE };
    let third = store.claim_delivery(all.id, "next", LEASE, free_at).await.unwrap().unwrap();
    assert_eq!((third.id, third.attempts), (first.id, 3));
    assert!(store.settle_delivery(&third, Tried { status: Some(204), ..Tried::default() }, 13).await.unwrap());
    let settled = store.delivery(fixture.org.id, all.id, first.id).await.unwrap();
    assert_eq!((settled.state.as_str(), settled.status), ("delivered", Some(204)));
    assert!(claim(&fixture, &all, i64::MAX - LEASE).await.is_none());

    let replayed = store.replay_delivery(fixture.org.id, all.id, first.id, 30).await.unwrap();
    assert_eq!((replayed.message_id, replayed.attempts), (first.message_id, 0));
    assert_eq!(claim(&fixture, &all, 30).await.unwrap().attempts, 1);
}

#[tokio::test]
async fn failures_are_counted_until_one_is_taken_and_what_waits_outlives_being_turned_off() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (org, all) = (fixture.org.id, endpoint(&fixture, fixture.org.id, &[]).await);
    fixture.queue("Mend it").await;
    fixture.queue("Mend it again").await;
    let first = claim(&fixture, &all, 10).await.unwrap();
    store.settle_delivery(&first, refused(Some(500)), 20).await.unwrap();
    assert_eq!(store.next_delivery_at(20).await.unwrap(), Some(500));
    let second = claim(&fixture, &all, 21).await.unwrap();
    assert_ne!(second.id, first.id, "one that waits holds up no other");
    store
        .settle_delivery(&second, Tried { disable: Some("It failed.".to_owned()), ..refused(None) }, 30)
        .await
        .unwrap();
    let shown = store.endpoint(org, all.id).await.unwrap();
    assert_eq!((shown.enabled, shown.failures, shown.failing_since), (false, 2, Some(20)));
    assert_eq!(shown.disabled_reason.as_deref(), Some("It failed."));
    assert_eq!(store.delivery(org, all.id, second.id).await.unwrap().state, "failed");
    assert!(claim(&fixture, &all, 500).await.is_none(), "nothing is sent while it is off");

    let turn_on = EndpointChange { enabled: Some(true), ..EndpointChange::default() };
    let on = store.change_endpoint(org, all.id, turn_on, 40).await.unwrap();
    assert_eq!((on.enabled, on.failures, on.disabled_reason), (true, 0, None));
    let again = claim(&fixture, &all, 500).await.unwrap();
    assert_eq!((again.id, again.attempts), (first.id, 2));
    store.settle_delivery(&again, refused(Some(900)), 501).await.unwrap();
    let last = claim(&fixture, &all, 900).await.unwrap();
    store.settle_delivery(&last, Tried { status: Some(204), ..Tried::default() }, 901).await.unwrap();
    let tries = store.delivery(org, all.id, first.id).await.unwrap().tries;
    let tries: Vec<_> = tries.iter().map(|one| (one["tried_at"].as_i64(), one["error"].as_str())).collect();
    assert_eq!(tries, [(Some(10), Some("refused")), (Some(500), Some("refused")), (Some(900), None)]);
    assert_eq!(store.endpoint(org, all.id).await.unwrap().failures, 0);

    assert_eq!(store.drop_deliveries(11, 902).await.unwrap(), 2);
    store.delete_endpoint(org, all.id, 903).await.unwrap();
    assert!(store.secrets().await.unwrap().is_empty(), "its secrets go with it");
    assert!(matches!(store.endpoint(org, all.id).await, Err(Error::NotFound)));
}

#[tokio::test]
async fn another_organization_s_endpoint_is_not_there() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let other = store.create_org("Other", 2).await.unwrap();
    let all = endpoint(&fixture, fixture.org.id, &[]).await;
    fixture.queue("Mend it").await;
    let delivery = store.deliveries(fixture.org.id, all.id, None, 0, 1).await.unwrap().0.remove(0);
    assert!(matches!(store.endpoint(other.id, all.id).await, Err(Error::NotFound)));
    assert!(matches!(store.delete_endpoint(other.id, all.id, 20).await, Err(Error::NotFound)));
    assert!(matches!(store.delivery(other.id, all.id, delivery.id).await, Err(Error::NotFound)));
    assert!(matches!(store.replay_delivery(other.id, all.id, delivery.id, 20).await, Err(Error::NotFound)));
    let change = store.change_endpoint(other.id, all.id, EndpointChange::default(), 20).await;
    assert!(matches!(change, Err(Error::NotFound)));
    assert_eq!(store.endpoints(other.id, 0, 10).await.unwrap(), (Vec::new(), 0));
    assert_eq!(events(&fixture, &all).await, ["run.created"]);
}
