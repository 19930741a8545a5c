//! Tests of the server from outside.
#![allow(clippy::unwrap_used, missing_docs)]

mod api;
mod audit;
mod config;
mod engine;
mod events;
mod fake_model;
mod git_host;
mod git_http;
mod github;
mod github_story;
mod idempotency;
mod limits;
mod messages;
mod org_data;
mod packs;
mod panics;
mod retention;
mod rights;
mod run_story;
mod secrets;
mod stages;
mod stop;
mod tenants;
mod trace_limit;
mod web;
