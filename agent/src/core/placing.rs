//! Where the listener of an upstream goes that has no port of its own: to the address that stands for the service.
//!
//! Nothing can be redirected in a container without rights. So each service has an address of loopback's that is its own on
//! every machine, and is called there on the port that it would have been called on without a mesh.

use std::net::{IpAddr, SocketAddr};

use catalog::{ServiceKey, Topic};

use super::Core;
use super::publish::{config_entries, endpoints, number_of};
use crate::local::{Definition, LocalUpstream, application_ports};
use crate::proxy::UpstreamListener;

/// Where services that speak HTTP are called.
const HTTP_PORT: u16 = 80;

/// Is an upstream that has no listener, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unplaced {
    pub(crate) owner: ServiceKey,
    pub(crate) destination: ServiceKey,
    pub(crate) reason: String,
}

impl Core {
    /// Returns the listeners of all upstreams, and those upstreams that have no place.
    pub(super) fn placed(&self) -> (Vec<UpstreamListener>, Vec<Unplaced>) {
        let (mut listeners, mut unplaced) = (Vec::new(), Vec::new());
        for service in self.local.services() {
            let owner = service.instance.service_key();
            for upstream in &service.upstreams {
                let destination = upstream.destination.clone();
                match self.place(upstream) {
                    Ok(address) => {
                        listeners.push(UpstreamListener {
                            owner: owner.clone(),
                            destination,
                            address,
                            user: service.user,
                        });
                    }
                    Err(reason) => unplaced.push(Unplaced { owner: owner.clone(), destination, reason }),
                }
            }
        }
        (listeners, unplaced)
    }

    fn place(&self, upstream: &LocalUpstream) -> Result<SocketAddr, String> {
        if let Some(address) = upstream.address {
            return Ok(address);
        }
        let (view, destination) = (self.sync.view(), &upstream.destination);
        let state = view.get(&Topic::Endpoints(destination.clone()));
        let number = state.and_then(|state| number_of(state));
        let number = number.ok_or("no server has said yet which address stands for it")?;
        let read = view.get(&Topic::Config(destination.clone())).ok_or("no server has said yet how it is read")?;
        let port = if config_entries(read).protocol_of(destination).is_http() {
            HTTP_PORT
        } else {
            let known = state.map(|state| endpoints(state)).unwrap_or_default();
            let ports = known.iter().map(|endpoint| endpoint.port).filter(|port| *port != 0);
            ports.min().ok_or("no instance says which port it has: name one with `local_bind_port`")?
        };
        let address = SocketAddr::new(IpAddr::V4(number.loopback()), port);
        match self.local.services().find_map(|service| clashing(service, port)) {
            None => Ok(address),
            Some(other) => Err(format!(
                "its listener would be at {address}, and port {port} is {other}, which may bind every address: give the \
                 upstream another `local_bind_port`"
            )),
        }
    }
}

fn clashing(service: &Definition, port: u16) -> Option<String> {
    application_ports(service).find(|(taken, _)| *taken == port).map(|(_, name)| name)
}
