//! A sandbox's view of its gateway: what gets through, what is refused, and what it is told.
#![allow(clippy::unwrap_used, missing_docs)]

mod fixture;
mod limits;
mod literals;
mod reach;
mod refuse;
mod upstream;
