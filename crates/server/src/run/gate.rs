//! A sandbox's way out while its run is worked on: the gateway with its policy, each refusal an entry of the trace.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use codegen_gateway::{Gateway, Mode, Options, Policy, Upstream};
use codegen_store::Claim;
use serde_json::json;
use tokio::task::AbortHandle;

use super::{execute::Story, prepare::gateway_socket};
use crate::{
    App,
    config::{Egress, host_env},
    forge::git,
};

/// Refusals of one sandbox that the trace shows; a tool that tries again and again would fill it otherwise.
const SHOWN: usize = 200;

/// A way out, open as long as this lives.
pub(super) struct Gate {
    gateway: Gateway,
    telling: AbortHandle,
}

impl Gate {
    /// Opens a sandbox's way out; an earlier worker's socket is replaced.
    pub fn open(story: &Story, sandbox_id: &str) -> Result<Self> {
        let app = story.app.clone();
        let socket = gateway_socket(&app.config.data_dir, sandbox_id);
        if let Some(folder) = socket.parent() {
            std::fs::create_dir_all(folder).context("making the gateways' folder")?;
        }
        let options = Options {
            upstream: Upstream::from_env(&host_env()).context("reading this host's proxy settings")?,
            ..Options::default()
        };
        let mut gateway = Gateway::listen_with(&socket, policy(story), options).context("opening the gateway")?;
        let mut refusals = gateway.refusals();
        let claim = story.run.claim();
        let telling = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(refusal) = refusals.recv().await {
                let place = (refusal.host.clone(), refusal.port);
                if seen.len() < SHOWN && !seen.contains(&place) {
                    seen.push(place);
                    tell(&app, claim, &refusal).await;
                }
            }
        });
        Ok(Self { gateway, telling: telling.abort_handle() })
    }

    /// Ends every connection and removes the socket.
    pub async fn close(self) {
        let Self { gateway, telling } = self;
        gateway.close().await;
        telling.abort();
    }
}

async fn tell(app: &Arc<App>, claim: Claim, refusal: &codegen_gateway::Refusal) {
    let body = json!({ "kind": "refusal", "host": refusal.host, "port": refusal.port, "reason": refusal.reason });
    if let Err(error) = app.store.append_log(&claim, "refusal", &body.to_string(), false, app.now()).await {
        tracing::warn!(run.id = claim.run_id, host = refusal.host, %error, "noting what the gateway refused");
    }
}

/// What the settings, the host's own package clients and the repository's address allow.
fn policy(story: &Story) -> Policy {
    let config = &story.app.config;
    let (home, env) = (home(), host_env());
    let mut hosts = config.egress_allow.clone();
    let mode = match config.egress {
        Egress::Closed if hosts.is_empty() => Mode::Closed,
        Egress::Closed => Mode::Allow(hosts),
        Egress::Open => Mode::Open,
        Egress::Registries => {
            hosts.extend(codegen_gateway::package_registries(&home, &env).iter().map(ToString::to_string));
            hosts.extend(story.repo.as_ref().and_then(|repo| git::host_and_port(&repo.origin)));
            Mode::Allow(hosts)
        }
    };
    let private = match config.egress {
        Egress::Closed => Vec::new(),
        Egress::Open | Egress::Registries => codegen_gateway::configured_registries(&home, &env),
    };
    Policy { mode, allow_private: private }
}

/// Variables that point the sandbox's package clients at the registries of this host.
pub(super) fn client_env() -> BTreeMap<String, String> {
    codegen_gateway::client_env(&home(), &host_env())
}

/// Cargo's settings for the same, where it needs some.
pub(super) fn cargo_config() -> Option<String> {
    codegen_gateway::cargo_config(&home(), &host_env())
}

fn home() -> PathBuf {
    host_env().remove("HOME").map_or_else(|| "/nonexistent".into(), PathBuf::from)
}
