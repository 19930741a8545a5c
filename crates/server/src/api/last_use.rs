//! When a token was last used, to the minute: a request costs no write, a busy token one a minute.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use codegen_store::Token;

use crate::App;

/// Uses closer together are one.
const APART_MS: i64 = 60_000;
/// Tokens that are remembered; more are forgotten at once, which costs a write each.
const MOST: usize = 10_000;

/// What this process has noted, before the rows say it.
#[derive(Default)]
pub struct Uses(Mutex<HashMap<i64, i64>>);

impl Uses {
    /// Whether this use is to be written down.
    fn is_news(&self, token: &Token, now: i64) -> bool {
        let old = |at: i64| now - at >= APART_MS;
        if !token.last_used_at.is_none_or(old) {
            return false;
        }
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.get(&token.id).is_some_and(|at| !old(*at)) {
            return false;
        }
        if noted.len() >= MOST {
            noted.clear();
        }
        noted.insert(token.id, now);
        true
    }
}

/// Notes that a token counted, beside the request.
pub fn note(app: &App, token: &Token) {
    let now = app.now();
    if app.requests.uses.is_news(token, now) {
        let (store, id) = (app.store.clone(), token.id);
        tokio::spawn(async move {
            match store.note_token_use(id, now).await {
                // The server ends.
                Ok(()) | Err(codegen_store::Error::Closed) => {}
                Err(error) => tracing::warn!(token.id = id, %error, "noting when a token was used"),
            }
        });
    }
}
