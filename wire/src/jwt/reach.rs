//! Which addresses keys are fetched from: what an operator writes must not reach past the network's edge into the machine
//! itself or the platform's metadata.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Says whom keys may be fetched from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Other machines only.
    Others,
    /// This machine, too: for tests, whose issuers are on loopback.
    Loopback,
}

impl Reach {
    /// Says whether keys may be fetched from `address`.
    #[must_use]
    pub fn allows(self, address: IpAddr) -> bool {
        let address = plain(address);
        if self == Self::Loopback && address.is_loopback() {
            return true;
        }
        match address {
            IpAddr::V4(address) => {
                !(address.is_unspecified()
                    || address.octets()[0] == 0
                    || address.is_loopback()
                    || address.is_link_local()
                    || address.is_multicast()
                    || address.is_broadcast()
                    || METADATA_V4.contains(&address))
            }
            IpAddr::V6(address) => {
                !(address.is_unspecified()
                    || address.is_loopback()
                    || address.is_unicast_link_local()
                    || address.is_multicast()
                    || METADATA_V6.contains(&address))
            }
        }
    }
}

/// Metadata services that are not on link-local addresses: of Alibaba Cloud, Azure's wire server, and of EC2 and GCE.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Takes an IPv4 address out of the forms of IPv6 that carry one: mapped, compatible, NAT64 and 6to4.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let pair = |high: u16, low: u16| {
        let [w, x] = high.to_be_bytes();
        let [y, z] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(w, x, y, z))
    };
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => pair(g, h),
        (0, 0, 0, 0, 0, 0) if v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED => pair(g, h),
        (0x2002, ..) => pair(b, c),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a9_keys_are_never_fetched_from_this_machine_or_a_metadata_service() {
        for refused in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
        ] {
            assert!(!Reach::Others.allows(refused.parse().unwrap()), "{refused}");
        }
        for allowed in ["10.0.0.1", "192.168.1.1", "203.0.113.7", "2001:db8::1", "fd12::1", "::ffff:10.0.0.1"] {
            assert!(Reach::Others.allows(allowed.parse().unwrap()), "{allowed}");
        }
        assert!(Reach::Loopback.allows("127.0.0.1".parse().unwrap()));
        assert!(!Reach::Loopback.allows("169.254.169.254".parse().unwrap()));
    }
}
