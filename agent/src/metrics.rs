//! What an agent counts, declared in one place.

mod control;
mod decisions;
mod looks;
mod proxy;
mod requests;
mod tcp;
mod tokens;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub(crate) use self::control::ControlMetrics;
pub(crate) use self::looks::Look;
pub use self::proxy::ProxyMetrics;
pub(crate) use self::proxy::SpanMetrics;
pub(crate) use self::requests::PairCounters;
pub(crate) use self::tcp::TcpCounters;

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

/// Names how far a call had come when it was refused.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// A gateway read whom it is for.
    Hello,
    /// The two sides proved who they are.
    Handshake,
    /// Somebody without identity came in.
    Plaintext,
    /// A request was read.
    Read,
    /// It was found out who calls whom.
    Identify,
    /// An instance was chosen.
    Choose,
    /// The rules were asked.
    Decide,
    /// The instance's agent was connected to.
    Connect,
    /// A stream was opened there.
    Open,
    /// The application was dialled.
    Dial,
    /// The application was asked.
    Application,
}

impl Phase {
    /// Returns the label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Handshake => "handshake",
            Self::Plaintext => "plaintext",
            Self::Read => "read",
            Self::Identify => "identify",
            Self::Choose => "choose",
            Self::Decide => "decide",
            Self::Connect => "connect",
            Self::Open => "open",
            Self::Dial => "dial",
            Self::Application => "application",
        }
    }
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
    use catalog::{AuditCause, Reason};

    use super::*;

    #[test]
    fn intentions_that_would_deny_are_named_up_to_a_bound_and_counted_under_one_name_beyond_it() {
        let metrics = Metrics::new();
        let denied_by = |number: usize| {
            let key = catalog::IntentionKey {
                source: format!("default/web-{number:03}").parse().unwrap(),
                destination: "default/api".parse().unwrap(),
            };
            metrics.proxy.audited(&Reason::Intention { key, precedence: 9 }, &AuditCause::Mesh);
        };
        (0..300).for_each(denied_by);
        denied_by(0);
        let text = metrics.text();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("weft_proxy_audited_total{")).collect();
        assert_eq!(lines.len(), 201, "two hundred names, and one for the others");
        assert!(lines.iter().any(|line| line.contains("rule=\"other\"") && line.ends_with(" 100")), "{text}");
        assert!(
            lines.iter().any(|line| line.contains("default/web-000 ") && line.ends_with(" 2")),
            "a known one is counted by its name: {text}"
        );
    }

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
            "weft_proxy_tcp_looks counter",
            "weft_proxy_access_lines_dropped counter",
            "weft_proxy_spans counter",
            "weft_proxy_accept_pauses counter",
            "weft_proxy_endpoints_ejected counter",
            "weft_proxy_unverified counter",
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
        metrics.proxy.refused(Direction::Outbound, Phase::Choose, "no_endpoint");
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
