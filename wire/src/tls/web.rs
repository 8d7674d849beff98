//! What servers elsewhere are asked with: those of identity providers, say.

use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

use crate::crypto;

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
