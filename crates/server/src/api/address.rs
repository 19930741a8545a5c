//! Where a request comes from, and how many requests one address may send, whoever it says it is.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, request::Parts},
};

use super::limits::Standing;
use crate::{App, Config};

/// Windows of addresses, in milliseconds.
pub const PERIOD_MS: i64 = 30_000;
/// With more addresses than this those whose window is over are forgotten.
const MANY: usize = 50_000;

/// The address of a request's client.
pub struct Address(pub IpAddr);

impl FromRequestParts<Arc<App>> for Address {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        let address = of(&app.config, &parts.headers, &parts.extensions);
        Ok(Self(address.unwrap_or(IpAddr::from([0, 0, 0, 0]))))
    }
}

/// The address of a request's client: its connection's, or what a trusted proxy says. None where there is no connection.
pub fn of(config: &Config, headers: &HeaderMap, extensions: &http::Extensions) -> Option<IpAddr> {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip().to_canonical();
    if !config.trusts(peer) {
        return Some(peer);
    }
    // Each proxy adds at the end whom it heard; what is before the first that is not ours, anyone may have written.
    let named = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let mut named: Vec<&str> = named.flat_map(|value| value.split(',')).map(str::trim).collect();
    let mut nearest = peer;
    while let Some(address) = named.pop().and_then(parse) {
        nearest = address;
        if !config.trusts(address) {
            break;
        }
    }
    Some(nearest)
}

/// An address as proxies write it, perhaps with a port.
fn parse(text: &str) -> Option<IpAddr> {
    let plain = text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    plain.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip())).map(|address| address.to_canonical())
}

/// Requests of each address in its window, of this server alone.
#[derive(Default)]
pub struct Ceiling(Mutex<HashMap<IpAddr, (i64, u64)>>);

impl Ceiling {
    /// Counts a request; the error says how many seconds to wait. A ceiling of 0 is none.
    pub fn take(&self, address: IpAddr, ceiling: u64, now: i64) -> Result<(), (Standing, u64)> {
        if ceiling == 0 {
            return Ok(());
        }
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |started_at: i64| !(0..PERIOD_MS).contains(&(now - started_at));
        if windows.len() > MANY {
            windows.retain(|_, (started_at, _)| !is_over(*started_at));
            if windows.len() > MANY {
                // So many at once are an attack by many machines, which no ceiling of one holds up; memory must.
                windows.clear();
            }
        }
        let (started_at, requests) = windows.entry(network(address)).or_insert((now, 0));
        if is_over(*started_at) {
            (*started_at, *requests) = (now, 0);
        }
        if *requests >= ceiling {
            let ends_at = *started_at + PERIOD_MS;
            let seconds = (ends_at - now).max(1).cast_unsigned().div_ceil(1000);
            return Err((Standing::used_up(i64::try_from(ceiling).unwrap_or(i64::MAX), ends_at), seconds));
        }
        *requests += 1;
        Ok(())
    }
}

/// What one client has: an IPv4 address, or the 64 bits of IPv6 that a connection comes with.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn client(trusted: &str, peer: &str, forwarded: &[&str]) -> IpAddr {
        let dir = std::path::Path::new("/nowhere");
        let mut config = Config::defaults(dir);
        config.trusted_proxies = trusted.split_whitespace().map(|net| net.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let mut extensions = http::Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 4000)));
        of(&config, &headers, &extensions).unwrap()
    }

    #[test]
    fn only_trusted_proxies_say_where_a_request_comes_from() {
        let expected = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(client("", "10.0.0.9", &["1.2.3.4"]), expected("10.0.0.9"));
        assert_eq!(client("10.0.0.0/8", "10.0.0.9", &["1.2.3.4"]), expected("1.2.3.4"));
        assert_eq!(client("10.0.0.0/8", "::ffff:10.0.0.9", &["1.2.3.4"]), expected("1.2.3.4"));
        // What the client itself wrote comes first and is not believed.
        assert_eq!(client("10.0.0.0/8", "10.0.0.9", &["9.9.9.9", "1.2.3.4, 10.0.0.7"]), expected("1.2.3.4"));
        assert_eq!(client("10.0.0.0/8", "10.0.0.9", &["1.2.3.4, nonsense"]), expected("10.0.0.9"));
        assert_eq!(client("10.0.0.0/8", "10.0.0.9", &["[2001:db8::1]:443"]), expected("2001:db8::1"));
        assert_eq!(client("10.0.0.0/8", "10.0.0.9", &[]), expected("10.0.0.9"));
    }

    #[test]
    fn an_address_is_refused_at_its_ceiling_and_answered_again_in_its_next_window() {
        let ceiling = Ceiling::default();
        let (one, two) = ("1.2.3.4".parse().unwrap(), "1.2.3.5".parse().unwrap());
        for _ in 0..3 {
            ceiling.take(one, 3, 1000).unwrap();
        }
        assert_eq!(ceiling.take(one, 3, 1000 + 29_999).unwrap_err().1, 1);
        assert_eq!(ceiling.take(one, 3, 1000).unwrap_err().1, 30);
        ceiling.take(two, 3, 1000).unwrap();
        ceiling.take(one, 3, 31_000).unwrap();
        ceiling.take(one, 0, 31_000).unwrap();
    }

    #[test]
    fn an_ipv6_client_cannot_change_its_address_within_its_network() {
        let ceiling = Ceiling::default();
        ceiling.take("2001:db8::1".parse().unwrap(), 1, 0).unwrap();
        assert!(ceiling.take("2001:db8::2".parse().unwrap(), 1, 0).is_err());
        ceiling.take("2001:db8:0:1::1".parse().unwrap(), 1, 0).unwrap();
    }
}
