//! Which hosts a sandbox may ask for: the operator's policy, its compiled form, and the one spelling of a host name.

use std::{fmt, io, str::FromStr};

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};
use url::Host;

/// What may leave one sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Which public hosts.
    pub mode: Mode,
    /// Exact exceptions: these may be on a private address and have any port. Nothing lifts `Mode::Closed`.
    pub allow_private: Vec<Origin>,
}

/// Which public hosts a sandbox may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing at all.
    #[default]
    Closed,
    /// Hosts that match a pattern such as `pypi.org`, `*.pypi.org` or `git.example.com:8443`;
    /// without a port, 80 and 443 are meant. `*` crosses dots.
    Allow(Vec<String>),
    /// Every public host, on ports 80 and 443.
    Open,
}

impl Mode {
    /// Whether its patterns can be read.
    ///
    /// # Errors
    /// A sentence that names the pattern.
    pub fn check(&self) -> io::Result<()> {
        Rules::compile(&Policy { mode: self.clone(), allow_private: Vec::new() }).map(drop)
    }
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Name or address; an IPv6 address is in brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Origin {
    type Err = String;

    /// Reads `host:port`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not of the form host:port");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let host = normal_host(host).map_err(|why| format!("`{text}`: {why}"))?;
        Ok(Self { host: host.to_string(), port })
    }
}

/// How a host that passed the rules may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On public addresses only.
    Public,
    /// On private addresses too.
    Private,
}

/// A policy, ready to be asked.
pub struct Rules {
    mode: CompiledMode,
    exceptions: Vec<Origin>,
}

enum CompiledMode {
    Closed,
    Allow(Vec<Pattern>),
    Open,
}

struct Pattern {
    host: GlobMatcher,
    port: Option<u16>,
}

impl Rules {
    /// Compiles a policy; a pattern or exception that cannot be read is an error that names it.
    pub fn compile(policy: &Policy) -> io::Result<Self> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let mode = match &policy.mode {
            Mode::Closed => CompiledMode::Closed,
            Mode::Open => CompiledMode::Open,
            Mode::Allow(patterns) => {
                let patterns: Result<_, _> = patterns.iter().map(|text| Pattern::parse(text)).collect();
                CompiledMode::Allow(patterns.map_err(wrong)?)
            }
        };
        let exceptions: Result<_, _> = policy.allow_private.iter().map(|o| o.to_string().parse()).collect();
        Ok(Self { mode, exceptions: exceptions.map_err(wrong)? })
    }

    /// Says how the host may be reached, or in one sentence why not and which setting would allow it.
    pub fn check(&self, host: &Host, port: u16) -> Result<Reach, String> {
        let name = host.to_string();
        if matches!(self.mode, CompiledMode::Closed) {
            return Err(format!(
                "{name}:{port} was refused: this sandbox has no network; the setting `egress` opens it."
            ));
        }
        if self.exceptions.iter().any(|o| o.port == port && o.host == name) {
            return Ok(Reach::Private);
        }
        let named = match &self.mode {
            CompiledMode::Closed => false,
            CompiledMode::Open => true,
            CompiledMode::Allow(patterns) => {
                if patterns.iter().any(|p| p.port == Some(port) && p.host.is_match(&name)) {
                    return Ok(Reach::Public);
                }
                patterns.iter().any(|p| p.port.is_none() && p.host.is_match(&name))
            }
        };
        if !named {
            return Err(format!(
                "{name}:{port} was refused: the host is not on the allow-list; the setting `egress_allow` can name it."
            ));
        }
        if !matches!(port, 80 | 443) {
            return Err(format!(
                "{name}:{port} was refused: only ports 80 and 443 are open; the setting `egress_allow` can name `{name}:{port}`."
            ));
        }
        Ok(Reach::Public)
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &dyn fmt::Display| format!("the host pattern `{text}` cannot be read: {why}");
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().map_err(|e| wrong(&e))?)),
            _ => (text, None),
        };
        // A pattern is spelled like a name, so an international one becomes ASCII; an address in brackets is no glob.
        let host = host.trim_end_matches('.').to_lowercase();
        let host = if host.starts_with('[') {
            globset::escape(&normal_host(&host).map_err(|e| wrong(&e))?.to_string())
        } else if host.is_ascii() {
            host
        } else {
            Host::parse(&host).map_err(|e| wrong(&e))?.to_string()
        };
        if host.is_empty() {
            return Err(wrong(&"the host is empty"));
        }
        let glob = GlobBuilder::new(&host).literal_separator(false).build().map_err(|e| wrong(&e))?;
        Ok(Self { host: glob.compile_matcher(), port })
    }
}

