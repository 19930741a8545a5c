//! How far long work is, on standard error.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use codegen_server::database::Progress;

/// Between two lines where nobody looks at a terminal.
const SELDOM: Duration = Duration::from_secs(10);
/// Between two changes of the line that a person looks at.
const OFTEN: Duration = Duration::from_millis(100);

/// What tells of it. Work that is done soon is told nothing of, but to a person at a terminal.
pub struct Teller {
    is_terminal: bool,
    last: Instant,
    /// Whether there is a line on the terminal to be cleared.
    is_shown: bool,
}

impl Teller {
    /// For this process's standard error.
    pub fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), last: Instant::now(), is_shown: false }
    }

    /// Tells of it, if it is time.
    pub fn tell(&mut self, Progress { what, done, of }: Progress<'_>) {
        if self.last.elapsed() < if self.is_terminal { OFTEN } else { SELDOM } {
            return;
        }
        self.last = Instant::now();
        // Nobody reads it: then nobody misses it.
        if self.is_terminal {
            self.is_shown = true;
            write!(std::io::stderr(), "\r\x1b[K{what}: {done} of {of}").ok();
        } else {
            writeln!(std::io::stderr(), "{what}: {done} of {of}").ok();
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if self.is_shown {
            write!(std::io::stderr(), "\r\x1b[K").ok();
        }
    }
}
