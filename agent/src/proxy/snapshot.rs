//! What the proxy knows of the mesh: one immutable value, taken at accept and swapped whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use catalog::{
    AddressNumber, CatalogIndex, Endpoint, Gateway, IdentityScheme, InstanceKey, KeyExchange, MtlsModes, Policy,
    Protocol, RateLimits, Routes, ServiceKey, SpiffeId, Target, TargetKey, TokenProvider, UpstreamSettings,
};
use wire::tls::{PeerIdentity, TlsIdentity, TrustAnchors};

use super::distrust::Distrust;

/// The name under which a tunnel asks for an instance's unnamed port.
pub const DEFAULT_PORT_NAME: &str = "default";

/// Is everything that the proxy decides by.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The flat address space that this agent is in; endpoints of another are reached through a gateway, or not at all.
    pub network: String,
    /// The failure zone of this agent's node.
    pub zone: Option<String>,
    /// How identities and server names of the mesh are built and read.
    pub scheme: IdentityScheme,
    /// The roots that peers must chain to.
    pub anchors: Arc<TrustAnchors>,
    /// The leaf of each local service. One without an entry neither answers nor calls.
    pub identities: BTreeMap<ServiceKey, Arc<TlsIdentity>>,
    /// The rules for each local service. One without an entry is undecidable: every call to it is refused.
    pub policies: BTreeMap<ServiceKey, Policy>,
    /// The providers of the tokens that the rules for each local service ask for.
    pub providers: BTreeMap<ServiceKey, Vec<Arc<TokenProvider>>>,
    /// The certificates that are trusted no longer.
    pub revocations: Revocations,
    /// The weakest key exchange that connections of the mesh may have.
    pub min_key_exchange: KeyExchange,
    /// The instances of each service that some local service calls.
    pub endpoints: BTreeMap<ServiceKey, Vec<Endpoint>>,
    /// The ways into other networks.
    pub gateways: Vec<Gateway>,
    /// The instances that this agent stands beside; no list is empty.
    pub locals: BTreeMap<ServiceKey, Vec<LocalInstance>>,
    /// How the bytes of each local service and of each that is called are read; `tcp` without an entry.
    pub protocols: BTreeMap<ServiceKey, Protocol>,
    /// Where calls go to each service that some local service calls; to its own instances without an entry.
    pub routes: BTreeMap<ServiceKey, Arc<Routes>>,
    /// The instances of each subset that these lead to.
    pub subsets: BTreeMap<TargetKey, Vec<Endpoint>>,
    /// What local services say of their calls, by who calls whom; nothing without an entry.
    pub settings: BTreeMap<(ServiceKey, ServiceKey), UpstreamSettings>,
    /// How many requests local services take; any number without an entry.
    pub rate_limits: BTreeMap<ServiceKey, RateLimits>,
    /// The services outside the mesh that are called, each with its rules: there nobody else holds callers to them.
    pub external: BTreeMap<ServiceKey, Policy>,
    /// The loopback listeners to hold open. Of several with one address only the first is.
    pub upstreams: Vec<UpstreamListener>,
    /// The ports of the listeners for redirected connections, with the service whose these are.
    pub outbound: BTreeMap<u16, ServiceKey>,
    /// The services that these may be for, by number.
    pub numbered: BTreeMap<AddressNumber, ServiceKey>,
    /// Whether redirected connections go to services of the mesh only.
    pub mesh_destinations_only: bool,
    /// Whom each local service takes, where what comes to it is redirected; strictly without an entry.
    pub modes: BTreeMap<ServiceKey, MtlsModes>,
}

/// Is an instance that this agent stands beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalInstance {
    /// Which instance.
    pub key: InstanceKey,
    /// The address that the catalog gives to callers: the instance's own, or its node's.
    pub advertised_address: String,
    /// The address that its application is dialled at.
    pub local_address: IpAddr,
    /// The port that its application listens on; 0 for none.
    pub port: u16,
    /// Further ports by name.
    pub ports: BTreeMap<String, u16>,
    /// Whether each connection to its application begins with a header of the PROXY protocol.
    pub takes_proxy_header: bool,
}

