//! GitHub's REST API, as far as a run needs it. Typed by what is read here: GitHub-like servers leave other fields out.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Error, Forge, PullRequest, PullRequestSpec, git, marker};

/// Tries of a request that GitHub answers with an error of its own.
const TRIES: u32 = 4;
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// One repository at GitHub.
pub struct GitHub {
    http: reqwest::Client,
    api_url: String,
    token: SecretString,
    owner: String,
    repo: String,
}

#[derive(Deserialize)]
struct Pull {
    number: i64,
    html_url: String,
    state: String,
    #[serde(default)]
    merged_at: Option<String>,
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

/// Owner and repository of an origin that lives where the API does: at github.com, or at the host of another API address.
pub fn owner_and_repo(api_url: &str, origin: &str) -> Option<(String, String)> {
    let api = url::Url::parse(api_url).ok()?.host_str()?.to_owned();
    let home = api.strip_prefix("api.").unwrap_or(&api);
    let host = git::host(origin)?;
    // GitHub also takes ssh at a host of its own, for networks that let only port 443 through.
    let ours = host.eq_ignore_ascii_case(home) || (home == "github.com" && host.eq_ignore_ascii_case("ssh.github.com"));
    if !ours {
        return None;
    }
    let path = match origin.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?.1,
        None => origin.split_once(':')?.1,
    };
    let mut parts = path.trim_matches('/').split('/');
    let (owner, repo) = (parts.next()?, parts.next()?);
    let repo = repo.strip_suffix(".git").unwrap_or(repo);
    (parts.next().is_none() && !owner.is_empty() && !repo.is_empty()).then(|| (owner.to_owned(), repo.to_owned()))
}

impl GitHub {
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(api_url: &str, token: SecretString, owner: String, repo: String) -> Result<Self, Error> {
        // An error means that a provider is installed already, which is all that is wanted.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder()
            .user_agent("codegen")
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(|e| Error::Unreachable(format!("GitHub's API cannot be used: {e}")))?;
        Ok(Self { http, api_url: api_url.trim_end_matches('/').to_owned(), token, owner, repo })
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        let url = format!("{}/repos/{}/{}{path}", self.api_url, self.owner, self.repo);
        for attempt in 1.. {
            let mut request = self
                .http
                .request(method.clone(), &url)
                .bearer_auth(self.token.expose_secret())
                .header(header::ACCEPT, "application/vnd.github+json")
                .header("X-GitHub-Api-Version", "2022-11-28");
            if let Some(body) = body {
                request = request.json(body);
            }
            let (why, after) = match request.send().await {
                Ok(answer) if answer.status().is_success() => {
                    return answer.json().await.map_err(|e| {
                        Error::Unreachable(format!("{doing}: GitHub's answer cannot be read: {}", e.without_url()))
                    });
                }
                Ok(answer) => {
                    let status = answer.status();
                    let after = answer
                        .headers()
                        .get(header::RETRY_AFTER)
                        .and_then(|v| v.to_str().ok()?.parse().ok())
                        .map(Duration::from_secs);
                    let refusal: Refusal = answer.json().await.unwrap_or_default();
                    if !(status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || after.is_some()) {
                        return Err(Error::Refused(self.sentence(doing, status, &refusal)));
                    }
                    (format!("GitHub answers {status}"), after)
                }
                // Whether a request that broke off had its effect is unknown; one that creates is not sent again before a look.
                Err(error) if method == Method::POST && !error.is_connect() => {
                    return Err(Error::Unreachable(format!("{doing}: {}", error.without_url())));
                }
                Err(error) => (format!("GitHub cannot be reached: {}", error.without_url()), None),
            };
            if attempt >= TRIES {
                return Err(Error::Unreachable(format!("{doing}: {why}")));
            }
            tokio::time::sleep(after.unwrap_or(Duration::from_millis(500 << attempt)).min(LONGEST_WAIT)).await;
        }
        Err(Error::Unreachable(doing.to_owned()))
    }

    fn sentence(&self, doing: &str, status: StatusCode, refusal: &Refusal) -> String {
        let what_to_do = match status {
            StatusCode::UNAUTHORIZED => "the token in `github_token` is not valid",
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                "the token in `github_token` has no right to this repository's pull requests"
            }
            _ => "GitHub refuses it",
        };
        let details = refusal.errors.iter().filter_map(|e| e["message"].as_str().or_else(|| e.as_str()));
        let said: Vec<&str> =
            std::iter::once(refusal.message.as_str()).chain(details).filter(|m| !m.is_empty()).collect();
        format!("{doing} in {}/{}: {what_to_do} ({status}: {})", self.owner, self.repo, said.join("; "))
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
        let query: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("head", &format!("{}:{}", self.owner, spec.head_branch))
            .append_pair("state", "open")
            .finish();
        let pulls: Vec<Pull> =
            self.ask("looking for the pull request", Method::GET, &format!("/pulls?{query}"), None).await?;
        Ok(pulls.into_iter().find(|p| p.head.branch == spec.head_branch).map(PullRequest::from))
    }

    async fn open_or_update(&self, spec: &PullRequestSpec) -> Result<PullRequest, Error> {
        let pull: Pull = match self.find(spec).await? {
            Some(found) => {
                let change = json!({ "title": spec.title, "body": Self::body(spec) });
                self.ask("updating the pull request", Method::PATCH, &format!("/pulls/{}", found.number), Some(&change))
                    .await?
            }
            None => {
                let new = json!({
                    "title": spec.title, "body": Self::body(spec), "head": spec.head_branch, "base": spec.base_branch,
                    "maintainer_can_modify": true,
                });
                self.ask("opening the pull request", Method::POST, "/pulls", Some(&new)).await?
            }
        };
        Ok(pull.into())
    }
}

impl From<Pull> for PullRequest {
    fn from(pull: Pull) -> Self {
        let state = if pull.merged_at.is_some() { "merged".to_owned() } else { pull.state };
        Self { number: pull.number, url: pull.html_url, state }
    }
}

#[cfg(test)]
mod tests {
    use super::owner_and_repo;

    #[test]
    fn origins_at_github_are_known_in_every_form() {
        let ours = Some(("acme".to_owned(), "demo".to_owned()));
        for origin in [
            "https://github.com/acme/demo.git",
            "https://github.com/acme/demo/",
            "git@github.com:acme/demo.git",
            "ssh://git@github.com/acme/demo",
        ] {
            assert_eq!(owner_and_repo("https://api.github.com", origin), ours, "{origin}");
        }
        assert_eq!(owner_and_repo("http://127.0.0.1:4000", "http://127.0.0.1:5000/acme/demo.git"), ours);
        assert_eq!(owner_and_repo("https://ghe.example.com/api/v3", "git@ghe.example.com:acme/demo"), ours);
        for origin in [
            "https://gitlab.com/acme/demo",
            "/srv/acme/demo",
            "https://github.com/acme",
            "https://github.com/a/b/c",
            "https://github.com.evil.example/acme/demo",
        ] {
            assert_eq!(owner_and_repo("https://api.github.com", origin), None, "{origin}");
        }
    }
}
