//! The API as the client commands see it: where the server is, who we are, and JSON in and out.

use std::{io::Write, time::Duration};

use anyhow::{Context, Result, bail};
use codegen_server::sse::EventParser;
use futures::StreamExt;
use reqwest::{Method, header::HeaderMap};
use serde_json::Value;

use crate::logins::{Login, Logins};

/// Between two tries to follow a run.
const AGAIN: Duration = Duration::from_millis(500);
/// Tries of a request whose answer is lost.
const MOST_TRIES: u32 = 4;
/// Tries without an event, a minute's worth.
const MOST_FAILURES: u32 = 120;
/// The server says something at least every 15 seconds.
const SILENCE: Duration = Duration::from_secs(60);

/// A server that refused a request.
#[derive(Debug)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// The server's own words.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            401 => write!(f, "{} (run `codegen login --token TOKEN --url URL`)", self.message),
            _ => write!(f, "{}", self.message),
        }
    }
}

impl std::error::Error for Refused {}

/// A connection to one server as one user.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
    org_id: i64,
}

impl Client {
    /// For a server and a token that may not be saved yet.
    pub fn new(url: &str, token: &str, org_id: i64) -> Result<Self> {
        codegen_server::install_tls();
        let http = reqwest::Client::builder()
            .user_agent(concat!("codegen/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .build()
            .context("starting the HTTP client")?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token: token.to_owned(), org_id })
    }

    /// From the environment (`CODEGEN_API_BASE_URL`, `CODEGEN_API_TOKEN`, `CODEGEN_ORG_ID`), else the saved log-in.
    pub fn from_login() -> Result<Self> {
        let logins = Logins::load()?;
        let saved = logins.login()?;
        let from_env = |key: &str| std::env::var(key).ok().filter(|v| !v.is_empty());
        let (named, token) = (from_env("CODEGEN_API_BASE_URL"), from_env("CODEGEN_API_TOKEN"));
        // A token is shown to the server that it is of, and to no other.
        let is_elsewhere = |login: &&Login| named.as_deref().is_some_and(|url| url.trim_end_matches('/') != login.url);
        if let (None, Some(login), Some(url)) = (&token, saved.filter(is_elsewhere), &named) {
            bail!(
                "CODEGEN_API_BASE_URL names {url}, and the log-in in use is of {}: set CODEGEN_API_TOKEN too, or run \
                 `codegen login --profile NAME --url {url}`",
                login.url
            );
        }
        let url = named.or(saved.map(|l| l.url.clone()));
        let token = token.or(saved.map(|l| l.token.clone()));
        let (Some(url), Some(token)) = (url, token) else {
            bail!("not logged in: run `codegen login --token TOKEN --url URL` (`codegen serve` prints both)");
        };
        let org_id = match from_env("CODEGEN_ORG_ID") {
            Some(text) => text.parse().with_context(|| format!("CODEGEN_ORG_ID is not a number: {text}"))?,
            None => saved.map_or(1, |l| l.org_id),
        };
        Self::new(&url, &token, org_id)
    }

    /// The same in another organization.
    pub fn in_org(&self, org_id: i64) -> Self {
        Self { org_id, ..self.clone() }
    }

    /// The server, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The organization that commands work in.
    pub fn org_id(&self) -> i64 {
        self.org_id
    }

    /// `/v1/organizations/{org_id}` and what follows.
    pub fn org_path(&self, rest: &str) -> String {
        format!("/v1/organizations/{}{rest}", self.org_id)
    }

