//! Watching runs as they go: each new entry is read and made into a server-sent event once, however many watch.
//!
//! A watched run has one task that reads what is new and hands it to all viewers over a ring. A viewer that falls behind
//! the ring goes on from the store, so a slow one costs the run and the others nothing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use codegen_agent::Delta;
use codegen_store::{Change, ChangeKind, Claim, LogRow, Phase, Run, Store};
use futures::Stream;
use serde_json::{Value, json};
use tokio::{
    sync::{
        Notify,
        broadcast::{self, error::RecvError},
    },
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::elsewhere::Elsewhere;

/// Frames that a viewer may be behind before it goes on from the store.
const RING: usize = 64;
/// Bytes of entries read at a time.
const PAGE_BYTES: usize = 64 << 10;
/// Live words wait this long for more of them.
const GATHER: Duration = Duration::from_millis(20);
/// Entries that come while the ones before are still on their way to many viewers go out together: each viewer costs about this
/// much.
const DELIVERY: Duration = Duration::from_micros(10);
/// Live words of one run that wait; older ones are dropped.
const MOST_LIVE: usize = 1024;
/// Proxies close connections that are silent for longer.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// All watched runs of this process.
pub struct Watches {
    store: Store,
    shutdown: CancellationToken,
    /// Where runs may be another process's.
    elsewhere: Option<Arc<Elsewhere>>,
    open: Mutex<HashMap<i64, Arc<Watch>>>,
    /// Those who wait for a change of a run's row, by run and attempt.
    rows: Mutex<BTreeMap<(i64, i64), Arc<Notify>>>,
    /// Grows when someone may do less than before.
    access: tokio::sync::watch::Sender<u64>,
}

/// One watched run.
struct Watch {
    run_id: i64,
    frames: broadcast::Sender<Frame>,
    news: Mutex<VecDeque<News>>,
    wake: Notify,
    /// Cancelled when nobody watches any more.
    left: CancellationToken,
}

/// What the task of a watched run is told, in order.
enum News {
    /// The log grew.
    Grown,
    /// An event that nobody keeps, and where another process told it, the newest entry before it.
    Live(Option<i64>, String),
    /// Nobody watches any more.
    Left,
}

/// Events on their way to all viewers: the entries after `after`, up to and with `last`, and live ones between.
#[derive(Clone)]
struct Frame {
    after: i64,
    last: i64,
    bytes: Bytes,
    /// Nothing follows.
    is_end: bool,
}

/// One viewer of one run.
pub struct Viewer {
    watches: Arc<Watches>,
    watch: Arc<Watch>,
    frames: Option<broadcast::Receiver<Frame>>,
    /// Newest entry that went out.
    seen: i64,
    state: State,
    until_now: bool,
}

enum State {
    /// Reads the store.
    Behind,
    /// Has all of the store and takes what comes.
    Level,
    /// Has all that there will be.
    Over,
}

impl Watches {
    /// None yet.
    pub fn new(store: Store, shutdown: CancellationToken, elsewhere: Option<Arc<Elsewhere>>) -> Arc<Self> {
        let changes = store.subscribe();
        let watches = Arc::new(Self {
            store,
            shutdown,
            elsewhere,
            open: Mutex::default(),
            rows: Mutex::default(),
            access: tokio::sync::watch::Sender::default(),
        });
        // Weak, or the store would stay open as long as this waits for its changes.
        tokio::spawn(tell_of_changes(Arc::downgrade(&watches), changes));
        watches
    }

    fn watch(&self, run_id: i64) -> Option<Arc<Watch>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&run_id).cloned()
    }

    /// Says that a run's log grew, so that what is told live after this comes after it.
    pub fn grown(&self, run_id: i64) {
        if let Some(watch) = self.watch(run_id) {
            watch.tell(News::Grown);
        }
    }

    /// Told, from now on, when someone may do less than before.
    pub fn access_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.access.subscribe()
    }

    /// Told, from now on, when the claimed run's row may have changed. One waiter a claim, so that a thousand runs do not
    /// wake for each other's changes.
    pub fn row_changes(&self, claim: Claim) -> Arc<Notify> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.entry((claim.run_id, claim.attempt)).or_default().clone()
    }

    /// Nobody waits for changes under this claim any more.
    pub fn forget_row(&self, claim: Claim) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).remove(&(claim.run_id, claim.attempt));
    }

    fn row_changed(&self, run_id: i64) {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.range((run_id, i64::MIN)..=(run_id, i64::MAX)).for_each(|(_, waiter)| waiter.notify_one());
    }

    fn look_at_everything(&self) {
        self.access.send_modify(|changes| *changes += 1);
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.values().for_each(|watch| watch.tell(News::Grown));
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.values().for_each(|waiter| waiter.notify_one());
    }

    /// Shows what an agent says and nobody keeps.
    pub fn delta(&self, run_id: i64, delta: &Delta) {
        let Some(watch) = self.watch(run_id) else { return };
        let kind = match delta {
            Delta::Text { .. } => "text",
            Delta::Call { .. } => "call",
            Delta::Output { .. } => "output",
        };
        watch.live(kind, &serde_json::to_value(delta).unwrap_or_default());
    }

    /// Shows the output of a stage of the start, which nobody keeps either.
    pub fn stage_output(&self, run_id: i64, stage: &str, text: &str) {
        let Some(watch) = self.watch(run_id) else { return };
        watch.live("output", &json!({ "kind": "output", "stage": stage, "text": text }));
    }

    /// Begins to watch a run from the entry after `seen`.
    pub fn view(self: &Arc<Self>, run: &Run, seen: i64) -> Viewer {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = open.entry(run.id).or_insert_with(|| {
            let (frames, _) = broadcast::channel(RING);
            let watch = Watch {
                run_id: run.id,
                frames,
                news: Mutex::default(),
                wake: Notify::new(),
                left: CancellationToken::new(),
            };
            // What came after this row was read is found by the first look.
            watch.tell(News::Grown);
            let watch = Arc::new(watch);
            tokio::spawn(feed(watch.clone(), self.store.clone(), self.shutdown.clone(), run.log_seq));
            if let Some(elsewhere) = &self.elsewhere {
                tokio::spawn(listen(watch.clone(), elsewhere.clone(), self.shutdown.clone()));
            }
            watch
        });
        // Subscribed before the first reading, so that nothing falls in between.
        let (watch, frames) = (watch.clone(), Some(watch.frames.subscribe()));
        Viewer {
            watches: self.clone(),
            watch,
            frames,
            seen: seen.min(run.log_seq),
            state: State::Behind,
            until_now: false,
        }
    }
}

