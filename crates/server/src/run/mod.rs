//! A run's story, from its claim to its end.

mod execute;
mod finish;
mod inside;
mod log;
mod prepare;
mod rules;
mod setup;

pub use execute::{Ended, Signals, execute};
pub use log::LetGo;
pub use prepare::{gateway_socket, run_of_sandbox};
