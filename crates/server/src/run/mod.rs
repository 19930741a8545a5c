//! A run's story, from its claim to its end.

mod execute;
mod finish;
mod gate;
mod inside;
mod log;
mod prepare;
mod rules;
mod setup;

pub use execute::{Ended, Signals, execute};
pub use prepare::run_of_sandbox;
