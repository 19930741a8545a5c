//! GitHub's REST API, as far as a run needs it, by `octocrab`'s generic routes: its typed models demand fields that
//! GitHub-like servers leave out.

use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, Method, StatusCode, header};
use octocrab::Octocrab;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Edit, Error, Forge, PullRequest, PullRequestSpec, git, marker};
use crate::config::Config;

/// Tries of a request that GitHub answers with an error of its own, or asks to send later.
const TRIES: u32 = 4;
/// A run keeps its worker waiting no longer than this before a try.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// One repository at GitHub.
pub struct GitHub {
    api: Octocrab,
    /// Drafts are made and ended only there.
    graphql: Octocrab,
    owner: String,
    repo: String,
    /// The setting that holds the token, for sentences.
    token_setting: &'static str,
}

/// Where an origin's pull requests are opened, and with what.
#[derive(Debug)]
pub struct Place {
    /// The API's address.
    pub api_url: String,
    /// For the API.
    pub token: SecretString,
    /// The setting that holds the token.
    pub token_setting: &'static str,
    /// Owner of the repository.
    pub owner: String,
    /// The repository.
    pub repo: String,
}

#[derive(Deserialize)]
struct Pull {
    number: i64,
    html_url: String,
    state: String,
    #[serde(default)]
    merged_at: Option<String>,
    #[serde(default)]
    draft: bool,
    #[serde(default)]
    node_id: String,
    head: Head,
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "ref")]
    branch: String,
}

#[derive(Deserialize, Default)]
struct Refusal {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<Value>,
}

/// Why one request did not do what it was for.
enum Failed {
    /// It would fail again.
    ForGood { why: String, exists: bool },
    /// It may work later, after the time that GitHub names. Whether it had its effect is unknown.
    ForNow { why: String, after: Option<Duration> },
}

/// The place of an origin at github.com, or at a host that the settings name; none where it is elsewhere or has no token.
pub fn place(config: &Config, origin: &str) -> Option<Place> {
    let host = git::host_and_port(origin)?;
    let bare = git::host(origin)?;
    let named = |name: &str| name.eq_ignore_ascii_case(&host) || name.eq_ignore_ascii_case(&bare);
    let (api_url, token, token_setting) = match config.github_hosts.iter().find(|(name, _)| named(name)) {
        // A token is sent to the host that it was given for, and to no other.
        Some((name, api_url)) => {
            let (_, token) = config.github_host_tokens.iter().find(|(of, _)| of.eq_ignore_ascii_case(name))?;
            (api_url, token, "github_host_tokens")
        }
        None if is_home(&config.github_api_url, &bare) => {
            (&config.github_api_url, config.github_token.as_ref()?, "github_token")
        }
        None => return None,
    };
    let (owner, repo) = owner_and_repo(origin)?;
    Some(Place { api_url: api_url.clone(), token: token.clone(), token_setting, owner, repo })
}

/// Whether a host is the one whose API this is: github.com of api.github.com, or the API's own.
fn is_home(api_url: &str, host: &str) -> bool {
    let Some(api) = url::Url::parse(api_url).ok().and_then(|url| url.host_str().map(str::to_owned)) else {
        return false;
    };
    let home = api.strip_prefix("api.").unwrap_or(&api);
    // GitHub also takes ssh at a host of its own, for networks that let only port 443 through.
    host.eq_ignore_ascii_case(home) || (home == "github.com" && host.eq_ignore_ascii_case("ssh.github.com"))
}

/// The two names in an origin's path.
fn owner_and_repo(origin: &str) -> Option<(String, String)> {
    let path = match origin.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?.1,
        None => origin.split_once(':')?.1,
    };
    let mut parts = path.trim_matches('/').split('/');
    let (owner, repo) = (parts.next()?, parts.next()?);
    let repo = repo.strip_suffix(".git").unwrap_or(repo);
    // GitHub's names have no other characters, so both can stand in an address as they are.
    let is_name = |name: &str| {
        !matches!(name, "" | "." | "..") && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    (parts.next().is_none() && is_name(owner) && is_name(repo)).then(|| (owner.to_owned(), repo.to_owned()))
}

