//! Mutual TLS 1.3 with SPIFFE identities: who is trusted, how a peer is verified, and one configuration per listener.
//!
//! No configuration here resumes sessions, sends tickets or takes early data, so that nothing outlives the trust that it
//! was opened under. Custom verification happens in one place, [`SpiffeVerifier`], for both ends of a connection.

mod anchors;
mod api;
mod config;
mod hello;
mod identity;
mod leaf;
mod peer;
mod raft;
mod rejected;
#[cfg(test)]
mod testing;
mod verify;
mod web;

pub use anchors::{AnchorError, TrustAnchors};
pub use api::{ALPN_API, ALPN_CLUSTER_KEY, ApiCertificate, ApiCertificateError, api_server_config, group_api_config};
pub use config::{
    ALPN_AGENT, ALPN_MESH, ALPN_RAFT, agent_port_client_config, agent_port_server_config, join_client_config,
    mesh_client_config, mesh_server_config, speaks,
};
pub use hello::{CLIENT_HELLO_BYTES_MAX, ClientHelloError, ClientHelloReader};
pub use identity::{TlsIdentity, TlsIdentityError};
pub use peer::{PeerIdentity, peer_identity};
pub use raft::{
    RaftIdentity, cluster_key_client_config, raft_client_config, raft_meeting_config, raft_peer, raft_server_config,
};
pub use rejected::PeerRejected;
pub use verify::{CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX, ExpectedPeer, ExpiredLeaf, SpiffeVerifier};
pub use web::{edge_server_config, web_client_config};
