//! Whom a service takes: callers with an identity, or for a while of moving in, any.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::UnknownWord;
use crate::node::words;

/// Says whether a service takes callers without identity, where what comes to it is redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MtlsMode {
    /// It does not.
    #[default]
    Strict,
    /// It does, where the `mesh` entry allows it.
    Permissive,
}

/// Says whom one port of a service takes, where that is another than the service's others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortMtlsMode {
    /// The port that the application listens on.
    pub port: u16,
    /// Whom it takes.
    pub mode: MtlsMode,
}

/// Says whom a service takes, port by port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MtlsModes {
    of_service: MtlsMode,
    of_ports: Vec<PortMtlsMode>,
}

impl MtlsModes {
    /// Makes what a service says of itself and of single ports.
    #[must_use]
    pub fn new(of_service: MtlsMode, of_ports: Vec<PortMtlsMode>) -> Self {
        Self { of_service, of_ports }
    }

    /// Returns whom one port of the application takes.
    #[must_use]
    pub fn of_port(&self, port: u16) -> MtlsMode {
        self.of_ports.iter().find(|one| one.port == port).map_or(self.of_service, |one| one.mode)
    }
}

impl fmt::Display for MtlsModes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.of_service)?;
        self.of_ports.iter().try_for_each(|one| write!(f, ", port {} {}", one.port, one.mode))
    }
}

words!(MtlsMode, "mTLS mode", "`strict` or `permissive`", { Strict = "strict", Permissive = "permissive" });
