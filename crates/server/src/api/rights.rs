//! What roles and tokens allow, without HTTP: the words of `docs/roles.md`.

use std::fmt;

use axum::http::Method;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Everybody, without a token.
    Anyone,
    /// Whoever has a valid token.
    Caller,
    /// Whoever has a valid token and is no service account.
    Person,
    /// Members of the organization.
    Member,
    /// Its managers and admins.
    Manager,
    /// Its admins.
    Admin,
}

/// What a part of the API is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// Runs, their logs and pull requests.
    Runs,
    /// Repositories and their settings.
    Repos,
    /// Everything else of an organization.
    Org,
    /// The caller's own tokens, new organizations.
    Account,
}

/// What a token with scopes needs for a request. Writing includes reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// About what.
    pub area: Area,
    /// Changes something.
    pub write: bool,
}

/// Every scope, by its word.
pub const SCOPES: [(&str, Scope); 8] = [
    ("runs:read", Scope { area: Area::Runs, write: false }),
    ("runs:write", Scope { area: Area::Runs, write: true }),
    ("repos:read", Scope { area: Area::Repos, write: false }),
    ("repos:write", Scope { area: Area::Repos, write: true }),
    ("org:read", Scope { area: Area::Org, write: false }),
    ("org:write", Scope { area: Area::Org, write: true }),
    ("account:read", Scope { area: Area::Account, write: false }),
    ("account:write", Scope { area: Area::Account, write: true }),
];

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = SCOPES.iter().find(|(_, scope)| scope == self).map_or("", |(word, _)| word);
        f.write_str(word)
    }
}

impl Scope {
    /// The scope of this word.
    pub fn parse(word: &str) -> Option<Self> {
        SCOPES.iter().find(|(known, _)| *known == word).map(|(_, scope)| *scope)
    }

    fn includes(self, other: Self) -> bool {
        self.area == other.area && (self.write || !other.write)
    }

    /// Whether a token with these scopes, separated by blanks, has this one. A token without scopes has them all.
    pub fn is_in(self, scopes: Option<&str>) -> bool {
        let Some(scopes) = scopes else { return true };
        scopes.split_whitespace().filter_map(Self::parse).any(|scope| scope.includes(self))
    }
}

/// The scope that a route needs; none where any token will do: what clients ask to find out who they are.
pub fn scope_of(method: &Method, path: &str) -> Option<Scope> {
    // A browser is sent to where people agree by a link, and comes back with a change.
    let write = !matches!(*method, Method::GET | Method::HEAD) || path == "/v1/oauth/connect";
    let in_org =
        ["/v1/organizations/{org_id}/", "/v1/beta/organizations/{org_id}/", "/v1/alpha/organizations/{org_id}/"];
    let area = if let Some(rest) = in_org.iter().find_map(|prefix| path.strip_prefix(prefix)) {
        match rest.split('/').next().unwrap_or_default() {
            "agent" | "prs" | "claude_code" | "sandbox" | "setup-commands" | "tools" | "models" => Area::Runs,
            "repos" | "repositories" => Area::Repos,
            _ => Area::Org,
        }
    } else {
        match path {
            // Each tool asks for the scope of its operation.
            "/v1/session" | "/mcp" => return None,
            "/v1/users/me" | "/v1/organizations" | "/v1/models" | "/v1/mcp-providers" if !write => return None,
            "/v1/organizations/{org_id}" => Area::Org,
            _ if path.starts_with("/v1/runs/") || path.starts_with("/websites/") => Area::Runs,
            _ => Area::Account,
        }
    };
    Some(Scope { area, write })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_includes_reading_and_nothing_of_another_area() {
        let scope = |word| Scope::parse(word).unwrap_or_else(|| panic!("{word}"));
        for (has, needed, enough) in [
            (None, "account:write", true),
            (Some(""), "runs:read", false),
            (Some("runs:read repos:write"), "repos:read", true),
            (Some("runs:read repos:write"), "runs:write", false),
            (Some("runs:write"), "repos:read", false),
            (Some("everything"), "runs:read", false),
        ] {
            assert_eq!(scope(needed).is_in(has), enough, "{has:?} for {needed}");
        }
    }
}
