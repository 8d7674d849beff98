//! What is counted of connections that nobody looks into: by who calls whom.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Direction, Look};

/// How many pairs of services are counted under their own names.
const PAIRS_MAX: usize = 500;

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct PairLabel {
    direction: &'static str,
    source: String,
    destination: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LookLabel {
    direction: &'static str,
    destination: String,
    look: &'static str,
}

/// Counts connections; a clone counts into the same numbers.
#[derive(Clone, Default)]
pub(super) struct TcpMetrics {
    opened: Family<PairLabel, Counter>,
    sent: Family<PairLabel, Counter>,
    received: Family<PairLabel, Counter>,
    looks: Family<LookLabel, Counter>,
    pairs: Arc<Mutex<BTreeSet<PairLabel>>>,
}

/// The numbers of one pair of services, looked up once: counting bytes must not take a lock.
#[derive(Debug)]
pub(crate) struct TcpCounters {
    opened: Counter,
    sent: Counter,
    received: Counter,
    looks: Family<LookLabel, Counter>,
    label: PairLabel,
}

impl TcpMetrics {
    /// Returns the numbers of a pair. Pairs beyond a bound are counted together.
    pub(super) fn pair(&self, direction: Direction, source: String, destination: String) -> Arc<TcpCounters> {
        let direction = direction.as_str();
        let named = PairLabel { direction, source, destination };
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let is_counted = pairs.contains(&named) || (pairs.len() < PAIRS_MAX && pairs.insert(named.clone()));
        drop(pairs);
        let other = || "other".to_owned();
        let label = if is_counted { named } else { PairLabel { direction, source: other(), destination: other() } };
        let of = |family: &Family<PairLabel, Counter>| family.get_or_create_owned(&label);
        Arc::new(TcpCounters {
            opened: of(&self.opened),
            sent: of(&self.sent),
            received: of(&self.received),
            looks: self.looks.clone(),
            label,
        })
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "proxy_tcp_connections_opened",
            "Connections carried as bytes, by who calls whom",
            self.opened.clone(),
        );
        registry.register("proxy_tcp_sent_bytes", "Bytes of such from caller to application", self.sent.clone());
        registry.register(
            "proxy_tcp_received_bytes",
            "Bytes of such from application to caller",
            self.received.clone(),
        );
        registry.register(
            "proxy_tcp_looks",
            "Such connections by what their first bytes look like; nothing is decided by it",
            self.looks.clone(),
        );
    }
}

impl TcpCounters {
    /// Counts a connection that was opened.
    pub(crate) fn opened(&self) {
        self.opened.inc();
    }

    /// Counts what a connection's first bytes look like: once for each, so that the lock is its own.
    pub(crate) fn looked(&self, look: Look) {
        let PairLabel { direction, destination, .. } = &self.label;
        let label = LookLabel { direction, destination: destination.clone(), look: look.as_str() };
        self.looks.get_or_create(&label).inc();
    }

    /// Counts bytes on their way from the caller to the application.
    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }

    /// Counts bytes on their way from the application to the caller.
    pub(crate) fn received(&self, bytes: u64) {
        self.received.inc_by(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a11_pairs_of_connections_beyond_the_bound_are_counted_together() {
        let metrics = Metrics::new();
        for index in 0..PAIRS_MAX + 20 {
            let pair = metrics.proxy.tcp(Direction::Outbound, format!("default/s{index}"), "default/db".to_owned());
            pair.opened();
            pair.sent(7);
            pair.looked(Look::Tls);
        }
        let text = metrics.text();
        let count = text.lines().filter(|line| line.starts_with("weft_proxy_tcp_connections_opened_total")).count();
        assert_eq!(count, PAIRS_MAX + 1);
        let labels = "direction=\"outbound\",source=\"other\",destination=\"other\"";
        assert!(text.contains(&format!("weft_proxy_tcp_sent_bytes_total{{{labels}}} 140")), "{text}");
        let labels = "direction=\"outbound\",destination=\"default/db\",look=\"tls\"";
        assert!(text.contains(&format!("weft_proxy_tcp_looks_total{{{labels}}} 500")), "{text}");
    }
}
