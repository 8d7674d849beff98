//! What `agent/host` answers: the machine that the agent or server runs on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::crypto;

/// Answers `agent/host`, in the names that Consul took from its source of these facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct AgentHost {
    /// Its memory.
    pub memory: HostMemory,
    /// Its processors, of which only the number is told.
    #[serde(rename = "CPU")]
    pub cpu: Vec<HostCpu>,
    /// Its system.
    pub host: HostSystem,
    /// When this was looked up, in nanoseconds of Unix time.
    pub collection_time: u64,
}

/// Shows memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostMemory {
    /// All there is.
    pub total: u64,
    /// What nobody uses.
    pub free: u64,
    /// What buffers hold, which is given back when it is needed.
    pub buffers: u64,
}

/// Shows one processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostCpu {
    /// Its number.
    pub cpu: u64,
}

/// Shows the operating system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostSystem {
    /// The host's name.
    pub hostname: String,
    /// How long it has been up, in seconds.
    pub uptime: u64,
    /// How many processes run.
    pub procs: u64,
    /// The operating system.
    pub os: String,
    /// The kernel's version.
    pub kernel_version: String,
    /// The kernel's architecture.
    pub kernel_arch: String,
}

impl AgentHost {
    /// Looks at this machine.
    pub fn here() -> Self {
        let system = rustix::system::sysinfo();
        let names = rustix::system::uname();
        let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
        let unit = u64::from(system.mem_unit.max(1));
        let bytes = |count: u64| count.saturating_mul(unit);
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            memory: HostMemory {
                total: bytes(system.totalram),
                free: bytes(system.freeram),
                buffers: bytes(system.bufferram),
            },
            cpu: (0..processors as u64).map(|cpu| HostCpu { cpu }).collect(),
            host: HostSystem {
                hostname: text(names.nodename()),
                uptime: u64::try_from(system.uptime).unwrap_or_default(),
                procs: u64::from(system.procs),
                os: text(names.sysname()).to_lowercase(),
                kernel_version: text(names.release()),
                kernel_arch: text(names.machine()),
            },
            collection_time: crypto::now().0.saturating_mul(1_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_memory_processors_and_a_kernel() {
        let shown = serde_json::to_value(AgentHost::here()).unwrap();
        assert!(shown["Memory"]["total"].as_u64().unwrap() > 0);
        assert_eq!(shown["CPU"][0]["cpu"], 0);
        assert_eq!(shown["Host"]["os"], "linux");
        assert!(shown["CollectionTime"].as_u64().unwrap() > 1_600_000_000_000_000_000);
    }
}
