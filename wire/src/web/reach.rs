//! Which addresses are asked for keys and identities: what an operator writes must not reach past the network's edge into the machine
//! itself or the platform's metadata.

use std::net::IpAddr;

use crate::AddressKind;

/// Says who may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Other machines only.
    Others,
    /// This machine, too: for tests, whose issuers are on loopback.
    Loopback,
}

impl Reach {
    /// Says whether `address` may be asked.
    #[must_use]
    pub fn allows(self, address: IpAddr) -> bool {
        match AddressKind::of(address) {
            AddressKind::Ordinary => true,
            AddressKind::Loopback => self == Self::Loopback,
            AddressKind::Nobodys | AddressKind::LinkLocal | AddressKind::Metadata | AddressKind::Group => false,
        }
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
