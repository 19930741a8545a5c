//! However an address is spelled, a private one is not reached.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use crate::fixture::{gateway, open};

/// Every way in which old C libraries read an IPv4 address, the usual one left out.
fn odd_spelling(address: Ipv4Addr, bases: [u8; 4], parts: usize) -> String {
    let number = u32::from(address);
    let spell = |value: u32, base: u8| match base {
        8 => format!("0{value:o}"),
        16 => format!("0x{value:x}"),
        _ => value.to_string(),
    };
    let octets = address.octets().map(u32::from);
    let last = number & (u32::MAX >> (8 * (parts - 1)));
    let mut values: Vec<u32> = octets[..parts - 1].to_vec();
    values.push(last);
    values.iter().zip(bases).map(|(v, base)| spell(*v, base)).collect::<Vec<_>>().join(".")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn odd_spellings_of_an_address_are_refused(
        number in any::<u32>(),
        bases in prop::array::uniform4(prop::sample::select(vec![8u8, 10, 16])),
        parts in 1usize..=4,
        dot in any::<bool>(),
    ) {
        let address = Ipv4Addr::from(number);
        let mut host = odd_spelling(address, bases, parts);
        prop_assume!(host != address.to_string());
        if dot { host.push('.'); }
        let answer = ask(format!("{host}:443"));
        prop_assert!(answer.starts_with("HTTP/1.1 403"), "{}: {}", host, answer);
        prop_assert!(answer.contains("four decimal numbers") || answer.contains("not valid"), "{}: {}", host, answer);
    }

    #[test]
    fn a_private_ipv4_address_is_refused_inside_every_ipv6_form(low in any::<u32>()) {
        let address = Ipv4Addr::from(0x0a00_0000 | (low & 0x00ff_ffff));
        let [a, b, c, d] = address.octets().map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        for form in [
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, high, low, 0, 0, !high, !low),
        ] {
            let answer = ask(format!("[{form}]:443"));
            prop_assert!(answer.starts_with("HTTP/1.1 403"), "{}: {}", form, answer);
        }
    }
}

fn ask(target: String) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { gateway(open()).tunnel(&target).await })
}
