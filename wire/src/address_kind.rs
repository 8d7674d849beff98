//! What kind of address one is, so that nobody is sent to where a machine or its platform keeps its secrets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Tells addresses apart by who may be there. What may be dialled, each caller says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// Any machine's.
    Ordinary,
    /// This machine's own.
    Loopback,
    /// Nobody's: it stands for all of a machine's addresses, or for its network.
    Nobodys,
    /// Of one link only, where platforms keep what they tell and entrust to machines.
    LinkLocal,
    /// Where platforms do the same beyond the link.
    Metadata,
    /// Of a group of machines.
    Group,
}

/// Alibaba Cloud's metadata service, and Azure's wire server.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];

/// The metadata services of EC2 and of GCE.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

impl AddressKind {
    /// Returns the kind of an address, however it is written.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let address = plain(address);
        let is_metadata = match address {
            IpAddr::V4(v4) => METADATA_V4.contains(&v4),
            IpAddr::V6(v6) => METADATA_V6.contains(&v6),
        };
        let is_link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let (is_network, is_broadcast) = match address {
            IpAddr::V4(v4) => (v4.octets()[0] == 0, v4.is_broadcast()),
            IpAddr::V6(_) => (false, false),
        };
        if address.is_loopback() {
            Self::Loopback
        } else if address.is_unspecified() || is_network {
            Self::Nobodys
        } else if is_metadata {
            Self::Metadata
        } else if is_link_local {
            Self::LinkLocal
        } else if address.is_multicast() || is_broadcast {
            Self::Group
        } else {
            Self::Ordinary
        }
    }
}

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
    fn a9_l8_an_address_is_of_one_kind_however_it_is_written() {
        for (kind, addresses) in [
            (AddressKind::Loopback, &["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"][..]),
            (AddressKind::Nobodys, &["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"]),
            (
                AddressKind::LinkLocal,
                &[
                    "169.254.169.254",
                    "169.254.170.2",
                    "::ffff:169.254.169.254",
                    "::ffff:a9fe:a9fe",
                    "::169.254.169.254",
                    "64:ff9b::169.254.169.254",
                    "2002:a9fe:a9fe::1",
                    "fe80::1",
                    "febf::1",
                ],
            ),
            (
                AddressKind::Metadata,
                &["100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254", "64:ff9b::168.63.129.16"],
            ),
            (AddressKind::Group, &["224.0.0.1", "255.255.255.255", "ff02::1", "::ffff:224.0.0.1"]),
            (
                AddressKind::Ordinary,
                &["10.0.0.1", "192.168.1.1", "203.0.113.7", "2001:db8::1", "fd12::1", "::ffff:10.0.0.1"],
            ),
        ] {
            for address in addresses {
                assert_eq!(AddressKind::of(address.parse().unwrap()), kind, "{address}");
            }
        }
    }
}
