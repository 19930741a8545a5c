//! Sends what is due, again and again until it is taken or given up. Several servers may do so at once: each delivery is
//! claimed for the time of a try.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use codegen_store::{ChangeKind, Delivery, Endpoint, Error as StoreError, Tried, failpoint};
use futures::StreamExt as _;
use rand::Rng as _;
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::{Id, JoinSet},
};
use tracing::{error, warn};

use super::{body, secrets, signature};
use crate::{App, outside};

/// Between two tries of a delivery, each a fifth shorter or longer by chance: 11 tries in a day.
pub const DELAYS: [Duration; 10] = {
    const fn minutes(n: u64) -> Duration {
        Duration::from_secs(n * 60)
    }
    [
        Duration::from_secs(5),
        Duration::from_secs(30),
        minutes(2),
        minutes(10),
        minutes(30),
        minutes(60),
        minutes(120),
        minutes(240),
        minutes(480),
        minutes(480),
    ]
};
/// A whole try, from the name's resolution to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// A claim outlives its try by far.
const LEASE: Duration = Duration::from_secs(60);
/// Tries under way to one endpoint, and to all.
const AT_ONE: usize = 4;
const AT_ALL: usize = 512;
/// Bytes of an answer that are kept.
const ANSWER: usize = 4096;
/// An endpoint is turned off after so many failed tries in a row, if the first of them was so long ago.
const FAILURES: i64 = 20;
const FAILING: Duration = Duration::from_secs(24 * 3600);
/// How long deliveries are kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// The store's wake-up can be missed, and other servers have none for us; this cannot.
const POLL: Duration = Duration::from_secs(5);
const HOUSEKEEPING: Duration = Duration::from_secs(3600);

