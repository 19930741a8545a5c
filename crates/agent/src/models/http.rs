//! What models over HTTP share: one client, streams that are noticed when they stall, refusals in plain words.

use std::{borrow::Cow, sync::OnceLock, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use reqwest::{
    Client, RequestBuilder, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect::Policy,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    ModelError,
    sse::{Event, Parser},
};

/// One pool of connections for the process: a client reads the host's certificates when it is made, which takes
/// milliseconds, and each model of each run would do so.
static CLIENT: OnceLock<Client> = OnceLock::new();

/// Most bytes of one answer as it is streamed: more than the longest takes with an event for each token.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Most bytes of a refusal that are read.
const MAX_REFUSAL: usize = 64 * 1024;

/// Silence that counts as a stall.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until the first byte; reasoning models of some providers say nothing while they think.
    pub(crate) first: Duration,
    /// Between bytes.
    pub(crate) between: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first: Duration::from_secs(300), between: Duration::from_secs(120) }
    }
}

/// Who is asked, for sentences to the person.
#[derive(Debug, Clone)]
pub(crate) struct Provider {
    /// `anthropic`, `openai`, ...
    pub(crate) name: String,
    /// Where its key is set.
    pub(crate) key_setting: String,
    /// Some servers repeat it in what they say of it.
    pub(crate) key: Option<SecretString>,
    pub(crate) model: String,
    pub(crate) patience: Patience,
}

/// Makes ring the process's cryptography. Whoever makes a `reqwest` client calls it before; again is harmless.
pub fn install_tls() {
    // An error means that a provider is installed already, which is all that is wanted.
    rustls::crypto::ring::default_provider().install_default().ok();
}

