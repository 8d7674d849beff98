//! What is counted of the data plane.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::{AuditCause, Reason};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::decisions::Decisions;
use super::requests::{PairCounters, RequestMetrics};
use super::tcp::{TcpCounters, TcpMetrics};
use super::tokens::TokenMetrics;
use super::{Direction, GaugeGuard, Phase};
use crate::tally::Tally;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusedLabel {
    direction: &'static str,
    phase: &'static str,
    reason: &'static str,
}

/// How many rules are counted under their own names.
const AUDITED_RULES_MAX: usize = 200;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AuditedLabel {
    rule: String,
    cause: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MirroredLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EjectedLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClosedLabel {
    direction: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SpansLabel {
    outcome: &'static str,
}

/// What becomes of spans.
#[derive(Clone, Debug)]
pub(crate) struct SpanMetrics {
    /// The collector took them.
    pub(crate) sent: Counter,
    /// It did not, or could not be reached.
    pub(crate) lost: Counter,
    /// There was no room for them.
    pub(crate) dropped: Counter,
}

/// The metrics of the data plane; a clone counts into the same numbers.
#[derive(Clone)]
pub struct ProxyMetrics {
    inbound: Ways,
    outbound: Ways,
    gateway: Ways,
    opened: Family<DirectionLabel, Counter>,
    open: Family<DirectionLabel, Gauge>,
    sent_bytes: Family<DirectionLabel, Counter>,
    received_bytes: Family<DirectionLabel, Counter>,
    handshakes: Family<DirectionLabel, Counter>,
    tunnels_open: Family<DirectionLabel, Gauge>,
    closed: Family<ClosedLabel, Counter>,
    refused: Family<RefusedLabel, Counter>,
    handshake_duration: Histogram,
    audited: Family<AuditedLabel, Counter>,
    audited_rules: Arc<Mutex<BTreeSet<String>>>,
    requests: RequestMetrics,
    tokens: TokenMetrics,
    tcp: TcpMetrics,
    access_lines_dropped: Counter,
    spans: Family<SpansLabel, Counter>,
    accept_pauses: Counter,
    endpoints_ejected: Family<EjectedLabel, Counter>,
    unverified: Counter,
    requests_repeated: Counter,
    requests_mirrored: Family<MirroredLabel, Counter>,
    panicking: Gauge,
    upstreams_failed: Gauge,
    snapshots_published: Counter,
    tally: Arc<Tally>,
}

/// The numbers of one direction, looked up once: counting a chunk of bytes must not take a lock.
#[derive(Clone)]
struct Ways {
    direction: Direction,
    opened: Counter,
    open: Gauge,
    sent_bytes: Counter,
    received_bytes: Counter,
    handshakes: Counter,
    tunnels_open: Gauge,
}

impl fmt::Debug for ProxyMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ProxyMetrics")
    }
}

impl Default for ProxyMetrics {
    fn default() -> Self {
        let opened = Family::<DirectionLabel, Counter>::default();
        let open = Family::<DirectionLabel, Gauge>::default();
        let sent_bytes = Family::<DirectionLabel, Counter>::default();
        let received_bytes = Family::<DirectionLabel, Counter>::default();
        let handshakes = Family::<DirectionLabel, Counter>::default();
        let tunnels_open = Family::<DirectionLabel, Gauge>::default();
        let ways = |direction: Direction| {
            let label = DirectionLabel { direction: direction.as_str() };
            Ways {
                direction,
                opened: opened.get_or_create_owned(&label),
                open: open.get_or_create_owned(&label),
                sent_bytes: sent_bytes.get_or_create_owned(&label),
                received_bytes: received_bytes.get_or_create_owned(&label),
                handshakes: handshakes.get_or_create_owned(&label),
                tunnels_open: tunnels_open.get_or_create_owned(&label),
            }
        };
        Self {
            inbound: ways(Direction::Inbound),
            outbound: ways(Direction::Outbound),
            gateway: ways(Direction::Gateway),
            opened,
            open,
            sent_bytes,
            received_bytes,
            handshakes,
            tunnels_open,
            closed: Family::default(),
            refused: Family::default(),
            handshake_duration: Histogram::new([
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
            ]),
            audited: Family::default(),
            audited_rules: Arc::default(),
            requests: RequestMetrics::default(),
            tokens: TokenMetrics::default(),
            tcp: TcpMetrics::default(),
            access_lines_dropped: Counter::default(),
            spans: Family::default(),
            accept_pauses: Counter::default(),
            endpoints_ejected: Family::default(),
            unverified: Counter::default(),
            requests_repeated: Counter::default(),
            requests_mirrored: Family::default(),
            panicking: Gauge::default(),
            upstreams_failed: Gauge::default(),
            snapshots_published: Counter::default(),
            tally: Arc::default(),
        }
    }
}

