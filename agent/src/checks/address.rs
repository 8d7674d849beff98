//! Which addresses a health check may not reach.
//!
//! A check is registered over the API and then made by the agent, with the agent's network position. Where a platform
//! hands out credentials to whoever asks from the machine, a check must not be the one that asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Returns why a check must not be made to `address`, or nothing when it may.
pub(super) fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => forbidden_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => forbidden_v4(inner),
            None => forbidden_v6(address),
        },
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    /// Alibaba Cloud and Azure serve metadata and credentials outside the link-local range.
    const METADATA: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
    if address.is_link_local() {
        Some("link-local addresses are not checked")
    } else if METADATA.contains(&address) {
        Some("metadata services are not checked")
    } else if address.is_broadcast() || address.is_multicast() {
        Some("a group of machines cannot be checked")
    } else {
        None
    }
}

fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    /// The instance metadata service of EC2.
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);
    if address.is_unicast_link_local() {
        Some("link-local addresses are not checked")
    } else if address == METADATA {
        Some("metadata services are not checked")
    } else if address.is_multicast() {
        Some("a group of machines cannot be checked")
    } else {
        None
    }
}

/// Returns the IPv4 address that `address` is another spelling of: mapped, compatible, NAT64 or 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    let at = |start: usize| {
        let four: [u8; 4] = octets.get(start..start + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(four))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => at(12),
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => at(12),
        [0x2002, ..] => at(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a9_metadata_and_link_local_are_refused_in_every_spelling() {
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "255.255.255.255",
            "224.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:a9fe:a9fe",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "ff02::1",
        ] {
            assert!(forbidden(address.parse().unwrap()).is_some(), "{address}");
        }
    }

    #[test]
    fn an_app_beside_the_agent_or_on_its_network_may_be_checked() {
        for address in
            ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.5", "192.168.1.1", "fd00::5", "2001:db8::1", "::"]
        {
            assert_eq!(forbidden(address.parse().unwrap()), None, "{address}");
        }
    }
}
