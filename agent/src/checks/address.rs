//! Which addresses a health check may not reach.
//!
//! A check is registered over the API and then made by the agent, with the agent's network position. Where a platform
//! hands out credentials to whoever asks from the machine, a check must not be the one that asks.

use std::net::IpAddr;

use wire::AddressKind;

/// Returns why a check must not be made to `address`, or nothing when it may.
pub(super) fn forbidden(address: IpAddr) -> Option<&'static str> {
    match AddressKind::of(address) {
        AddressKind::Ordinary | AddressKind::Loopback | AddressKind::Nobodys => None,
        AddressKind::LinkLocal => Some("link-local addresses are not checked"),
        AddressKind::Metadata => Some("metadata services are not checked"),
        AddressKind::Group => Some("a group of machines cannot be checked"),
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
            "fd20:ce::254",
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
