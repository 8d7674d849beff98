//! Who is at the other end of a connection, and whether that still holds.

use std::net::SocketAddr;
use std::sync::Arc;

use catalog::{AgentRecord, Catalog, NodeName, Principal};
use rustls::ServerConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use wire::crypto;
use wire::tls::{PeerIdentity, PeerRejected};

use super::AgentPort;
use super::activity::Activity;
use super::refusal::PortError;
use super::route::Right;

/// One connection of a peer: what it showed at the handshake, and whether it is in use.
#[derive(Debug)]
pub(crate) struct Connection {
    source: SocketAddr,
    peer: Option<PeerIdentity>,
    activity: Activity,
    cut: CancellationToken,
    /// Room for one session.
    session: Arc<Semaphore>,
}

impl Connection {
    /// Reads what the peer showed at the handshake.
    pub(super) fn new(source: SocketAddr, tls: &ServerConnection) -> Result<Connection, PeerRejected> {
        let peer = wire::tls::peer_identity(tls)?;
        let session = Arc::new(Semaphore::new(1));
        Ok(Connection { source, peer, activity: Activity::default(), cut: CancellationToken::new(), session })
    }

    /// Returns what ends the connection at once, with all that waits in it.
    pub(super) fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Takes the connection's place for a session, until that is dropped; none where it holds one.
    pub(super) fn place_for_session(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.session).try_acquire_owned().ok()
    }

    /// Reports whether the peer showed a certificate of the mesh.
    pub(super) fn has_certificate(&self) -> bool {
        self.peer.is_some()
    }

    /// Returns the address that the connection came from.
    pub(crate) fn source(&self) -> SocketAddr {
        self.source
    }

    /// Returns the identity that the peer showed, for the log.
    pub(super) fn identity(&self) -> String {
        self.peer.as_ref().map_or_else(|| "none".to_owned(), |peer| peer.id.to_string())
    }

    /// Returns the agent whose certificate the peer showed; it may have expired, and the record may have ended.
    pub(super) fn agent(&self, catalog: &Catalog) -> Option<NodeName> {
        let peer = self.peer.as_ref()?;
        match catalog.scheme()?.classify(&peer.id) {
            Principal::Agent { node, .. } => Some(node),
            Principal::Workload(_) | Principal::Server(_) | Principal::Foreign(_) | Principal::Unknown(_) => None,
        }
    }

    /// Returns how much the connection is in use.
    pub(super) fn activity(&self) -> &Activity {
        &self.activity
    }
}

/// Who sent a request, once its route's right was judged.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// Somebody of whom nothing was asked: on such a route the request carries its own proof, or none is needed.
    Unknown,
    /// The agent of a live record, proved by the record's key.
    Agent(Box<AgentRecord>),
}

/// Judges the connection against `right`, anew for every request: a record may have ended since the last one.
pub(super) async fn authorize(port: &AgentPort, connection: &Connection, right: Right) -> Result<Caller, PortError> {
    if matches!(right, Right::Join | Right::Public) {
        return Ok(Caller::Unknown);
    }
    let peer = connection.peer.as_ref().ok_or(PortError::NoCertificate)?;
    let found = match record_of(&port.consensus.catalog(), peer) {
        // This server may not have heard yet of a record that was made a moment ago through another one.
        Err(PortError::RecordGone { .. } | PortError::NotReady) => {
            if let Some(record) = held_record(port, peer) {
                return admitted(peer, record, right);
            }
            if port.stands_in() {
                return Err(PortError::RecordUnconfirmed { identity: peer.id.to_string() });
            }
            port.consensus.read_index().await?;
            record_of(&port.consensus.catalog(), peer)
        }
        found => found,
    };
    admitted(peer, found?, right)
}

/// Finds an agent that this server admitted without a quorum.
fn held_record(port: &AgentPort, peer: &PeerIdentity) -> Option<AgentRecord> {
    let record = port.outage.record(&peer.key)?;
    let scheme = port.consensus.catalog().scheme()?;
    (scheme.agent(record.platform, &record.node) == peer.id).then_some(record)
}

/// Judges the certificate of an agent whose record is found.
fn admitted(peer: &PeerIdentity, record: AgentRecord, right: Right) -> Result<Caller, PortError> {
    if right != Right::AgentRenewal && (peer.expired || peer.not_after <= crypto::now()) {
        return Err(PortError::LeafExpired { identity: peer.id.to_string() });
    }
    Ok(Caller::Agent(Box::new(record)))
}

/// Finds the live record that the peer's certificate and key belong to.
fn record_of(catalog: &Catalog, peer: &PeerIdentity) -> Result<AgentRecord, PortError> {
    let scheme = catalog.scheme().ok_or(PortError::NotReady)?;
    let Principal::Agent { platform, node } = scheme.classify(&peer.id) else {
        return Err(PortError::NotAnAgent { identity: peer.id.to_string() });
    };
    match catalog.agent_on(&node) {
        Some(record) if record.key == peer.key && record.platform == platform => Ok(record.clone()),
        Some(_) | None => Err(PortError::RecordGone { node }),
    }
}
