//! The binary as a user meets it: real processes, real repositories, a scripted model.
#![allow(clippy::unwrap_used, missing_docs)]

mod accounts;
mod claude;
mod cluster;
mod db;
mod deaths;
mod fixture;
mod full_disk;
mod keep;
mod lost;
mod models;
mod no_sandbox;
mod pages;
mod processes;
mod public_clients;
mod rules;
mod run;
mod serve;
mod server;
mod steer;
mod survive;
mod tenants;
mod tidy;
mod user;
mod webhooks;
mod words;
