//! When the mesh's certificates end: told in the metrics, and in the log once little of a lifetime is left.

use catalog::{Catalog, Timestamp};
use tracing::warn;

use super::AgentPort;
use crate::metrics::Certificate;

/// The part of a lifetime whose begin is worth a warning, counted from its end.
const LAST_PART: u64 = 3;

/// The lifetime of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    /// When it was made; a leaf's own `not_before` is earlier, for peers whose clocks are behind.
    pub(super) begin: Timestamp,
    pub(super) end: Timestamp,
}

impl Lifetime {
    /// Reports whether less than a third is left.
    fn is_ending(self, now: Timestamp) -> bool {
        let whole = self.end.0.saturating_sub(self.begin.0);
        self.end.0.saturating_sub(now.0) < whole / LAST_PART
    }
}

/// Tells when the certificates of the authority end, and that of this server, which it last had made.
pub(super) fn tell(port: &AgentPort, catalog: &Catalog, own: Option<Lifetime>, now: Timestamp) {
    let root = catalog.active_root();
    let root = root.map(|root| Lifetime { begin: root.not_before, end: root.not_after });
    let intermediate = catalog.active_intermediate();
    let intermediate = intermediate.map(|it| Lifetime { begin: it.not_before, end: it.not_after });
    let certificates =
        [(Certificate::Root, root), (Certificate::Intermediate, intermediate), (Certificate::Server, own)];
    for (certificate, lifetime) in certificates {
        let Some(lifetime) = lifetime else { continue };
        port.metrics.certificate_expires(certificate, lifetime.end);
        if lifetime.is_ending(now) {
            let left_s = lifetime.end.since(now).as_secs();
            warn!(server = %port.server, certificate = certificate.name(), left_s, "certificate ends soon");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_third_of_a_lifetime_is_worth_a_warning() {
        let lifetime = Lifetime { begin: Timestamp(1000), end: Timestamp(4000) };
        for (now, want) in [(0, false), (1000, false), (3000, false), (3001, true), (4000, true), (5000, true)] {
            assert_eq!(lifetime.is_ending(Timestamp(now)), want, "at {now}");
        }
    }
}
