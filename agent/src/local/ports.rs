//! Which ports upstream listeners may take.
//!
//! An upstream's listener on a port that an application binds, before or after, takes calls that were meant for the
//! application, or keeps it from starting. So such a clash is refused before anything listens, naming both.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::{Definition, LocalError};

/// Where the agent itself listens, with the names of its listeners.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserved {
    pub(crate) listeners: Vec<(IpAddr, u16, &'static str)>,
}

/// What listens on a port, by port.
type Taken = BTreeMap<u16, Vec<(IpAddr, String)>>;

/// Refuses upstream listeners that meet ports of applications, of other upstreams or of the agent.
pub(super) fn check<'a>(
    definitions: impl Iterator<Item = &'a Definition> + Clone,
    reserved: &Reserved,
) -> Result<(), LocalError> {
    let mut taken = Taken::new();
    for (address, port, name) in &reserved.listeners {
        taken.entry(*port).or_default().push((*address, format!("the agent's {name}")));
    }
    for definition in definitions.clone() {
        for (port, name) in application_ports(definition) {
            // Which of the machine's addresses an application binds is not known, so it is taken to bind all.
            taken.entry(port).or_default().push((IpAddr::V4(Ipv4Addr::UNSPECIFIED), name));
        }
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