impl GitHub {
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(place: Place) -> Result<Self, Error> {
        let unusable = |why: String| Error::Refused(format!("GitHub's API cannot be used: {why}"));
        if header::HeaderValue::from_str(place.token.expose_secret()).is_err() {
            return Err(unusable(format!("the token in `{}` has characters that no token has", place.token_setting)));
        }
        codegen_agent::models::install_tls();
        // Our own client below octocrab: it honours the host's proxy, and there is one HTTP stack.
        let http = reqwest::Client::builder()
            .user_agent(concat!("codegen/", env!("CARGO_PKG_VERSION")))
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(|e| unusable(e.to_string()))?;
        let client = |base: &str| {
            Octocrab::builder()
                .base_uri(base)
                .map_err(|_| unusable(format!("{base} is not an address")))?
                .personal_token(place.token.clone())
                .add_header(header::ACCEPT, "application/vnd.github+json".to_owned())
                .build_with_reqwest(http.clone())
                .map_err(|e| unusable(last_cause(&e)))
        };
        let (api, graphql) = (client(&place.api_url)?, client(&graphql_base(&place.api_url))?);
        Ok(Self { api, graphql, owner: place.owner, repo: place.repo, token_setting: place.token_setting })
    }

    /// Sends one request about the repository, once.
    async fn once<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&Value>) -> Result<T, Failed> {
        self.send(&self.api, method, &format!("/repos/{}/{}{path}", self.owner, self.repo), body).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        api: &Octocrab,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Failed> {
        let request = http::Request::builder().method(method).uri(path);
        let request =
            api.build_request(request, body).map_err(|e| Failed::ForGood { why: last_cause(&e), exists: false })?;
        let unreachable = |e: octocrab::Error| Failed::ForNow {
            why: format!("GitHub cannot be reached ({})", last_cause(&e)),
            after: None,
        };
        let answer = api.execute(request).await.map_err(unreachable)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = api.body_to_string(answer).await.map_err(unreachable)?;
        if status.is_success() {
            return serde_json::from_str(&text)
                .map_err(|e| Failed::ForGood { why: format!("GitHub's answer cannot be read ({e})"), exists: false });
        }
        let refusal: Refusal = serde_json::from_str(&text).unwrap_or_default();
        if let Some(after) = rate_limit(status, &headers, &refusal) {
            let why = format!(
                "GitHub's rate limit is reached ({}), which ends in {} s",
                said(status, &refusal),
                after.as_secs()
            );
            return Err(Failed::ForNow { why, after: Some(after) });
        }
        if status.is_server_error() {
            let why = format!("GitHub has an error of its own ({})", said(status, &refusal));
            return Err(Failed::ForNow { why, after: seconds(&headers, "retry-after") });
        }
        let exists = status == StatusCode::UNPROCESSABLE_ENTITY
            && refusal.errors.iter().filter_map(words).any(|m| m.contains("already exists"));
        let why = match status {
            StatusCode::UNAUTHORIZED => format!("the token in `{}` is not valid", self.token_setting),
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                format!("the token in `{}` has no right to this repository's pull requests", self.token_setting)
            }
            _ if status.is_redirection() => "the repository has moved; give its new address".to_owned(),
            _ => "GitHub refuses it".to_owned(),
        };
        Err(Failed::ForGood { why: format!("{why} ({})", said(status, &refusal)), exists })
    }

    /// Sends a request that may be sent again until it is answered, within bounds.
    async fn ask<T: DeserializeOwned>(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        let mut tries = 1;
        loop {
            match self.once(method.clone(), path, body).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => self.wait(doing, failed, &mut tries).await?,
            }
        }
    }

    /// Waits for the next try, or gives up.
    async fn wait(&self, doing: &str, failed: Failed, tries: &mut u32) -> Result<(), Error> {
        let sentence = |why: String| format!("{doing} in {}/{}: {why}", self.owner, self.repo);
        let (why, after) = match failed {
            Failed::ForGood { why, exists: false } => return Err(Error::Refused(sentence(why))),
            Failed::ForGood { why, exists: true } => (why, None),
            Failed::ForNow { why, after } => (why, after),
        };
        let pause = after.unwrap_or(Duration::from_millis(250 << *tries));
        if *tries >= TRIES || pause > LONGEST_WAIT {
            return Err(Error::Unreachable(sentence(why)));
        }
        tracing::warn!(tries, pause_ms = pause.as_millis(), "{}", sentence(why));
        *tries += 1;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Makes a pull request a draft, or ends that, by the one API that can.
    async fn set_draft(&self, pull: &Pull, draft: bool) -> Result<(), Error> {
        let mutation = if draft { "convertPullRequestToDraft" } else { "markPullRequestReadyForReview" };
        let query = format!(
            "mutation($id: ID!) {{ {mutation}(input: {{pullRequestId: $id}}) {{ pullRequest {{ isDraft }} }} }}"
        );
        let body = json!({ "query": query, "variables": { "id": pull.node_id } });
        let mut tries = 1;
        let answer: Value = loop {
            match self.send(&self.graphql, Method::POST, "/graphql", Some(&body)).await {
                Ok(answer) => break answer,
                Err(failed) => self.wait("changing the pull request", failed, &mut tries).await?,
            }
        };
        if answer["data"][mutation]["pullRequest"]["isDraft"] == json!(draft) {
            return Ok(());
        }
        let said: Vec<&str> = answer["errors"].as_array().into_iter().flatten().filter_map(words).collect();
        let said: String = said.join("; ").chars().take(500).collect();
        Err(Error::Refused(format!(
            "changing the pull request in {}/{}: GitHub refuses it ({said})",
            self.owner, self.repo
        )))
    }

    fn body(spec: &PullRequestSpec) -> String {
        format!("{}\n\n{}", spec.body.trim_end(), marker(spec.run_id))
    }
}

