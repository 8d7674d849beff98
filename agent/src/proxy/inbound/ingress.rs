//! The ingress listeners: what a load balancer brings from outside the mesh, under a name that intentions know.
//!
//! Such a caller shows no certificate. It is known by the addresses that it comes from, on a port of its own, and the agent
//! vouches for it with the leaf of the service that is called: where that leaf is worth nothing any more, so is its word.
//! From there on it is a caller like any other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use catalog::{KeyExchange, KeyFingerprint, ServiceKey};
use http::Method;
use http::header::HeaderMap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use wire::tls::{PeerIdentity, TlsIdentity};

use super::carrier::Carrier;
use super::{carry, note_pair, speaks_http};
use crate::address_range::AddressRange;
use crate::metrics::{Direction, Phase};
use crate::proxy::accept::{Accepted, accept_all};
use crate::proxy::copy::reset;
use crate::proxy::current::Current;
use crate::proxy::handshake::{Connection, tls_label};
use crate::proxy::http::head::FORWARDED_FOR;
use crate::proxy::http::inbound::{Caller, serve_bytes};
use crate::proxy::http::normal::Normal;
use crate::proxy::patience::Patience;
use crate::proxy::proxy_header::{self, HeaderError};
use crate::proxy::room::Room;

/// The namespace that load balancers have their names in.
pub const INGRESS_NAMESPACE: &str = "ingress";

/// Says what a load balancer may bring, and how it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingress {
    /// The name by which intentions know it.
    pub source: ServiceKey,
    /// The local service that it leads to.
    pub service: ServiceKey,
    /// Where it calls from. Nobody else is listened to.
    pub from: Vec<AddressRange>,
    /// The networks whose word in `x-forwarded-for` is believed.
    pub forwarded_from: Vec<AddressRange>,
    /// The paths that it may ask for whatever intentions say, to see whether the application is well.
    pub health_check_paths: BTreeSet<String>,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub takes_proxy_protocol: bool,
    /// Whether it speaks TLS; it is shown the service's own leaf.
    pub takes_tls: bool,
}

impl Ingress {
    /// Reports whether it calls from here.
    fn calls_from(&self, address: IpAddr) -> bool {
        self.from.iter().any(|range| range.contains(address))
    }

    /// Reports whether what `address` says of others is believed.
    pub(crate) fn believes(&self, address: IpAddr) -> bool {
        self.forwarded_from.iter().any(|range| range.contains(address))
    }

    /// Returns whom a request comes from: the nearest that nobody who is believed speaks for.
    pub(crate) fn client(&self, from: IpAddr, headers: &HeaderMap) -> IpAddr {
        let lines = headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok());
        let told: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
        let mut client = from.to_canonical();
        for told in told.iter().rev() {
            if !self.believes(client) {
                break;
            }
            match address(told) {
                Some(address) => client = address.to_canonical(),
                None => break,
            }
        }
        client
    }

    /// Reports whether a request only asks how the application is.
    pub(crate) fn is_health_check(&self, normal: &Normal<'_>) -> bool {
        let is_harmless = normal.method == Method::GET.as_str() || normal.method == Method::HEAD.as_str();
        is_harmless && self.health_check_paths.contains(normal.path.as_str())
    }

    /// Returns who calls, for whom the agent vouches with `own`.
    fn peer(&self, current: &Current, own: &TlsIdentity) -> PeerIdentity {
        PeerIdentity {
            id: current.snapshot.scheme.workload(&self.source),
            platform: None,
            serial: own.serial(),
            not_before: own.not_before(),
            not_after: own.not_after(),
            key: KeyFingerprint(String::new()),
            expired: false,
            chain: own.certified_key().cert.clone().into(),
            // It is under no keys of the mesh, and so under no weak ones.
            key_exchange: KeyExchange::Hybrid,
        }
    }
}

/// Reads an address as load balancers write it: alone, with a port, or in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// Says why what a load balancer brought was not taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    /// It comes from elsewhere.
    #[error("{0} is not among the load balancer's addresses")]
    Stranger(IpAddr),
    /// The header was wrong.
    #[error("cannot tell for whom the load balancer calls")]
    Header(#[from] HeaderError),
    /// Header or handshake took too long.
    #[error("header or handshake not done within {0:?}")]
    Slow(std::time::Duration),
    /// There was no handshake.
    #[error("the TLS handshake failed")]
    Tls(#[source] std::io::Error),
    /// The agent has no leaf for the service, or knows nothing of the mesh yet.
    #[error("no leaf certificate for `{0}` yet")]
    NotReady(ServiceKey),
}

impl NotTaken {
    fn label(&self) -> &'static str {
        match self {
            Self::Stranger(_) => "foreign_address",
            Self::Header(error) => error.label(),
            Self::Slow(_) => "handshake_timeout",
            Self::Tls(error) => {
                let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
                tls.map_or("connection_lost", tls_label)
            }
            Self::NotReady(_) => "not_ready",
        }
    }
}

/// Accepts what a load balancer brings until the proxy stops.
pub(crate) async fn listen(room: Arc<Room>, ingress: Arc<Ingress>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(room.limits.connections_max));
    let stop = room.inbound.stopping.clone();
    let metrics = room.metrics.clone();
    accept_all(listener, permits, stop, metrics, |accepted| {
        room.inbound.tasks.spawn(serve(Arc::clone(&room), Arc::clone(&ingress), accepted));
    })
    .await;
}

