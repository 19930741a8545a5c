//! The local engine from outside: contract and escapes.
#![allow(clippy::unwrap_used, missing_docs)]

mod contract;
mod deaths;
mod escape;
mod ordinary_user;
mod support;
mod unisolated;
