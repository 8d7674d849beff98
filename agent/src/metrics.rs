//! What an agent counts, declared in one place.

mod decisions;
mod requests;
mod tcp;
mod tokens;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::{AuditCause, Reason, Timestamp};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use wire::agent_protocol::Subject;

use self::decisions::Decisions;
pub(crate) use self::requests::PairCounters;
use self::requests::RequestMetrics;
pub(crate) use self::tcp::TcpCounters;
use self::tcp::TcpMetrics;
pub(crate) use self::tokens::TokenMetrics;
use crate::tally::Tally;

/// Names which way a connection goes, seen from the local service.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// Somebody calls a local service.
    Inbound,
    /// A local service calls somebody.
    Outbound,
    /// Somebody of another network calls somebody of this one.
    Gateway,
}

impl Direction {
    /// Returns the label and field value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "gateway",
        }
    }
}

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

/// The metrics of one agent process; a clone counts into the same numbers.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    /// Those of the data plane.
    pub(crate) proxy: ProxyMetrics,
    /// Those of everything else.
    pub(crate) control: ControlMetrics,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

impl Metrics {
    /// Registers every metric of an agent; all start at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("weft");
        registry.register(
            "build",
            "Version of the running binary",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        let proxy = ProxyMetrics::default();
        proxy.register(&mut registry);
        let control = ControlMetrics::default();
        control.register(&mut registry);
        Self { registry: Arc::new(registry), proxy, control }
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
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
    endpoints_ejected: Counter,
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
            endpoints_ejected: Counter::default(),
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

    /// Counts a connection that was not carried; `phase` and `reason` come from closed sets.
    pub(crate) fn refused(&self, direction: Direction, phase: &'static str, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabel { direction: direction.as_str(), phase, reason }).inc();
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
    pub(crate) fn endpoint_ejected(&self) {
        self.endpoints_ejected.inc();
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

    fn register(&self, registry: &mut Registry) {
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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SubjectLabel {
    subject: String,
}

/// The metrics of an agent's dealings with servers; a clone counts into the same numbers.
#[derive(Clone, Default)]
pub(crate) struct ControlMetrics {
    connected: Gauge,
    sessions_opened: Counter,
    events_dropped: Counter,
    registrations_refused: Counter,
    state_unsaved: Gauge,
    signings_failed: Counter,
    leaf_expiry: Family<SubjectLabel, Gauge>,
}

impl ControlMetrics {
    /// Records whether there is a connection to a server.
    pub(crate) fn connected(&self, is_connected: bool) {
        self.connected.set(i64::from(is_connected));
    }

    /// Counts a session opened.
    pub(crate) fn session_opened(&self) {
        self.sessions_opened.inc();
    }

    /// Counts an event that could not be true and was dropped.
    pub(crate) fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Counts a registration that a server refused.
    pub(crate) fn registration_refused(&self) {
        self.registrations_refused.inc();
    }

    /// Records whether the last good state could not be written to disk.
    pub(crate) fn state_unsaved(&self, is_unsaved: bool) {
        self.state_unsaved.set(i64::from(is_unsaved));
    }

    /// Counts a leaf that was asked for and not signed.
    pub(crate) fn signing_failed(&self) {
        self.signings_failed.inc();
    }

    /// Records when each leaf that is held expires. There are as many as the agent's record names services.
    pub(crate) fn leaves<'a>(&self, leaves: impl Iterator<Item = (&'a Subject, Timestamp)>) {
        self.leaf_expiry.clear();
        for (subject, not_after) in leaves {
            let subject = match subject {
                Subject::Agent => "agent".to_owned(),
                Subject::Service(service) => service.to_string(),
            };
            let seconds = i64::try_from(not_after.0 / 1000).unwrap_or(i64::MAX);
            self.leaf_expiry.get_or_create(&SubjectLabel { subject }).set(seconds);
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("agent_connected", "Whether there is a connection to a server", self.connected.clone());
        registry.register("agent_sessions_opened", "Sessions opened with servers", self.sessions_opened.clone());
        registry.register(
            "agent_events_dropped",
            "Events from servers that could not be true and changed nothing",
            self.events_dropped.clone(),
        );
        registry.register(
            "agent_registrations_refused",
            "Registrations that a server refused",
            self.registrations_refused.clone(),
        );
        registry.register(
            "agent_state_unsaved",
            "Whether the last good state cannot be saved, so that a restart would find an older one or none",
            self.state_unsaved.clone(),
        );
        registry.register(
            "leaf_signings_failed",
            "Leaf certificates asked for and not signed",
            self.signings_failed.clone(),
        );
        registry.register(
            "leaf_certificate_expiry_timestamp_seconds",
            "When the leaf certificate of each local service, and of the agent, expires",
            self.leaf_expiry.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_metrics_is_this_one() {
        let text = Metrics::new().text();
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let want = [
            "weft_build info",
            "weft_proxy_connections_opened counter",
            "weft_proxy_connections_open gauge",
            "weft_proxy_connections_closed counter",
            "weft_proxy_refused counter",
            "weft_proxy_sent_bytes counter",
            "weft_proxy_received_bytes counter",
            "weft_proxy_handshakes counter",
            "weft_proxy_handshake_duration_seconds histogram",
            "weft_proxy_tunnels_open gauge",
            "weft_proxy_audited counter",
            "weft_proxy_requests counter",
            "weft_proxy_request_duration_seconds histogram",
            "weft_proxy_tcp_connections_opened counter",
            "weft_proxy_tcp_sent_bytes counter",
            "weft_proxy_tcp_received_bytes counter",
            "weft_proxy_access_lines_dropped counter",
            "weft_proxy_spans counter",
            "weft_proxy_accept_pauses counter",
            "weft_proxy_endpoints_ejected counter",
            "weft_proxy_requests_repeated counter",
            "weft_proxy_requests_mirrored counter",
            "weft_proxy_panicking_services gauge",
            "weft_proxy_upstreams_failed gauge",
            "weft_proxy_snapshots_published counter",
            "weft_agent_connected gauge",
            "weft_agent_sessions_opened counter",
            "weft_agent_events_dropped counter",
            "weft_agent_registrations_refused counter",
            "weft_agent_state_unsaved gauge",
            "weft_leaf_signings_failed counter",
            "weft_leaf_certificate_expiry_timestamp_seconds gauge",
            "weft_proxy_decisions counter",
        ];
        // A family without a member yet may show no line; those that are listed come in this order and nothing else does.
        let mut rest = want.iter();
        assert!(names.iter().all(|name| rest.any(|wanted| wanted == name)), "{names:?}");
    }

    #[test]
    fn bytes_and_refusals_are_counted_by_direction() {
        let metrics = Metrics::new();
        metrics.proxy.sent(Direction::Inbound, 7);
        metrics.proxy.refused(Direction::Outbound, "choose", "no_endpoint");
        let guard = metrics.proxy.carried(Direction::Inbound);
        let text = metrics.text();
        assert!(text.contains("weft_proxy_sent_bytes_total{direction=\"inbound\"} 7"), "{text}");
        assert!(text.contains("weft_proxy_connections_open{direction=\"inbound\"} 1"), "{text}");
        assert!(
            text.contains("weft_proxy_refused_total{direction=\"outbound\",phase=\"choose\",reason=\"no_endpoint\"} 1"),
            "{text}"
        );
        drop(guard);
        assert!(metrics.text().contains("weft_proxy_connections_open{direction=\"inbound\"} 0"));
    }
}
