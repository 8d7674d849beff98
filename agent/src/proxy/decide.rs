//! What the inbound side decides of a stream: pure functions of the snapshot, the caller and the time.

use std::net::{IpAddr, SocketAddr};

use catalog::{AuditCause, Caller, Decision, Reason, ServiceKey, Timestamp, Verdict, authorize};
use http::uri::Authority;
use wire::tls::PeerIdentity;

use super::refusal::Refusal;
use super::snapshot::{LocalInstance, Snapshot};

/// Is a stream's permission to pass.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Which rule let it pass.
    pub(crate) reason: Reason,
    /// Why it passes although that rule denies; none where it allows.
    pub(crate) audit: Option<AuditCause>,
}

/// Decides whether `peer` may have a new stream to `destination`.
///
/// `own_not_after` is the end of the leaf that this side showed when the connection was opened: an expired leaf opens
/// nothing, a new stream on an old tunnel included.
pub(crate) fn decide(
    snapshot: &Snapshot,
    peer: &PeerIdentity,
    destination: &ServiceKey,
    own_not_after: Timestamp,
    now: Timestamp,
) -> Result<Admission, Refusal> {
    are_in_time(peer, destination, own_not_after, now)?;
    still_allows(snapshot, peer, destination, now)
}

/// Decides whether `peer` may ask `destination` at all: what each of its requests may, is decided for each.
pub(crate) fn may_ask(
    snapshot: &Snapshot,
    peer: &PeerIdentity,
    destination: &ServiceKey,
    own_not_after: Timestamp,
    now: Timestamp,
) -> Result<(), Refusal> {
    are_in_time(peer, destination, own_not_after, now)?;
    let verdict = judge(snapshot, peer, destination, now)?;
    match verdict.decision {
        Decision::Deny if verdict.audit.is_none() => Err(Refusal::Denied { reason: verdict.reason }),
        Decision::Allow | Decision::Deny | Decision::PerRequest => Ok(()),
    }
}

/// Checks that neither side's leaf has ended: an expired one opens nothing.
pub(crate) fn are_in_time(
    peer: &PeerIdentity,
    destination: &ServiceKey,
    own_not_after: Timestamp,
    now: Timestamp,
) -> Result<(), Refusal> {
    if peer.not_after <= now {
        return Err(Refusal::PeerLeafExpired);
    }
    if own_not_after <= now {
        return Err(Refusal::OwnLeafExpired { destination: destination.clone() });
    }
    Ok(())
}

/// Decides whether `peer` may keep an open stream to `destination`: as for a new one, except that expiry closes nothing.
pub(crate) fn still_allows(
    snapshot: &Snapshot,
    peer: &PeerIdentity,
    destination: &ServiceKey,
    now: Timestamp,
) -> Result<Admission, Refusal> {
    let verdict = judge(snapshot, peer, destination, now)?;
    match verdict.decision {
        Decision::Allow => Ok(Admission { reason: verdict.reason, audit: None }),
        Decision::Deny if verdict.audit.is_some() => Ok(Admission { reason: verdict.reason, audit: verdict.audit }),
        Decision::Deny => Err(Refusal::Denied { reason: verdict.reason }),
        // Nobody reads requests in a stream of bytes, and what cannot be decided is denied, audited or not.
        Decision::PerRequest => Err(Refusal::Undecidable { destination: destination.clone() }),
    }
}

/// Asks the rules for a connection of `peer` to `destination`.
fn judge(
    snapshot: &Snapshot,
    peer: &PeerIdentity,
    destination: &ServiceKey,
    now: Timestamp,
) -> Result<Verdict, Refusal> {
    if let Some(unfit) = snapshot.unfit(peer) {
        return Err(Refusal::Unfit(unfit));
    }
    let Some(policy) = snapshot.policies.get(destination) else {
        return Err(Refusal::Undecidable { destination: destination.clone() });
    };
    let caller = Caller::from(snapshot.scheme.classify(&peer.id));
    Ok(authorize(policy, &caller, destination, now))
}

