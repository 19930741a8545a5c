//! The binary as a user meets it: real processes, real repositories, a scripted model.
#![allow(clippy::unwrap_used, missing_docs)]

mod fixture;
mod run;
mod serve;
mod survive;
mod tidy;
