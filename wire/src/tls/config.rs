//! One rustls configuration per kind of connection.

use std::sync::Arc;

use catalog::{SpiffeId, TrustDomain};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::version::TLS13;
use rustls::{ClientConfig, CommonState, ServerConfig};

use super::verify::Trust;
use super::{ExpectedPeer, ExpiredLeaf, SpiffeVerifier, TlsIdentity, TrustAnchors};
use crate::crypto;

/// The application protocol of tunnels between agents.
pub const ALPN_MESH: &[u8] = b"h2";

/// The application protocol between agents and servers.
pub const ALPN_AGENT: &[u8] = b"weft-agent/1";

/// The application protocol between servers.
pub const ALPN_RAFT: &[u8] = b"weft-raft/1";

/// Tells whether both sides agreed on `protocol`. A peer that proposes none is not refused by TLS itself.
pub fn speaks(connection: &CommonState, protocol: &[u8]) -> bool {
    connection.alpn_protocol() == Some(protocol)
}

/// Returns what an agent dials another with: it shows `identity` and accepts nobody but `expected`.
pub fn mesh_client_config(anchors: Arc<TrustAnchors>, identity: &TlsIdentity, expected: SpiffeId) -> ClientConfig {
    let verifier = SpiffeVerifier::new(anchors, ExpectedPeer::Exactly(expected));
    client(verifier, Some(identity.resolver()), ALPN_MESH)
}

/// Returns what an agent is dialled with: every client must show a certificate that a trusted root vouches for.
///
/// `resolver` picks the leaf by the server name that the client asks for.
pub fn mesh_server_config(anchors: Arc<TrustAnchors>, resolver: Arc<dyn ResolvesServerCert>) -> ServerConfig {
    server(SpiffeVerifier::new(anchors, ExpectedPeer::Anyone), resolver, ALPN_MESH)
}

/// Returns what a server is dialled with by agents.
///
/// A client may come without a certificate, to join; an expired one is accepted and marked, so that an agent that was
/// away for long can renew. The server's own chain must end with the root itself, by which joining agents know it.
pub fn agent_port_server_config(anchors: Arc<TrustAnchors>, resolver: Arc<dyn ResolvesServerCert>) -> ServerConfig {
    let verifier = SpiffeVerifier::new(anchors, ExpectedPeer::Anyone)
        .with_expired(ExpiredLeaf::Marked)
        .with_optional_certificate();
    server(verifier, resolver, ALPN_AGENT)
}

/// Returns what an enrolled agent dials a server with: it accepts any server of `trust_domain`.
pub fn agent_port_client_config(
    anchors: Arc<TrustAnchors>,
    trust_domain: TrustDomain,
    identity: &TlsIdentity,
) -> ClientConfig {
    let verifier = SpiffeVerifier::new(anchors, ExpectedPeer::ServerOf(trust_domain));
    client(verifier, Some(identity.resolver()), ALPN_AGENT)
}

/// Returns what a joining agent dials a server with: it shows nothing, and trusts only a root, sent by the server, whose
/// SHA-256 is one of `root_fingerprints`.
pub fn join_client_config(root_fingerprints: Vec<[u8; 32]>) -> ClientConfig {
    let verifier = SpiffeVerifier::trusting(Trust::Pinned(root_fingerprints), ExpectedPeer::AnyServer);
    client(verifier, None, ALPN_AGENT)
}

pub(super) fn client(
    verifier: SpiffeVerifier,
    identity: Option<Arc<dyn ResolvesClientCert>>,
    protocol: &[u8],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has the algorithms of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config
}

pub(super) fn server(verifier: SpiffeVerifier, identity: Arc<dyn ResolvesServerCert>, protocol: &[u8]) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has the algorithms of TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![protocol.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

#[cfg(test)]
mod tests;
