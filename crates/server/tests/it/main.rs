//! Tests of the server from outside.
#![allow(clippy::unwrap_used, missing_docs)]

mod api;
mod config;
mod engine;
mod events;
mod git_host;
mod git_http;
mod github;
mod github_story;
mod retention;
mod idempotency;
mod run_story;