impl ProxyMetrics {
    /// Counts a carried connection as open until the returned guard is dropped.
    pub(crate) fn carried(&self, direction: Direction) -> GaugeGuard {
        let ways = self.of(direction);
        ways.opened.inc();
        GaugeGuard::enter(&ways.open)
    }

    /// Counts a connection that was carried and has ended; `reason` comes from a closed set.
    pub(crate) fn closed(&self, direction: Direction, reason: &'static str) {
        self.closed.get_or_create(&ClosedLabel { direction: direction.as_str(), reason }).inc();
    }

    /// Counts a connection that was not carried; `reason` comes from a closed set.
    pub(crate) fn refused(&self, direction: Direction, phase: Phase, reason: &'static str) {
        let (direction, phase) = (direction.as_str(), phase.as_str());
        self.refused.get_or_create(&RefusedLabel { direction, phase, reason }).inc();
    }

    /// Counts bytes on their way from the caller to the application.
    pub(crate) fn sent(&self, direction: Direction, bytes: u64) {
        self.of(direction).sent_bytes.inc_by(bytes);
    }

    /// Counts bytes on their way from the application to the caller.
    pub(crate) fn received(&self, direction: Direction, bytes: u64) {
        self.of(direction).received_bytes.inc_by(bytes);
    }

    /// Records a completed TLS handshake.
    pub(crate) fn handshake(&self, direction: Direction, duration: Duration) {
        self.of(direction).handshakes.inc();
        self.handshake_duration.observe(duration.as_secs_f64());
    }

    /// Counts a tunnel as open until the returned guard is dropped.
    pub(crate) fn tunnel(&self, direction: Direction) -> GaugeGuard {
        GaugeGuard::enter(&self.of(direction).tunnels_open)
    }

    /// Returns how many tunnels are open.
    pub(crate) fn tunnels_open(&self, direction: Direction) -> u64 {
        u64::try_from(self.of(direction).tunnels_open.get()).unwrap_or(0)
    }

    /// Counts a connection let through although a rule denies it.
    ///
    /// Rules beyond a bound are counted under one name: who writes intentions must not fill a collector.
    pub(crate) fn audited(&self, reason: &Reason, cause: &AuditCause) {
        let rule = match reason {
            Reason::Intention { key, .. } => key.to_string(),
            Reason::Default { .. } | Reason::Guardrail { .. } | Reason::Unauthenticated => "default".to_owned(),
        };
        let mut known = self.audited_rules.lock().unwrap_or_else(PoisonError::into_inner);
        let is_counted = known.contains(&rule) || (known.len() < AUDITED_RULES_MAX && known.insert(rule.clone()));
        drop(known);
        let rule = if is_counted { rule } else { "other".to_owned() };
        self.audited.get_or_create(&AuditedLabel { rule, cause: cause.as_str() }).inc();
    }

    /// Returns what is counted of rules and of callers.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Returns the numbers of the requests of one service to another.
    pub(crate) fn requests(&self, direction: Direction, source: String, destination: String) -> Arc<PairCounters> {
        self.requests.pair(direction, source, destination)
    }

    /// Returns what tokens of requests are counted with.
    pub(crate) fn tokens(&self) -> &TokenMetrics {
        &self.tokens
    }

    /// Returns the numbers of the connections of one service to another that are carried as bytes.
    pub(crate) fn tcp(&self, direction: Direction, source: String, destination: String) -> Arc<TcpCounters> {
        self.tcp.pair(direction, source, destination)
    }

    /// Returns what lines are counted with that the access log could not take.
    pub(crate) fn access_lines_dropped(&self) -> Counter {
        self.access_lines_dropped.clone()
    }

    /// Returns what spans are counted with.
    pub(crate) fn spans(&self) -> SpanMetrics {
        let counter = |outcome| self.spans.get_or_create_owned(&SpansLabel { outcome });
        SpanMetrics { sent: counter("sent"), lost: counter("lost"), dropped: counter("dropped") }
    }

    /// Counts one pause of accepting because the process or the system ran out of something.
    pub(crate) fn accept_paused(&self) {
        self.accept_pauses.inc();
    }

