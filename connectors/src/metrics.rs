//! What a connector counts, declared in one place.

use std::sync::Arc;

use catalog::{ConnectorStatus, ConnectorWrite, ProblemKind};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The form of the metrics' text.
pub(crate) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WriteLabels {
    write: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    api: &'static str,
    outcome: &'static str,
}

/// Counts what a connector does.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    active: Gauge,
    nodes: Gauge,
    synced: Gauge,
    problems: Family<KindLabel, Gauge>,
    writes: Family<WriteLabels, Counter>,
    calls: Family<CallLabels, Counter>,
}

impl Metrics {
    /// Registers everything, at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("weft_connector");
        let metrics = Self {
            active: Gauge::default(),
            nodes: Gauge::default(),
            synced: Gauge::default(),
            problems: Family::default(),
            writes: Family::default(),
            calls: Family::default(),
            registry: Arc::default(),
        };
        registry.register("active", "Whether this process runs the connector", metrics.active.clone());
        registry.register("nodes", "Nodes that the connector keeps in the catalog", metrics.nodes.clone());
        registry.register(
            "synced_timestamp_seconds",
            "When the connector last saw the whole of its platform and wrote what it saw",
            metrics.synced.clone(),
        );
        registry.register("problems", "What keeps the connector from its work", metrics.problems.clone());
        registry.register("writes", "Writes to the catalog", metrics.writes.clone());
        registry.register("platform_calls", "Calls of the platform's APIs", metrics.calls.clone());
        Self { registry: Arc::new(registry), ..metrics }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // A String takes whatever is written to it.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn active(&self, is_active: bool) {
        self.active.set(i64::from(is_active));
    }

    pub(crate) fn status(&self, status: &ConnectorStatus) {
        self.nodes.set(i64::try_from(status.nodes).unwrap_or(i64::MAX));
        self.synced.set(status.synced_at.map_or(0, |at| i64::try_from(at.0 / 1000).unwrap_or(i64::MAX)));
        for kind in [ProblemKind::Degraded, ProblemKind::Held, ProblemKind::Conflict, ProblemKind::Refused] {
            let count = status.problems.iter().filter(|problem| problem.kind == kind).count();
            self.problems
                .get_or_create(&KindLabel { kind: kind.as_str() })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn write(&self, write: &ConnectorWrite, outcome: &'static str) {
        let write = match write {
            ConnectorWrite::Put { .. } => "put",
            ConnectorWrite::Remove { .. } => "remove",
            ConnectorWrite::Checks { .. } => "checks",
        };
        self.writes.get_or_create(&WriteLabels { write, outcome }).inc();
    }

    /// Counts a call of a platform's API; both names come from a closed list.
    pub fn platform_call(&self, api: &'static str, outcome: &'static str) {
        self.calls.get_or_create(&CallLabels { api, outcome }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
