//! Addresses that the proxy never dials for anybody: its own, and those that are no application's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use arc_swap::ArcSwap;
use wire::AddressKind;

/// Holds where this process listens.
#[derive(Debug)]
pub(crate) struct Forbidden {
    mesh: SocketAddr,
    others: Vec<SocketAddr>,
    /// Those of the others that carry calls: of a gateway, and for load balancers.
    carrying: Vec<SocketAddr>,
    upstreams: ArcSwap<Vec<SocketAddr>>,
    outbound: ArcSwap<Vec<SocketAddr>>,
}

impl Forbidden {
    /// Takes the mesh listener's address, those of the process's other listeners, and which of these carry calls.
    pub(crate) fn new(mesh: SocketAddr, mut others: Vec<SocketAddr>, carrying: Vec<SocketAddr>) -> Self {
        others.extend(&carrying);
        Self { mesh, others, carrying, upstreams: ArcSwap::default(), outbound: ArcSwap::default() }
    }

    /// Replaces the addresses of the upstream listeners.
    pub(crate) fn set_upstreams(&self, upstreams: Vec<SocketAddr>) {
        self.upstreams.store(Arc::new(upstreams));
    }

    /// Replaces the addresses of the listeners for redirected connections.
    pub(crate) fn set_outbound(&self, outbound: Vec<SocketAddr>) {
        self.outbound.store(Arc::new(outbound));
    }

    /// Reports whether an application may be dialled here.
    pub(crate) fn forbids_application(&self, address: SocketAddr) -> bool {
        self.forbids_agent(address) || reaches(address, self.mesh)
    }

    /// Reports whether another agent may not be dialled here. The own mesh listener may: two local services can call
    /// each other. An own upstream listener may not: the call would come back and be made again, without end.
    pub(crate) fn forbids_agent(&self, address: SocketAddr) -> bool {
        is_no_application(address.ip())
            || self.others.iter().any(|own| reaches(address, *own))
            || self.leads_on(address)
            || catalog::AddressNumber::is_virtual(address.ip())
    }

    /// Reports whether a connection to this address would be carried on, as the call of whichever service the listener there
    /// is for. What the agent asks by itself is nobody's call.
    pub(crate) fn leads_on(&self, address: SocketAddr) -> bool {
        let address = SocketAddr::new(connected_to(address.ip()), address.port());
        let (upstreams, outbound) = (self.upstreams.load(), self.outbound.load());
        let mut own = self.carrying.iter().chain(upstreams.iter()).chain(outbound.iter());
        own.any(|own| reaches(address, *own))
    }
}

/// Returns where a connection to an address ends: to nobody's is to this machine itself.
fn connected_to(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

/// Reports whether no application can be at an address: where platforms keep their metadata, a group's, or nobody's.
fn is_no_application(address: IpAddr) -> bool {
    !matches!(AddressKind::of(address), AddressKind::Ordinary | AddressKind::Loopback)
}

/// Reports whether a connection to `address` would reach the own listener at `own`.
fn reaches(address: SocketAddr, own: SocketAddr) -> bool {
    if address.port() != own.port() {
        return false;
    }
    let (address, own) = (address.ip().to_canonical(), own.ip().to_canonical());
    address == own || (own.is_unspecified() && is_of_this_machine(address))
}

/// Reports whether an address is this machine's own: only such can be bound to.
fn is_of_this_machine(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn l8_own_listeners_link_local_and_metadata_addresses_are_not_dialled() {
        let forbidden =
            Forbidden::new(at("0.0.0.0:20000"), vec![at("127.0.0.1:8500"), at("127.0.0.1:19000")], Vec::new());
        forbidden.set_upstreams(vec![at("127.0.0.1:9191")]);
        for address in [
            "127.0.0.1:20000",
            "127.8.8.8:20000",
            "127.0.0.1:8500",
            "127.0.0.1:19000",
            "127.0.0.1:9191",
            "0.0.0.0:80",
            "[::]:80",
            "169.254.169.254:80",
            "[fe80::1]:80",
            "[fd00:ec2::254]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[::ffff:127.0.0.1]:8500",
            "[::ffff:169.254.169.254]:80",
            "[64:ff9b::169.254.169.254]:80",
            "[2002:a9fe:a9fe::1]:80",
            "[fd20:ce::254]:80",
            "100.100.100.200:80",
            "168.63.129.16:80",
        ] {
            assert!(forbidden.forbids_application(at(address)), "{address}");
        }
        for address in ["127.0.0.1:8080", "10.0.0.1:8500", "203.0.113.9:20000", "[::1]:80"] {
            assert!(!forbidden.forbids_application(at(address)), "{address}");
        }
    }

    #[test]
    fn l8_the_own_mesh_listener_may_be_called_and_an_own_upstream_listener_may_not() {
        let forbidden = Forbidden::new(at("127.0.0.1:20000"), Vec::new(), Vec::new());
        forbidden.set_upstreams(vec![at("127.0.0.1:9191")]);
        assert!(!forbidden.forbids_agent(at("127.0.0.1:20000")));
        assert!(forbidden.forbids_agent(at("127.0.0.1:9191")));
    }

    #[test]
    fn l8_what_carries_calls_on_is_known_in_every_spelling() {
        let (others, carrying) = (vec![at("127.0.0.1:8500")], vec![at("0.0.0.0:8443")]);
        let forbidden = Forbidden::new(at("0.0.0.0:20000"), others, carrying);
        forbidden.set_upstreams(vec![at("127.0.0.1:9191"), at("[::1]:9192")]);
        forbidden.set_outbound(vec![at("127.0.0.1:15101")]);
        for address in [
            "127.0.0.1:9191",
            "0.0.0.0:9191",
            "[::ffff:127.0.0.1]:9191",
            "[::ffff:0.0.0.0]:9191",
            "[::1]:9192",
            "[::]:9192",
            "127.0.0.1:15101",
            "127.0.0.1:8443",
            "0.0.0.0:8443",
        ] {
            assert!(forbidden.leads_on(at(address)), "{address}");
            assert!(forbidden.forbids_application(at(address)), "{address}");
        }
        // The agent's own state, and the mesh listener, which lets nobody in without a certificate, may be looked at.
        for address in ["127.0.0.1:8500", "127.0.0.1:20000", "127.0.0.1:8080", "10.0.0.1:9191"] {
            assert!(!forbidden.leads_on(at(address)), "{address}");
        }
    }
}
