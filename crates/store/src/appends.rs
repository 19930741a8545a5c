//! Entries of claimed runs, appended for many runs by one change: what waits while a transaction is made durable goes into the
//! next one, with as few statements as it takes. Each run's fence is its own: one that lost its claim is refused alone.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    BoxFuture, Change, ChangeKind, Claim, Error, NewLog, Result,
    builder::Builder,
    dialect::{self, Tx, Verdict, Work},
};

/// Entries of one change, about; more would make the first of them wait too long.
const MOST: usize = 2048;
/// How many runs one statement updates. A statement of each size is prepared once.
const RUNS: [usize; 3] = [16, 4, 1];
/// How many entries one statement inserts.
const ENTRIES: [usize; 4] = [64, 16, 4, 1];

/// Entries that a worker wants in its run's log.
pub struct Append {
    /// By which right.
    pub claim: Claim,
    /// What.
    pub entries: Vec<NewLog>,
    /// When.
    pub now: i64,
    /// Told the seq of the last one, once it is durable.
    pub done: oneshot::Sender<Result<i64>>,
}

/// Appends that are made together.
pub struct Appends {
    appends: Vec<Append>,
    /// The seq of each one's last entry.
    outcome: Result<Vec<Result<i64>>>,
}

/// What a run's row gains from all its appends.
#[derive(Default)]
struct Gain {
    entries: i64,
    contract: i64,
    is_progress: bool,
    /// Which of the entries is the newest message of a person's, from 1.
    message: i64,
    appends: Vec<usize>,
}

impl Appends {
    /// Takes what waits, after this one.
    pub fn gather(first: Append, inbox: &mut mpsc::Receiver<Append>) -> Self {
        let (mut entries, mut appends) = (first.entries.len(), vec![first]);
        while entries < MOST
            && let Ok(append) = inbox.try_recv()
        {
            entries += append.entries.len();
            appends.push(append);
        }
        Self { appends, outcome: Ok(Vec::new()) }
    }

    async fn append(&self, tx: &mut Tx) -> Result<Vec<Result<i64>>> {
        // In the order of runs, so that two processes wait for each other in one direction.
        let mut gains: BTreeMap<(i64, i64), Gain> = BTreeMap::new();
        for (at, Append { claim, entries, .. }) in self.appends.iter().enumerate() {
            let gain = gains.entry((claim.run_id, claim.attempt)).or_default();
            for entry in entries {
                gain.entries += 1;
                gain.contract += i64::from(entry.contract);
                gain.is_progress |= matches!(entry.kind.as_str(), "reply" | "call_finished");
                if entry.kind == "user_message" {
                    gain.message = gain.entries;
                }
            }
            gain.appends.push(at);
        }
        let mut accepted = HashMap::new();
        let waiting: Vec<_> = gains.iter().collect();
        for chunk in chunks(&waiting, &RUNS) {
            let mut query = Builder::new(
                "UPDATE runs SET log_seq = log_seq + gain.column3, contract_logs = contract_logs + gain.column4,
                     crashes = CASE WHEN gain.column5 = 1 THEN 0 ELSE crashes END,
                     message_seq = CASE WHEN gain.column6 > 0 THEN log_seq + gain.column6 ELSE message_seq END
                 FROM (VALUES ",
            );
            for (at, ((run_id, attempt), gain)) in chunk.iter().enumerate() {
                query.push(if at == 0 { "(" } else { "), (" });
                query.bind(*run_id)?.push(", ").bind(*attempt)?.push(", ").bind(gain.entries)?.push(", ");
                query.bind(gain.contract)?.push(", ").bind(i64::from(gain.is_progress))?.push(", ");
                query.bind(gain.message)?;
            }
            query.push(
                ")) AS gain WHERE id = gain.column1 AND attempt = gain.column2 AND phase NOT IN ('queued', 'done')
                 RETURNING id, attempt, org_id, log_seq",
            );
            for (run_id, attempt, org_id, seq) in
                query.query_as::<(i64, i64, i64, i64)>().fetch_all(&mut tx.conn).await?
            {
                accepted.insert((run_id, attempt), seq);
                tx.changes.push(Change { org_id, run_id, kind: ChangeKind::LogAppended });
            }
        }
        let mut outcomes: Vec<Result<i64>> = self.appends.iter().map(|_| Err(Error::Fenced)).collect();
        let mut rows = Vec::new();
        for (claim, gain) in &gains {
            let Some(last) = accepted.get(claim) else { continue };
            let mut seq = last - gain.entries;
            for at in &gain.appends {
                let (Some(Append { entries, now, .. }), Some(outcome)) = (self.appends.get(*at), outcomes.get_mut(*at))
                else {
                    continue;
                };
                for entry in entries {
                    seq += 1;
                    rows.push((claim.0, seq, entry, *now));
                }
                *outcome = Ok(seq);
            }
        }
        for chunk in chunks(&rows, &ENTRIES) {
            let mut query = Builder::new("INSERT INTO log (run_id, seq, kind, contract, created_at, body) VALUES ");
            for (at, (run_id, seq, entry, now)) in chunk.iter().enumerate() {
                query.push(if at == 0 { "(" } else { "), (" });
                query.bind(*run_id)?.push(", ").bind(*seq)?.push(", ").bind(entry.kind.as_str())?.push(", ");
                query.bind(i64::from(entry.contract))?.push(", ").bind(*now)?.push(", ");
                query.bind(entry.body.as_str())?;
            }
            query.push(")");
            query.query().execute(&mut tx.conn).await?;
        }
        Ok(outcomes)
    }
}

/// Parts of a list, each of one of these lengths, the longest first; the last length is 1.
fn chunks<'l, T>(list: &'l [T], lengths: &'l [usize]) -> impl Iterator<Item = &'l [T]> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let length = lengths.iter().find(|length| **length <= rest.len())?;
        let (chunk, after) = rest.split_at(*length);
        rest = after;
        Some(chunk)
    })
}

impl Work for Appends {
    fn run<'t>(&'t mut self, tx: &'t mut Tx) -> BoxFuture<'t, Verdict> {
        Box::pin(async move {
            self.outcome = self.append(tx).await;
            dialect::verdict(&self.outcome)
        })
    }

    fn acknowledge(self: Box<Self>, committed: Result<()>) {
        let Self { appends, outcome } = *self;
        let outcomes = match committed.and(outcome) {
            Ok(outcomes) => outcomes,
            Err(Error::Full) => appends.iter().map(|_| Err(Error::Full)).collect(),
            Err(Error::Commit(cause)) => appends.iter().map(|_| Err(Error::Commit(cause.clone()))).collect(),
            Err(Error::Db(cause)) => {
                let cause = Arc::new(cause);
                appends.iter().map(|_| Err(Error::Commit(cause.clone()))).collect()
            }
            Err(_) => Vec::new(),
        };
        let rest = std::iter::repeat_with(|| Err(Error::Closed));
        for (append, outcome) in appends.into_iter().zip(outcomes.into_iter().chain(rest)) {
            // A caller that has stopped waiting does not need the answer.
            append.done.send(outcome).ok();
        }
    }
}
