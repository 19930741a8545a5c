//! The proxy that the host itself must use to get out, and the way through it.

use std::{collections::BTreeMap, fmt, io};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::{Host, Url};

/// The host's own proxy.
#[derive(Clone)]
pub struct Upstream {
    /// `http://[user:password@]host:port`.
    pub proxy: Url,
    /// Hosts reached without it: `example.com` (and all below), `.example.com`, an address, or `*`.
    pub no_proxy: Vec<String>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        let proxy = (self.proxy.host_str(), self.proxy.port_or_known_default());
        f.debug_struct("Upstream").field("proxy", &proxy).field("no_proxy", &self.no_proxy).finish()
    }
}

impl Upstream {
    /// Reads the usual variables: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, in either case; none set means none.
    pub fn from_env(env: &BTreeMap<String, String>) -> io::Result<Option<Self>> {
        let get = |names: &[&str]| names.iter().find_map(|n| env.get(*n).filter(|v| !v.trim().is_empty()));
        let Some(text) = get(&["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
        else {
            return Ok(None);
        };
        let text = if text.contains("://") { text.clone() } else { format!("http://{text}") };
        let no_proxy = get(&["NO_PROXY", "no_proxy"]).map_or("", String::as_str);
        let no_proxy = no_proxy.split([',', ' ']).filter(|s| !s.is_empty()).map(str::to_lowercase).collect();
        let proxy = Url::parse(&text).ok().filter(|url| url.scheme() == "http" && url.has_host());
        match proxy {
            Some(proxy) => Ok(Some(Self { proxy, no_proxy })),
            // The value is not repeated: it may hold a password.
            None => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the host's proxy variable is not a URL of the form http://host:port",
            )),
        }
    }

    /// True where the way goes through the proxy.
    pub(crate) fn takes(&self, host: &Host) -> bool {
        let name = host.to_string();
        let direct = |entry: &String| {
            let entry = entry.trim_start_matches("*.").trim_start_matches('.');
            let entry = entry.rsplit_once(':').map_or(entry, |(host, _)| if host.contains(':') { entry } else { host });
            entry == "*" || name == entry || name.strip_suffix(entry).is_some_and(|left| left.ends_with('.'))
        };
        !self.no_proxy.iter().any(direct)
    }

    /// A plain connection with the proxy.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let host = self.proxy.host_str().unwrap_or_default().trim_matches(['[', ']']);
        TcpStream::connect((host, self.proxy.port_or_known_default().unwrap_or(80))).await
    }

    /// The header that the proxy wants, where its URL has a user.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        if self.proxy.username().is_empty() {
            return None;
        }
        let plain = |text: &str| percent_decode(text);
        let pair = [
            plain(self.proxy.username()).as_slice(),
            b":",
            plain(self.proxy.password().unwrap_or_default()).as_slice(),
        ]
        .concat();
        let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// A connection with a host, through the proxy.
    pub(crate) async fn tunnel(&self, host: &Host, port: u16) -> io::Result<TokioIo<hyper::upgrade::Upgraded>> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await?))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection.with_upgrades()); // Ends with either side of the tunnel.
        let target = format!("{host}:{port}");
        let mut request = Request::builder().method(Method::CONNECT).uri(&target).header(header::HOST, &target);
        if let Some(value) = self.authorization() {
            request = request.header(header::PROXY_AUTHORIZATION, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        if response.status() != StatusCode::OK {
            return Err(io::Error::other(format!("the host's own proxy answered {}", response.status())));
        }
        Ok(TokioIo::new(hyper::upgrade::on(response).await.map_err(io::Error::other)?))
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    // `form_urlencoded` would be shorter and turn `+` into a space.
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if first == b'%' => {
                plain.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn upstream(no_proxy: &str) -> Upstream {
        let env = [("https_proxy", "user:p%40ss@proxy.example:3128"), ("NO_PROXY", no_proxy)];
        Upstream::from_env(&env.map(|(k, v)| (k.to_string(), v.to_string())).into()).unwrap().unwrap()
    }

    #[test]
    fn no_proxy_names_a_host_and_all_below_it() {
        let upstream = upstream("example.com, .internal,10.0.0.1");
        let takes = |host: &str| upstream.takes(&Host::parse(host).unwrap());
        assert!(!takes("example.com") && !takes("a.example.com") && !takes("x.internal") && !takes("10.0.0.1"));
        assert!(takes("notexample.com") && takes("10.0.0.11"));
    }

    #[test]
    fn the_password_is_sent_decoded_and_never_printed() {
        let upstream = upstream("");
        assert_eq!(
            upstream.authorization().unwrap().to_str().unwrap(),
            format!("Basic {}", STANDARD.encode("user:p@ss"))
        );
        assert!(!format!("{upstream:?}").contains("ss"), "{upstream:?}");
    }
}
