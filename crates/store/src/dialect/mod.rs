//! What differs between databases; nothing else in the crate knows which one it is.

mod sqlite;

pub use sqlite::{Acknowledge, Db, Job, Pool, Request, Row, Tx, Verdict, is_full, next_queued, open, write_in_groups};
