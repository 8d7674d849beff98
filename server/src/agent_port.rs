//! The port for agents: HTTP/2 over TLS 1.3 under the mesh's own certificate authority, ALPN `weft-agent/1`.
//!
//! A connection may come without a client certificate, because joining is how an agent gets its first one. Every route
//! but that asks for the certificate of an agent whose record lives, anew for each request.

mod activity;
mod body;
mod bounds;
mod caller;
mod expiry;
mod listener;
mod passthrough;
mod refusal;
mod report;
mod route;
mod sign;
mod signing;
mod stream;
mod tap;
#[cfg(test)]
pub(crate) mod tests;
mod tls_identity;
mod write;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use catalog::{Actor, AgentId, AgentRecord, Command, Envelope, NodeName, RequestId, ServerId};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use wire::agent_protocol::{Leaf, Subject};
use wire::cluster_key::ClusterKeys;
use wire::crypto;

use crate::ca::CertificateAuthority;
use crate::ca::acks::Acks;
use crate::consensus::{Committed, Consensus, ReadError};
use crate::hub::shell::{self, HubClient};
use crate::login::Logins;
use crate::metrics::Metrics;
use crate::outage::{self, Applicant, Outage};
use crate::sessions::{self, Periods};

use body::read_json;
pub(crate) use body::{UNPROVEN, read_unproven};
use bounds::WriteUnderWay;
pub(crate) use bounds::{Bounds, Turn};
pub(crate) use refusal::PortError;
pub(crate) use route::{Call, json};

/// What the port needs to know.
pub(crate) struct Settings {
    /// This server.
    pub(crate) server: ServerId,
    /// What opens the certificate authority's keys.
    pub(crate) cluster_keys: ClusterKeys,
    /// How long a leaf lives.
    pub(crate) leaf_ttl: Duration,
    /// What checks the logins of agents.
    pub(crate) logins: Logins,
    /// How long agents may be away.
    pub(crate) periods: Periods,
    /// The API that agents pass requests on to.
    pub(crate) api: Router,
    /// What the port does at most.
    pub(crate) bounds: Bounds,
    /// Where it is written down whom this server admits alone; nowhere where nothing is kept.
    pub(crate) data_dir: Option<PathBuf>,
}

/// What the port's handlers work with.
pub(crate) struct AgentPort {
    consensus: Consensus,
    metrics: Metrics,
    server: ServerId,
    api: Router,
    authority: CertificateAuthority,
    acks: Acks,
    logins: Logins,
    outage: Outage,
    hub: HubClient,
    bounds: Bounds,
    signing: signing::InProgress,
    started: Instant,
    tls: ArcSwapOption<rustls::ServerConfig>,
}

/// Serves agents on `listener` until `stop` is cancelled; then says goodbye to them and drains.
///
/// Until the mesh has a certificate authority every connection is closed at once.
pub(crate) async fn serve(
    listener: TcpListener,
    settings: Settings,
    consensus: Consensus,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let hub = shell::start(consensus.clone(), metrics.clone(), settings.bounds.stream, stop.clone());
    let periods = settings.periods;
    let port = Arc::new(AgentPort {
        authority: CertificateAuthority::new(settings.cluster_keys, settings.leaf_ttl),
        acks: Acks::default(),
        consensus,
        metrics,
        server: settings.server,
        api: settings.api,
        logins: settings.logins,
        outage: Outage::open(settings.data_dir),
        hub,
        bounds: settings.bounds,
        signing: signing::InProgress::default(),
        started: Instant::now(),
        tls: ArcSwapOption::empty(),
    });
    port.metrics.agents_provisional(port.outage.len());
    tokio::select! {
        () = tls_identity::keep(&port) => {}
        () = sessions::shell::watch(
            port.server.clone(), periods, port.hub.clone(), port.consensus.clone(), port.metrics.clone(),
        ) => {}
        () = port.acks.keep(&port.consensus) => {}
        () = outage::keep(&port.outage) => {}
        () = outage::settle(&port.outage, &port.consensus, &port.server, &port.metrics) => {}
        () = listener::run(listener, Arc::clone(&port), stop) => {}
    }
}

