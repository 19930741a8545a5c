//! Addresses that the people of an organization name, where this server sends something: webhooks, and models of their own.
//! They lead only to the public internet: a name is resolved, its addresses are checked, and the connection goes to exactly
//! those, so that neither a name that changes nor a redirect leads anywhere else.

use std::{
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
    time::Duration,
};

use anyhow::Result;
use codegen_gateway::{is_never_reachable, is_public};
use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use url::{Host, Url};

/// Longest address.
const LONGEST: usize = 2000;

/// The way there.
#[derive(Default)]
pub struct Outside {
    allow_private: bool,
    /// Made when it is first used: reading the host's certificates takes milliseconds.
    client: OnceLock<Client>,
}

impl Outside {
    /// A way that leads to private addresses, too, or does not.
    pub fn new(allow_private: bool) -> Self {
        Self { allow_private, client: OnceLock::new() }
    }

    /// Checks an address; a sentence without its user and password where it is refused.
    ///
    /// # Errors
    /// That sentence.
    pub fn check(&self, text: &str) -> Result<Url, String> {
        if text.len() > LONGEST {
            return Err(format!("an address has at most {LONGEST} characters"));
        }
        let url = Url::parse(text).map_err(|_| "it is not a URL".to_owned())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("it must begin with https:// or http://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it must not hold a user or password".to_owned());
        }
        if url.port_or_known_default() == Some(0) {
            return Err("it has the port 0".to_owned());
        }
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) => None,
            None => return Err("it has no host".to_owned()),
        };
        if let Some(address) = literal.filter(|address| !allowed(*address, self.allow_private)) {
            return Err(refusal(&address.to_string()));
        }
        Ok(url)
    }

    /// The client to go there with: no redirects, no proxy, checked addresses. An address without a name is checked by
    /// [`Outside::check`] alone.
    ///
    /// # Errors
    /// When the host has no TLS.
    pub fn client(&self) -> Result<Client> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        crate::install_tls();
        let client = Client::builder()
            .user_agent(concat!("codegen/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .redirect(Policy::none())
            // A proxy would resolve names anew.
            .no_proxy()
            .dns_resolver(Checked { allow_private: self.allow_private })
            .build()?;
        Ok(self.client.get_or_init(|| client).clone())
    }
}

/// Resolves names to the addresses that may be reached.
struct Checked {
    allow_private: bool,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let good: Vec<SocketAddr> =
                found.into_iter().filter(|address| allowed(address.ip(), allow_private)).collect();
            if good.is_empty() {
                return Err(refusal(name.as_str()).into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

fn allowed(address: IpAddr, allow_private: bool) -> bool {
    is_public(address) || (allow_private && !is_never_reachable(address))
}

fn refusal(host: &str) -> String {
    format!(
        "{host} is not on the public internet (the operator's setting allow_private_addresses opens private addresses)"
    )
}

/// The innermost cause of what went wrong on the way; those around it repeat the address.
pub fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".to_owned();
    }
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

    #[test]
    fn addresses_off_the_public_internet_are_refused_in_every_spelling() {
        let outside = Outside::new(false);
        for bad in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://10.0.0.1:8443/hook",
            "ftp://h.example/",
            "https://me:pw@h.example/",
            "https://",
            "h.example",
            "http://h.example:0/",
            "file:///etc/passwd",
        ] {
            let why = outside.check(bad).unwrap_err();
            assert!(!why.contains("pw"), "{bad}: {why}");
        }
        outside.check("https://h.example/hook?a=b").unwrap();
        outside.check("http://93.184.216.34/").unwrap();
        let open = Outside::new(true);
        open.check("http://127.0.0.1:9/").unwrap();
        open.check("http://169.254.169.254/").unwrap_err();
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_refused_when_it_is_resolved() {
        let error = Outside::new(false).client().unwrap().get("http://localhost:9/").send().await.unwrap_err();
        assert!(cause(&error).contains("not on the public internet"), "{error:?}");
        let error = Outside::new(true).client().unwrap().get("http://localhost:9/").send().await.unwrap_err();
        assert!(!cause(&error).contains("not on the public internet"), "{error:?}");
    }
}
