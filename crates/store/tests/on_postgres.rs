//! The suite of `it/` once more, on PostgreSQL, and what only PostgreSQL has.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "it/main.rs"]
mod it;
#[path = "it/processes.rs"]
mod processes;

pub use it::*;