impl AgentPort {
    /// Returns the TLS configuration of new connections; none before the mesh has a certificate authority.
    fn tls_config(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.tls.load_full()
    }

    /// Counts and logs a connection that was closed before it could send a request.
    fn refuse_connection(&self, source: SocketAddr, reason: &'static str, error: &dyn fmt::Display) {
        self.metrics.agent_port_refused(reason);
        let error = wire::harmless(&error.to_string());
        warn!(src.addr = %source, reason, error, "connection of an agent refused");
    }

    /// Returns the state that every handler reads and writes.
    pub(crate) fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Returns where agents reach the servers, this one first.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.consensus.agent_addresses()
    }

    /// Takes a turn, or sends the agent away for a while; what it has keeps working meanwhile.
    pub(crate) fn take_turn(&self, turn: Turn) -> Result<(), PortError> {
        let taken = self.bounds.pace(turn).take(self.started.elapsed(), jitter());
        taken.map_err(|retry_after| PortError::Busy { turn, retry_after })
    }

    /// Takes a turn at opening a session: first one of the agent's own, then one of all.
    fn take_turn_at_session(&self, agent: &AgentId) -> Result<(), PortError> {
        let own = self.bounds.sessions_of_one.take(agent, self.started.elapsed(), jitter());
        own.map_err(|retry_after| PortError::Busy { turn: Turn::Session, retry_after })?;
        self.take_turn(Turn::Session)
    }

    /// Waits for a turn of the agent's own at being told of a topic.
    async fn turn_at_topic(&self, agent: &AgentId, is_gateway: bool) {
        let turns = if is_gateway { &self.bounds.topics_of_gateway } else { &self.bounds.topics_of_one };
        while let Err(later) = turns.take(agent, self.started.elapsed(), jitter()) {
            tokio::time::sleep(later).await;
        }
    }

    /// Takes a turn at having a leaf signed: first one of the agent's own, then one of all.
    fn take_turn_at_signing(&self, record: &AgentRecord) -> Result<(), PortError> {
        let burst = Bounds::signing_burst(record);
        let own = self.bounds.signing_of_one.take_of(burst, &record.id, self.started.elapsed(), jitter());
        own.map_err(|retry_after| PortError::Busy { turn: Turn::Signing, retry_after })?;
        self.take_turn(Turn::Signing)
    }

    /// Takes a turn at writing: first one of the agent's own, then one of all.
    fn take_turn_at_writing(&self, agent: &AgentId) -> Result<(), PortError> {
        let own = self.bounds.writes_of_one.take(agent, self.started.elapsed(), jitter());
        own.map_err(|retry_after| PortError::Busy { turn: Turn::Write, retry_after })?;
        self.take_turn(Turn::Write)
    }

    /// Takes the room for a write of the agent on `node`, which it gives back when it is dropped.
    fn room_for_write(&self, node: &NodeName) -> Result<WriteUnderWay, PortError> {
        let retry_after = Duration::from_secs_f64(1.0 + 2.0 * jitter());
        self.bounds.writes_under_way.take(node).ok_or(PortError::Busy { turn: Turn::Write, retry_after })
    }

    /// Signs a leaf for the agent, from its record as it is after everything that was committed before now.
    ///
    /// # Errors
    ///
    /// [`PortError::Read`] without a quorum, [`PortError::RecordGone`] if the record has ended.
    pub(crate) async fn sign_leaf(
        &self,
        record: &AgentRecord,
        subject: &Subject,
        csr_der: &[u8],
    ) -> Result<Leaf, PortError> {
        if let Err(error) = self.confirmed().await {
            return self.sign_alone(record, subject, csr_der).unwrap_or(Err(error));
        }
        let catalog = self.consensus.catalog();
        let live =
            catalog.agent_record(&record.id).ok_or_else(|| PortError::RecordGone { node: record.node.clone() })?;
        let leaf = self.authority.sign(&catalog, live, subject, csr_der, crypto::now())?;
        self.metrics.leaf_certificate_signed();
        Ok(leaf)
    }

    /// Waits until this server knows everything that was committed before now; while it stands in for the quorum, it does
    /// not wait for what cannot come.
    async fn confirmed(&self) -> Result<(), PortError> {
        if self.stands_in() {
            let status = self.consensus.status();
            return Err(ReadError::NoLeader { waited: status.last_contact.unwrap_or_default() }.into());
        }
        Ok(self.consensus.read_index().await?)
    }

    /// Signs a leaf without a quorum, for an agent that its platform vouches for; none for any other.
    fn sign_alone(&self, record: &AgentRecord, subject: &Subject, csr_der: &[u8]) -> Option<Result<Leaf, PortError>> {
        if !self.stands_in() || !outage::is_platform_attested(record) {
            return None;
        }
        let catalog = self.consensus.catalog();
        let now = crypto::now();
        let leaf = match catalog.agent_record(&record.id).filter(|live| live.key == record.key) {
            Some(live) => self.authority.sign(&catalog, live, subject, csr_der, now),
            None => {
                let held = self.outage.record(&record.key)?;
                self.authority.sign_briefly(&catalog, &held, subject, csr_der, now, outage::PROVISIONAL_LEAF_TTL)
            }
        };
        if leaf.is_ok() {
            self.metrics.leaf_certificate_signed();
            self.metrics.leaf_signed_without_quorum();
            warn!(node = %record.node, subject = ?subject, "leaf signed without a quorum");
        }
        Some(leaf.map_err(PortError::Sign))
    }

    /// Reports whether this server stands in for a quorum that is lost.
    pub(crate) fn stands_in(&self) -> bool {
        outage::stands_in(&self.consensus.status())
    }

    /// Admits an agent by what this server knows, and writes that down: nobody is told of what a crash would make forgotten.
    pub(crate) async fn admit_alone(&self, applicant: Applicant) -> Result<AgentRecord, PortError> {
        if self.outage.is_closed() {
            return self.outage.record(&applicant.admission.key).ok_or_else(|| outage::NotKept.into());
        }
        let record = self.outage.admit(&self.consensus.catalog(), &self.server, applicant);
        self.metrics.agents_provisional(self.outage.len());
        let record = record.map_err(PortError::Refused)?;
        self.outage.until_kept(&record.key).await?;
        Ok(record)
    }

    /// Returns what checks logins.
    pub(crate) fn logins(&self) -> &Logins {
        &self.logins
    }

    /// Returns what the server counts.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Proposes a command and waits until it is applied.
    pub(crate) async fn propose(
        &self,
        source: SocketAddr,
        actor: Actor,
        request_id: RequestId,
        command: Command,
    ) -> Result<Committed, PortError> {
        command.validate().map_err(PortError::Refused)?;
        let envelope = Envelope {
            version: catalog::ENVELOPE_VERSION,
            request_id,
            actor,
            source_address: Some(source.to_string()),
            proposed_at: crypto::now(),
            command,
        };
        Ok(self.consensus.propose(envelope).await?)
    }
}

/// Draws a number from 0 to 1.
fn jitter() -> f64 {
    f64::from(u16::from_be_bytes(crypto::random())) / f64::from(u16::MAX)
}

/// Draws the id of a request that a server makes on its own.
pub(crate) fn fresh_request_id() -> Result<RequestId, PortError> {
    crypto::uuid_v4().parse().map_err(|error| PortError::Internal { reason: format!("a drawn request id: {error}") })
}

/// Returns the id under which the state machine remembers a request of an agent.
///
/// It is bound to the agent, so that no agent can be answered with what another one asked under the same id.
fn request_id_of(agent: &AgentId, request_id: &RequestId) -> Result<RequestId, PortError> {
    crypto::sha256_hex(format!("{agent}/{}", request_id.as_str()).as_bytes())
        .parse()
        .map_err(|error| PortError::Internal { reason: format!("a derived request id: {error}") })
}