/// Brings a host to its one spelling: lower case, ASCII, no trailing dot. An address must be written the usual way,
/// since `0x7f.1`, `2130706433` and `0177.0.0.1` exist only to get past a check.
pub fn normal_host(raw: &str) -> Result<Host, &'static str> {
    const UNREADABLE: &str = "the host name is not valid";
    let text = raw.strip_suffix('.').unwrap_or(raw);
    if text.contains('%') {
        return Err(UNREADABLE);
    }
    match Host::parse(text).map_err(|_| UNREADABLE)? {
        Host::Ipv4(address) if address.to_string() != text => Err("an IPv4 address must be four decimal numbers"),
        Host::Domain(name) if name.len() > 253 || name.split('.').any(str::is_empty) => Err(UNREADABLE),
        host => Ok(host),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn allow(patterns: &[&str]) -> Rules {
        let mode = Mode::Allow(patterns.iter().map(ToString::to_string).collect());
        Rules::compile(&Policy { mode, allow_private: vec![] }).unwrap()
    }

    fn allowed(rules: &Rules, host: &str, port: u16) -> bool {
        rules.check(&normal_host(host).unwrap(), port).is_ok()
    }

    #[test]
    fn a_wildcard_takes_subdomains_and_not_the_domain_nor_a_lookalike() {
        let rules = allow(&["*.pypi.org"]);
        assert!(allowed(&rules, "files.PyPI.org.", 443) && allowed(&rules, "a.b.pypi.org", 80));
        assert!(!allowed(&rules, "pypi.org", 443) && !allowed(&rules, "evilpypi.org", 443));
        assert!(!allowed(&rules, "x.pypi.org.evil.com", 443));
    }

    #[test]
    fn an_international_name_matches_in_both_spellings() {
        let rules = allow(&["*.bücher.example", "Straße.example"]);
        assert!(allowed(&rules, "www.xn--bcher-kva.example", 443) && allowed(&rules, "www.BÜCHER.example", 443));
        assert!(allowed(&rules, "straße.example", 443));
    }

    #[test]
    fn a_port_is_open_only_where_it_is_named() {
        let rules = allow(&["git.example.com:8443", "example.com"]);
        assert!(allowed(&rules, "git.example.com", 8443) && !allowed(&rules, "git.example.com", 443));
        assert!(allowed(&rules, "example.com", 80) && !allowed(&rules, "example.com", 22));
    }

    #[test]
    fn closed_means_closed_even_to_exceptions() {
        let allow_private = vec!["127.0.0.1:8000".parse().unwrap()];
        let rules = Rules::compile(&Policy { mode: Mode::Closed, allow_private }).unwrap();
        assert!(!allowed(&rules, "127.0.0.1", 8000));
    }

    #[test]
    fn an_unreadable_pattern_is_named_in_the_error() {
        let mode = Mode::Allow(vec!["a[".into()]);
        let error = Rules::compile(&Policy { mode, allow_private: vec![] }).err().unwrap();
        assert!(error.to_string().contains("`a[`"), "{error}");
    }

    #[test]
    fn tricks_with_names_are_refused() {
        for host in [
            "",
            ".",
            "a..b",
            "%6c",
            "127.1",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "2130706433",
            "１２７.0.0.1",
            "1.2.3.4%20",
            "[::1%25lo]",
            "a b",
        ] {
            assert!(normal_host(host).is_err(), "{host}");
        }
        assert!(normal_host("127。0。0。1").is_err());
    }
}