#[async_trait]
impl Forge for GitHub {
    fn name(&self) -> &'static str {
        "github"
    }

    async fn find(&self, spec: &PullRequestSpec) -> Result<Option<PullRequest>, Error> {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("head", &format!("{}:{}", self.owner, spec.head_branch))
            .append_pair("state", "all")
            .finish();
        let pulls: Vec<Pull> =
            self.ask("looking for the pull request", Method::GET, &format!("/pulls?{query}"), None).await?;
        let ours = pulls.into_iter().filter(|p| p.head.branch == spec.head_branch);
        Ok(ours.max_by_key(|p| (p.state == "open", p.number)).map(PullRequest::from))
    }

    async fn open_or_update(&self, spec: &PullRequestSpec) -> Result<PullRequest, Error> {
        let mut tries = 1;
        loop {
            match self.find(spec).await? {
                Some(found) if matches!(found.state.as_str(), "open" | "draft") => {
                    let change = json!({ "title": spec.title, "body": Self::body(spec) });
                    let path = format!("/pulls/{}", found.number);
                    let pull: Pull = self.ask("updating the pull request", Method::PATCH, &path, Some(&change)).await?;
                    return Ok(pull.into());
                }
                Some(closed) if closed.state == "closed" => return Ok(closed),
                Some(_) | None => {}
            }
            let new = json!({
                "title": spec.title, "body": Self::body(spec), "head": spec.head_branch, "base": spec.base_branch,
                "maintainer_can_modify": true,
            });
            // An answer that does not come, or says that something broke, leaves open whether there is one now: look again.
            match self.once::<Pull>(Method::POST, "/pulls", Some(&new)).await {
                Ok(pull) => return Ok(pull.into()),
                Err(failed) => self.wait("opening the pull request", failed, &mut tries).await?,
            }
        }
    }

    async fn edit(&self, pull_request: &codegen_store::PullRequest, edit: Edit) -> Result<PullRequest, Error> {
        let path = format!("/pulls/{}", pull_request.number);
        let doing = "changing the pull request";
        let pull: Pull = match edit {
            Edit::Open | Edit::Close => {
                let state = if edit == Edit::Open { "open" } else { "closed" };
                self.ask(doing, Method::PATCH, &path, Some(&json!({ "state": state }))).await?
            }
            Edit::Draft | Edit::ReadyForReview => {
                let mut pull: Pull = self.ask(doing, Method::GET, &path, None).await?;
                let draft = edit == Edit::Draft;
                if pull.state != "open" {
                    return Err(Error::Refused("the pull request is closed; open it first".to_owned()));
                }
                if pull.draft != draft {
                    self.set_draft(&pull, draft).await?;
                    pull.draft = draft;
                }
                pull
            }
        };
        Ok(pull.into())
    }
}

