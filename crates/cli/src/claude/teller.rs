//! Tells the server a transcript as it grows: in batches, again where it was not heard, and each line once, for the server
//! counts them.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use super::session::Kept;
use crate::client::{Client, Refused};

/// How often the transcript is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Pause after a try that nobody heard, the first and the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A session that says nothing for hours is taken for ended; a word now and then keeps it.
const WORD: Duration = Duration::from_secs(300);
/// Lines, and about bytes, of one batch; the server takes 500 lines and 20 MB.
const LINES: usize = 200;
const BYTES: usize = 4 << 20;
/// A longer line than the server takes is told as one that is left out.
const LONGEST: usize = 16 << 20;

/// Tells one session beside it.
pub struct Teller {
    end: watch::Sender<Option<&'static str>>,
    task: JoinHandle<Told>,
}

/// How far it came.
struct Told {
    kept: Kept,
    /// Why not all is told.
    trouble: Option<String>,
}

/// Lines that are whole, and the bytes that they are.
#[derive(Debug, PartialEq)]
struct Batch {
    lines: Vec<Value>,
    bytes: u64,
}

impl Teller {
    /// Begins.
    pub fn start(client: Client, kept: Kept) -> Self {
        let (end, ends) = watch::channel(None);
        Self { end, task: tokio::spawn(tell(client, kept, ends)) }
    }

    /// Tells the rest and how the session ended, within a time; gives a sentence where something is left for the next time.
    pub async fn end(self, word: &'static str, patience: Duration) -> Option<String> {
        // The task may have given up.
        self.end.send(Some(word)).ok();
        let ended = tokio::time::timeout(patience + LOOK, self.task).await;
        match ended {
            Ok(Ok(Told { kept, trouble: None })) => {
                kept.remove();
                None
            }
            Ok(Ok(Told { trouble: Some(trouble), .. })) => Some(format!(
                "the session is not all told ({trouble}); it is kept here, and the next `codegen claude` tells the rest"
            )),
            Ok(Err(_)) | Err(_) => Some(
                "the session is not all told; it is kept here, and the next `codegen claude` tells the rest".to_owned(),
            ),
        }
    }
}

/// Tells what earlier processes have left.
pub async fn tell_leftovers(client: Client) {
    for mut kept in Kept::leftovers(&client) {
        let word = kept.ended.clone().unwrap_or_else(|| "CANCELLED".to_owned());
        let client = client.in_org(kept.org_id);
        if told_whole(&client, &mut kept, &word).await.is_ok() {
            kept.remove();
        }
    }
}

/// Follows the transcript until the session's end and tells it all.
async fn tell(client: Client, mut kept: Kept, mut ends: watch::Receiver<Option<&'static str>>) -> Told {
    let (mut pause, mut heard) = (PAUSE, Instant::now());
    let mut announced = false;
    loop {
        let word = *ends.borrow_and_update();
        if let Some(word) = word {
            kept.ended = Some(word.to_owned());
            kept.save().ok();
            let last = told_whole(&client, &mut kept, word).await;
            return Told { trouble: last.err().map(|error| format!("{error:#}")), kept };
        }
        let step = async {
            if !announced && kept.session_id.is_some() {
                begin(&client, &kept).await?;
                announced = true;
                heard = Instant::now();
            }
            let told = announced && more(&client, &mut kept).await?;
            if told {
                heard = Instant::now();
            } else if announced && heard.elapsed() >= WORD {
                set(&client, &kept, "ACTIVE").await?;
                heard = Instant::now();
            }
            // What names itself is announced first.
            kept.find();
            Ok::<_, anyhow::Error>(told)
        };
        let wait = match step.await {
            // There may be more already.
            Ok(true) => Duration::ZERO,
            Ok(false) => {
                pause = PAUSE;
                LOOK
            }
            Err(error) if is_gone(&error) => {
                (kept.told, kept.bytes, announced) = (0, 0, false);
                LONGEST_PAUSE
            }
            Err(_) => {
                pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = ends.changed() => if changed.is_err() {
                return Told { kept, trouble: Some("it was given up".to_owned()) };
            },
        }
    }
}

/// Whether the server does not know the session (any more).
fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == 404)
}

/// Tells all that is there and how the session ended.
async fn told_whole(client: &Client, kept: &mut Kept, word: &str) -> Result<()> {
    kept.find();
    if kept.session_id.is_none() {
        // Claude Code ended before it chose one.
        return Ok(());
    }
    begin(client, kept).await?;
    while more(client, kept).await? {}
    set(client, kept, word).await
}

