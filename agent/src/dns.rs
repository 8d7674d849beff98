//! Names for applications that know nothing of the mesh: a DNS server that answers from what the agent knows, and goes on doing
//! so while no server of the mesh can be reached.

mod answer;
mod forward;
mod handler;
mod names;
mod pace;
mod question;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use catalog::Namespace;
use hickory_proto::rr::Name;
use hickory_server::Server;
use tokio::net::{TcpListener, UdpSocket};
use wire::crypto::Secret;

use crate::api::ApiState;
use crate::core::Handle;
use forward::Forwarder;
use handler::Answerer;
use names::Names;

/// Port of the DNS server where nobody says otherwise.
pub const DNS_PORT: u16 = 8600;
/// The domain that the names of the mesh end with where nobody says otherwise.
pub const DNS_DOMAIN: &str = "mesh";

/// How long a client may take to send a question over TCP.
const TCP_PATIENCE: Duration = Duration::from_secs(5);
/// How many bytes may wait for a client over TCP.
const TCP_ANSWERS_MAX: usize = 32;

/// Says where names are answered, and which.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// The address to listen on, over UDP and TCP; loopback, unless others are to ask, too.
    pub bind: IpAddr,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// The domain that the names of the mesh end with, such as `mesh`.
    pub domain: String,
    /// A second such domain.
    pub alt_domain: Option<String>,
    /// The namespace of names that carry none.
    pub namespace: Namespace,
    /// Who is asked for other names; without any, these are refused.
    pub recursors: Vec<SocketAddr>,
    /// The token by whose rights names are told; all of them where there is none, as the agent itself may know them.
    pub token: Option<Secret>,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            bind: IpAddr::from([127, 0, 0, 1]),
            port: DNS_PORT,
            domain: DNS_DOMAIN.to_owned(),
            alt_domain: None,
            namespace: Namespace::default(),
            recursors: Vec::new(),
            token: None,
        }
    }
}

/// Why names are not answered.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A domain is none.
    #[error("`{domain}` is no domain of names: use one such as `mesh`")]
    Domain {
        /// What was given.
        domain: String,
    },
    /// The port cannot be had.
    #[error("cannot listen on {address} for DNS: stop what uses the port, choose another by --dns-port, or --no-dns")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Holds the sockets of a DNS server that does not answer yet.
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
    zones: Vec<Name>,
    settings: DnsSettings,
}

impl Sockets {
    /// Opens them; a free port is the same for both.
    pub(crate) async fn open(settings: DnsSettings) -> Result<Self, DnsError> {
        let zone = |domain: &String| {
            let name = Name::from_ascii(domain).ok().filter(|name| !name.is_root());
            let mut name = name.ok_or_else(|| DnsError::Domain { domain: domain.clone() })?.to_lowercase();
            name.set_fqdn(true);
            Ok(name)
        };
        let zones = [Some(&settings.domain), settings.alt_domain.as_ref()];
        let zones: Vec<Name> = zones.into_iter().flatten().map(zone).collect::<Result<_, DnsError>>()?;
        let asked = SocketAddr::new(settings.bind, settings.port);
        let failed = |source| DnsError::Listen { address: asked, source };
        let tcp = TcpListener::bind(asked).await.map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        let udp = UdpSocket::bind(address).await.map_err(failed)?;
        Ok(Self { udp, tcp, address, zones, settings })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until it is dropped.
    pub(crate) async fn serve(self, core: Handle, api: ApiState) {
        let rights = self.settings.token.clone().map(|token| (api, token));
        let forwarder = Forwarder::new(&self.settings.recursors);
        let mut server = Server::new(Answerer::new(
            self.zones,
            self.settings.namespace,
            self.address.ip().is_loopback(),
            Names::new(core, rights),
            forwarder,
        ));
        server.register_socket(self.udp);
        server.register_listener(self.tcp, TCP_PATIENCE, TCP_ANSWERS_MAX);
        if let Err(error) = server.block_until_done().await {
            tracing::error!(error = wire::one_line(&error), "names are answered no longer");
        }
    }
}

#[cfg(test)]
mod tests;