/// Where GraphQL is: beside `/api/v3` of a server of one's own, below the root of github.com's.
fn graphql_base(api_url: &str) -> String {
    let api_url = api_url.trim_end_matches('/');
    api_url.strip_suffix("/v3").unwrap_or(api_url).to_owned()
}

impl From<Pull> for PullRequest {
    fn from(pull: Pull) -> Self {
        let state = match pull.merged_at {
            Some(_) => "merged".to_owned(),
            None if pull.draft && pull.state == "open" => "draft".to_owned(),
            None => pull.state,
        };
        Self { number: pull.number, url: pull.html_url, state }
    }
}

/// How long GitHub asks to wait where it refuses because of too many requests, by one of its several ways of saying so.
fn rate_limit(status: StatusCode, headers: &HeaderMap, refusal: &Refusal) -> Option<Duration> {
    if !matches!(status, StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
        return None;
    }
    let after = seconds(headers, "retry-after");
    let reset = seconds(headers, "x-ratelimit-remaining").filter(Duration::is_zero).and_then(|_| {
        let now = Duration::from_secs(u64::try_from(jiff::Timestamp::now().as_second()).ok()?);
        Some(seconds(headers, "x-ratelimit-reset")?.saturating_sub(now))
    });
    // "Wait for at least one minute" is GitHub's advice where it names no time.
    let unsaid = status == StatusCode::TOO_MANY_REQUESTS || refusal.message.to_lowercase().contains("rate limit");
    after.or(reset).or_else(|| unsaid.then_some(LONGEST_WAIT))
}

fn seconds(headers: &HeaderMap, name: &str) -> Option<Duration> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// GitHub's status and words, cut.
fn said(status: StatusCode, refusal: &Refusal) -> String {
    let message = Some(refusal.message.as_str()).filter(|m| !m.is_empty());
    let words: Vec<&str> = message.into_iter().chain(refusal.errors.iter().filter_map(words)).collect();
    let words: String = words.join("; ").chars().take(500).collect();
    if words.is_empty() { status.to_string() } else { format!("{status}: {words}") }
}

fn words(error: &Value) -> Option<&str> {
    error["message"].as_str().or_else(|| error.as_str())
}