    /// A message to the server's `/mcp`, whatever its answer's status.
    pub async fn mcp(&self, headers: HeaderMap, message: String) -> reqwest::Result<reqwest::Response> {
        let request = self.http.post(format!("{}/mcp", self.url)).headers(headers).bearer_auth(&self.token);
        let request = request.header("x-organization-id", self.org_id).header("Content-Type", "application/json");
        request.header("Accept", "application/json, text/event-stream").body(message).send().await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let response = request
            .bearer_auth(&self.token)
            .send()
            .await
            .with_context(|| format!("no answer from {} (is `codegen serve` running there?)", self.url))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let message = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|body| refusal_text(&body))
            .unwrap_or_else(|| format!("the server answered {status}"));
        Err(Refused { status: status.as_u16(), message }.into())
    }

    /// GET, answered with JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let response = self.send(self.http.get(format!("{}{path}", self.url))).await?;
        response.json().await.context("reading the server's answer")
    }

    /// POST of JSON, answered with JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let response = self.send(self.http.post(format!("{}{path}", self.url)).json(body)).await?;
        response.json().await.context("reading the server's answer")
    }

    /// PATCH of JSON, answered with JSON.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        let response = self.send(self.http.patch(format!("{}{path}", self.url)).json(body)).await?;
        response.json().await.context("reading the server's answer")
    }

    /// DELETE, answered with nothing.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.send(self.http.delete(format!("{}{path}", self.url))).await.map(drop)
    }

    /// All items of a list that comes in pages.
    pub async fn items(&self, path: &str) -> Result<Vec<Value>> {
        let mut items: Vec<Value> = Vec::new();
        loop {
            let page = self.get(&format!("{path}?limit=100&skip={}", items.len())).await?;
            let some = page["items"].as_array().context("the server's answer is no page")?;
            items.extend(some.iter().cloned());
            let total = page["total"].as_u64().unwrap_or(0);
            if some.is_empty() || items.len() as u64 >= total {
                return Ok(items);
            }
        }
    }

    /// POST of JSON that has its effect once, also where its answer is lost and it is sent again.
    pub async fn post_once(&self, path: &str, body: &Value) -> Result<Value> {
        let key = format!("{:032x}", rand::random::<u128>());
        let mut tries = 1;
        loop {
            let request = self.http.post(format!("{}{path}", self.url)).header("Idempotency-Key", &key).json(body);
            let answer = async { self.send(request).await?.json().await.context("reading the server's answer") };
            match answer.await {
                Err(error) if tries < MOST_TRIES && is_lost(&error) => {
                    tries += 1;
                    tokio::time::sleep(AGAIN).await;
                }
                answer => return answer,
            }
        }
    }

    /// GET, written to `out` as it comes.
    pub async fn download(&self, path: &str, out: &mut impl Write) -> Result<()> {
        let mut bytes = self.send(self.http.get(format!("{}{path}", self.url))).await?.bytes_stream();
        while let Some(chunk) = bytes.next().await {
            out.write_all(&chunk.context("reading the server's answer")?).context("writing what the server sent")?;
        }
        out.flush().context("writing what the server sent")
    }

    /// Any method, with JSON or nothing, answered with JSON.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request).await?.json().await.context("reading the server's answer")
    }

    /// GET, answered with text.
    pub async fn text(&self, path: &str) -> Result<String> {
        let response = self.send(self.http.get(format!("{}{path}", self.url))).await?;
        response.text().await.context("reading the server's answer")
    }

    /// GET of JSON from an address that has other forms too.
    pub async fn json(&self, path: &str) -> Result<Value> {
        let request = self.http.get(format!("{}{path}", self.url)).header("Accept", "application/json");
        self.send(request).await?.json().await.context("reading the server's answer")
    }

    /// Gives a run's events from the entry after `seen` until there are no more now; returns the newest entry's number.
    pub async fn events_so_far(&self, run_id: i64, mut on_event: impl FnMut(&str, &Value)) -> Result<Option<String>> {
        let path = self.org_path(&format!("/agent/run/{run_id}/events?until_now=true"));
        let mut bytes = self.send(self.http.get(format!("{}{path}", self.url))).await?.bytes_stream();
        let (mut parser, mut last_id) = (EventParser::default(), None);
        while let Some(chunk) = bytes.next().await {
            for event in parser.push(&chunk.context("reading the run's events")?) {
                if event.kind != "end" {
                    on_event(&event.kind, &serde_json::from_str(&event.data).unwrap_or(Value::Null));
                }
                last_id = event.id.or(last_id);
            }
        }
        Ok(last_id)
    }

    /// Follows a run's events from the entry after `last_id` to their end, going on after a broken connection or a
    /// restart of the server; each durable event is given once.
    pub async fn follow(
        &self,
        run_id: i64,
        mut last_id: Option<String>,
        mut on_event: impl FnMut(&str, &Value),
    ) -> Result<()> {
        let path = self.org_path(&format!("/agent/run/{run_id}/events"));
        let (mut failures, mut is_told) = (0, false);
        loop {
            let mut request = self.http.get(format!("{}{path}", self.url));
            if let Some(id) = &last_id {
                request = request.header("Last-Event-ID", id);
            }
            let response = match self.send(request).await {
                Ok(response) => response,
                Err(error) if failures >= MOST_FAILURES || is_final(&error) => return Err(error),
                Err(error) => {
                    if !is_told {
                        eprintln!("codegen: the server does not answer ({error:#}); asking again until it does");
                        is_told = true;
                    }
                    failures += 1;
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            if std::mem::take(&mut is_told) {
                eprintln!("codegen: the server answers again");
            }
            let mut bytes = response.bytes_stream();
            let mut parser = EventParser::default();
            while let Ok(Some(Ok(chunk))) = tokio::time::timeout(SILENCE, bytes.next()).await {
                failures = 0;
                for event in parser.push(&chunk) {
                    if event.kind == "end" {
                        return Ok(());
                    }
                    last_id = event.id.or(last_id);
                    on_event(&event.kind, &serde_json::from_str(&event.data).unwrap_or(Value::Null));
                }
            }
            failures += 1;
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether the server may have done what it was asked without our hearing of it.
fn is_lost(error: &anyhow::Error) -> bool {
    if let Some(refused) = error.downcast_ref::<Refused>() {
        // 409: the first of them is still being answered.
        return matches!(refused.status, 409 | 502..=504);
    }
    let transport = error.chain().find_map(|cause| cause.downcast_ref::<reqwest::Error>());
    transport.is_some_and(|error| !error.is_connect() && !error.is_builder())
}

/// Whether asking again would give the same answer: a server that restarts behind a proxy answers 502 or 503 meanwhile.
fn is_final(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.status < 500 && refused.status != 429)
}

/// The readable part of an error body: `message`, or the 422 list as one line each.
pub fn refusal_text(body: &Value) -> Option<String> {
    if let Some(message) = body["message"].as_str() {
        return Some(message.to_owned());
    }
    let failures = body["detail"].as_array()?;
    let lines = failures.iter().map(|failure| {
        let place: Vec<String> = failure["loc"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
            .collect();
        format!("{}: {}", place.join("."), failure["msg"].as_str().unwrap_or("not valid"))
    });
    Some(lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_422_body_becomes_one_line_per_failure() {
        let body =
            serde_json::json!({"detail": [{"loc": ["body", "prompt"], "msg": "Field required", "type": "missing"}]});
        assert_eq!(refusal_text(&body).unwrap(), "body.prompt: Field required");
    }
}
