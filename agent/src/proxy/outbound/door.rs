//! By what an application's connection came in, which says who calls whom.

use std::fmt;
use std::net::SocketAddr;

use catalog::ServiceKey;

/// Is where a caller came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Door {
    /// The listener of an upstream.
    Upstream(SocketAddr),
    /// A listener of a service's own, for whatever it calls: here, this service.
    Service {
        /// Who calls.
        owner: ServiceKey,
        /// Whom.
        destination: ServiceKey,
        /// What the application dialled.
        dialled: SocketAddr,
    },
}

impl Door {
    /// Returns the address that the application dialled.
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Upstream(address) | Self::Service { dialled: address, .. } => *address,
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}
