//! A run's memory over the store: entries durable under the claim, large outputs as blobs, counters and deltas on the way.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use async_trait::async_trait;
use codegen_agent::{Delta, Entry, Log, LogResult};
use codegen_store::{Claim, LogRow, RunUpdate, failpoint};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::workspace::Turns;
use crate::{App, config::TraceLimits};

/// The entry that says which follow-ups the agent has read.
const READ: &str = "messages_read";
/// Rows read at a time.
const PAGE: i64 = 500;

/// The log of one claimed run.
pub struct RunLog {
    app: Arc<App>,
    claim: Claim,
    org_id: i64,
    /// Newest entry that the agent has seen.
    seen_seq: i64,
    /// Seqs of follow-ups that the trace does not yet say were read.
    unread: Vec<i64>,
    spent: Spent,
    size: Size,
    let_go: CancellationToken,
    turns: Turns,
    /// The newest entry that nobody has waited for yet; it waits for the one before.
    on_its_way: Mutex<Option<JoinHandle<Result<(), codegen_store::Error>>>>,
}

/// What the run has used so far, over all attempts.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    steps: i64,
    tokens_in: i64,
    tokens_out: i64,
    cost: f64,
}

/// The body of a [`READ`] entry.
#[derive(serde::Deserialize)]
struct Read {
    messages: Vec<i64>,
}

/// The worker is going down and the run goes on elsewhere; the entry before this was still written.
#[derive(Debug, thiserror::Error)]
#[error("the worker is shutting down")]
pub struct LetGo;

/// How large the trace is.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    entries: i64,
    /// Of the entries up to the newest that the agent has seen.
    seen_bytes: u64,
    /// Of those that it has written since.
    new_bytes: u64,
}

impl Size {
    fn is_full(self, most: TraceLimits) -> bool {
        self.entries >= most.entries || self.seen_bytes + self.new_bytes >= most.bytes
    }
}

/// The trace has as much as it may have; the entry before this was still written.
#[derive(Debug, thiserror::Error)]
#[error("the trace is full")]
pub struct TraceFull;

impl Spent {
    fn add(&mut self, entry: &Entry) {
        if let Entry::Reply(reply) = entry {
            let usage = reply.usage;
            self.steps += 1;
            self.tokens_in += (usage.input + usage.cache_read + usage.cache_write).cast_signed();
            self.tokens_out += usage.output.cast_signed();
            self.cost += reply.cost;
        }
    }
}

impl RunLog {
    /// Reads what there is; the second part is the agent's history. `turns` is told of calls that may have changed something.
    ///
    /// # Errors
    /// The store's, or an entry that cannot be read.
    pub async fn open(
        app: Arc<App>,
        claim: Claim,
        org_id: i64,
        let_go: CancellationToken,
        turns: Turns,
    ) -> anyhow::Result<(Self, Vec<Entry>)> {
        let (spent, unread) = (Spent::default(), Vec::new());
        let on_its_way = Mutex::default();
        let mut log =
            Self { app, claim, org_id, seen_seq: 0, unread, spent, size: Size::default(), let_go, turns, on_its_way };
        let mut history = Vec::new();
        // A message is part of the conversation from where it was read, not from where it came in: the model has not
        // seen one that came in while it was answering, and its answer must not be taken for one to that.
        let mut waiting: Vec<(i64, Entry)> = Vec::new();
        for row in log.unseen().await? {
            if row.kind == READ {
                let body: Read = serde_json::from_str(&row.body).context("reading which follow-ups were read")?;
                let (read, left) = waiting.into_iter().partition(|(seq, _)| body.messages.contains(seq));
                history.extend(Vec::into_iter(read).map(|(_, entry)| entry));
                waiting = left;
            }
            let Some(entry) = entry(&row)? else { continue };
            if row.kind == "user_message" && row.seq > 1 {
                waiting.push((row.seq, entry));
                continue;
            }
            log.spent.add(&entry);
            history.push(entry);
        }
        for (seq, entry) in waiting {
            log.unread.push(seq);
            history.push(entry);
        }
        Ok((log, history))
    }

    /// The newest entry that the agent has seen.
    pub fn seen_seq(&self) -> i64 {
        self.seen_seq
    }

    /// Whether the trace takes no more of the agent.
    pub fn is_full(&self) -> bool {
        self.size.is_full(self.app.config.trace)
    }

    /// Appends an entry that is not the agent's: a branch, a pull request, the result.
    ///
    /// # Errors
    /// The store's.
    pub async fn note(&self, kind: &'static str, body: Value) -> Result<(), codegen_store::Error> {
        drop(self.note_soon(kind, body));
        self.settled().await
    }

    /// Appends an entry on which nothing is built, such as a stage, without waiting for the disk. What is appended after it
    /// comes after it, and tells its error. Who wants to know when it is there asks what this returns.
    pub fn note_soon(&self, kind: &'static str, mut body: Value) -> oneshot::Receiver<()> {
        body["kind"] = kind.into();
        let contract = matches!(kind, "result" | "pull_request");
        let (store, claim, now) = (self.app.store.clone(), self.claim, self.app.now());
        let mut newest = self.on_its_way.lock().unwrap_or_else(PoisonError::into_inner);
        let before = newest.take();
        let (there, told) = oneshot::channel();
        *newest = Some(tokio::spawn(async move {
            if let Some(before) = before {
                landed(before).await?;
            }
            store.append_log(&claim, kind, &body.to_string(), contract, now).await?;
            // Most do not ask.
            there.send(()).ok();
            Ok(())
        }));
        told
    }

