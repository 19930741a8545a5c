//! Git on the host's side: probing origins, the bare mirror of each repository, packs from sandboxes, pushes.
//! Never opens a `.git` that a sandbox could have written.

mod keep;
mod mirror;
mod packs;
mod process;
mod push;
mod worktree;

use std::{path::Path, time::Duration};

pub use mirror::{Kept, Mirror, Refs};
use process::Git;
pub use push::Pushed;
pub use worktree::{copy_branch, push_origin, snapshot_worktree};

/// Who commits.
pub const AGENT_NAME: &str = "codegen";
/// The agent's address; nobody reads mail there.
pub const AGENT_EMAIL: &str = "codegen@users.noreply.codegen.invalid";

/// A git operation that did not work. Each displays as a sentence for the person whose repository it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The origin is not an address that is allowed here.
    #[error("{0}")]
    BadOrigin(String),
    /// The origin cannot be used; the text says why and what to do.
    #[error("{0}")]
    Unusable(String),
    /// The origin cannot be reached, or the connection broke off; it may be there again later.
    #[error("{0}")]
    Unreachable(String),
    /// The origin refused a push; the text says why.
    #[error("{0}")]
    Rejected(String),
    /// What was asked for is not in the repository.
    #[error("{0}")]
    Missing(String),
    /// Git took too long and was ended.
    #[error("{0} took longer than {1:?} and was ended")]
    Timeout(String, Duration),
    /// Git said no for another reason.
    #[error("{0}: git says: {1}")]
    Git(String, String),
    /// Git could not be run.
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
}

impl Error {
    /// Translates what git wrote on its standard error.
    fn of_stderr(doing: String, stderr: String) -> Self {
        const KNOWN: &[(&[&str], &str)] = &[
            (
                &["dubious ownership"],
                "the folder belongs to another user, and git refuses to read it; allow it with `git config --global --add safe.directory FOLDER`",
            ),
            (&["No space left on device", "Disk quota exceeded"], "the disk is full; free some space and try again"),
            (
                &[
                    "Authentication failed",
                    "could not read Username",
                    "could not read Password",
                    "terminal prompts disabled",
                    "403",
                ],
                "the origin does not accept the credentials of this host; set up git's credential helper for the user that codegen runs as",
            ),
            (
                &["Permission denied (", "Host key verification failed", "no mutual signature"],
                "ssh is not let in; check that this host's key agent and known_hosts know the origin",
            ),
            (
                &[
                    "not found",
                    "does not exist",
                    "does not appear to be a git repository",
                    "No such file or directory",
                    "no such repository",
                ],
                "there is no git repository there, or this host may not see it",
            ),
        ];
        const PASSING: &[(&[&str], &str)] = &[
            (
                &[
                    "Could not resolve host",
                    "Failed to connect",
                    "Couldn't connect",
                    "Connection refused",
                    "Connection timed out",
                    "Network is unreachable",
                    "unable to access",
                ],
                "the origin cannot be reached from this host",
            ),
            (
                &["RPC failed", "hung up unexpectedly", "unexpected disconnect", "Connection reset", "early EOF"],
                "the connection to the origin broke off",
            ),
        ];
        let sentence = |table: &[(&[&str], &str)]| {
            let (_, sentence) = table.iter().find(|(words, _)| words.iter().any(|w| stderr.contains(w)))?;
            Some(format!("{doing}: {sentence} (git says: {})", last_words(&stderr)))
        };
        match (sentence(KNOWN), sentence(PASSING)) {
            (Some(sentence), _) => Self::Unusable(sentence),
            (None, Some(sentence)) => Self::Unreachable(sentence),
            (None, None) => Self::Git(doing, last_words(&stderr)),
        }
    }
}

/// The line of git's standard error that says most, without passwords.
fn last_words(stderr: &str) -> String {
    let telling = |l: &&str| l.starts_with("fatal:") || l.starts_with("error:") || l.starts_with("remote:");
    let line =
        stderr.lines().find(telling).or_else(|| stderr.lines().rfind(|l| !l.trim().is_empty())).unwrap_or("nothing");
    line.split(' ').map(without_credentials).collect::<Vec<_>>().join(" ").chars().take(500).collect()
}

/// What an origin has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The branch that HEAD names, where it exists.
    pub default_branch: Option<String>,
    /// The commit of HEAD; with no `default_branch` the origin's head is detached.
    pub head: Option<String>,
    /// All branches.
    pub branches: Vec<String>,
    /// No branch and no HEAD at all.
    pub empty: bool,
}

/// Asks an origin what it has, without fetching anything.
///
/// # Errors
/// A sentence when the origin is not allowed or cannot be reached.
pub async fn probe(origin: &str) -> Result<Probe, Error> {
    check_origin(origin)?;
    let shown = without_credentials(origin);
    let out = Git::new(format!("looking at {shown}"))
        .credentials_of(origin)
        .args(["ls-remote", "--symref", "--", &address(origin), "HEAD", "refs/heads/*"])
        .run()
        .await?;
    let (mut head, mut symref, mut branches) = (None, None, Vec::new());
    for line in String::from_utf8_lossy(&out).lines() {
        match line.split_once('\t') {
            Some((target, "HEAD")) if target.starts_with("ref: ") => {
                symref = target.strip_prefix("ref: refs/heads/").map(str::to_owned)
            }
            Some((commit, "HEAD")) => head = Some(commit.to_owned()),
            Some((_, name)) => branches.extend(name.strip_prefix("refs/heads/").map(str::to_owned)),
            None => {}
        }
    }
    let default_branch = symref.filter(|b| branches.contains(b));
    Ok(Probe { default_branch, empty: head.is_none() && branches.is_empty(), head, branches })
}

