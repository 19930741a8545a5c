//! The binary as a user meets it: real processes, real repositories, a scripted model.
#![allow(clippy::unwrap_used, missing_docs)]

mod fixture;
mod full_disk;
mod run;
mod serve;
mod survive;
mod tidy;
