//! The agent as its callers meet it: a log in memory, commands on the host, models over real sockets.
#![allow(clippy::unwrap_used, missing_docs)]

mod anthropic;
mod endings;
mod fake;
mod files;
mod isolated;
mod openai;
mod output;
mod resume;
mod serve;
mod shell;
mod steps;