/// Refuses addresses that git would take for an option, run as a program or send elsewhere.
///
/// # Errors
/// [`Error::BadOrigin`] with a sentence.
pub fn check_origin(origin: &str) -> Result<(), Error> {
    let bad = |why: &str| {
        Err(Error::BadOrigin(format!("`{}` is not a repository's address: {why}", without_credentials(origin))))
    };
    if origin.is_empty() || origin.starts_with('-') || origin.contains(['\0', '\n', '\r']) {
        return bad("it is empty, starts with `-` or has a line break");
    }
    if origin.contains("::") && !origin.contains("://") {
        return bad("only http, https, ssh, git and file addresses and folders are allowed");
    }
    if let Some((scheme, rest)) = origin.split_once("://") {
        if !matches!(scheme, "http" | "https" | "ssh" | "git" | "file") {
            return bad("only http, https, ssh, git and file addresses and folders are allowed");
        }
        if scheme == "file" && !rest.starts_with('/') {
            // Git ignores the host and reads the folder.
            return bad("a folder's address is file:// and an absolute path");
        }
        if rest.starts_with('-') || rest.split_once('@').is_some_and(|(_, host)| host.starts_with('-')) {
            return bad("its host starts with `-`");
        }
    } else if let Some((host, _)) = scp_like(origin) {
        if host.starts_with('-') || host.contains("@-") {
            return bad("its host starts with `-`");
        }
    } else if !origin.starts_with('/') {
        return bad("a folder is given by its absolute path");
    }
    Ok(())
}

/// The folder of an origin that is one.
pub fn local_path(origin: &str) -> Option<&Path> {
    let path = origin.strip_prefix("file://").unwrap_or(origin);
    path.starts_with('/').then(|| Path::new(path))
}

/// The host of an origin that has one.
pub fn host(origin: &str) -> Option<String> {
    if let Ok(url) = url::Url::parse(origin) {
        return url.host_str().map(str::to_owned);
    }
    scp_like(origin).map(|(host, _)| host.rsplit('@').next().unwrap_or(host).to_owned())
}

/// The host of an http or https origin with its port where that is not the usual one: what a sandbox reaches through a proxy.
pub fn host_and_port(origin: &str) -> Option<String> {
    let host = host(origin)?;
    let port = url::Url::parse(origin).ok().filter(|u| u.scheme().starts_with("http")).and_then(|u| u.port());
    Some(port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")))
}

/// `user@host:path`, as git understands it: a colon before any slash.
fn scp_like(origin: &str) -> Option<(&str, &str)> {
    origin.split_once(':').filter(|(host, path)| !host.is_empty() && !host.contains('/') && !path.starts_with("//"))
}

/// An address as it may be shown and given to a sandbox: no password, and no token in the place of a user over http.
pub fn without_credentials(origin: &str) -> String {
    let Some((scheme, rest)) = origin.split_once("://") else { return origin.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((user, host)) = authority.rsplit_once('@') else { return origin.to_owned() };
    // Git quotes addresses in its messages, so the scheme may begin with a quote.
    let over_http = scheme.ends_with("http") || scheme.ends_with("https");
    match user.split(':').next() {
        Some(user) if !over_http && !user.is_empty() => format!("{scheme}://{user}@{host}{path}"),
        _ => format!("{scheme}://{host}{path}"),
    }
}

/// The address as git gets it: passwords and tokens go by another way ([`Git::credentials_of`]), for who looks at the
/// host's processes sees the arguments.
fn address(origin: &str) -> String {
    without_credentials(origin)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_that_run_programs_or_options_are_refused() {
        for bad in [
            "",
            "-u",
            "--upload-pack=x",
            "ext::sh -c id",
            "fd::17",
            "ssh://-oProxyCommand=x/r",
            "ssh://u@-oX/r",
            "-oX:r",
            "u@-oX:r",
            "ftp://h/r",
            "file://srv/r",
            "FILE:///srv/r",
            "relative/folder",
            "a\nb",
        ] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
        for good in [
            "/srv/r",
            "https://h/r.git",
            "http://u:p@h:8080/r",
            "ssh://git@h:22/r",
            "git@github.com:o/r.git",
            "file:///srv/r",
            "git://h/r",
        ] {
            check_origin(good).unwrap();
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_credentials("https://me:secret@h:8/r"), "https://h:8/r");
        assert_eq!(without_credentials("https://ghp_token@h/r"), "https://h/r");
        assert_eq!(without_credentials("ssh://git:pw@h/r"), "ssh://git@h/r");
        assert_eq!(without_credentials("ssh://git@h/r"), "ssh://git@h/r");
        assert_eq!(without_credentials("git@h:o/r"), "git@h:o/r");
        assert_eq!(
            last_words("fatal: unable to access 'https://me:secret@h/r/': no"),
            "fatal: unable to access 'https://h/r/': no"
        );
    }

    #[test]
    fn hosts_are_found_in_every_form() {
        assert_eq!(host("git@github.com:o/r.git").as_deref(), Some("github.com"));
        assert_eq!(host("ssh://git@h:22/r").as_deref(), Some("h"));
        assert_eq!(host("https://u:p@h:8/r").as_deref(), Some("h"));
        assert_eq!(host("/srv/a:b"), None);
    }
}
