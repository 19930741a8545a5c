//! How many requests a token may make in a time. The windows are the store's, so that all servers share them; this one
//! takes a few requests of a window at a time and answers from those.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use codegen_store::{Error as StoreError, Rate, Store};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;
use utoipa::ToSchema;

use super::{address, auth::Caller, error::ApiError};
use crate::App;

/// Kinds of limits; each token has a window of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// All reads together.
    Read,
    /// Logs of runs.
    Logs,
    /// New runs.
    Create,
    /// New runs that write setup commands.
    SetupCommands,
    /// New runs that read logs of sandboxes.
    AnalyzeLogs,
    /// Changes of pull requests.
    PullRequests,
    /// Rules, as command lines ask for them.
    Rules,
    /// All other changes together.
    Write,
    /// What the pages of a person's open tabs ask for, and all that a log-in reads.
    View,
    /// Lines of a session at a person's own machine, each a request that is never sent again.
    SessionLog,
}

impl Limit {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Read,
        Self::Logs,
        Self::Create,
        Self::SetupCommands,
        Self::AnalyzeLogs,
        Self::PullRequests,
        Self::Rules,
        Self::Write,
        Self::View,
        Self::SessionLog,
    ];

    /// The word for it in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Logs => "logs",
            Self::Create => "create",
            Self::SetupCommands => "setup_commands",
            Self::AnalyzeLogs => "analyze_logs",
            Self::PullRequests => "pull_requests",
            Self::Rules => "rules",
            Self::Write => "write",
            Self::View => "view",
            Self::SessionLog => "session_log",
        }
    }

    /// What it is where an organization has not set it.
    pub fn usual(self) -> RateLimit {
        let (requests, seconds) = match self {
            Self::Read | Self::Write => (60, 30),
            Self::Logs => (60, 60),
            Self::Create => (10, 60),
            Self::SetupCommands | Self::AnalyzeLogs => (5, 60),
            Self::PullRequests | Self::Rules => (30, 60),
            Self::View => (600, 30),
            Self::SessionLog => (3000, 60),
        };
        RateLimit { requests, seconds }
    }
}

/// How many requests in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// So many requests
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    pub requests: i64,
    /// in so many seconds.
    #[schema(minimum = 1, maximum = 86_400)]
    pub seconds: i64,
}

impl RateLimit {
    fn rate(self) -> Rate {
        Rate { requests: self.requests, period_ms: self.seconds * 1000 }
    }
}

/// An organization's own limits, by [`Limit::as_str`].
pub type OwnLimits = BTreeMap<String, RateLimit>;

/// Where a token stands with the limit of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    limit: i64,
    remaining: i64,
    /// When the window ends, in unix milliseconds.
    ends_at: i64,
}

/// An organization's limits are read again after this long, for another server may have changed them.
const FRESH_MS: i64 = 2000;
/// With more windows than this those that are over are forgotten.
const MANY: usize = 10_000;

/// When an organization's own limits were read, and what they were.
type Read = (i64, Option<Arc<OwnLimits>>);

/// The windows that this server answers from.
#[derive(Default)]
pub struct Limits {
    windows: Mutex<HashMap<(i64, Limit, RateKey), Arc<Window>>>,
    own: Mutex<HashMap<i64, Read>>,
    /// Requests of addresses.
    pub addresses: address::Ceiling,
}

type RateKey = (i64, i64);

#[derive(Default)]
struct Window {
    state: Mutex<Known>,
    /// One request at a time asks the store.
    asking: AsyncMutex<()>,
}