/// The client that all models share.
pub(crate) fn client() -> Result<Client, reqwest::Error> {
    if let Some(client) = CLIENT.get() {
        return Ok(client.clone());
    }
    install_tls();
    let client = Client::builder()
        .user_agent(concat!("codegen/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(30))
        .tcp_keepalive(Duration::from_secs(30))
        // A redirect would carry the key to another host.
        .redirect(Policy::none())
        .build()?;
    Ok(CLIENT.get_or_init(|| client).clone())
}

/// A header value that is never shown.
pub(crate) fn secret_header(prefix: &str, key: &SecretString) -> Result<HeaderValue, ModelError> {
    let mut value = HeaderValue::from_str(&format!("{prefix}{}", key.expose_secret().trim()))
        .map_err(|_| ModelError::Fatal("the model's key holds characters that no key has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Events of an answer under way.
pub(crate) struct Events {
    bytes: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    parser: Parser,
    /// Bytes so far.
    received: usize,
    ended: bool,
    provider: Provider,
}

impl Provider {
    /// Sends a question and gives the events of its answer.
    pub(crate) async fn stream(&self, request: RequestBuilder) -> Result<Events, ModelError> {
        let response = timeout(self.patience.first, request.send())
            .await
            .map_err(|_| self.stalled(self.patience.first))?
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            if content_type.is_some_and(|value| value.starts_with("text/html")) {
                return Err(ModelError::Fatal(format!(
                    "what answers at the address of {} is a web page and no model; check its base URL",
                    self.name
                )));
            }
            return Ok(Events {
                bytes: response.bytes_stream().boxed(),
                parser: Parser::default(),
                received: 0,
                ended: false,
                provider: self.clone(),
            });
        }
        let after = retry_after(response.headers());
        let mut body = Vec::new();
        let mut bytes = response.bytes_stream();
        let read = async {
            while body.len() < MAX_REFUSAL
                && let Some(Ok(piece)) = bytes.next().await
            {
                body.extend_from_slice(&piece);
            }
        };
        // What has come by then has to do.
        timeout(Duration::from_secs(30), read).await.ok();
        body.truncate(MAX_REFUSAL);
        Err(self.refusal(status, after, &String::from_utf8_lossy(&body)))
    }

    fn stalled(&self, silence: Duration) -> ModelError {
        retry(format!("{} sent nothing for {} s", self.name, silence.as_secs_f64()))
    }

    fn unreachable(&self, error: &reqwest::Error) -> ModelError {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        retry(format!("{} cannot be reached: {cause}", self.name))
    }

    /// An answer that is not one, by what is done about it.
    pub(crate) fn refusal(&self, status: StatusCode, after: Option<Duration>, body: &str) -> ModelError {
        let body = self.without_key(body);
        let body = body.as_ref();
        let said = said(body);
        let Self { name, key_setting, model, .. } = self;
        if is_context_full(&said) || is_context_full(body) {
            return ModelError::ContextFull;
        }
        let lower = body.to_ascii_lowercase();
        let out_of_money =
            ["insufficient_quota", "credit balance is too low", "billing_hard_limit", "insufficient credits"];
        if status == StatusCode::PAYMENT_REQUIRED || out_of_money.iter().any(|words| lower.contains(words)) {
            return ModelError::Fatal(format!(
                "the {name} account has no credit left ({said}); top it up or set another key in {key_setting}"
            ));
        }
        match status.as_u16() {
            401 | 403 => ModelError::Fatal(format!("{name} refuses the key ({status}: {said}); check {key_setting}")),
            404 => {
                ModelError::Fatal(format!("{name} has no model {model:?} for this key ({said}); choose another model"))
            }
            408 | 409 | 425 | 429 | 500..=599 => {
                ModelError::Retry { message: format!("{name} answered {status}: {said}"), after }
            }
            400 if lower.contains("api_key_invalid") || lower.contains("api key not valid") => {
                ModelError::Fatal(format!("{name} refuses the key ({said}); check {key_setting}"))
            }
            _ => ModelError::Fatal(format!("{name} refuses the request ({status}): {said}")),
        }
    }

    fn without_key<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.key.as_ref().map(|key| key.expose_secret().trim()) {
            Some(key) if !key.is_empty() && text.contains(key) => text.replace(key, "[the key]").into(),
            Some(_) | None => text.into(),
        }
    }

    /// An answer that broke off.
    pub(crate) fn broke_off(&self) -> ModelError {
        retry(format!("the answer of {} broke off", self.name))
    }
}

impl Events {
    /// The next event; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, ModelError> {
        loop {
            if let Some(event) = self.parser.next() {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            let patience = self.provider.patience;
            let silence = if self.received > 0 { patience.between } else { patience.first };
            match timeout(silence, self.bytes.next()).await {
                Err(_) => return Err(self.provider.stalled(silence)),
                Ok(Some(Err(_))) => return Err(self.provider.broke_off()),
                Ok(Some(Ok(bytes))) => {
                    self.received += bytes.len();
                    if self.received > MAX_ANSWER {
                        let Provider { name, model, .. } = &self.provider;
                        return Err(ModelError::Fatal(format!(
                            "{name} sent over {} MiB in one answer of {model:?} without coming to its end; choose another model",
                            MAX_ANSWER >> 20
                        )));
                    }
                    self.parser.push(&bytes);
                    if self.parser.is_too_long() {
                        return Err(retry(format!("{} sent an event without end", self.provider.name)));
                    }
                }
                Ok(None) => {
                    self.ended = true;
                    return Ok(self.parser.last());
                }
            }
        }
    }
}

pub(crate) fn retry(message: String) -> ModelError {
    ModelError::Retry { message, after: None }
}

/// How long the provider asks to wait.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok().filter(|n| *n >= 0.0);
    let seconds = number("retry-after-ms").map(|ms| ms / 1000.0).or_else(|| number("retry-after"));
    let date = || {
        let date = httpdate::parse_http_date(headers.get("retry-after")?.to_str().ok()?).ok()?;
        Some(date.duration_since(std::time::SystemTime::now()).unwrap_or_default())
    };
    seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).or_else(date)
}

/// The provider's words in an error body, cut short.
pub(crate) fn said(body: &str) -> String {
    let value: Option<Value> = serde_json::from_str(body).ok();
    // Gemini wraps the object in a list.
    let value = value.map(|v| v.get(0).cloned().unwrap_or(v));
    let message = value.as_ref().and_then(|v| {
        let error = v.get("error").unwrap_or(v);
        error.get("message").or_else(|| v.get("detail")).unwrap_or(error).as_str().map(str::to_owned)
    });
    let text = message.unwrap_or_else(|| body.split_whitespace().collect::<Vec<_>>().join(" "));
    let text = if text.is_empty() { "no reason given".to_owned() } else { text };
    text.chars().take(300).collect()
}

/// Whether these words say that the conversation does not fit.
pub(crate) fn is_context_full(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    [
        "prompt is too long",
        "context_length_exceeded",
        "maximum context length",
        "exceeds the context window",
        "exceed context limit",
        "input token count",
        "exceeds the available context size",
        "maximum prompt length",
        "context size has been exceeded",
    ]
    .iter()
    .any(|words| text.contains(words))
}