/// Finds the service that a TLS client asks for by its server name.
///
/// The name only routes; identity decides later. A client without one, as a ztunnel is, gets the only service there is, or
/// the only one at the address and port that it dialled.
pub(crate) fn asked_for<'a>(
    snapshot: &'a Snapshot,
    server_name: Option<&str>,
    dialled: Option<SocketAddr>,
) -> Option<&'a ServiceKey> {
    match server_name {
        Some(name) => {
            // Which instance a gateway was asked for says nothing here: the stream names it again.
            let asked = snapshot.scheme.asked_by_sni(name)?;
            snapshot.locals.get_key_value(&asked.service).map(|(known, _)| known)
        }
        None if snapshot.locals.len() == 1 => snapshot.locals.keys().next(),
        None => advertised_at(snapshot, dialled?),
    }
}

/// Finds the one service that callers were told to find at an address: by its port where that is an application's, as it is
/// where the kernel led the connection here, and else by the address alone. Nothing where several are meant by it.
fn advertised_at(snapshot: &Snapshot, dialled: SocketAddr) -> Option<&ServiceKey> {
    let is_there = |local: &LocalInstance| local.is_advertised_at(dialled.ip());
    let only = |is_meant: &dyn Fn(&LocalInstance) -> bool| {
        let mut found = snapshot.locals.iter().filter(|(_, locals)| locals.iter().any(is_meant)).map(|(key, _)| key);
        found.next().filter(|_| found.next().is_none())
    };
    only(&|local| is_there(local) && local.has_port(dialled.port())).or_else(|| only(&is_there))
}

/// Finds the address of the application that a CONNECT asks for.
///
/// `turn` picks one of several equal instances. What is dialled is always a registered address, never the wire's.
pub(crate) fn target_of_authority(
    snapshot: &Snapshot,
    destination: &ServiceKey,
    authority: &Authority,
    turn: usize,
) -> Result<SocketAddr, Refusal> {
    let instances = locals(snapshot, destination)?;
    let foreign = || Refusal::ForeignAuthority { authority: authority.to_string(), destination: destination.clone() };
    // A user part means nothing here, and what is not understood is not mine.
    if authority.as_str().contains('@') {
        return Err(foreign());
    }
    let (host, port) = authority.as_str().rsplit_once(':').ok_or_else(foreign)?;
    let host = host.strip_suffix('.').unwrap_or(host);
    let found: Vec<SocketAddr> = if names_service(host, destination) {
        instances
            .iter()
            .filter_map(|local| Some(SocketAddr::new(local.local_address, local.port_named(port)?)))
            .collect()
    } else {
        let port: u16 = port.parse().map_err(|_| foreign())?;
        instances
            .iter()
            .filter(|local| local.has_port(port) && is_address(host, &local.advertised_address))
            .map(|local| SocketAddr::new(local.local_address, port))
            .collect()
    };
    pick(&found, turn).ok_or_else(foreign)
}

/// Finds the address of the application for a carrier that cannot name a port.
pub(crate) fn target_of_plain(
    snapshot: &Snapshot,
    destination: &ServiceKey,
    turn: usize,
) -> Result<SocketAddr, Refusal> {
    let found: Vec<SocketAddr> = locals(snapshot, destination)?
        .iter()
        .filter_map(|local| Some(SocketAddr::new(local.local_address, local.default_port()?)))
        .collect();
    pick(&found, turn).ok_or_else(|| Refusal::NoPort { destination: destination.clone() })
}

/// Finds the address of the application for a request, which may name a port by its name or its number.
pub(crate) fn target_of_request(
    snapshot: &Snapshot,
    destination: &ServiceKey,
    port: Option<&str>,
    turn: usize,
) -> Result<SocketAddr, Refusal> {
    let instances = locals(snapshot, destination)?;
    let number = port.and_then(|port| port.parse::<u16>().ok());
    let found = instances.iter().filter_map(|local| {
        let found = match port {
            Some(name) => local.port_named(name).or(number.filter(|number| local.has_port(*number))),
            None => local.default_port(),
        };
        Some(SocketAddr::new(local.local_address, found?))
    });
    // Asked for with every request: counted and taken, not gathered.
    let chosen = turn.checked_rem(found.clone().count()).and_then(|turn| found.clone().nth(turn));
    chosen.ok_or_else(|| match port {
        Some(port) => Refusal::ForeignAuthority { authority: port.to_owned(), destination: destination.clone() },
        None => Refusal::NoPort { destination: destination.clone() },
    })
}

