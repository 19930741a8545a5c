//! Settings of log-in: sessions, and an OpenID provider.

use std::fmt::Write as _;

use codegen_store::Role;
use secrecy::SecretString;

use super::table::{Setting, hidden, plain, secret, url};

/// How people log in.
#[derive(Debug, Clone)]
pub struct LogIn {
    /// Hours without use after which a log-in ends.
    pub idle_h: u64,
    /// Hours after which it ends in any case.
    pub max_h: u64,
    /// Address of the provider.
    pub oidc_issuer: Option<String>,
    /// Our id there.
    pub oidc_client_id: Option<String>,
    /// Our secret there.
    pub oidc_client_secret: Option<SecretString>,
    /// What the button says.
    pub oidc_name: String,
    /// What is asked for, besides `openid`.
    pub oidc_scopes: Vec<String>,
    /// Where a person's groups are.
    pub oidc_group_claim: String,
    /// Which group gives which role.
    pub oidc_group_roles: Vec<(String, Role)>,
    /// The role of those whom no group gives one.
    pub oidc_default_role: Option<Role>,
    /// The organization that people come into; none for the first.
    pub oidc_org: Option<i64>,
    /// Domains of e-mail addresses that may log in; none for all.
    pub oidc_email_domains: Vec<String>,
}

impl Default for LogIn {
    fn default() -> Self {
        Self {
            idle_h: 7 * 24,
            max_h: 30 * 24,
            oidc_issuer: None,
            oidc_client_id: None,
            oidc_client_secret: None,
            oidc_name: "single sign-on".to_owned(),
            oidc_scopes: vec!["profile".to_owned(), "email".to_owned()],
            oidc_group_claim: "groups".to_owned(),
            oidc_group_roles: Vec::new(),
            oidc_default_role: Some(Role::Member),
            oidc_org: None,
            oidc_email_domains: Vec::new(),
        }
    }
}

impl LogIn {
    /// Milliseconds without use after which a log-in ends.
    pub fn idle_ms(&self) -> i64 {
        ms(self.idle_h)
    }

    /// Milliseconds after which it ends in any case.
    pub fn max_ms(&self) -> i64 {
        ms(self.max_h)
    }
}

fn ms(hours: u64) -> i64 {
    i64::try_from(hours).unwrap_or(i64::MAX).saturating_mul(3_600_000)
}