/// Asks for a listener on loopback through which a local service calls another service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamListener {
    /// The service that calls.
    pub owner: ServiceKey,
    /// The service that is called.
    pub destination: ServiceKey,
    /// Where to listen; must be loopback.
    pub address: SocketAddr,
    /// The number of the user whose processes alone are taken; none where all are.
    pub user: Option<u32>,
}

/// Names the certificates that are trusted no longer.
#[derive(Debug, Clone, Default)]
pub struct Revocations {
    /// The indexes at which revoked agents were enrolled: serials that start with one are refused.
    pub records: BTreeSet<CatalogIndex>,
    /// Revoked services by their identity: serials that start below the index are refused.
    pub services: BTreeMap<SpiffeId, CatalogIndex>,
    /// Judges everybody anew since a root was distrusted on purpose; none while no root was.
    pub distrust: Option<Arc<Distrust>>,
}

/// Says why nobody deals with a peer any more, whatever the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// Its certificate is revoked, or no root that is left vouches for it.
    #[error("the certificate is revoked")]
    Revoked,
    /// The keys of its connection were agreed on in a weaker way than the mesh asks for.
    #[error("the connection's keys were agreed on by a classical exchange alone, and the mesh asks for a hybrid one")]
    KeyExchange,
}

impl Unfit {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::KeyExchange => "key_exchange",
        }
    }
}

impl Snapshot {
    /// Reports why nobody may deal with a peer any more; nothing for one that is fit.
    pub(crate) fn unfit(&self, peer: &PeerIdentity) -> Option<Unfit> {
        if self.revocations.cover(peer) {
            return Some(Unfit::Revoked);
        }
        (peer.key_exchange < self.min_key_exchange).then_some(Unfit::KeyExchange)
    }
}

impl Revocations {
    /// Reports whether what a peer showed is trusted no longer.
    pub fn cover(&self, peer: &PeerIdentity) -> bool {
        self.cover_serial(&peer.id, &peer.serial)
            || self.distrust.as_ref().is_some_and(|distrust| !distrust.vouches_for(peer))
    }

    /// Reports whether a leaf of this agent's own is revoked.
    pub(crate) fn cover_own(&self, own: &TlsIdentity) -> bool {
        self.cover_serial(own.id(), &own.serial())
    }

    /// Reports whether a certificate of this identity and with this serial is revoked.
    fn cover_serial(&self, id: &SpiffeId, serial: &[u8; 16]) -> bool {
        let [a, b, c, d, e, f, g, h, ..] = *serial;
        let enrolled = CatalogIndex(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
        self.records.contains(&enrolled) || self.services.get(id).is_some_and(|below| enrolled < *below)
    }
}

impl Snapshot {
    /// Returns how the bytes of a service are read.
    pub(crate) fn protocol(&self, service: &ServiceKey) -> Protocol {
        self.protocols.get(service).copied().unwrap_or_default()
    }

    /// Reports whether an application wants to be told who calls before it is sent anything.
    pub(crate) fn takes_proxy_header(&self, address: SocketAddr) -> bool {
        let is_there = |local: &LocalInstance| local.local_address == address.ip() && local.has_port(address.port());
        self.locals.values().flatten().any(|local| local.takes_proxy_header && is_there(local))
    }

    /// Returns the rules that decisions about a service are counted by.
    pub(crate) fn rules_for(&self, service: &ServiceKey) -> Option<&Policy> {
        self.policies.get(service).or_else(|| self.external.get(service))
    }

    /// Returns where calls to a service go.
    pub(crate) fn routes(&self, service: &ServiceKey) -> Arc<Routes> {
        let plain = || Arc::new(Routes::plain(service.clone(), self.protocol(service)));
        self.routes.get(service).map_or_else(plain, Arc::clone)
    }

