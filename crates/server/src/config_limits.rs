//! Settings of what one client may ask of the server.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Config,
    table::{Setting, plain, whole},
};

impl Config {
    /// Whether an address is a reverse proxy of ours.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&address))
    }
}

pub(super) const PROXIES: Setting = plain(
    "trusted_proxies",
    "Addresses or networks of reverse proxies, whose `X-Forwarded-For` says where a request came from; a list, or separated by commas.",
    "none",
    |c| {
        let nets: Vec<String> = c.trusted_proxies.iter().map(ToString::to_string).collect();
        (!nets.is_empty()).then(|| nets.join(","))
    },
    |c, v| {
        let net = |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let items = v.split(',').map(str::trim).filter(|item| !item.is_empty());
        let nets: Option<_> = items.map(net).collect();
        c.trusted_proxies = nets.ok_or("must be addresses or networks, such as 10.0.0.0/8")?;
        Ok(())
    },
);

pub(super) const ADDRESS: Setting = plain(
    "address_limit",
    "Requests that one address (of IPv6 a /64 network) may send to a server in 30 seconds, with whichever token; 0 for no limit.",
    "`3000`",
    |c| Some(c.address_limit.to_string()),
    |c, v| whole(&mut c.address_limit, v),
);