pub(super) const IDLE: Setting = plain(
    "session_idle_h",
    "Hours without use after which a log-in of the web app ends.",
    "`168`",
    |c| Some(c.log_in.idle_h.to_string()),
    |c, v| hours(&mut c.log_in.idle_h, v),
);
pub(super) const MAX: Setting = plain(
    "session_max_h",
    "Hours after which a log-in of the web app ends, used or not.",
    "`720`",
    |c| Some(c.log_in.max_h.to_string()),
    |c, v| hours(&mut c.log_in.max_h, v),
);
pub(super) const ISSUER: Setting = plain(
    "oidc_issuer",
    "Address of an OpenID provider that people log in with; without it there is no such log-in. See [login.md](login.md).",
    "",
    |c| c.log_in.oidc_issuer.clone(),
    |c, v| {
        // Compared letter by letter with what the provider says, a slash at the end included.
        let ours = url(v)?;
        c.log_in.oidc_issuer = Some(if v.trim().ends_with('/') { format!("{ours}/") } else { ours });
        Ok(())
    },
);
pub(super) const CLIENT_ID: Setting = plain(
    "oidc_client_id",
    "The id that the provider gave to this server.",
    "",
    |c| c.log_in.oidc_client_id.clone(),
    |c, v| {
        c.log_in.oidc_client_id = Some(v.trim().to_owned());
        Ok(())
    },
);
pub(super) const CLIENT_SECRET: Setting = secret(plain(
    "oidc_client_secret",
    "The secret that goes with it.",
    "",
    |c| hidden(&c.log_in.oidc_client_secret),
    |c, v| {
        c.log_in.oidc_client_secret = Some(v.trim().into());
        Ok(())
    },
));
pub(super) const NAME: Setting = plain(
    "oidc_name",
    "What the log-in page calls the provider.",
    "`single sign-on`",
    |c| Some(c.log_in.oidc_name.clone()),
    |c, v| {
        c.log_in.oidc_name = v.trim().to_owned();
        Ok(())
    },
);
pub(super) const SCOPES: Setting = plain(
    "oidc_scopes",
    "Scopes that are asked for besides `openid`; a list, or separated by commas.",
    "`profile,email`",
    |c| joined(c.log_in.oidc_scopes.iter().cloned()),
    |c, v| {
        c.log_in.oidc_scopes = items(v).filter(|scope| scope != "openid").collect();
        Ok(())
    },
);
pub(super) const GROUP_CLAIM: Setting = plain(
    "oidc_group_claim",
    "The claim of the ID token that lists a person's groups; dots lead into objects (`realm_access.roles`).",
    "`groups`",
    |c| Some(c.log_in.oidc_group_claim.clone()),
    |c, v| {
        c.log_in.oidc_group_claim = v.trim().to_owned();
        Ok(())
    },
);
pub(super) const GROUP_ROLES: Setting = plain(
    "oidc_group_roles",
    "Which group gives which role, as `group=ADMIN`, `group=MANAGER` or `group=MEMBER`, at each log-in; a list, or separated by commas. Without it roles are given here.",
    "none",
    |c| {
        let mut text = String::new();
        for (group, role) in &c.log_in.oidc_group_roles {
            let comma = if text.is_empty() { "" } else { "," };
            write!(text, "{comma}{group}={}", role.as_str()).ok(); // A String takes everything.
        }
        Some(text)
    },
    |c, v| {
        let pair = |item: String| {
            let (group, word) = item.rsplit_once('=').filter(|(group, _)| !group.trim().is_empty())?;
            Some((group.trim().to_owned(), Role::parse(word.trim())?))
        };
        let pairs: Option<_> = items(v).map(pair).collect();
        c.log_in.oidc_group_roles = pairs.ok_or("must have the form group=ADMIN, =MANAGER or =MEMBER")?;
        Ok(())
    },
);
pub(super) const DEFAULT_ROLE: Setting = plain(
    "oidc_default_role",
    "The role of people whom no group gives one, or `none`: then they may not log in.",
    "`MEMBER`",
    |c| Some(c.log_in.oidc_default_role.map_or("none", Role::as_str).to_owned()),
    |c, v| {
        c.log_in.oidc_default_role = match v.trim() {
            "none" => None,
            word => Some(Role::parse(word).ok_or("must be ADMIN, MANAGER, MEMBER or none")?),
        };
        Ok(())
    },
);
pub(super) const ORG: Setting = plain(
    "oidc_org",
    "Id of the organization that people come into.",
    "the first one",
    |c| c.log_in.oidc_org.map(|id| id.to_string()),
    |c, v| {
        c.log_in.oidc_org = Some(v.trim().parse().map_err(|_| "must be the id of an organization".to_owned())?);
        Ok(())
    },
);
pub(super) const DOMAINS: Setting = plain(
    "oidc_email_domains",
    "Domains of verified e-mail addresses that may log in; a list, or separated by commas.",
    "all",
    |c| joined(c.log_in.oidc_email_domains.iter().cloned()),
    |c, v| {
        let domains: Vec<String> = items(v).map(|domain| domain.trim_start_matches('@').to_lowercase()).collect();
        if domains.iter().any(|domain| domain.is_empty() || domain.contains('@')) {
            return Err("must be domains, such as example.com".to_owned());
        }
        c.log_in.oidc_email_domains = domains;
        Ok(())
    },
);

fn items(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned)
}

fn joined(items: impl Iterator<Item = String>) -> Option<String> {
    Some(items.collect::<Vec<_>>().join(","))
}

fn hours(slot: &mut u64, text: &str) -> Result<(), String> {
    let hours = text.trim().parse().ok().filter(|hours| (1..=100_000).contains(hours));
    *slot = hours.ok_or("must be a whole number of hours from 1 to 100000")?;
    Ok(())
}