fn locals<'a>(snapshot: &'a Snapshot, destination: &ServiceKey) -> Result<&'a [LocalInstance], Refusal> {
    match snapshot.locals.get(destination) {
        Some(instances) => Ok(instances),
        None => Err(Refusal::NotLocal { destination: destination.clone() }),
    }
}

fn pick(found: &[SocketAddr], turn: usize) -> Option<SocketAddr> {
    found.get(turn.checked_rem(found.len())?).copied()
}

/// Reports whether a host is `<service>` or `<service>.<namespace>`. The tunnel has fixed the namespace already.
fn names_service(host: &str, service: &ServiceKey) -> bool {
    let (name, namespace) = match host.split_once('.') {
        Some((name, namespace)) => (name, Some(namespace)),
        None => (host, None),
    };
    name.eq_ignore_ascii_case(service.name.as_str())
        && namespace.is_none_or(|namespace| namespace.eq_ignore_ascii_case(service.namespace.as_str()))
}

/// Reports whether a host on the wire is a registered address, which may be a name.
fn is_address(host: &str, registered: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match (bare.parse::<IpAddr>(), registered.parse::<IpAddr>()) {
        (Ok(wire), Ok(registered)) => wire.to_canonical() == registered.to_canonical(),
        (Err(_), Err(_)) => bare.eq_ignore_ascii_case(registered),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tests::bare_snapshot;

    fn local(service: &str, advertised_address: &str, port: u16) -> (ServiceKey, Vec<LocalInstance>) {
        let service: ServiceKey = service.parse().unwrap();
        let key = catalog::InstanceKey {
            node: "vm-1".parse().unwrap(),
            namespace: service.namespace.clone(),
            id: format!("{}-1", service.name).parse().unwrap(),
        };
        let instance = LocalInstance {
            key,
            advertised_address: advertised_address.to_owned(),
            local_address: [127, 0, 0, 1].into(),
            port,
            ports: Default::default(),
            takes_proxy_header: false,
        };
        (service, vec![instance])
    }

    #[track_caller]
    fn check(locals: &[(&str, &str, u16)], dialled: &str, want: Option<&str>) {
        let mut snapshot = bare_snapshot();
        snapshot.locals = locals.iter().map(|(service, address, port)| local(service, address, *port)).collect();
        let found = asked_for(&snapshot, None, Some(dialled.parse().unwrap()));
        assert_eq!(found.cloned(), want.map(|service| service.parse().unwrap()), "{locals:?} at {dialled}");
    }

    #[test]
    fn l3_without_a_server_name_the_one_service_at_what_was_dialled_answers() {
        let apart = [("api", "10.0.0.7", 80), ("db", "10.0.0.8", 5432), ("log", "log.example", 80)];
        check(&apart, "10.0.0.7:15008", Some("api"));
        check(&apart, "[::ffff:10.0.0.8]:20000", Some("db"));
        check(&apart, "10.0.0.9:15008", None);
        // One address: the mesh port tells nothing, an application's own port does.
        let together = [("api", "10.0.0.7", 80), ("db", "10.0.0.7", 5432), ("old", "10.0.0.7", 80)];
        check(&together, "10.0.0.7:15008", None);
        check(&together, "10.0.0.7:5432", Some("db"));
        check(&together, "10.0.0.7:80", None);
        check(&together, "10.0.0.8:5432", None);
        // The only service there is answers wherever it was found.
        check(&apart[..1], "192.0.2.1:15008", Some("api"));
        check(&[], "10.0.0.7:15008", None);
        let mut snapshot = bare_snapshot();
        snapshot.locals = together.iter().map(|(service, address, port)| local(service, address, *port)).collect();
        assert_eq!(asked_for(&snapshot, None, None), None);
        let unknown = Some("10.0.0.7:5432".parse().unwrap());
        assert_eq!(asked_for(&snapshot, Some("nobody.default.dc1.internal.mesh.test"), unknown), None, "a name counts");
    }
}