    /// Returns what a service says of its calls to another.
    pub(crate) fn settings(&self, source: &ServiceKey, destination: &ServiceKey) -> UpstreamSettings {
        self.settings.get(&(source.clone(), destination.clone())).cloned().unwrap_or_default()
    }

    /// Returns the instances of what calls end at.
    pub(crate) fn instances(&self, target: &Target) -> &[Endpoint] {
        let instances =
            if target.is_whole() { self.endpoints.get(&target.key.service) } else { self.subsets.get(&target.key) };
        instances.map(Vec::as_slice).unwrap_or_default()
    }
}

/// Reports whether both are the same certificate, wherever it was read from.
pub(crate) fn is_same_leaf(one: &TlsIdentity, other: &TlsIdentity) -> bool {
    one.certified_key().cert.first() == other.certified_key().cert.first()
}

impl LocalInstance {
    /// Returns the port that a name stands for.
    pub(crate) fn port_named(&self, name: &str) -> Option<u16> {
        let default = (name == DEFAULT_PORT_NAME && self.port != 0).then_some(self.port);
        self.ports.get(name).copied().or(default)
    }

    /// Returns the port of a caller that named none: the unnamed one, or the only one there is.
    pub(crate) fn default_port(&self) -> Option<u16> {
        default_port(self.port, &self.ports)
    }

    /// Reports whether callers were told to find the instance at this address.
    pub(crate) fn is_advertised_at(&self, address: IpAddr) -> bool {
        let advertised = self.advertised_address.parse::<IpAddr>();
        advertised.is_ok_and(|advertised| advertised.to_canonical() == address.to_canonical())
    }

    /// Reports whether the instance has registered this port.
    pub(crate) fn has_port(&self, port: u16) -> bool {
        port != 0 && (self.port == port || self.ports.values().any(|named| *named == port))
    }
}

/// Returns the port of an instance for one who names none: the unnamed one, or the only one there is.
pub(crate) fn default_port(unnamed: u16, named: &BTreeMap<String, u16>) -> Option<u16> {
    match (unnamed, named.len()) {
        (0, 1) => named.values().next().copied(),
        (0, _) => None,
        (port, _) => Some(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c14_a_serial_is_revoked_by_the_index_that_it_starts_with() {
        let records = BTreeSet::from([CatalogIndex(0x0102)]);
        let revocations = Revocations { records, ..Revocations::default() };
        assert!(!revocations.cover_serial(&web(), &serial(0x0707)));
        assert!(revocations.cover_serial(&web(), &serial(0x0102)));
    }

    #[test]
    fn c14_a_services_certificates_are_revoked_below_an_index() {
        let services = BTreeMap::from([(web(), CatalogIndex(9))]);
        let revocations = Revocations { services, ..Revocations::default() };
        assert!(revocations.cover_serial(&web(), &serial(8)));
        assert!(!revocations.cover_serial(&web(), &serial(9)));
        assert!(!revocations.cover_serial(&"spiffe://mesh.example/ns/default/sa/api".parse().unwrap(), &serial(8)));
    }

    fn web() -> SpiffeId {
        "spiffe://mesh.example/ns/default/sa/web".parse().unwrap()
    }

    fn serial(index: u64) -> [u8; 16] {
        let mut serial = [7; 16];
        serial[..8].copy_from_slice(&index.to_be_bytes());
        serial
    }

    #[test]
    fn a_caller_that_names_no_port_gets_the_unnamed_one_or_the_only_one() {
        let named = |names: &[&str]| names.iter().zip(9000..).map(|(name, port)| ((*name).to_owned(), port)).collect();
        assert_eq!(default_port(80, &named(&["http", "admin"])), Some(80));
        assert_eq!(default_port(0, &named(&["http"])), Some(9000));
        assert_eq!(default_port(0, &named(&["http", "admin"])), None);
        assert_eq!(default_port(0, &named(&[])), None);
    }
}
