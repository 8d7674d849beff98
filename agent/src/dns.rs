//! Names for applications that know nothing of the mesh: a DNS server that answers from what the agent knows, and goes on doing
//! so while no server of the mesh can be reached.

mod answer;
mod forward;
mod handler;
mod names;
mod pace;
mod question;
mod zones;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use catalog::Namespace;
use hickory_server::Server;
use tokio::net::{TcpListener, UdpSocket};
use wire::crypto::Secret;
use wire::defaults::{DNS_DOMAIN, DNS_PORT};

use crate::api::ApiState;
use crate::core::Handle;
use crate::loopback::{LOOPBACK, is_absent};
use forward::Forwarder;
use handler::Answerer;
use names::Names;
pub(crate) use zones::Zones;

/// How long a client may take to send a question over TCP.
const TCP_PATIENCE: Duration = Duration::from_secs(5);
/// How often another free port is tried.
const FREE_PORT_TRIES: u32 = 16;
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
    /// One pair for each address, the one that was asked for first.
    pairs: Vec<(UdpSocket, TcpListener)>,
    addresses: Vec<SocketAddr>,
    zones: Zones,
    settings: DnsSettings,
}

impl Sockets {
    /// Opens them; a free port is the same for all. Where they are on loopback, they are on that of both families: rules of
    /// the kernel lead a question to the loopback of its own.
    pub(crate) async fn open(settings: DnsSettings) -> Result<Self, DnsError> {
        let zones = Zones::new(&settings)?;
        let mut tries = 0;
        let (pairs, addresses) = loop {
            match open(settings.bind, settings.port).await {
                // A port that is free here may be taken there.
                Err(_) if settings.port == 0 && tries < FREE_PORT_TRIES => tries += 1,
                opened => break opened?,
            }
        };
        Ok(Self { pairs, addresses, zones, settings })
    }

    /// Returns where names are answered; the address that was asked for is the first.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Answers until it is dropped.
    pub(crate) async fn serve(self, core: Handle, api: ApiState) {
        let rights = self.settings.token.clone().map(|token| (api, token));
        let forwarder = Forwarder::new(&self.settings.recursors);
        let mut server = Server::new(Answerer::new(
            self.zones,
            self.settings.bind.is_loopback(),
            Names::new(core, rights),
            forwarder,
        ));
        for (udp, tcp) in self.pairs {
            server.register_socket(udp);
            server.register_listener(tcp, TCP_PATIENCE, TCP_ANSWERS_MAX);
        }
        if let Err(error) = server.block_until_done().await {
            tracing::error!(error = wire::one_line(&error), "names are answered no longer");
        }
    }
}

type Opened = (Vec<(UdpSocket, TcpListener)>, Vec<SocketAddr>);

async fn open(bind: IpAddr, port: u16) -> Result<Opened, DnsError> {
    let (first, address) = pair(SocketAddr::new(bind, port)).await?;
    let (mut pairs, mut addresses) = (vec![first], vec![address]);
    if bind == LOOPBACK[0] {
        match pair(SocketAddr::new(LOOPBACK[1], address.port())).await {
            Ok((second, address)) => {
                pairs.push(second);
                addresses.push(address);
            }
            Err(DnsError::Listen { source, .. }) if is_absent(&source) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((pairs, addresses))
}

async fn pair(asked: SocketAddr) -> Result<((UdpSocket, TcpListener), SocketAddr), DnsError> {
    let failed = |source| DnsError::Listen { address: asked, source };
    let tcp = TcpListener::bind(asked).await.map_err(failed)?;
    let address = tcp.local_addr().map_err(failed)?;
    Ok(((UdpSocket::bind(address).await.map_err(failed)?, tcp), address))
}

#[cfg(test)]
mod tests;
