//! Which ports the listeners of upstreams, and those for redirected connections, may take.
//!
//! An upstream's listener on a port that an application binds, before or after, takes calls that were meant for the
//! application, or keeps it from starting. Two services with one port for redirected connections would be one caller. So such
//! a clash is refused before anything listens, naming both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use catalog::ServiceKey;
use wire::defaults::OUTBOUND_PORT;

use super::{Definition, LocalError};
use crate::loopback::LOOPBACK;

/// Where the agent itself listens, with the names of its listeners.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserved {
    pub(crate) listeners: Vec<(IpAddr, u16, &'static str)>,
}

/// The ports for redirected connections that services were given which name none. A service keeps its port, for rules of the
/// kernel lead there.
#[derive(Clone, Debug, Default)]
pub(super) struct Given(pub(super) BTreeMap<ServiceKey, u16>);

impl Given {
    /// Returns the port at which a service takes redirected connections.
    pub(super) fn port_of(&self, definition: &Definition) -> Option<u16> {
        let given = || self.0.get(&definition.instance.service_key()).copied();
        definition.outbound_port.or_else(given).filter(|_| definition.redirected)
    }

    /// Gives a port to every service that is redirected and has none, and takes those back that only services had which are
    /// here no more, where others have them now; reports whether that changed anything.
    pub(super) fn give<'a>(
        &mut self,
        definitions: impl Iterator<Item = &'a Definition> + Clone,
        reserved: &Reserved,
    ) -> bool {
        let before = self.0.clone();
        let taken = taken(definitions.clone(), reserved);
        let redirected = definitions.filter(|definition| definition.redirected);
        let named: BTreeSet<u16> = redirected.clone().filter_map(|definition| definition.outbound_port).collect();
        let here: BTreeSet<ServiceKey> = redirected.clone().map(|it| it.instance.service_key()).collect();
        self.0.retain(|service, port| here.contains(service) || !named.contains(port));
        let wanting = redirected.filter(|definition| definition.outbound_port.is_none());
        for service in wanting.map(|definition| definition.instance.service_key()) {
            if self.0.contains_key(&service) {
                continue;
            }
            let is_given = |port: &u16| named.contains(port) || self.0.values().any(|given| given == port);
            let mut free = (OUTBOUND_PORT..=u16::MAX).filter(|port| !is_given(port));
            if let Some(port) = free.find(|port| other_at_loopback(&taken, *port).is_none()) {
                self.0.insert(service, port);
            }
        }
        self.0 != before
    }
}

/// What listens on a port, by port.
type Taken = BTreeMap<u16, Vec<(IpAddr, String)>>;

/// Refuses listeners that meet ports of applications, of each other or of the agent.
pub(super) fn check<'a>(
    definitions: impl Iterator<Item = &'a Definition> + Clone,
    reserved: &Reserved,
    given: &Given,
) -> Result<(), LocalError> {
    let mut taken = ports_of_others(definitions.clone(), reserved);
    let mut outbound: BTreeMap<u16, ServiceKey> = BTreeMap::new();
    for definition in definitions.clone() {
        let Some(port) = given.port_of(definition) else { continue };
        let service = definition.instance.service_key();
        // Instances of one service are one caller.
        if outbound.get(&port) == Some(&service) {
            continue;
        }
        if let Some(other) = other_at_loopback(&taken, port) {
            let (owner, other) = (definition.instance.key.id.clone(), other.to_owned());
            return Err(LocalError::OutboundTaken { owner, port, other });
        }
        let name = format!("the port for redirected connections of `{service}`");
        taken.entry(port).or_default().extend(LOOPBACK.map(|address| (address, name.clone())));
        outbound.insert(port, service);
    }
    for definition in definitions {
        // One that has no port of its own is judged once it is known where it goes.
        let placed = definition.upstreams.iter().filter_map(|upstream| Some((upstream, upstream.address?)));
        for (upstream, wanted) in placed {
            let (address, port) = (wanted.ip(), wanted.port());
            let here = taken.entry(port).or_default();
            if let Some((_, other)) = here.iter().find(|(other, _)| meets(address, *other)) {
                return Err(LocalError::PortTaken {
                    owner: definition.instance.key.id.clone(),
                    destination: upstream.destination.clone(),
                    address: wanted,
                    other: other.clone(),
                });
            }
            let name = format!("the upstream `{}` of `{}`", upstream.destination, definition.instance.key.id);
            here.push((address, name));
        }
    }
    Ok(())
}

/// Returns the ports of applications and of the agent itself.
fn ports_of_others<'a>(definitions: impl Iterator<Item = &'a Definition>, reserved: &Reserved) -> Taken {
    let mut taken = Taken::new();
    for (address, port, name) in &reserved.listeners {
        taken.entry(*port).or_default().push((*address, format!("the agent's {name}")));
    }
    for (port, name) in definitions.flat_map(application_ports) {
        // Which of the machine's addresses an application binds is not known, so it is taken to bind all.
        taken.entry(port).or_default().push((IpAddr::V4(Ipv4Addr::UNSPECIFIED), name));
    }
    taken
}

/// Returns the ports of applications, of the agent itself and of the upstreams that name theirs.
fn taken<'a>(definitions: impl Iterator<Item = &'a Definition> + Clone, reserved: &Reserved) -> Taken {
    let mut taken = ports_of_others(definitions.clone(), reserved);
    for address in definitions.flat_map(|definition| &definition.upstreams).filter_map(|upstream| upstream.address) {
        taken.entry(address.port()).or_default().push((address.ip(), "an upstream".to_owned()));
    }
    taken
}

/// Names what keeps a port from being listened on where redirected connections are taken.
fn other_at_loopback(taken: &Taken, port: u16) -> Option<&str> {
    let mut here = taken.get(&port).into_iter().flatten();
    let meeting = here.find(|(other, _)| LOOPBACK.iter().any(|own| meets(*own, *other)));
    meeting.map(|(_, name)| name.as_str())
}

/// Returns the ports that a service's application binds, with what each is.
pub(crate) fn application_ports(definition: &Definition) -> impl Iterator<Item = (u16, String)> + '_ {
    let instance = &definition.instance;
    let unnamed = (instance.port != 0).then(|| (instance.port, format!("the service `{}` itself", instance.key.id)));
    let named = instance.ports.iter();
    let named = named.map(|(name, port)| (*port, format!("port `{name}` of the service `{}`", instance.key.id)));
    unnamed.into_iter().chain(named)
}

/// Whether two sockets of one port cannot both listen; an unspecified address is every address.
fn meets(left: IpAddr, right: IpAddr) -> bool {
    left == right || left.is_unspecified() || right.is_unspecified()
}
