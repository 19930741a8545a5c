//! A run's story, from its claim to its end.

mod execute;
mod finish;
mod gate;
mod inside;
mod log;
mod prepare;
mod rules;
mod setup;
mod stage;
mod workspace;

pub use execute::{Ended, Signals, execute};
pub(crate) use finish::keep_diff_of_workspace;
pub use prepare::{destroy_all_of, run_of_sandbox};
