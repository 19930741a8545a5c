//! Which addresses belong to the public internet. Everything else is refused, whatever name led there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// True for an address that a stranger's packet could reach; private, shared, special and translated ranges are not.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// True for an address that not even an exception opens: cloud metadata, multicast, broadcast, and no address at all.
pub fn is_never_reachable(address: IpAddr) -> bool {
    let address = address.to_canonical();
    const METADATA: [IpAddr; 5] = [
        IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
        IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
        IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
        IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    ];
    METADATA.contains(&address)
        || address.is_unspecified()
        || address.is_multicast()
        || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The ranges for examples in documents are let through: nothing private is there, and test networks use them as their outside.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match a {
        0 | 10 | 127 | 224..=255 => true, // this network, private, loopback, multicast and reserved
        100 => (64..128).contains(&b),    // shared by carriers
        169 => b == 254,                  // link-local and metadata
        172 => (16..32).contains(&b),     // private
        192 => matches!((b, c), (0, 0) | (88, 99) | (168, _)), // protocol assignments, 6to4 relay, private
        198 => matches!(b, 18 | 19),      // benchmarks
        _ => address == Ipv4Addr::new(168, 63, 129, 16), // Azure answers its virtual machines here
    };
    !special
}

/// Only 2000::/3 is handed out; what lies outside includes mapped, NAT64, private, link-local and multicast addresses.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let global = a & 0xe000 == 0x2000;
    let special = match a {
        0x2001 => b < 0x0200 || b == 0x0db8, // Teredo, ORCHID and other protocol assignments; example
        0x2002 => true,                      // 6to4 carries an IPv4 address
        0x3fff => b < 0x1000,                // example
        _ => false,
    };
    global && !special
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn special_ranges_are_not_public() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:808:808::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "5f00::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn neighbours_of_special_ranges_are_public() {
        for text in [
            "1.1.1.1",
            "192.0.2.1",
            "198.51.100.1",
            "9.255.255.255",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "169.253.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "198.17.1.1",
            "198.20.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2a00::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn metadata_stays_shut_in_its_mapped_form_too() {
        assert!(is_never_reachable("::ffff:169.254.169.254".parse().unwrap()));
        assert!(is_never_reachable("fd00:ec2::254".parse().unwrap()));
        assert!(!is_never_reachable("127.0.0.1".parse().unwrap()));
    }
}