    /// Says of how many services so many instances are critical that their checks are not believed.
    pub(crate) fn panicking(&self, services: usize) {
        self.panicking.set(i64::try_from(services).unwrap_or(i64::MAX));
    }

    /// Counts one endpoint put aside because it could not be reached.
    pub(crate) fn endpoint_unreachable(&self) {
        self.endpoints_ejected.get_or_create(&EjectedLabel { reason: "unreachable" }).inc();
    }

    /// Counts one endpoint put aside because it failed too often in a row.
    pub(crate) fn endpoint_failing(&self) {
        self.endpoints_ejected.get_or_create(&EjectedLabel { reason: "failures" }).inc();
    }

    /// Counts one connection that left the mesh: nobody proves who answers.
    pub(crate) fn left_mesh(&self) {
        self.unverified.inc();
    }

    /// Counts a copy of a request: `answered`, `failed`, or `dropped` because too many were on their way.
    pub(crate) fn mirrored(&self, outcome: &'static str) {
        self.requests_mirrored.get_or_create(&MirroredLabel { outcome }).inc();
    }

    /// Counts one request that was asked of another instance again.
    pub(crate) fn request_repeated(&self) {
        self.requests_repeated.inc();
    }

    /// Records how many upstream listeners could not be opened.
    pub(crate) fn upstreams_failed(&self, count: usize) {
        self.upstreams_failed.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts one snapshot published.
    pub(crate) fn snapshot_published(&self) {
        self.snapshots_published.inc();
    }

    fn of(&self, direction: Direction) -> &Ways {
        let ways = match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
            Direction::Gateway => &self.gateway,
        };
        debug_assert_eq!(ways.direction, direction);
        ways
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("proxy_connections_opened", "Connections carried, by direction", self.opened.clone());
        registry.register("proxy_connections_open", "Connections being carried right now", self.open.clone());
        registry.register("proxy_connections_closed", "Carried connections that ended, by reason", self.closed.clone());
        registry.register(
            "proxy_refused",
            "Connections and streams refused, by phase and reason",
            self.refused.clone(),
        );
        registry.register("proxy_sent_bytes", "Bytes carried from caller to application", self.sent_bytes.clone());
        registry.register(
            "proxy_received_bytes",
            "Bytes carried from application to caller",
            self.received_bytes.clone(),
        );
        registry.register("proxy_handshakes", "TLS handshakes completed", self.handshakes.clone());
        registry.register(
            "proxy_handshake_duration_seconds",
            "Time of completed TLS handshakes",
            self.handshake_duration.clone(),
        );
        registry.register("proxy_tunnels_open", "Tunnels that are open", self.tunnels_open.clone());
        registry.register(
            "proxy_audited",
            "Connections let through although a rule denies them, by rule and what suspends it",
            self.audited.clone(),
        );
        registry.register_collector(Box::new(Decisions(Arc::clone(&self.tally))));
        self.requests.register(registry);
        self.tokens.register(registry);
        self.tcp.register(registry);
        registry.register(
            "proxy_access_lines_dropped",
            "Lines of the access log that were dropped, since nobody took them in time",
            self.access_lines_dropped.clone(),
        );
        registry.register(
            "proxy_spans",
            "Spans of requests, by whether the collector took them; dropped are those that there was no room for",
            self.spans.clone(),
        );
        registry.register(
            "proxy_accept_pauses",
            "Pauses of accepting for want of file descriptors or memory",
            self.accept_pauses.clone(),
        );
        registry.register(
            "proxy_endpoints_ejected",
            "Endpoints put aside because they could not be reached, or failed too often in a row",
            self.endpoints_ejected.clone(),
        );
        registry.register(
            "proxy_unverified",
            "Connections that left the mesh, to instances of external services that no agent stands before",
            self.unverified.clone(),
        );
        registry.register(
            "proxy_requests_repeated",
            "Requests that were asked of another instance again, as their route says",
            self.requests_repeated.clone(),
        );
        registry.register(
            "proxy_requests_mirrored",
            "Copies of requests that were sent elsewhere, as their route says",
            self.requests_mirrored.clone(),
        );
        registry.register(
            "proxy_panicking_services",
            "Services that are called whatever their checks say, since more than half of their instances are critical",
            self.panicking.clone(),
        );
        registry.register(
            "proxy_upstreams_failed",
            "Upstream listeners that could not be opened",
            self.upstreams_failed.clone(),
        );
        registry.register(
            "proxy_snapshots_published",
            "Snapshots that the proxy took over",
            self.snapshots_published.clone(),
        );
    }
}
