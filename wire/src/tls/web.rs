//! TLS with those who are not of the mesh: servers elsewhere, such as identity providers', and load balancers.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::TlsIdentity;
use crate::crypto;

/// The protocols that are spoken under TLS to a service of HTTP.
const ALPN_HTTP: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Returns what a load balancer is shown: `own`, which it may check or not, while nothing is asked of it. TLS 1.2 is taken,
/// too.
pub fn edge_server_config(own: &TlsIdentity, speaks_http: bool) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("the provider has the algorithms of TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(own.resolver());
    if speaks_http {
        config.alpn_protocols = ALPN_HTTP.map(<[u8]>::to_vec).to_vec();
    }
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// Returns what a server on the web is dialled with: its certificate leads to one of `roots` and names the host.
///
/// Such servers are not of the mesh, so that TLS 1.2 is taken, too.
pub fn web_client_config(roots: RootCertStore) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("the provider has the algorithms of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    config
}
