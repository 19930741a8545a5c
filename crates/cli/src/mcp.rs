//! `codegen mcp`: the server's `/mcp` for clients that start a command and speak with it over its input and output. Each
//! message is handed on as it is, with the log-in's token; what a tool is and does, the server alone knows.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use codegen_server::sse::EventParser;
use futures::StreamExt as _;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::client::{Client, refusal_text};

/// Between two tries to reach a server that is away.
const AGAIN: Duration = Duration::from_millis(500);
/// Tries to reach it, ten seconds' worth.
const MOST_TRIES: u32 = 20;
/// A server says something at least every 15 seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// For answers under way once the client says no more.
const LAST_WORDS: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct Args {
    /// Repository of new runs that name none, as `codegen repo list` numbers it
    #[arg(long)]
    repo_id: Option<i64>,
}

/// What is known of the conversation.
struct Talk {
    client: Client,
    repo_id: Option<i64>,
    /// What client and server agreed on when they began.
    version: Mutex<Option<String>>,
    /// Requests under way, by their ids.
    under_way: Mutex<HashMap<String, AbortHandle>>,
    answers: mpsc::Sender<String>,
}

/// Speaks until the client says no more.
pub async fn mcp(args: Args) -> Result<()> {
    let (answers, mut to_write) = mpsc::channel::<String>(16);
    let (version, under_way) = (Mutex::default(), Mutex::default());
    let talk = Arc::new(Talk { client: Client::from_login()?, repo_id: args.repo_id, version, under_way, answers });
    let writing = tokio::spawn(async move {
        let mut out = tokio::io::stdout();
        while let Some(mut line) = to_write.recv().await {
            line.push('\n');
            out.write_all(line.as_bytes()).await?;
            out.flush().await?;
        }
        std::io::Result::Ok(())
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut requests = JoinSet::new();
    while let Some(line) = lines.next_line().await.context("reading a message")? {
        if line.trim().is_empty() {
            continue;
        }
        let message: Value = match serde_json::from_str(&line) {
            Ok(message) => message,
            Err(error) => {
                talk.refuse(&Value::Null, -32700, &format!("The message is no JSON: {error}")).await;
                continue;
            }
        };
        let Some(id) = message.get("id").filter(|_| message.get("method").is_some()).cloned() else {
            if message["method"] == "notifications/cancelled" {
                talk.cancel(&message["params"]["requestId"]);
            } else if let Err(error) = talk.tell(&message, line).await {
                tracing::warn!("{}", crate::in_words(&error));
            }
            continue;
        };
        let begins = message["method"] == "initialize";
        let (asking, key) = (talk.clone(), id.to_string());
        let request = requests.spawn(async move {
            if let Err(error) = asking.ask(&message, line).await {
                asking.refuse(&id, -32603, &crate::in_words(&error)).await;
            }
            asking.lock_under_way().remove(&id.to_string());
        });
        talk.lock_under_way().insert(key, request);
        if begins {
            // What follows goes by the version that this agrees on.
            requests.join_next().await;
        }
        while requests.try_join_next().is_some() {}
    }
    tokio::time::timeout(LAST_WORDS, async { while requests.join_next().await.is_some() {} }).await.ok();
    requests.shutdown().await;
    drop(talk);
    writing.await.context("writing an answer")?.context("writing an answer")
}

impl Talk {
    fn lock_under_way(&self) -> std::sync::MutexGuard<'_, HashMap<String, AbortHandle>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a request up; the server sees that nobody listens.
    fn cancel(&self, id: &Value) {
        if let Some(request) = self.lock_under_way().remove(&id.to_string()) {
            request.abort();
        }
    }

    async fn answer(&self, message: String) {
        // Where nobody reads any more, the input ends too.
        self.answers.send(message).await.ok();
    }

    async fn refuse(&self, id: &Value, code: i32, sentence: &str) {
        let refusal = json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": sentence}});
        self.answer(refusal.to_string()).await;
    }

    /// The protocol repeats some of a message in headers.
    fn headers(&self, message: &Value) -> HeaderMap {
        let agreed = self.version.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let named = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str();
        let version = named.map(str::to_owned).or(agreed).filter(|_| message["method"] != "initialize");
        let name = message["params"]["name"].as_str().or(message["params"]["uri"].as_str());
        let repo_id = self.repo_id.map(|id| id.to_string());
        let headers = [
            ("mcp-protocol-version", version.as_deref()),
            ("mcp-method", message["method"].as_str()),
            ("mcp-name", name),
            ("x-repo-id", repo_id.as_deref()),
        ];
        let headers = headers
            .into_iter()
            .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_str(value?).ok()?)));
        headers.collect()
    }

    /// Hands a message on. It is sent again only where it did not reach the server.
    async fn tell(&self, message: &Value, text: String) -> Result<reqwest::Response> {
        let headers = self.headers(message);
        let mut tries = 1;
        loop {
            match self.client.mcp(headers.clone(), text.clone()).await {
                Err(error) if error.is_connect() && tries < MOST_TRIES => {
                    tries += 1;
                    tokio::time::sleep(AGAIN).await;
                }
                answer => return answer.with_context(|| format!("no answer from {}", self.client.url())),
            }
        }
    }

    /// Hands a request on, and what comes back.
    async fn ask(&self, message: &Value, text: String) -> Result<()> {
        let response = self.tell(message, text).await?;
        let (status, kind) = (response.status(), response.headers().get("content-type").cloned());
        let is_stream = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if !is_stream {
            let text = response.text().await.context("reading the server's answer")?;
            let body: Value = serde_json::from_str(&text).unwrap_or_default();
            if body["jsonrpc"].is_null() {
                bail!(refusal_text(&body).unwrap_or_else(|| format!("the server answered {status}")));
            }
            if let ("initialize", Some(version)) =
                (message["method"].as_str().unwrap_or_default(), body["result"]["protocolVersion"].as_str())
            {
                *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version.to_owned());
            }
            self.answer(body.to_string()).await;
            return Ok(());
        }
        let (mut bytes, mut parser, mut is_answered) = (response.bytes_stream(), EventParser::default(), false);
        while let Ok(Some(Ok(chunk))) = tokio::time::timeout(SILENCE, bytes.next()).await {
            for event in parser.push(&chunk) {
                let told: Value = serde_json::from_str(&event.data).unwrap_or_default();
                is_answered |= told["id"] == message["id"];
                self.answer(told.to_string()).await;
            }
        }
        if !is_answered {
            bail!("the server went away before it answered; ask again");
        }
        Ok(())
    }
}