impl Watch {
    fn tell(&self, news: News) {
        let mut waiting = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        match (&news, waiting.back()) {
            (News::Grown, Some(News::Grown)) => {}
            _ => waiting.push_back(news),
        }
        if waiting.len() > MOST_LIVE
            && let Some(oldest) = waiting.iter().position(|news| matches!(news, News::Live(..)))
        {
            waiting.remove(oldest);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    fn live(&self, kind: &str, body: &Value) {
        self.tell(News::Live(None, live_event(kind, &body.to_string())));
    }

    fn take(&self) -> VecDeque<News> {
        std::mem::take(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Viewer {
    /// Ends when all that there is now has been seen.
    pub fn until_now(&mut self) {
        self.until_now = true;
    }

    /// The next events as bytes of an event stream; none at the end or when the server goes down.
    ///
    /// # Errors
    /// The store's.
    pub async fn next(&mut self) -> Result<Option<Bytes>, codegen_store::Error> {
        loop {
            match self.state {
                State::Over => return Ok(None),
                State::Behind => {
                    if self.watches.shutdown.is_cancelled() {
                        return Ok(None);
                    }
                    if let Some(bytes) = self.catch_up().await? {
                        return Ok(Some(bytes));
                    }
                }
                State::Level => {
                    let Some(frames) = &mut self.frames else { return Ok(None) };
                    match frames.recv().await {
                        Ok(frame) if frame.after == self.seen => {
                            self.seen = frame.last;
                            if frame.is_end {
                                self.state = State::Over;
                            }
                            return Ok(Some(frame.bytes));
                        }
                        Ok(frame) if frame.last <= self.seen => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => self.state = State::Behind,
                        Err(RecvError::Closed) => return Ok(None),
                    }
                }
            }
        }
    }

    /// All events.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, codegen_store::Error>> {
        futures::stream::unfold(self, |mut viewer| async move {
            match viewer.next().await {
                Ok(bytes) => bytes.map(|bytes| (Ok(bytes), viewer)),
                Err(error) => {
                    tracing::error!(%error, "reading a watched run");
                    Some((Err(error), viewer))
                }
            }
        })
    }

    async fn catch_up(&mut self) -> Result<Option<Bytes>, codegen_store::Error> {
        let store = &self.watches.store;
        let rows = store.log_page(self.watch.run_id, self.seen, PAGE_BYTES).await?;
        if let Some(last) = rows.last() {
            self.seen = last.seq;
            return Ok(Some(rows.iter().map(entry).collect::<String>().into()));
        }
        let run = store.run_by_id(self.watch.run_id).await?;
        if run.log_seq > self.seen {
            if !store.log_page(self.watch.run_id, self.seen, 1).await?.is_empty() {
                return Ok(None);
            }
            // Retention has dropped them.
            self.seen = run.log_seq;
        }
        if run.phase == Phase::Done {
            self.state = State::Over;
            return Ok(Some(end(&run).into()));
        }
        self.state = if self.until_now { State::Over } else { State::Level };
        Ok(None)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut open = self.watches.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.frames = None;
        if self.watch.frames.receiver_count() == 0 {
            open.remove(&self.watch.run_id);
            self.watch.left.cancel();
            self.watch.tell(News::Left);
        }
    }
}

/// Reads what is new of one run and hands it out, until the last viewer leaves or the server goes down.
async fn feed(watch: Arc<Watch>, store: Store, shutdown: CancellationToken, head: i64) {
    // Whether the log ends with a status as far as it was read outlasts a look that found no more, or failed.
    let mut read = Read { head, ends: false };
    let (mut next_live, mut next_frame) = (Instant::now(), Instant::now());
    loop {
        let after = read.head;
        let mut text = String::new();
        let mut ended = None;
        let (mut is_live, mut is_over) = (false, shutdown.is_cancelled());
        for news in watch.take() {
            match news {
                // An entry that came since says the same, or more.
                News::Live(Some(before), _) if before < read.head => {}
                News::Live(_, event) => {
                    text.push_str(&event);
                    is_live = true;
                }
                News::Left => is_over = true,
                News::Grown => match grown(&watch, &store, &mut read, &mut text).await {
                    Ok(end) => ended = end,
                    Err(codegen_store::Error::Closed) => is_over = true,
                    Err(error) => {
                        tracing::error!(run.id = watch.run_id, %error, "reading a watched run; it is tried again");
                        sleep(Duration::from_secs(1)).await;
                        watch.tell(News::Grown);
                    }
                },
            }
        }
        let is_end = ended.is_some() || is_over;
        text.extend(ended);
        if !text.is_empty() || is_end {
            // No viewer is fine: the last one is just leaving.
            let viewers =
                watch.frames.send(Frame { after, last: read.head, bytes: text.into(), is_end }).unwrap_or_default();
            next_frame = Instant::now() + DELIVERY * u32::try_from(viewers).unwrap_or(u32::MAX);
        }
        if is_over {
            return;
        }
        if is_live {
            next_live = Instant::now() + GATHER;
        }
        tokio::select! {
            () = watch.wake.notified() => {}
            () = shutdown.cancelled() => {}
            () = sleep(HEARTBEAT) => {
                // Another process may have died before it told of what it wrote.
                watch.tell(News::Grown);
                let bytes = Bytes::from_static(b": still here\n\n");
                watch.frames.send(Frame { after: read.head, last: read.head, bytes, is_end: false }).ok();
            }
        }
        tokio::select! {
            () = sleep_until(next_frame) => {}
            () = shutdown.cancelled() => {}
        }
        let only_live = |waiting: &VecDeque<News>| waiting.iter().all(|news| matches!(news, News::Live(..)));
        while Instant::now() < next_live && only_live(&watch.news.lock().unwrap_or_else(PoisonError::into_inner)) {
            tokio::select! {
                () = sleep_until(next_live) => {}
                () = watch.wake.notified() => {}
                () = shutdown.cancelled() => break,
            }
        }
    }
}

/// Hands on what another process tells of the run, until the last viewer leaves or the server goes down.
async fn listen(watch: Arc<Watch>, elsewhere: Arc<Elsewhere>, shutdown: CancellationToken) {
    let told = AtomicI64::new(0);
    let heard = |before: i64, event: String| {
        // The entries before it are there already, and shall be shown before it.
        if told.swap(before, Ordering::Relaxed) != before {
            watch.tell(News::Grown);
        }
        watch.tell(News::Live(Some(before), event));
    };
    tokio::select! {
        () = elsewhere.listen(watch.run_id, heard) => {}
        () = watch.left.cancelled() => {}
        () = shutdown.cancelled() => {}
    }
}

/// How far a log was read.
struct Read {
    /// Its newest entry.
    head: i64,
    /// Whether that is a status, with which a run can end.
    ends: bool,
}

/// Adds the entries after what was read; gives the last event where the run has ended with them.
async fn grown(
    watch: &Watch,
    store: &Store,
    read: &mut Read,
    text: &mut String,
) -> Result<Option<String>, codegen_store::Error> {
    loop {
        let rows = store.log_page(watch.run_id, read.head, PAGE_BYTES).await?;
        let Some(last) = rows.last() else { break };
        *read = Read { head: last.seq, ends: last.kind == "status" };
        text.extend(rows.iter().map(entry));
    }
    if !read.ends {
        return Ok(None);
    }
    let run = store.run_by_id(watch.run_id).await?;
    Ok((run.phase == Phase::Done && run.log_seq <= read.head).then(|| end(&run)))
}

/// Tells watched runs of what was committed.
async fn tell_of_changes(watches: std::sync::Weak<Watches>, mut changes: broadcast::Receiver<Change>) {
    loop {
        let change = changes.recv().await;
        let Some(watches) = watches.upgrade() else { return };
        match change {
            Ok(change) => match change.kind {
                ChangeKind::LogAppended => watches.grown(change.run_id),
                ChangeKind::RunChanged => watches.row_changed(change.run_id),
                ChangeKind::AccessChanged => watches.access.send_modify(|changes| *changes += 1),
                ChangeKind::Missed => watches.look_at_everything(),
                ChangeKind::RunQueued | ChangeKind::EventQueued => {}
            },
            Err(RecvError::Lagged(_)) => watches.look_at_everything(),
            Err(RecvError::Closed) => return,
        }
    }
}

/// An event that nobody keeps, as it is sent; its JSON has no line breaks.
pub fn live_event(kind: &str, body: &str) -> String {
    format!("event: {kind}\ndata: {body}\n\n")
}

fn entry(row: &LogRow) -> String {
    // JSON text has no line breaks of its own.
    format!("id: {}\nevent: {}\ndata: {}\n\n", row.seq, row.kind, row.body)
}

fn end(run: &Run) -> String {
    format!("event: end\ndata: {}\n\n", json!({ "kind": "end", "status": run.status(), "result": run.result }))
}

#[cfg(test)]
mod tests;
