//! What a server counts, declared in one place.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use wire::crypto;

use catalog::{CheckStatus, Lifetime};

/// Names why something was refused, from a closed set (`PeerRejected::label()` and the like).
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Names how a login ended: `granted`, `refused` or `unavailable`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Names the class of an HTTP status.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

/// Names a certificate whose end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certificate {
    /// The mesh's root.
    Root,
    /// What signs leaves day to day.
    Intermediate,
    /// This server's own, on the port for agents.
    Server,
    /// This server's own, toward other servers.
    Raft,
    /// This server's own, on its API over TLS.
    Api,
}

impl Certificate {
    /// Returns the word for it in logs and labels.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
            Self::Server => "server",
            Self::Raft => "raft",
            Self::Api => "api",
        }
    }
}

/// Names a certificate of the authority.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CertificateLabel {
    certificate: &'static str,
}

/// The metrics of one server process; a clone counts into the same numbers.
#[derive(Clone)]
pub(crate) struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    raft_term: Gauge,
    raft_applied_index: Gauge,
    raft_is_leader: Gauge,
    raft_disk_full: Gauge,
    raft_disk_slow: Gauge,
    raft_sync_duration: Histogram,
    log_lines_dropped: Counter,
    /// What `log_lines_dropped` has of the process's own count.
    log_lines_told: AtomicU64,
    raft_peers_refused: Family<ReasonLabel, Counter>,
    raft_messages_dropped: Counter,
    raft_commit_duration: Histogram,
    api_requests: Family<ClassLabel, Counter>,
    api_blocking_queries: Gauge,
    api_connections_refused: Family<ReasonLabel, Counter>,
    agent_port_refused: Family<ReasonLabel, Counter>,
    stream_sessions: Gauge,
    stream_waiting: Gauge,
    logins: Family<OutcomeLabel, Counter>,
    agents_provisional: Gauge,
    leaves_signed_without_quorum: Counter,
    backups_unaudited: Counter,
    audit_lines_forgotten: Gauge,
    agents_away: Gauge,
    nodes_held: Gauge,
    sessions_reported: Family<ReasonLabel, Counter>,
    leaf_certificates_signed: Counter,
    ca_certificate_expiry: Family<CertificateLabel, Gauge>,
    server_certificate_expiry: Gauge,
    raft_certificate_expiry: Gauge,
    /// Not a metric itself: what the ages are reckoned from.
    lifetimes: Mutex<BTreeMap<&'static str, Lifetime>>,
    certificate_state: Family<CertificateLabel, Gauge>,
    api_certificate_expiry: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every metric of a server; all start at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("weft");
        registry.register(
            "build",
            "Version of the running binary",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        let mut inner = Inner {
            registry,
            raft_term: Gauge::default(),
            raft_applied_index: Gauge::default(),
            raft_is_leader: Gauge::default(),
            raft_disk_full: Gauge::default(),
            raft_disk_slow: Gauge::default(),
            raft_sync_duration: Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
            ]),
            log_lines_dropped: Counter::default(),
            log_lines_told: AtomicU64::new(0),
            raft_peers_refused: Family::default(),
            raft_messages_dropped: Counter::default(),
            raft_commit_duration: Histogram::new([
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ]),
            api_requests: Family::default(),
            api_blocking_queries: Gauge::default(),
            api_connections_refused: Family::default(),
            agent_port_refused: Family::default(),
            stream_sessions: Gauge::default(),
            stream_waiting: Gauge::default(),
            logins: Family::default(),
            agents_provisional: Gauge::default(),
            leaves_signed_without_quorum: Counter::default(),
            backups_unaudited: Counter::default(),
            audit_lines_forgotten: Gauge::default(),
            agents_away: Gauge::default(),
            nodes_held: Gauge::default(),
            sessions_reported: Family::default(),
            leaf_certificates_signed: Counter::default(),
            ca_certificate_expiry: Family::default(),
            server_certificate_expiry: Gauge::default(),
            raft_certificate_expiry: Gauge::default(),
            lifetimes: Mutex::default(),
            certificate_state: Family::default(),
            api_certificate_expiry: Gauge::default(),
        };
        inner.register_raft();
        inner.register_doors();
        inner.register_certificates();
        Self { inner: Arc::new(inner) }
    }

    /// Records where this server stands in Raft.
    pub(crate) fn raft_state(&self, term: u64, applied_index: u64, is_leader: bool) {
        self.inner.raft_term.set(saturating(term));
        self.inner.raft_applied_index.set(saturating(applied_index));
        self.inner.raft_is_leader.set(i64::from(is_leader));
    }

    /// Records how many lines of the audit trail live in exports only.
    pub(crate) fn audit_forgotten(&self, lines: u64) {
        self.inner.audit_lines_forgotten.set(saturating(lines));
    }

    /// Records whether the disk is so full that nothing enters the log.
    pub(crate) fn raft_disk_full(&self, is_full: bool) {
        self.inner.raft_disk_full.set(i64::from(is_full));
    }

    /// Records whether the disk is so slow that this server should not lead.
    pub(crate) fn raft_disk_slow(&self, is_slow: bool) {
        self.inner.raft_disk_slow.set(i64::from(is_slow));
    }

    /// Records how long one sync of the log took.
    pub(crate) fn raft_synced(&self, duration: std::time::Duration) {
        self.inner.raft_sync_duration.observe(duration.as_secs_f64());
    }

    /// Counts a connection refused on the Raft port; `reason` comes from a closed set.
    pub(crate) fn raft_peer_refused(&self, reason: &'static str) {
        self.inner.raft_peers_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a Raft message that was dropped because its peer's queue was full or the peer was away.
    pub(crate) fn raft_message_dropped(&self) {
        self.inner.raft_messages_dropped.inc();
    }

    /// Records how long one write took from proposal to its application here.
    pub(crate) fn raft_committed(&self, duration: std::time::Duration) {
        self.inner.raft_commit_duration.observe(duration.as_secs_f64());
    }

    /// Counts one answered API request by the class of its status.
    pub(crate) fn api_request(&self, status: StatusCode) {
        let class = match status.as_u16() {
            0..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.inner.api_requests.get_or_create(&ClassLabel { class }).inc();
    }

    /// Counts a connection to the API that was closed before it could send a request; `reason` comes from a closed set.
    pub(crate) fn api_connection_refused(&self, reason: &'static str) {
        self.inner.api_connections_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a blocking query as waiting until the returned guard is dropped.
    pub(crate) fn blocking_query(&self) -> GaugeGuard {
        GaugeGuard::enter(&self.inner.api_blocking_queries)
    }

    /// Counts a connection or request refused on the port for agents; `reason` comes from a closed set.
    pub(crate) fn agent_port_refused(&self, reason: &'static str) {
        self.inner.agent_port_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts an agent's stream as open until the returned guard is dropped.
    pub(crate) fn stream_session(&self) -> GaugeGuard {
        GaugeGuard::enter(&self.inner.stream_sessions)
    }

    /// Records how much waits to be read by agents.
    pub(crate) fn stream_waiting(&self, bytes: usize) {
        self.inner.stream_waiting.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Counts a login by how it ended; `outcome` comes from a closed set.
    pub(crate) fn login(&self, outcome: &'static str) {
        self.inner.logins.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Records how many agents this server admitted that the mesh has not been asked about yet.
    pub(crate) fn agents_provisional(&self, agents: usize) {
        self.inner.agents_provisional.set(saturating(agents as u64));
    }

    /// Counts one leaf certificate signed while there was no quorum.
    pub(crate) fn leaf_signed_without_quorum(&self) {
        self.inner.leaves_signed_without_quorum.inc();
    }

    /// Counts one backup that was taken without a leader, of which the audit trail knows nothing.
    pub(crate) fn backup_unaudited(&self) {
        self.inner.backups_unaudited.inc();
    }

    /// Says how many agents are away, and whether their nodes stay in the catalog because they are so many.
    pub(crate) fn agents_away(&self, count: usize, is_holding: bool) {
        self.inner.agents_away.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.inner.nodes_held.set(i64::from(is_holding));
    }

    /// Counts sessions that this server reported, by what became of them.
    pub(crate) fn sessions_reported(&self, reason: &'static str, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.inner.sessions_reported.get_or_create(&ReasonLabel { reason }).inc_by(count);
    }

    /// Counts one leaf certificate signed by this server.
    pub(crate) fn leaf_certificate_signed(&self) {
        self.inner.leaf_certificates_signed.inc();
    }

    /// Records when a certificate ends.
    pub(crate) fn certificate_expires(&self, certificate: Certificate, lifetime: Lifetime) {
        let seconds = saturating(lifetime.end.0 / 1000);
        self.inner.lifetimes.lock().unwrap_or_else(PoisonError::into_inner).insert(certificate.name(), lifetime);
        match certificate {
            Certificate::Root | Certificate::Intermediate => {
                let label = CertificateLabel { certificate: certificate.name() };
                self.inner.ca_certificate_expiry.get_or_create(&label).set(seconds);
            }
            Certificate::Server => {
                self.inner.server_certificate_expiry.set(seconds);
            }
            Certificate::Raft => {
                self.inner.raft_certificate_expiry.set(seconds);
            }
            Certificate::Api => {
                self.inner.api_certificate_expiry.set(seconds);
            }
        }
    }

    /// Returns the lifetimes of the certificates that are in use, by the word for each.
    pub(crate) fn lifetimes(&self) -> BTreeMap<&'static str, Lifetime> {
        self.inner.lifetimes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub(crate) fn text(&self) -> String {
        let lost = wire::lost_lines::total();
        let told = self.inner.log_lines_told.fetch_max(lost, Ordering::Relaxed);
        self.inner.log_lines_dropped.inc_by(lost.saturating_sub(told));
        let now = crypto::now();
        for (certificate, lifetime) in self.lifetimes() {
            let state = self.inner.certificate_state.get_or_create(&CertificateLabel { certificate });
            let age = lifetime.age(now);
            state.set(i64::from(age >= CheckStatus::Warning) + i64::from(age >= CheckStatus::Critical));
        }
        let mut text = String::new();
        encode(&mut text, &self.inner.registry).expect("writing to a string cannot fail");
        text
    }
}

impl Inner {
    fn register_raft(&mut self) {
        let registry = &mut self.registry;
        registry.register("raft_term", "Current Raft term", self.raft_term.clone());
        registry.register(
            "raft_applied_index",
            "Raft index that the served state stands at",
            self.raft_applied_index.clone(),
        );
        registry.register(
            "raft_disk_full",
            "1 while the disk is nearly full, so that this server takes no writes, otherwise 0",
            self.raft_disk_full.clone(),
        );
        registry.register(
            "raft_disk_slow",
            "1 while the disk is so slow that this server hands leadership over, otherwise 0",
            self.raft_disk_slow.clone(),
        );
        registry.register(
            "raft_sync_duration_seconds",
            "Time that the disk took to make one write of the log durable",
            self.raft_sync_duration.clone(),
        );
        registry.register(
            "log_lines_dropped",
            "Log lines dropped because nobody took them",
            self.log_lines_dropped.clone(),
        );
        registry.register("raft_is_leader", "1 while this server leads, otherwise 0", self.raft_is_leader.clone());
        registry.register(
            "raft_peers_refused",
            "Connections refused on the Raft port, by reason",
            self.raft_peers_refused.clone(),
        );
        registry.register(
            "raft_messages_dropped",
            "Raft messages dropped before they were sent",
            self.raft_messages_dropped.clone(),
        );
        registry.register(
            "raft_commit_duration_seconds",
            "Time from proposing a write to its application on this server",
            self.raft_commit_duration.clone(),
        );
    }

    fn register_doors(&mut self) {
        let registry = &mut self.registry;
        registry.register("api_requests", "API requests answered, by class of status", self.api_requests.clone());
        registry.register(
            "api_blocking_queries",
            "Blocking queries that wait for a change right now",
            self.api_blocking_queries.clone(),
        );
        registry.register(
            "api_connections_refused",
            "Connections to the API closed before they could send a request, by reason",
            self.api_connections_refused.clone(),
        );
        registry.register(
            "agent_port_refused",
            "Connections and requests refused on the port for agents, by reason",
            self.agent_port_refused.clone(),
        );
        registry.register("stream_sessions", "Streams to agents that are open", self.stream_sessions.clone());
        registry.register(
            "stream_waiting_bytes",
            "What was sent to agents and not read yet, over all streams",
            self.stream_waiting.clone(),
        );
        registry.register("logins", "Logins of agents and for tokens, by outcome", self.logins.clone());
        registry.register(
            "agents_provisional",
            "Agents admitted without a quorum that the mesh has not agreed to yet",
            self.agents_provisional.clone(),
        );
        registry.register(
            "agents_away",
            "Agents whose sessions were lost, as this server knows",
            self.agents_away.clone(),
        );
        registry.register(
            "agent_nodes_held",
            "1 on a leader that removes no nodes of lost agents because these are too many, otherwise 0",
            self.nodes_held.clone(),
        );
        registry.register(
            "sessions_reported",
            "Sessions of agents that this server reported as lost or reaped",
            self.sessions_reported.clone(),
        );
    }

    fn register_certificates(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "leaf_certificates_signed",
            "Leaf certificates signed by this server",
            self.leaf_certificates_signed.clone(),
        );
        registry.register(
            "leaf_certificates_signed_without_quorum",
            "Leaf certificates signed while there was no quorum",
            self.leaves_signed_without_quorum.clone(),
        );
        registry.register(
            "backups_unaudited",
            "Backups taken without a leader, of which the audit trail knows nothing",
            self.backups_unaudited.clone(),
        );
        registry.register(
            "audit_lines_forgotten",
            "Lines of the audit trail that the servers no longer keep: they live in exports only",
            self.audit_lines_forgotten.clone(),
        );
        registry.register(
            "certificate_state",
            "How old each certificate in use is: 0 passing, 1 with less than a third of its life left, 2 with less than 15 %",
            self.certificate_state.clone(),
        );
        registry.register(
            "ca_certificate_expiry_timestamp_seconds",
            "When the mesh's root and intermediate end, in Unix time",
            self.ca_certificate_expiry.clone(),
        );
        registry.register(
            "server_certificate_expiry_timestamp_seconds",
            "When this server's own certificate on the port for agents ends, in Unix time; 0 before it has one",
            self.server_certificate_expiry.clone(),
        );
        registry.register(
            "raft_certificate_expiry_timestamp_seconds",
            "When this server's own certificate toward other servers ends, in Unix time",
            self.raft_certificate_expiry.clone(),
        );
        registry.register(
            "api_certificate_expiry_timestamp_seconds",
            "When this server's certificate of the API over TLS ends, in Unix time; 0 where it has none",
            self.api_certificate_expiry.clone(),
        );
    }
}

/// Counts its bearer into a gauge for as long as it lives.
#[derive(Debug)]
pub(crate) struct GaugeGuard {
    gauge: Gauge,
}

impl GaugeGuard {
    fn enter(gauge: &Gauge) -> Self {
        gauge.inc();
        Self { gauge: gauge.clone() }
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Returns the largest gauge value for numbers that do not fit one.
fn saturating(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use catalog::Timestamp;

    use super::*;

    #[test]
    fn the_list_of_metrics_is_this_one() {
        let metrics = Metrics::new();
        metrics.raft_peer_refused("foreign_ca");
        metrics.agent_port_refused("expired");
        metrics.login("granted");
        metrics.sessions_reported("lost", 1);
        metrics.api_connection_refused("tls_handshake");
        metrics.api_request(StatusCode::NOT_FOUND);
        metrics.certificate_expires(Certificate::Root, Lifetime { begin: Timestamp(0), end: Timestamp(7_999) });
        let text = metrics.text();
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let want = [
            "weft_build info",
            "weft_raft_term gauge",
            "weft_raft_applied_index gauge",
            "weft_raft_disk_full gauge",
            "weft_raft_disk_slow gauge",
            "weft_raft_sync_duration_seconds histogram",
            "weft_log_lines_dropped counter",
            "weft_raft_is_leader gauge",
            "weft_raft_peers_refused counter",
            "weft_raft_messages_dropped counter",
            "weft_raft_commit_duration_seconds histogram",
            "weft_api_requests counter",
            "weft_api_blocking_queries gauge",
            "weft_api_connections_refused counter",
            "weft_agent_port_refused counter",
            "weft_stream_sessions gauge",
            "weft_stream_waiting_bytes gauge",
            "weft_logins counter",
            "weft_agents_provisional gauge",
            "weft_agents_away gauge",
            "weft_agent_nodes_held gauge",
            "weft_sessions_reported counter",
            "weft_leaf_certificates_signed counter",
            "weft_leaf_certificates_signed_without_quorum counter",
            "weft_backups_unaudited counter",
            "weft_audit_lines_forgotten gauge",
            "weft_certificate_state gauge",
            "weft_ca_certificate_expiry_timestamp_seconds gauge",
            "weft_server_certificate_expiry_timestamp_seconds gauge",
            "weft_raft_certificate_expiry_timestamp_seconds gauge",
            "weft_api_certificate_expiry_timestamp_seconds gauge",
        ];
        assert_eq!(names, want);
        assert!(text.contains("weft_build_info{version="), "{text}");
        assert!(text.contains("weft_ca_certificate_expiry_timestamp_seconds{certificate=\"root\"} 7\n"), "{text}");
        assert!(text.contains("weft_raft_peers_refused_total{reason=\"foreign_ca\"} 1"), "{text}");
        assert!(text.contains("weft_api_requests_total{class=\"4xx\"} 1"), "{text}");
    }

    #[test]
    fn a_guard_counts_while_it_lives() {
        let metrics = Metrics::new();
        let guard = metrics.stream_session();
        assert!(metrics.text().contains("weft_stream_sessions 1"));
        drop(guard);
        assert!(metrics.text().contains("weft_stream_sessions 0"));
    }
}