    /// Waits until everything that was appended is durable.
    ///
    /// # Errors
    /// The store's, for any of it.
    pub async fn settled(&self) -> Result<(), codegen_store::Error> {
        let newest = self.on_its_way.lock().unwrap_or_else(PoisonError::into_inner).take();
        match newest {
            Some(newest) => landed(newest).await,
            None => Ok(()),
        }
    }

    /// Tells a reader of the trace something.
    ///
    /// # Errors
    /// The store's.
    pub async fn notice(&self, text: impl Into<String>) -> Result<(), codegen_store::Error> {
        self.note("notice", json!({ "text": text.into() })).await
    }

    async fn unseen(&mut self) -> Result<Vec<LogRow>, codegen_store::Error> {
        let (mut all, mut seen) = (Vec::new(), self.seen_seq);
        loop {
            let rows = self.app.store.log(self.claim.run_id, seen, PAGE).await?;
            let complete = i64::try_from(rows.len()).is_ok_and(|n| n < PAGE);
            seen = rows.last().map_or(seen, |row| row.seq);
            all.extend(rows);
            if complete {
                let bytes: u64 = all.iter().map(|row| row.body.len() as u64).sum();
                self.size = Size { entries: seen, seen_bytes: self.size.seen_bytes + bytes, new_bytes: 0 };
                self.seen_seq = seen;
                return Ok(all);
            }
        }
    }
}

async fn landed(entry: JoinHandle<Result<(), codegen_store::Error>>) -> Result<(), codegen_store::Error> {
    // It is never cancelled, so only the end of the program, or a panic, keeps it from its end.
    entry.await.unwrap_or(Err(codegen_store::Error::Closed))
}

/// The agent's entry that a row holds; rows of the server's own kinds hold none.
fn entry(row: &LogRow) -> Result<Option<Entry>, anyhow::Error> {
    if !matches!(row.kind.as_str(), "user_message" | "reply" | "call_started" | "call_finished" | "notice") {
        return Ok(None);
    }
    let entry = serde_json::from_str(&row.body)
        .map_err(|e| anyhow::anyhow!("reading entry {} of run {}: {e}", row.seq, row.run_id))?;
    Ok(Some(entry))
}

#[async_trait]
impl Log for RunLog {
    async fn append(&mut self, entry: &Entry) -> LogResult {
        self.settled().await?;
        let mut body = serde_json::to_value(entry)?;
        let contract = match entry {
            Entry::Reply(reply) => !reply.text.trim().is_empty(),
            Entry::CallFinished { .. } | Entry::UserMessage { .. } => true,
            Entry::CallStarted { .. } | Entry::Notice { .. } => false,
        };
        if let Entry::CallFinished { call_id, full_output: Some(full), .. } = entry {
            let name = format!("output/{call_id}");
            self.app.store.put_blob(self.org_id, self.claim.run_id, &name, full.as_bytes()).await?;
            body["full_output"] = Value::Null;
            body["full_output_blob"] = name.into();
        }
        let kind = body["kind"].as_str().unwrap_or_default().to_owned();
        let body = body.to_string();
        self.size.new_bytes += body.len() as u64;
        failpoint::hit("append.before");
        let append = self.app.store.append_log(&self.claim, &kind, &body, contract, self.app.now());
        if matches!(entry, Entry::Reply(_)) {
            self.spent.add(entry);
            let Spent { steps, tokens_in, tokens_out, cost } = self.spent;
            let update = RunUpdate {
                steps: Some(steps),
                tokens_in: Some(tokens_in),
                tokens_out: Some(tokens_out),
                cost: Some(cost),
                ..RunUpdate::default()
            };
            // Side by side, so that both share one commit.
            self.size.entries =
                tokio::try_join!(append, self.app.store.update_run(&self.claim, update, self.app.now()))?.0;
        } else {
            self.size.entries = append.await?;
        }
        failpoint::hit("append.after");
        if matches!(entry, Entry::CallFinished { .. }) {
            self.turns.ended();
        }
        self.app.watches.grown(self.claim.run_id);
        // What is done is still said to be: only what would lead to more is too much.
        let leads_on = match entry {
            Entry::Reply(reply) => !reply.calls.is_empty(),
            Entry::CallStarted { .. } => true,
            Entry::CallFinished { .. } | Entry::UserMessage { .. } | Entry::Notice { .. } => false,
        };
        if self.let_go.is_cancelled() {
            Err(Box::new(LetGo))
        } else if leads_on && self.is_full() {
            Err(Box::new(TraceFull))
        } else {
            Ok(())
        }
    }

    fn delta(&mut self, delta: Delta) {
        self.app.watches.delta(self.claim.run_id, &delta);
    }

    async fn may_spend(&mut self) -> bool {
        match self.app.store.money_is_spent(self.org_id, self.app.now()).await {
            Ok(spent) => !spent,
            Err(error) => {
                tracing::warn!(run.id = self.claim.run_id, %error, "asking what its organization may spend; it is asked again at the next step");
                true
            }
        }
    }

    async fn take_messages(&mut self) -> Vec<Entry> {
        let rows = match self.unseen().await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(run.id = self.claim.run_id, %error, "looking for follow-ups; they are looked for again at the next step");
                return Vec::new();
            }
        };
        self.unread.extend(rows.iter().filter(|row| row.kind == "user_message").map(|row| row.seq));
        if !self.unread.is_empty() {
            match self.note(READ, json!({ "messages": self.unread })).await {
                Ok(()) => self.unread.clear(),
                // They are read even so; the next step says it again, or finds out what is wrong.
                Err(error) => tracing::warn!(run.id = self.claim.run_id, %error, "noting that follow-ups were read"),
            }
        }
        rows.iter().filter(|row| row.kind == "user_message").filter_map(|row| entry(row).ok().flatten()).collect()
    }
}
