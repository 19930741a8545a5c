//! A step before the agent begins, as it is shown: when it began and ended, its output as it comes, and its last line.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Value, json};

use super::log::RunLog;
use crate::App;

/// How often the trace of a long stage gets its last line of output.
const TELL: Duration = Duration::from_secs(10);
/// Longest line that the trace shows.
const LINE: usize = 300;
/// Output without a line break is shown from this many bytes on.
const MOST_WAITING: usize = 1024;

/// One stage. Clones share it.
#[derive(Clone)]
pub(super) struct Stage {
    app: Arc<App>,
    run_id: i64,
    name: &'static str,
    output: Arc<Mutex<Output>>,
}

#[derive(Default)]
struct Output {
    /// The trace has the stage's beginning, so what comes now is shown after it.
    has_begun: bool,
    /// Bytes after the last line break, and before the beginning all.
    waiting: Vec<u8>,
    last_line: String,
    /// The trace has not had it.
    is_new: bool,
}

impl Stage {
    /// A stage of a run that has not begun.
    pub fn new(app: &Arc<App>, run_id: i64, name: &'static str) -> Self {
        Self { app: app.clone(), run_id, name, output: Arc::default() }
    }

    /// Shows output as it comes.
    pub fn output(&self, bytes: &[u8]) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.waiting.extend_from_slice(bytes);
        if !output.has_begun {
            return;
        }
        let end = match output.waiting.iter().rposition(|b| matches!(b, b'\n' | b'\r')) {
            Some(end) => end + 1,
            None if output.waiting.len() > MOST_WAITING => output.waiting.len(),
            None => return,
        };
        self.show(output, end);
    }

    fn show(&self, mut output: MutexGuard<'_, Output>, end: usize) {
        let text: Vec<u8> = output.waiting.drain(..end).collect();
        let text = String::from_utf8_lossy(&text);
        if let Some(line) = text.split(['\n', '\r']).map(str::trim).rfind(|line| !line.is_empty()) {
            output.last_line = line.chars().take(LINE).collect();
            output.is_new = true;
        }
        drop(output);
        self.app.watches.stage_output(self.run_id, self.name, &text);
    }

    /// Does the stage's work, with entries in the trace at its beginning and end and, when it is long, between. None of them is
    /// waited for.
    pub async fn run<T>(&self, log: &RunLog, work: impl Future<Output = Result<T>>) -> Result<T> {
        let (began, started_at) = (Instant::now(), jiff::Timestamp::now().to_string());
        let mut work = pin!(work);
        let mut begun =
            log.note_soon("stage", json!({ "name": self.name, "state": "started", "started_at": started_at }));
        let mut has_begun = false;
        let done = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                // Where it could not be written, the next entry says so.
                _ = &mut begun, if !has_begun => {
                    has_begun = true;
                    self.begin();
                }
                () = tokio::time::sleep(TELL) => if let Some(line) = self.new_line() {
                    let body = json!({ "name": self.name, "state": "running", "started_at": started_at, "ms": ms(began), "last_line": line });
                    drop(log.note_soon("stage", body));
                }
            }
        };
        if !has_begun && self.has_waiting() {
            // As above.
            begun.await.ok();
        }
        self.show_rest();
        let (state, detail) = match &done {
            Ok(_) => ("done", None),
            Err(error) => ("failed", Some(error.to_string())),
        };
        let last_line = self.output.lock().unwrap_or_else(PoisonError::into_inner).last_line.clone();
        let mut body = json!({
            "name": self.name, "state": state, "started_at": started_at,
            "ended_at": jiff::Timestamp::now().to_string(), "ms": ms(began), "detail": detail,
        });
        if !last_line.is_empty() {
            body["last_line"] = Value::from(last_line);
        }
        drop(log.note_soon("stage", body));
        done
    }

    /// Shows what came before the trace had the beginning.
    fn begin(&self) {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).has_begun = true;
        self.output(&[]);
    }

    fn has_waiting(&self) -> bool {
        !self.output.lock().unwrap_or_else(PoisonError::into_inner).waiting.is_empty()
    }

    fn show_rest(&self) {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = output.waiting.len();
        if rest > 0 {
            self.show(output, rest);
        }
    }

    fn new_line(&self) -> Option<String> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut output.is_new).then(|| output.last_line.clone())
    }
}

fn ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