#[derive(Default)]
struct Known {
    ends_at: i64,
    /// Requests that are this server's to answer.
    mine: i64,
    /// Requests that no server had when it last asked.
    left: i64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Limits {
    /// Counts a request of a token against its limit; when there is none left, the error says how many seconds to wait.
    pub async fn take(
        &self,
        store: &Store,
        token_id: i64,
        limit: Limit,
        rate: RateLimit,
        now: i64,
    ) -> Result<(Standing, Result<(), u64>), StoreError> {
        let window = {
            let mut windows = lock(&self.windows);
            if windows.len() > MANY {
                windows.retain(|_, window| lock(&window.state).ends_at > now);
            }
            windows.entry((token_id, limit, (rate.requests, rate.seconds))).or_default().clone()
        };
        if let Some(answer) = window.answer(rate, now) {
            return Ok(answer);
        }
        let _asking = window.asking.lock().await;
        if let Some(answer) = window.answer(rate, now) {
            return Ok(answer);
        }
        let block = store.take_requests(token_id, limit.as_str(), rate.rate(), now).await?;
        let ends_at = block.started_at + rate.rate().period_ms;
        *lock(&window.state) = Known { ends_at, mine: block.granted, left: block.left };
        // The store may have begun the window by a clock that is ahead of ours.
        let refused = (Standing { limit: rate.requests, remaining: 0, ends_at }, Err(wait(ends_at, now)));
        Ok(window.answer(rate, now).unwrap_or(refused))
    }

    /// The limit of a kind in an organization; its own where it set one.
    async fn rate(&self, app: &App, org_id: i64, caller: &Caller, limit: Limit) -> Result<RateLimit, StoreError> {
        let Some(own) = self.own(app, org_id).await? else { return Ok(limit.usual()) };
        let Some(rate) = own.get(limit.as_str()) else { return Ok(limit.usual()) };
        // Whether a foreign organization exists must not show in what its limits are.
        let member = app.store.org_member(org_id, caller.user.id).await?;
        Ok(if member.is_some() { *rate } else { limit.usual() })
    }

    async fn own(&self, app: &App, org_id: i64) -> Result<Option<Arc<OwnLimits>>, StoreError> {
        let now = app.now();
        if let Some((read_at, own)) = lock(&self.own).get(&org_id)
            && (0..FRESH_MS).contains(&(now - read_at))
        {
            return Ok(own.clone());
        }
        let row = app.store.org_limits(org_id).await?;
        let own: OwnLimits = row.and_then(|limits| serde_json::from_str(&limits.rate_limits).ok()).unwrap_or_default();
        let own = (!own.is_empty()).then(|| Arc::new(own));
        let mut all = lock(&self.own);
        if all.len() > MANY {
            all.clear();
        }
        all.insert(org_id, (now, own.clone()));
        Ok(own)
    }

    /// Reads an organization's limits anew at its next request.
    pub fn forget(&self, org_id: i64) {
        lock(&self.own).remove(&org_id);
    }
}

impl Window {
    /// The answer, where this server has one without the store.
    fn answer(&self, rate: RateLimit, now: i64) -> Option<(Standing, Result<(), u64>)> {
        let mut state = lock(&self.state);
        let period = rate.rate().period_ms;
        if !(state.ends_at - 2 * period..state.ends_at).contains(&now) {
            return None;
        }
        if state.mine > 0 {
            state.mine -= 1;
        } else if state.left <= 0 {
            let standing = Standing { limit: rate.requests, remaining: 0, ends_at: state.ends_at };
            return Some((standing, Err(wait(state.ends_at, now))));
        } else {
            return None;
        }
        let remaining = state.mine + state.left;
        Some((Standing { limit: rate.requests, remaining, ends_at: state.ends_at }, Ok(())))
    }
}

/// Whole seconds until a time, at least one.
fn wait(ends_at: i64, now: i64) -> u64 {
    u64::try_from((ends_at - now).max(1)).unwrap_or(1).div_ceil(1000)
}

/// Where the limit that a request met is noted, for its answer's headers.
#[derive(Debug, Clone, Default)]
struct Slot(Arc<OnceLock<Standing>>);

/// Counts a request of a caller, or refuses it.
pub async fn take(
    app: &App,
    extensions: &http::Extensions,
    caller: &Caller,
    org_id: Option<i64>,
    limit: Limit,
) -> Result<(), ApiError> {
    if !app.config.rate_limits {
        return Ok(());
    }
    let limits = &app.requests.limits;
    // A page reads several things at once and again after each change, at the pace of the person.
    let limit = if limit == Limit::Read && caller.session.is_some() { Limit::View } else { limit };
    let rate = match org_id {
        Some(org_id) => limits.rate(app, org_id, caller, limit).await?,
        None => limit.usual(),
    };
    match limits.take(&app.store, caller.token.id, limit, rate, app.now()).await {
        Ok((standing, outcome)) => {
            if let Some(slot) = extensions.get::<Slot>() {
                // Set once: a request meets one limit.
                slot.0.set(standing).ok();
            }
            outcome.map_err(ApiError::TooMany)
        }
        // What needs no room on the disk goes on without it.
        Err(StoreError::Full) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Refuses addresses that ask too much, before anything is looked up for them, and tells callers where they stand.
pub async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if !app.config.rate_limits {
        return next.run(request).await;
    }
    if let Some(address) = address::of(&app.config, request.headers(), request.extensions()) {
        let ceiling = &app.requests.limits.addresses;
        if let Err((standing, seconds)) = ceiling.take(address, app.config.address_limit, app.now()) {
            let mut response = ApiError::TooMany(seconds).into_response();
            tell(&mut response, &standing);
            return response;
        }
    }
    let slot = Slot::default();
    request.extensions_mut().insert(slot.clone());
    let mut response = next.run(request).await;
    if let Some(standing) = slot.0.get() {
        tell(&mut response, standing);
    }
    response
}

fn tell(response: &mut Response, standing: &Standing) {
    let reset = standing.ends_at.max(0).cast_unsigned().div_ceil(1000);
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-ratelimit-limit"), HeaderValue::from(standing.limit));
    headers.insert(HeaderName::from_static("x-ratelimit-remaining"), HeaderValue::from(standing.remaining));
    headers.insert(HeaderName::from_static("x-ratelimit-reset"), HeaderValue::from(reset));
}

impl Standing {
    /// Of a window that is used up.
    pub fn used_up(limit: i64, ends_at: i64) -> Self {
        Self { limit, remaining: 0, ends_at }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use codegen_store::NewUser;

    use super::*;

    async fn token(store: &Store) -> i64 {
        let (_, user) = store.bootstrap("Acme", NewUser::default(), "hash", 1).await.unwrap().unwrap();
        store.add_token(user.id, "test", "other hash", 1).await.unwrap().id
    }

    #[tokio::test]
    async fn every_kind_of_limit_holds_at_its_edge() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let (token, limits) = (token(&store).await, Limits::default());
        for limit in Limit::ALL {
            let rate = limit.usual();
            let take = async |now: i64| limits.take(&store, token, limit, rate, now).await.unwrap();
            for n in 1..=rate.requests {
                let (standing, outcome) = take(1000).await;
                assert_eq!((standing.remaining, outcome), (rate.requests - n, Ok(())), "{limit:?}");
            }
            let end = 1000 + rate.seconds * 1000;
            assert_eq!(take(1000).await.1, Err(rate.seconds.cast_unsigned()), "{limit:?}");
            assert_eq!(take(end - 1).await.1, Err(1), "{limit:?}");
            assert_eq!(take(end).await.1, Ok(()), "{limit:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn two_servers_together_let_no_more_through_than_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let beside = Store::open_beside(dir.path()).await.unwrap();
        let token = token(&store).await;
        let servers = [(store, Arc::new(Limits::default())), (beside, Arc::new(Limits::default()))];
        let mut asking = tokio::task::JoinSet::new();
        for n in 0..300 {
            let (store, limits) = servers[n % 2].clone();
            asking.spawn(async move {
                let taken = limits.take(&store, token, Limit::Read, Limit::Read.usual(), 1000).await;
                taken.unwrap().1.is_ok()
            });
        }
        assert_eq!(asking.join_all().await.into_iter().filter(|passed| *passed).count(), 60);
    }

    #[tokio::test]
    async fn most_reads_are_no_write() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let (token, limits) = (token(&store).await, Limits::default());
        let take = async || limits.take(&store, token, Limit::Read, Limit::Read.usual(), 1000).await;
        for _ in 0..10 {
            take().await.unwrap().1.unwrap();
            // Closed after the first, and nobody notices until the block is used up.
            store.close().await;
        }
        assert!(take().await.is_err());
    }
}