/// Sends until the app's shutdown token is cancelled. What is under way then is sent again later.
pub async fn run(app: &Arc<App>) {
    let mut changes = app.store.subscribe();
    let mut tries: JoinSet<()> = JoinSet::new();
    let mut endpoint_of: HashMap<Id, i64> = HashMap::new();
    let mut tidied: Option<Instant> = None;
    loop {
        while let Some(ended) = tries.try_join_next_with_id() {
            endpoint_of.remove(&ended_id(ended));
        }
        if tidied.is_none_or(|at| at.elapsed() >= HOUSEKEEPING) {
            tidied = Some(Instant::now());
            if let Err(error) = tidy(app).await {
                warn!(%error, "dropping old deliveries");
            }
        }
        let wait = match begin(app, &mut tries, &mut endpoint_of).await {
            Ok(wait) => wait,
            Err(error) => {
                error!(%error, "looking for deliveries that are due");
                POLL
            }
        };
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = queued(&mut changes) => {}
            Some(ended) = tries.join_next_with_id() => { endpoint_of.remove(&ended_id(ended)); }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Begins tries of what is due, as far as each endpoint has room; returns the time until the next one is due.
async fn begin(
    app: &Arc<App>,
    tries: &mut JoinSet<()>,
    endpoint_of: &mut HashMap<Id, i64>,
) -> Result<Duration, StoreError> {
    let now = app.now();
    let lease = i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
    for endpoint_id in app.store.endpoints_due(now).await? {
        let mut under_way = endpoint_of.values().filter(|id| **id == endpoint_id).count();
        while under_way < AT_ONE && tries.len() < AT_ALL {
            let claimed = app.store.claim_delivery(endpoint_id, &app.worker_id, lease, app.now()).await?;
            let Some(delivery) = claimed else { break };
            let app = app.clone();
            let task = tries.spawn(async move {
                if let Err(error) = deliver(&app, &delivery).await
                    // Where the server ends meanwhile, it is tried again.
                    && !error.chain().any(|cause| matches!(cause.downcast_ref(), Some(StoreError::Closed)))
                {
                    error!(delivery.id, error = format!("{error:#}"), "a delivery could not be recorded");
                }
            });
            endpoint_of.insert(task.id(), endpoint_id);
            under_way += 1;
        }
    }
    let next = app.store.next_delivery_at(now).await?;
    let wait = next.map_or(POLL, |at| Duration::from_millis(at.saturating_sub(app.now()).max(0).unsigned_abs()));
    Ok(wait.min(POLL))
}

/// One try, and what is made of it.
async fn deliver(app: &App, delivery: &Delivery) -> Result<()> {
    let endpoint = match app.store.endpoint(delivery.org_id, delivery.endpoint_id).await {
        Ok(endpoint) => endpoint,
        // Its deliveries went with it.
        Err(StoreError::NotFound) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    failpoint::hit("webhook.before");
    let begun = Instant::now();
    let outcome = match tokio::time::timeout(TIMEOUT, send(app, &endpoint, delivery)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(anyhow::anyhow!("no answer within {} s", TIMEOUT.as_secs())),
    };
    failpoint::hit("webhook.after");
    let now = app.now();
    let duration_ms = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
    let mut tried = Tried { duration_ms, ..Tried::default() };
    match outcome {
        Ok((status, answer)) => {
            (tried.status, tried.answer) = (Some(i64::from(status)), Some(answer));
            if !(200..300).contains(&status) {
                tried.error = Some(format!("the receiver answered {status}"));
            }
        }
        Err(error) => tried.error = Some(format!("{error:#}")),
    }
    if tried.error.is_some() {
        tried.next_try_at = next_try_at(delivery.attempts, now);
        tried.disable = why_off(&endpoint, tried.status, now);
        if let Some(why) = &tried.disable {
            warn!(org.id = endpoint.org_id, webhook.id = endpoint.id, "a webhook is turned off: {why}");
        }
    }
    app.store.settle_delivery(delivery, tried, now).await.context("settling a delivery")?;
    Ok(())
}

/// Status and beginning of the receiver's answer.
async fn send(app: &App, endpoint: &Endpoint, delivery: &Delivery) -> Result<(u16, String)> {
    let url = app.outside.check(&endpoint.url).map_err(anyhow::Error::msg)?;
    let (now, body) = (app.now(), body(app, delivery));
    let timestamp_s = now / 1000;
    let signature = signature(&secrets(app, endpoint, now).await?, &delivery.message_id, timestamp_s, &body)?;
    let asked = app
        .outside
        .client()?
        .post(url)
        .header("content-type", "application/json")
        .header("webhook-id", &delivery.message_id)
        .header("webhook-timestamp", timestamp_s)
        .header("webhook-signature", signature)
        .body(body);
    let response = asked.send().await.map_err(|error| anyhow::anyhow!("no answer: {}", outside::cause(&error)))?;
    let status = response.status().as_u16();
    let (mut answer, mut chunks) = (Vec::new(), response.bytes_stream());
    // An answer that breaks off was one: its status counts.
    while answer.len() < ANSWER
        && let Some(Ok(chunk)) = chunks.next().await
    {
        answer.extend_from_slice(&chunk);
    }
    answer.truncate(ANSWER);
    // NUL is no character of a text in every database.
    Ok((status, String::from_utf8_lossy(&answer).replace('\0', "\u{fffd}")))
}

/// When a delivery that has failed so often is tried again.
fn next_try_at(attempts: i64, now: i64) -> Option<i64> {
    let delay = DELAYS.get(usize::try_from(attempts.saturating_sub(1)).ok()?)?;
    let jittered = delay.mul_f64(rand::rng().random_range(0.8..1.2));
    Some(now.saturating_add(i64::try_from(jittered.as_millis()).ok()?))
}

/// Why an endpoint is turned off after this try failed, if it is.
fn why_off(endpoint: &Endpoint, status: Option<i64>, now: i64) -> Option<String> {
    let failing = now.saturating_sub(endpoint.failing_since.unwrap_or(now));
    if status == Some(410) {
        return Some("The receiver answered 410: it is gone and wants no more events.".to_owned());
    }
    let long = failing >= i64::try_from(FAILING.as_millis()).unwrap_or(i64::MAX);
    (long && endpoint.failures + 1 >= FAILURES).then(|| {
        format!(
            "The last {} tries failed, for {} hours. Turn it on once the receiver works: what waits is sent then.",
            endpoint.failures + 1,
            failing / 3_600_000
        )
    })
}

async fn tidy(app: &App) -> Result<(), StoreError> {
    let now = app.now();
    let before = now.saturating_sub(i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX));
    while app.store.drop_deliveries(before, now).await? > 0 {}
    Ok(())
}

fn ended_id(ended: Result<(Id, ()), tokio::task::JoinError>) -> Id {
    match ended {
        Ok((id, ())) => id,
        Err(error) => {
            if error.is_panic() {
                error!(%error, "sending a webhook");
            }
            error.id()
        }
    }
}

/// Returns when a delivery was queued, or may have been.
async fn queued(changes: &mut Receiver<codegen_store::Change>) {
    loop {
        match changes.recv().await {
            Ok(change) if change.kind == ChangeKind::EventQueued => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_tried_for_a_day_with_growing_waits_and_then_given_up() {
        let whole: Duration = DELAYS.iter().sum();
        assert!(whole > Duration::from_secs(23 * 3600) && whole < Duration::from_secs(25 * 3600), "{whole:?}");
        for (n, delay) in (1..).zip(DELAYS) {
            let at = next_try_at(n, 1000).map(|at| at - 1000).unwrap_or_default();
            let ratio = at as f64 / delay.as_millis() as f64;
            assert!((0.79..1.21).contains(&ratio), "try {n} waits {at} ms");
        }
        assert_eq!(next_try_at(11, 1000), None);
    }

    #[test]
    fn an_endpoint_is_turned_off_only_after_many_failures_over_a_day() {
        let day = 24 * 3_600_000;
        let endpoint = |failures, failing_since| Endpoint {
            id: 1,
            org_id: 1,
            url: String::new(),
            description: String::new(),
            events: Vec::new(),
            enabled: true,
            disabled_reason: None,
            failures,
            failing_since,
            previous_until: None,
            created_at: 0,
        };
        assert!(why_off(&endpoint(500, Some(0)), None, day - 1).is_none(), "a burst of an hour is no day");
        assert!(why_off(&endpoint(3, Some(0)), Some(500), day).is_none());
        assert!(why_off(&endpoint(0, None), Some(500), day).is_none());
        assert!(why_off(&endpoint(19, Some(0)), Some(500), day).is_some_and(|why| why.contains("20 tries")));
        assert!(why_off(&endpoint(0, None), Some(410), day).is_some());
    }
}
