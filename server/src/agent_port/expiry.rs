//! When the mesh's certificates end: told in the metrics, and in the log once little of a lifetime is left.

use catalog::{Catalog, CheckStatus, Lifetime, Timestamp};
use tracing::{error, warn};

use super::AgentPort;
use crate::metrics::Certificate;

/// Tells when the certificates of the authority end, and that of this server, which it last had made.
pub(super) fn tell(port: &AgentPort, catalog: &Catalog, own: Option<Lifetime>, now: Timestamp) {
    let root = catalog.active_root();
    let root = root.map(|root| Lifetime { begin: root.not_before, end: root.not_after });
    let intermediate = catalog.active_intermediate();
    let intermediate = intermediate.map(|it| Lifetime { begin: it.not_before, end: it.not_after });
    let raft = port.consensus.raft_certificate();
    let certificates = [
        (Certificate::Root, root),
        (Certificate::Intermediate, intermediate),
        (Certificate::Server, own),
        (Certificate::Raft, raft),
    ];
    for (certificate, lifetime) in certificates {
        let Some(lifetime) = lifetime else { continue };
        port.metrics.certificate_expires(certificate, lifetime);
        let left_s = lifetime.end.since(now).as_secs();
        match lifetime.age(now) {
            CheckStatus::Passing => {}
            CheckStatus::Warning => {
                warn!(server = %port.server, certificate = certificate.name(), left_s, "certificate ends soon");
            }
            CheckStatus::Critical => {
                error!(server = %port.server, certificate = certificate.name(), left_s, "certificate has nearly ended");
            }
        }
    }
}
