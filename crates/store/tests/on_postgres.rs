//! The suite of `it/` once more, on PostgreSQL.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "it/main.rs"]
mod it;

pub use it::*;
