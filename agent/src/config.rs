//! What an agent is told when it starts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use catalog::{AuthMethodName, NodeName, Platform};
use wire::join_token::JoinSecret;
use wire::login::CredentialSource;
use wire::surroundings::Surroundings;

use crate::access_log::AccessLogSettings;
use crate::checks::ApplicationProbe;
use crate::dns::DnsSettings;
use crate::local::DefinitionSource;
use crate::proxy::Ingress;
use crate::spans::TracingSettings;

/// Port of the local HTTP API where nobody says otherwise.
pub const HTTP_PORT: u16 = 8500;
/// Port of the admin listener where nobody says otherwise.
pub const ADMIN_PORT: u16 = 19000;

/// How often an agent tells what it has seen where nobody says otherwise.
const REPORT_INTERVAL: Duration = Duration::from_secs(300);

/// Says how an agent logs in by the word of its platform.
#[derive(Clone, Debug)]
pub struct LoginSource {
    /// The auth method that judges the credential.
    pub method: AuthMethodName,
    /// What has the credential; asked anew for each login, for platforms replace it.
    pub source: Arc<dyn CredentialSource>,
    /// The SHA-256 of each root that a server may be recognised by. No credential is sent to anybody else.
    pub root_fingerprints: Vec<[u8; 32]>,
}

/// Port at which a gateway takes tunnels of other networks where nobody says otherwise.
pub const GATEWAY_PORT: u16 = 20443;

/// Says where a load balancer is listened to, and what it may bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressListener {
    /// How it is known, and where it leads.
    pub ingress: Ingress,
    /// The port that it calls.
    pub port: u16,
}

/// Tells one agent who it is, where its servers are and where it listens.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node that this agent registers and whose instances it owns.
    pub node: NodeName,
    /// The platform that the node is on.
    pub platform: Platform,
    /// The availability zone, if the platform has them.
    pub zone: Option<String>,
    /// The flat address space that the node is in; empty is the default one.
    pub network: String,
    /// What is known of the node besides, for the catalog.
    pub node_meta: BTreeMap<String, String>,
    /// What the platform says of where the agent is, while it runs; nothing where it says nothing.
    pub surroundings: Option<Arc<dyn Surroundings>>,
    /// The address of the inbound mesh listener.
    pub bind: IpAddr,
    /// The address that other agents dial; found from the route to the servers when absent and `bind` is unspecified.
    pub advertise: Option<IpAddr>,
    /// Agent ports of servers as `host:port`, tried in an order of the agent's own choosing.
    pub servers: Vec<String>,
    /// A join token; needed only until the agent has an identity in `data_dir`.
    pub join_token: Option<JoinSecret>,
    /// How it logs in instead, also when its record has ended.
    pub login: Option<LoginSource>,
    /// Where identity, leaves, last good state and API-registered services are kept; memory only when absent.
    pub data_dir: Option<PathBuf>,
    /// Port of the local HTTP API on 127.0.0.1; 0 takes a free one.
    pub http_port: u16,
    /// Port of the admin listener on 127.0.0.1; 0 takes a free one.
    pub admin_port: u16,
    /// Port, on the address of the mesh listener, at which a kubelet asks for the agent's health and the applications'; 0 takes
    /// a free one.
    pub health_port: Option<u16>,
    /// What is asked of applications there.
    pub application_probes: Vec<ApplicationProbe>,
    /// Port of the inbound mesh listener; 0 takes a free one, the same one again after a restart if it still is.
    pub mesh_port: u16,
    /// The port at which tunnels of other networks are passed on into this one, where the agent is a gateway; 0 takes a free one.
    pub gateway_port: Option<u16>,
    /// The port of the forward proxy on 127.0.0.1, for applications that know `HTTP_PROXY`; there is none when absent.
    pub forward_port: Option<u16>,
    /// The listeners for load balancers, on the address of the mesh listener.
    pub ingress: Vec<IngressListener>,
    /// Where service definitions stand: files, directories read in order of their names, or a text.
    pub services: Vec<DefinitionSource>,
    /// Where a line of JSON is written for each request, and which; there is none when absent.
    pub access_log: Option<AccessLogSettings>,
    /// Where spans of requests are sent, and how many; none when absent.
    pub tracing: Option<TracingSettings>,
    /// Where names are answered; nowhere when absent.
    pub dns: Option<DnsSettings>,
    /// How often servers are told which rules decided and who called; what they know of that is as old.
    pub report_interval: Duration,
    /// How long a stopping agent waits for what is in flight.
    pub drain_deadline: Duration,
}

impl Config {
    /// Returns the configuration of an agent on loopback that keeps everything in memory and takes free ports.
    pub fn in_memory(node: NodeName, servers: Vec<String>) -> Self {
        Self {
            node,
            platform: Platform::Vm,
            zone: None,
            network: String::new(),
            node_meta: BTreeMap::new(),
            surroundings: None,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise: None,
            servers,
            join_token: None,
            login: None,
            data_dir: None,
            http_port: 0,
            admin_port: 0,
            health_port: None,
            application_probes: Vec::new(),
            mesh_port: 0,
            gateway_port: None,
            forward_port: None,
            ingress: Vec::new(),
            services: Vec::new(),
            access_log: None,
            tracing: None,
            dns: None,
            report_interval: REPORT_INTERVAL,
            drain_deadline: Duration::from_secs(25),
        }
    }
}