fn door(client: &Client, kept: &Kept, what: &str) -> String {
    client.org_path(&format!("/claude_code/session/{}/{what}", kept.session_id.as_deref().unwrap_or_default()))
}

async fn begin(client: &Client, kept: &Kept) -> Result<()> {
    client.post(&client.org_path("/claude_code/session"), &json!({ "session_id": kept.session_id })).await.map(drop)
}

async fn set(client: &Client, kept: &Kept, word: &str) -> Result<()> {
    client.post(&door(client, kept, "status"), &json!({ "status": word })).await.map(drop)
}

/// Tells the next lines, where there are some; says whether there were.
async fn more(client: &Client, kept: &mut Kept) -> Result<bool> {
    if !kept.find() {
        return Ok(false);
    }
    let Some(path) = &kept.transcript else { return Ok(false) };
    let Batch { lines, bytes } = read(path, kept.bytes, kept.ended.is_some())?;
    if lines.is_empty() {
        return Ok(false);
    }
    let count = i64::try_from(lines.len())?;
    client.post(&door(client, kept, "lines"), &json!({ "from": kept.told, "lines": lines })).await?;
    kept.told += count;
    kept.bytes += bytes;
    kept.save()?;
    Ok(true)
}

/// The whole lines after so many bytes; at the end also one that was not finished.
fn read(path: &Path, after: u64, at_end: bool) -> Result<Batch> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(after))?;
        let mut bytes = Vec::new();
        // A line that is longer than a batch is read whole.
        let mut most = BYTES;
        loop {
            let got = file.by_ref().take((most - bytes.len()) as u64).read_to_end(&mut bytes)?;
            if got == 0 || bytes.contains(&b'\n') || bytes.len() < most {
                return Ok(bytes);
            }
            most *= 2;
        }
    };
    let bytes = read().with_context(|| format!("reading {}", path.display()))?;
    let mut batch = Batch { lines: Vec::new(), bytes: 0 };
    for line in bytes.split_inclusive(|byte| *byte == b'\n').take(LINES) {
        let is_whole = line.ends_with(b"\n") || (at_end && bytes.len() < BYTES);
        if !is_whole {
            break;
        }
        batch.bytes += line.len() as u64;
        // Every line is told, that their numbers stay right.
        let told = match serde_json::from_slice::<Value>(line) {
            _ if line.len() > LONGEST => {
                json!({ "type": "codegen", "left_out": "a line that is too long", "bytes": line.len() })
            }
            Ok(told) if told.is_object() => told,
            Ok(other) => json!({ "type": "codegen", "line": other }),
            Err(_) => json!({ "type": "codegen", "line": String::from_utf8_lossy(line).trim_end() }),
        };
        batch.lines.push(told);
    }
    Ok(batch)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whole_from_where_the_last_ones_ended_and_none_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let text = "{\"a\":1}\nbroken\n[2]\n{\"half\":";
        std::fs::write(&path, text).unwrap();
        let first = read(&path, 0, false).unwrap();
        assert_eq!(first.bytes, 19);
        assert_eq!(
            first.lines,
            [json!({"a": 1}), json!({"type": "codegen", "line": "broken"}), json!({"type": "codegen", "line": [2]})]
        );
        assert!(read(&path, 19, false).unwrap().lines.is_empty(), "it may go on");
        assert_eq!(read(&path, 19, true).unwrap().lines, [json!({"type": "codegen", "line": "{\"half\":"})]);
        std::fs::write(&path, format!("{text}1}}\n")).unwrap();
        assert_eq!(read(&path, 19, false).unwrap().lines, [json!({"half": 1})]);
    }

    #[test]
    fn a_line_longer_than_a_batch_is_read_and_one_that_no_server_takes_is_said_to_be_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let long = |length: usize| format!("{{\"a\":\"{}\"}}\n", "x".repeat(length));
        std::fs::write(&path, format!("{}{}{{}}\n", long(BYTES + 5), long(LONGEST))).unwrap();
        let mut seen = Vec::new();
        let mut at = 0;
        loop {
            let batch = read(&path, at, false).unwrap();
            if batch.lines.is_empty() {
                break;
            }
            at += batch.bytes;
            seen.extend(batch.lines);
        }
        assert_eq!((seen.len(), seen[0]["a"].as_str().unwrap().len()), (3, BYTES + 5));
        assert_eq!((seen[1]["type"].as_str(), &seen[2]), (Some("codegen"), &json!({})));
    }
}