/// The innermost error, which says what happened; the outer ones name octocrab's layers and the address.
fn last_cause(error: &octocrab::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config() -> Config {
        let mut config = Config::defaults(std::path::Path::new("/nowhere"));
        config.github_token = Some("tok".into());
        config
    }

    fn names(config: &Config, origin: &str) -> Option<(String, String, String)> {
        place(config, origin).map(|p| (p.api_url, p.owner, p.repo))
    }

    #[test]
    fn origins_at_github_are_known_in_every_form() {
        let mut config = config();
        let at = |api: &str| Some((api.to_owned(), "acme".to_owned(), "demo".to_owned()));
        for origin in [
            "https://github.com/acme/demo.git",
            "https://github.com/acme/demo/",
            "https://me:secret@github.com/acme/demo",
            "git@github.com:acme/demo.git",
            "ssh://git@github.com/acme/demo",
            "ssh://git@ssh.github.com:443/acme/demo.git",
        ] {
            assert_eq!(names(&config, origin), at("https://api.github.com"), "{origin}");
        }
        for origin in [
            "https://gitlab.com/acme/demo",
            "/srv/acme/demo",
            "https://github.com/acme",
            "https://github.com/a/b/c",
            "https://github.com/a/..",
            "https://github.com/a/b%3Fc",
            "https://github.com.evil.example/acme/demo",
        ] {
            assert_eq!(names(&config, origin), None, "{origin}");
        }
        config.github_api_url = "https://ghe.example.com/api/v3".to_owned();
        assert_eq!(names(&config, "git@ghe.example.com:acme/demo"), at("https://ghe.example.com/api/v3"));
        config.github_token = None;
        assert_eq!(names(&config, "git@ghe.example.com:acme/demo"), None, "without a token there is nothing to ask");
    }

    #[test]
    fn a_host_of_its_own_gets_its_own_token_and_never_another_ones() {
        let mut config = config();
        config.github_hosts = vec![
            ("ghe.example.com".to_owned(), "https://ghe.example.com/api/v3".to_owned()),
            ("127.0.0.1:5000".to_owned(), "http://127.0.0.1:4000".to_owned()),
        ];
        assert_eq!(names(&config, "https://ghe.example.com/acme/demo"), None, "github.com's token is not for it");
        config.github_host_tokens =
            vec![("127.0.0.1:5000".to_owned(), "local".into()), ("ghe.example.com".to_owned(), "theirs".into())];
        for (origin, token) in [
            ("https://GHE.example.com/acme/demo", "theirs"),
            ("ssh://git@ghe.example.com:2222/acme/demo", "theirs"),
            ("http://127.0.0.1:5000/acme/demo.git", "local"),
            ("https://github.com/acme/demo", "tok"),
        ] {
            assert_eq!(place(&config, origin).unwrap().token.expose_secret(), token, "{origin}");
        }
        assert_eq!(names(&config, "http://127.0.0.1:5001/acme/demo.git"), None);
    }

    #[test]
    fn every_way_of_saying_too_many_requests_is_understood() {
        let headers = |pairs: &[(&'static str, String)]| {
            pairs.iter().map(|(k, v)| ((*k).parse().unwrap(), v.parse().unwrap())).collect::<HeaderMap>()
        };
        let refusal = |message: &str| Refusal { message: message.to_owned(), errors: vec![] };
        let soon = (jiff::Timestamp::now().as_second() + 30).to_string();
        let reset = headers(&[("x-ratelimit-remaining", "0".to_owned()), ("x-ratelimit-reset", soon)]);
        let after = rate_limit(StatusCode::FORBIDDEN, &reset, &refusal("")).unwrap().as_secs();
        assert!((28..=30).contains(&after), "{after}");
        let retry = headers(&[("retry-after", "7".to_owned())]);
        assert_eq!(rate_limit(StatusCode::FORBIDDEN, &retry, &refusal("")), Some(Duration::from_secs(7)));
        let none = HeaderMap::new();
        let secondary = refusal("You have exceeded a secondary rate limit.");
        assert_eq!(rate_limit(StatusCode::FORBIDDEN, &none, &secondary), Some(LONGEST_WAIT));
        assert_eq!(rate_limit(StatusCode::TOO_MANY_REQUESTS, &none, &refusal("")), Some(LONGEST_WAIT));
        assert_eq!(rate_limit(StatusCode::FORBIDDEN, &none, &refusal("Resource not accessible")), None);
        assert_eq!(rate_limit(StatusCode::NOT_FOUND, &retry, &refusal("")), None);
    }
}
