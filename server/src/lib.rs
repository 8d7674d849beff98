//! A weft server: Raft, the CA, ACL, the HTTP API and the streams to agents.
//!
//! [`start`] opens the log, joins or makes the cluster in the background, and serves the API and the agents.

mod admit;
mod agent_port;
mod api;
mod ca;
mod config;
mod consensus;
mod enrol;
mod held_body;
pub mod hub;
mod login;
mod metrics;
mod outage;
mod pace;
mod places;
pub mod raft;
mod reports;
pub mod sessions;
mod taps;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

pub use api::CertificateError;
pub use ca::{SignError, acks::Acks, duty, entitled};
pub use config::{BOOTSTRAP_EXPECT_MAX, CertificateFiles, Config, ConfigError, Https, RaftTiming, routed_address};
pub use consensus::{ConsensusError, FatalError, IdentityError};
pub use consensus::{recovery, steward};

use crate::api::ApiState;
use crate::metrics::Metrics;

/// Explains why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting makes no sense.
    #[error("the server's configuration is not valid")]
    Config(#[source] ConfigError),
    /// The wall clock cannot be right.
    #[error("cannot start by this clock")]
    Clock(#[source] wire::wall_clock::ClockError),
    /// A port cannot be listened on.
    #[error("cannot listen on {address} for {what}: stop what uses the port, or choose another one")]
    Listen {
        /// What the port is for.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The operator's certificate of the API cannot be used.
    #[error("cannot serve the API over TLS")]
    Certificate(#[source] CertificateError),
    /// The log or the server's identity cannot be used.
    #[error("cannot take part in the cluster")]
    Consensus(#[source] ConsensusError),
}

/// Is a running server. Dropping it cuts everything off; [`Server::stop`] does it in order.
pub struct Server {
    http_address: SocketAddr,
    https_address: Option<SocketAddr>,
    agent_address: SocketAddr,
    raft_address: SocketAddr,
    running: consensus::Running,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Server")
            .field("http_address", &self.http_address)
            .field("agent_address", &self.agent_address)
            .field("raft_address", &self.raft_address)
            .finish_non_exhaustive()
    }
}

/// Starts a server; it returns once its ports are open and its log is read back.
///
/// Whether there is a cluster, and a leader in it, shows later: until then reads and writes of the API wait for one.
///
/// # Errors
/// [`StartError`]; nothing runs then.
pub async fn start(config: Config) -> Result<Server, StartError> {
    start_within(config, agent_port::Bounds::default()).await
}

/// Starts a server that does no more than `bounds` for its agents.
async fn start_within(config: Config, bounds: agent_port::Bounds) -> Result<Server, StartError> {
    wire::crypto::install_provider();
    config.validate().map_err(StartError::Config)?;
    wire::wall_clock::check(wire::crypto::now()).map_err(StartError::Clock)?;
    let advertised = config.advertised().unwrap_or(config.bind);
    let raft = listen("other servers", config.bind, config.raft_port).await?;
    let agents = listen("agents", config.bind, config.agent_port).await?;
    let http = listen("the HTTP API", IpAddr::V4(Ipv4Addr::LOCALHOST), config.http_port).await?;
    let https = match &config.https {
        Some(https) => Some(listen("the HTTP API over TLS", config.bind, https.port).await?),
        None => None,
    };
    let raft_address = SocketAddr::new(advertised, raft.1.port());
    let agent_address = SocketAddr::new(advertised, agents.1.port());

    let doors = config.https.as_ref().map(|https| api::doors(https, advertised, &config)).transpose();
    let doors = doors.map_err(StartError::Certificate)?;
    let metrics = Metrics::new();
    let running =
        consensus::start(&config, raft.0, raft_address.to_string(), agent_address.to_string(), metrics.clone())
            .await
            .map_err(StartError::Consensus)?;
    let consensus = running.consensus.clone();
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let state = ApiState::new(
        consensus.clone(),
        config.datacenter.clone(),
        config.node.clone(),
        config.cluster_keys.clone(),
        metrics.clone(),
    )
    .with_leaf_ttl(config.leaf_ttl)
    .with_login_makers(config.login_makers.clone());
    let port = agent_port::Settings {
        server: config.node.clone(),
        cluster_keys: config.cluster_keys.clone(),
        leaf_ttl: config.leaf_ttl,
        periods: config.periods(),
        api: api::passed_on_router(state.clone()),
        logins: state.logins().clone(),
        bounds,
        data_dir: config.data_dir.clone(),
    };
    let https_address = https.as_ref().map(|(_, address)| *address);
    if let (Some((listener, _)), Some(doors)) = (https, doors) {
        tasks.spawn(api::serve_doors(listener, doors, state.clone(), stop.clone()));
    }
    tasks.spawn(api::serve_http(http.0, api::router(state), metrics.clone(), stop.clone()));
    let steward = ca::Stewardship {
        consensus: consensus.clone(),
        cluster_keys: config.cluster_keys.clone(),
        leaf_ttl: config.leaf_ttl,
    };
    let stopped = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            () = ca::steward(steward) => {}
        }
    });
    tasks.spawn(agent_port::serve(agents.0, port, consensus, metrics, stop.clone()));
    tasks.close();
    info!(server = %config.node, http = %http.1, agents = %agent_address, raft = %raft_address, "server started");
    Ok(Server { http_address: http.1, https_address, agent_address, raft_address, running, stop, tasks })
}

async fn listen(what: &'static str, ip: IpAddr, port: u16) -> Result<(TcpListener, SocketAddr), StartError> {
    let address = SocketAddr::new(ip, port);
    let failed = |source| StartError::Listen { what, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

impl Server {
    /// Returns the HTTP API's address.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Returns the address of the HTTP API over TLS, where it is served.
    #[must_use]
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.https_address
    }

    /// Returns the address at which agents reach this server.
    #[must_use]
    pub fn agent_address(&self) -> SocketAddr {
        self.agent_address
    }

    /// Returns the address at which other servers reach this one.
    #[must_use]
    pub fn raft_address(&self) -> SocketAddr {
        self.raft_address
    }

    /// Says in one line how the server stands in its group.
    #[must_use]
    pub fn standing(&self) -> String {
        self.running.consensus.status().in_words()
    }

    /// Waits until the server cannot go on, for ever where it can. The process must end then: its memory is not to be
    /// trusted, and what is on disk decides what it knows after a restart.
    pub async fn failed(&self) -> FatalError {
        self.running.failure.happened().await
    }

    /// Hands leadership over, lets requests in flight end, and stops.
    pub async fn stop(self) {
        self.running.hand_over().await;
        self.stop.cancel();
        self.tasks.wait().await;
        self.running.stop().await;
        info!("server stopped");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
