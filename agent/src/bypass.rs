//! Whether an application can be called past its agent: it listens on more than loopback, and answers there.
//!
//! From inside it cannot be seen what a firewall keeps away. So this tells of what would be open if nobody closed it, and
//! never that something is safe which is not. What the kernel leads to the agent is closed: the rules that do so also lead
//! there what is dialled at an address that is nobody's, which can be tried from inside.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use catalog::{AddressNumber, Instance, InstanceKey};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use crate::core::{Handle, Request};
use crate::sockets::{Listening, listening};

/// How often is looked.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long an application may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is known of each instance; nothing of one whose application is not seen to listen.
pub(crate) type Bypassable = BTreeMap<InstanceKey, bool>;

/// Looks again and again, and tells the core.
pub(crate) async fn watch(core: Handle) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Bypassable::new();
    loop {
        ticks.tick().await;
        // A table of the kernel's is no file that waits for a disk, but it may be long.
        let Ok(Some(sockets)) = tokio::task::spawn_blocking(listening).await else { continue };
        let status = core.status();
        let mut found = Bypassable::new();
        for service in &status.services {
            let seen = look(&service.instance, status.address, &sockets, service.redirected).await;
            found.extend(seen.map(|is_open| (service.instance.key.clone(), is_open)));
        }
        if found != known {
            core.send(Request::Bypassable(found.clone())).await;
            known = found;
        }
    }
}

/// Looks at an instance once; nothing is known of one whose application is not seen to listen.
pub(crate) async fn look(
    instance: &Instance,
    address: IpAddr,
    sockets: &[Listening],
    is_redirected: bool,
) -> Option<bool> {
    let own = instance.address.as_deref().and_then(|own| own.parse::<IpAddr>().ok());
    let reached_at = own.filter(|own| !own.is_loopback()).unwrap_or(address);
    let (mut is_seen, mut is_open) = (false, false);
    for port in ports(instance) {
        let of_port: Vec<&Listening> = sockets.iter().filter(|socket| socket.address.port() == port).collect();
        is_seen |= !of_port.is_empty();
        let is_led = || async { is_redirected && answers(SocketAddr::new(AddressNumber::NOBODYS.into(), port)).await };
        if of_port.iter().any(|socket| is_reached(socket.address.ip(), reached_at)) {
            is_open |= answers(SocketAddr::new(reached_at, port)).await && !is_led().await;
        }
    }
    is_seen.then_some(is_open)
}

fn ports(instance: &Instance) -> impl Iterator<Item = u16> + '_ {
    std::iter::once(instance.port).chain(instance.ports.values().copied()).filter(|port| *port != 0)
}

/// Reports whether a socket that listens at one address is reached by another.
fn is_reached(listens_at: IpAddr, called: IpAddr) -> bool {
    let listens_at = listens_at.to_canonical();
    let is_of_family = listens_at.is_ipv6() || called.is_ipv4();
    !listens_at.is_loopback() && (listens_at == called || (listens_at.is_unspecified() && is_of_family))
}

async fn answers(address: SocketAddr) -> bool {
    matches!(tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    fn instance(name: &str, port: u16) -> Instance {
        let definition = serde_json::json!({"Name": name, "Port": port});
        let definition: wire::consul::ServiceDefinition = wire::decode::from_value(definition, "").unwrap();
        definition.instance(&"n1".parse().unwrap(), None)
    }

    #[tokio::test]
    async fn l9_an_application_that_listens_beyond_loopback_is_bypassable() {
        let open = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        // Nothing is bound there, and nobody is asked: whoever listens on loopback alone is not reached by another address.
        let address = IpAddr::from([127, 0, 0, 1]);
        let sockets = listening().unwrap();
        let told = async |name: &str, port| look(&instance(name, port), address, &sockets, false).await;
        assert_eq!(told("open", port(&open)).await, Some(true));
        assert_eq!(told("closed", port(&closed)).await, Some(false));
        assert_eq!(told("absent", 1).await, None);
    }

    #[test]
    fn l9_a_socket_is_reached_by_the_addresses_that_it_listens_at() {
        let reached = |at: &str, called: &str| is_reached(at.parse().unwrap(), called.parse().unwrap());
        assert!(reached("0.0.0.0", "10.0.0.1") && reached("::", "10.0.0.1") && reached("10.0.0.1", "10.0.0.1"));
        assert!(!reached("127.0.0.1", "10.0.0.1") && !reached("10.0.0.2", "10.0.0.1") && !reached("::1", "fd00::1"));
        assert!(!reached("0.0.0.0", "fd00::1"));
    }
}
