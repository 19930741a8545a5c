//! What differs between databases; nothing else in the crate knows which one it is.

mod sqlite;

pub use sqlite::{
    Acknowledge, Connection, Db, Job, Pool, Request, Row, Tx, Verdict, backup, free_bytes, give_back, gives_back,
    is_full, lock_queue, open, open_beside, write_in_groups,
};
