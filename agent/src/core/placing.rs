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
use crate::sync::View;

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
        let taken = |port| self.local.services().find_map(|service| clashing(service, port));
        for service in self.local.services() {
            let owner = service.instance.service_key();
            for upstream in &service.upstreams {
                let destination = upstream.destination.clone();
                match place(upstream, self.sync.view(), taken) {
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
}

/// Returns where the listener of an upstream goes by what is known; `taken` says what of this place has a port already.
///
/// # Errors
///
/// Why it goes nowhere yet.
fn place(upstream: &LocalUpstream, view: &View, taken: impl Fn(u16) -> Option<String>) -> Result<SocketAddr, String> {
    if let Some(address) = upstream.address {
        return Ok(address);
    }
    let destination = &upstream.destination;
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
    match taken(port) {
        None => Ok(address),
        Some(other) => Err(format!(
            "its listener would be at {address}, and port {port} is {other}, which may bind every address: give the \
             upstream another `local_bind_port`"
        )),
    }
}

fn clashing(service: &Definition, port: u16) -> Option<String> {
    application_ports(service).find(|(taken, _)| *taken == port).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use catalog::{
        AddressNumber, CatalogIndex, CheckStatus, ConfigContent, ConfigEntry, Endpoint, InstanceKey, Item, Platform,
        Protocol, ServiceDefaults, Weights,
    };

    use super::*;
    use crate::sync::TopicState;

    fn db() -> ServiceKey {
        "db".parse().unwrap()
    }

    fn state(items: impl IntoIterator<Item = (String, Item)>) -> Arc<TopicState> {
        Arc::new(TopicState { index: CatalogIndex(1), items: items.into_iter().collect() })
    }

    fn instance(port: u16) -> (String, Item) {
        let id = format!("db-{port}").parse().unwrap();
        let key = InstanceKey { node: "db-1".parse().unwrap(), namespace: db().namespace, id };
        let endpoint = Endpoint {
            key: key.clone(),
            address: "10.0.0.7".to_owned(),
            mesh_port: Some(20000),
            port,
            ports: BTreeMap::new(),
            status: CheckStatus::Passing,
            zone: None,
            network: String::new(),
            platform: Platform::Ecs,
            weights: Weights::default(),
            meta: BTreeMap::new(),
            tags: Vec::new(),
            node_meta: BTreeMap::new(),
        };
        (key.to_string(), Item::Endpoint(Box::new(endpoint)))
    }

    /// Returns what is known of a service of this number, with instances at these ports, that is read so.
    fn view(number: Option<u32>, ports: &[u16], protocol: Option<Protocol>) -> View {
        let number =
            number.map(|number| (Item::ADDRESS.to_owned(), Item::Address(AddressNumber::new(number).unwrap())));
        let endpoints = state(number.into_iter().chain(ports.iter().map(|port| instance(*port))));
        let defaults = ServiceDefaults { protocol, ..ServiceDefaults::new(db()) };
        let entry = ConfigEntry::new(ConfigContent::ServiceDefaults(defaults));
        let config = state([(entry.key().to_string(), Item::Config(Box::new(entry)))]);
        View::from([(Topic::Endpoints(db()), endpoints), (Topic::Config(db()), config)])
    }

    #[track_caller]
    fn check(view: &View, taken: u16, want: Result<&str, &str>) {
        let upstream = LocalUpstream { destination: db(), address: None };
        let place = place(&upstream, view, |port| (port == taken).then(|| "the service `web` itself".to_owned()));
        match (place, want) {
            (Ok(place), Ok(want)) => assert_eq!(place.to_string(), want),
            (Err(reason), Err(want)) => assert!(reason.contains(want), "{reason}"),
            (place, want) => panic!("{place:?} instead of {want:?}"),
        }
    }

    #[test]
    fn l10_an_upstream_is_called_at_its_services_address_on_the_port_that_it_always_had() {
        let (http, tcp) = (Some(Protocol::Http), None);
        check(&view(Some(1), &[5432], tcp), 0, Ok("127.64.0.1:5432"));
        check(&view(Some(1), &[8080], http), 0, Ok("127.64.0.1:80"));
        check(&view(Some(1), &[8080], Some(Protocol::Grpc)), 0, Ok("127.64.0.1:80"));
        // However many there are, and whichever was heard of first, it is one port.
        check(&view(Some(258), &[5433, 0, 5432], tcp), 0, Ok("127.64.1.2:5432"));
        // A port of one's own is taken as it is, whatever is known.
        let own = LocalUpstream { destination: db(), address: Some("127.0.0.1:9191".parse().unwrap()) };
        assert_eq!(place(&own, &View::new(), |_| None).unwrap().to_string(), "127.0.0.1:9191");
    }

    #[test]
    fn l10_an_upstream_without_a_place_says_what_it_waits_for_or_whom_it_meets() {
        check(&View::new(), 0, Err("which address stands for it"));
        check(&view(None, &[5432], None), 0, Err("which address stands for it"));
        let mut unread = view(Some(1), &[5432], None);
        unread.remove(&Topic::Config(db()));
        check(&unread, 0, Err("how it is read"));
        check(&view(Some(1), &[], None), 0, Err("no instance says which port it has"));
        check(&view(Some(1), &[0], None), 0, Err("no instance says which port it has"));
        // HTTP needs no instance: it is called on port 80, and whoever has that is named.
        check(&view(Some(1), &[], Some(Protocol::Http)), 0, Ok("127.64.0.1:80"));
        check(
            &view(Some(1), &[], Some(Protocol::Http)),
            80,
            Err("127.64.0.1:80, and port 80 is the service `web` itself"),
        );
        check(&view(Some(1), &[5432], None), 5432, Err("give the upstream another `local_bind_port`"));
    }
}
