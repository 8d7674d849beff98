//! What is counted of an agent's dealings with servers.

use catalog::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use wire::agent_protocol::Subject;

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

    pub(super) fn register(&self, registry: &mut Registry) {
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