/// Carries one connection from accept to close.
async fn serve(room: Arc<Room>, ingress: Arc<Ingress>, accepted: Accepted) {
    let Accepted { stream, from, permit: _permit } = accepted;
    if !ingress.calls_from(from.ip()) {
        reset(&stream);
        return refuse(&room, &ingress, from, &NotTaken::Stranger(from.ip()));
    }
    let deadline = room.limits.handshake_timeout;
    let meeting = tokio::time::timeout(deadline, meet(&room, &ingress, from, stream));
    let met = tokio::select! {
        met = meeting => met.unwrap_or(Err(NotTaken::Slow(deadline))),
        () = room.inbound.cut.cancelled() => return,
    };
    let (connection, carrier) = match met {
        Ok(met) => met,
        Err(why) => return refuse(&room, &ingress, from, &why),
    };
    let connection = Arc::new(connection);
    note_pair(&room, &connection);
    if !speaks_http(&room, &connection) {
        return carry(room, connection, carrier).await;
    }
    let caller = Caller { room, connection, target: None };
    match carrier {
        Carrier::Bare(stream) => serve_bytes(caller, stream).await,
        Carrier::Plain(stream) => serve_bytes(caller, *stream).await,
        // It is opened by other agents only.
        Carrier::Tunnel { .. } => {}
    }
}

/// Finds out for whom the load balancer calls, and agrees with it on keys where it wants to.
async fn meet(
    room: &Room,
    ingress: &Arc<Ingress>,
    from: SocketAddr,
    mut stream: TcpStream,
) -> Result<(Connection, Carrier), NotTaken> {
    let told = if ingress.takes_proxy_protocol { proxy_header::read(&mut stream).await? } else { None };
    let not_ready = || NotTaken::NotReady(ingress.service.clone());
    let current = room.current.load_full().ok_or_else(not_ready)?;
    let side = current.server_side(&ingress.service).ok_or_else(not_ready)?;
    let connection = Connection {
        from: told.unwrap_or(from),
        peer: Arc::new(ingress.peer(&current, &side.identity)),
        destination: ingress.service.clone(),
        own: Arc::clone(&side.identity),
        caller: OnceLock::new(),
        counters: OnceLock::new(),
        tcp: OnceLock::new(),
        headers: OnceLock::new(),
        patience: Patience::new(room.limits.given_up_max),
        ingress: Some(Arc::clone(ingress)),
    };
    if !ingress.takes_tls {
        return Ok((connection, Carrier::Bare(stream)));
    }
    let config = side.config_for_outside(current.snapshot.protocol(&ingress.service).is_http());
    let tls = TlsAcceptor::from(config).accept(stream).await.map_err(NotTaken::Tls)?;
    Ok((connection, Carrier::Plain(Box::new(tls))))
}

fn refuse(room: &Room, ingress: &Ingress, from: SocketAddr, why: &NotTaken) {
    room.metrics.refused(Direction::Inbound, Phase::Handshake, why.label());
    tracing::info!(
        direction = "inbound", service = %ingress.service, source = %ingress.source, src.addr = %from,
        reason = why.label(), error = %wire::one_line(why), "connection refused"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingress(forwarded_from: &[&str]) -> Ingress {
        Ingress {
            source: "ingress/public".parse().unwrap(),
            service: "web".parse().unwrap(),
            from: vec!["10.0.0.0/24".parse().unwrap()],
            forwarded_from: forwarded_from.iter().map(|range| range.parse().unwrap()).collect(),
            health_check_paths: BTreeSet::new(),
            takes_proxy_protocol: false,
            takes_tls: false,
        }
    }

    #[track_caller]
    fn check(believed: &[&str], from: &str, lines: &[&str], want: &str) {
        let headers = lines.iter().map(|line| (FORWARDED_FOR, line.parse().unwrap())).collect::<Vec<_>>();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        let client = ingress(believed).client(from.parse().unwrap(), &map);
        assert_eq!(client, want.parse::<IpAddr>().unwrap(), "{believed:?} {from} {lines:?}");
    }

    #[test]
    fn h3_the_client_is_the_nearest_that_nobody_who_is_believed_speaks_for() {
        check(&[], "10.0.0.1", &["192.0.2.1"], "10.0.0.1");
        check(&["10.0.0.0/24"], "10.0.0.1", &["192.0.2.1"], "192.0.2.1");
        // What a client says of others is not believed, wherever it stands.
        check(&["10.0.0.0/24"], "10.0.0.1", &["127.0.0.1, 192.0.2.1"], "192.0.2.1");
        check(&["10.0.0.0/24"], "10.0.0.1", &["127.0.0.1", "192.0.2.1"], "192.0.2.1");
        check(&["10.0.0.0/24", "198.51.100.0/24"], "10.0.0.1", &["9.9.9.9, 192.0.2.1, 198.51.100.7"], "192.0.2.1");
        check(&["10.0.0.0/24"], "10.0.0.1", &["unknown"], "10.0.0.1");
        check(&["10.0.0.0/24"], "10.0.0.1", &["192.0.2.1, garbage"], "10.0.0.1");
        check(&["10.0.0.0/24"], "10.0.0.1", &[], "10.0.0.1");
        check(&["10.0.0.0/24"], "::ffff:10.0.0.1", &["192.0.2.1:4711"], "192.0.2.1");
        check(&["10.0.0.0/24"], "10.0.0.1", &["[fd00::1]:80"], "fd00::1");
        check(&["10.0.0.0/24"], "10.0.0.2", &["[fd00::1]"], "fd00::1");
    }
}
