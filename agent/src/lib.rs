//! A weft agent: the proxy, certificates, local services and their health checks.
//!
//! [`start`] enrols the agent if need be, puts what an earlier run kept into force, and goes on from there. Servers are
//! needed for news only: without any the agent serves on with its last good state.

mod access_log;
mod address_range;
mod api;
mod bypass;
mod checks;
mod config;
mod core;
mod dns;
pub mod doctor;
mod enrol;
mod forward;
pub mod joining;
mod leaf;
mod local;
mod loopback;
mod metrics;
pub mod proxy;
pub mod redirect;
mod report;
mod sockets;
mod spans;
mod start;
mod state;
mod surroundings;
pub mod sync;
mod tally;
mod tap;
#[cfg(test)]
mod testing;
mod users;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use catalog::{AgentRecord, ServiceKey};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub use access_log::{AccessLogError, AccessLogSettings, Fields, UnknownField};
pub use address_range::{AddressRange, AddressRangeError};
pub use checks::{ApplicationProbe, ApplicationProbeError};
pub use config::{ADMIN_PORT, Config, GATEWAY_PORT, HTTP_PORT, IngressListener, LoginSource};
pub use dns::{DnsError, DnsSettings};
pub use enrol::EnrolError;
pub use leaf::{LeafError, renewal};
pub use local::{DEFINITION_FIELDS, DefinitionSource, LocalError, check_definitions};
pub use proxy::{INGRESS_NAMESPACE, Ingress};
pub use spans::{TracingError, TracingSettings};
pub use start::{StartError, start};
pub use state::DataDirError;
pub use wire::defaults::{DNS_DOMAIN, DNS_PORT, MESH_PORT};

/// How long a stopping agent waits for the catalog to take its node out.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long other agents may still send new calls after the node has left the catalog.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(500);

/// A running agent. Dropping it stops everything at once, as a crash would; [`Agent::drain`] takes leave first.
#[derive(Debug)]
pub struct Agent {
    core: core::Handle,
    proxy: Arc<proxy::Proxy>,
    http: SocketAddr,
    admin: SocketAddr,
    health: Option<SocketAddr>,
    dns: Option<SocketAddr>,
    drain_deadline: Duration,
    ready: api::Ready,
    leaving: CancellationToken,
    stopping: CancellationToken,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Agent {
    /// Returns where the local HTTP API listens.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Returns where readiness and metrics are served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Returns where a kubelet asks, if anywhere.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health
    }

    /// Returns where names are answered, if anywhere.
    pub fn dns_address(&self) -> Option<SocketAddr> {
        self.dns
    }

    /// Returns where the mesh listener listens.
    pub fn mesh_address(&self) -> SocketAddr {
        self.proxy.mesh_address()
    }

    /// Returns the address and port under which other agents find this one.
    pub fn advertised_address(&self) -> (IpAddr, u16) {
        let status = self.core.status();
        (status.address, status.mesh_port)
    }

    /// Returns the agent's record.
    pub fn record(&self) -> AgentRecord {
        self.core.status().record.clone()
    }

    /// Returns where local services call others: owner, destination, and the address or why there is none.
    pub fn upstreams(&self) -> Vec<(ServiceKey, ServiceKey, Result<SocketAddr, String>)> {
        let upstreams = self.proxy.status().upstreams.into_iter();
        upstreams.map(|upstream| (upstream.listener.owner, upstream.listener.destination, upstream.outcome)).collect()
    }

    /// Returns what is still missing before every local service is served; nothing once the agent is ready.
    pub fn missing(&self) -> Vec<String> {
        api::missing(&self.core, &self.proxy)
    }

    /// Waits until somebody asks the agent, by its API, to leave; whoever runs it drains it then.
    pub async fn asked_to_leave(&self) {
        self.leaving.cancelled().await;
    }

    /// Reads the files of definitions again, as `/v1/agent/reload` does.
    ///
    /// # Errors
    ///
    /// [`LocalError`] names the file and what is wrong; what the files said before stays in force.
    pub async fn reload(&self) -> Result<(), LocalError> {
        self.core.ask(core::Request::Reload).await.unwrap_or(Ok(()))
    }

    /// Stops being advertised, lets what is in flight finish within the configured deadline, and stops.
    pub async fn drain(self) {
        info!("draining");
        self.ready.draining(Arc::clone(&self.proxy));
        match tokio::time::timeout(LEAVE_TIMEOUT, self.core.ask(core::Request::Leave)).await {
            Ok(Some(())) => tokio::time::sleep(FORGOTTEN_AFTER).await,
            Ok(None) | Err(_) => warn!("no server took the node out of the catalog; callers notice by themselves"),
        }
        self.stopping.cancel();
        if self.proxy.drain(self.drain_deadline).await {
            info!("drained");
        } else {
            warn!("calls were cut at the end of the drain deadline");
        }
    }
}
