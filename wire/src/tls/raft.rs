//! Mutual TLS between servers, under the authority of the cluster key.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use catalog::{ServerId, Timestamp};
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, CommonState, ServerConfig, SignatureScheme};
use tracing::{info, warn};

use super::config::{ALPN_RAFT, client, server};
use super::{ALPN_CLUSTER_KEY, ExpectedPeer, PeerRejected, SpiffeVerifier, TlsIdentity, TrustAnchors, peer_identity};
use crate::cluster_key::{Authority, AuthorityError, ClusterKey, ClusterKeys, raft_identity, raft_trust_domain};
use crate::crypto;

/// How long a server's certificate toward other servers lives. It is made anew at every start and at half its life.
const LEAF_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// A server's identity toward other servers: a key of its own, certified by itself, since it holds the cluster key.
pub struct RaftIdentity {
    server: ServerId,
    authority: Authority,
    anchors: Arc<TrustAnchors>,
    issued: Mutex<Issued>,
}

/// A certificate and when to make the next one, by both clocks: the monotonic one stands still while a machine sleeps,
/// and the wall clock is set by people.
struct Issued {
    certified: Arc<CertifiedKey>,
    made_at: Timestamp,
    not_before: Timestamp,
    not_after: Timestamp,
    renew_at: Timestamp,
    renew_after: Instant,
}

impl RaftIdentity {
    /// Draws a key for `server` and certifies it with the primary cluster key. Servers under either key are trusted.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`] if the key fails.
    pub fn new(keys: &ClusterKeys, server: ServerId) -> Result<Arc<Self>, AuthorityError> {
        let authority = keys.primary.authority();
        let issued = Mutex::new(issue(&authority, &server, crypto::now())?);
        Ok(Arc::new(Self { server, authority, anchors: anchors(keys.all()), issued }))
    }

    /// Returns the server that this is.
    pub fn server(&self) -> &ServerId {
        &self.server
    }

    /// Returns when the certificate was made that is shown now, and when it ends. One that is past its half-life is made anew.
    pub fn lifetime(&self) -> (Timestamp, Timestamp) {
        self.certified_key();
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        (issued.made_at, issued.not_after)
    }

    fn certified_key(&self) -> Arc<CertifiedKey> {
        // Whoever panicked with the lock held left a whole value behind.
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let now = crypto::now();
        // A clock that was set back makes the certificate one of the future, which peers refuse.
        if now >= issued.renew_at || now < issued.not_before || Instant::now() >= issued.renew_after {
            match issue(&self.authority, &self.server, now) {
                Ok(renewed) => {
                    *issued = renewed;
                    info!(server = %self.server, "raft certificate renewed");
                }
                // The one at hand is good for as long again.
                Err(error) => warn!(server = %self.server, error = %error, "raft certificate not renewed"),
            }
        }
        Arc::clone(&issued.certified)
    }
}

/// Returns what trusts servers that hold one of these keys.
fn anchors<'a>(keys: impl Iterator<Item = &'a ClusterKey>) -> Arc<TrustAnchors> {
    let roots: Vec<String> = keys.map(|key| key.authority().certificate_pem()).collect();
    Arc::new(TrustAnchors::from_pem(&roots).expect("the authority's certificate is a root of ours"))
}

fn issue(authority: &Authority, server: &ServerId, now: Timestamp) -> Result<Issued, AuthorityError> {
    let (key, leaf) = authority.issue(server, now, LEAF_TTL)?;
    let identity = TlsIdentity::from_der(vec![leaf], &key).expect("the authority signs leaves that peers accept");
    let half = LEAF_TTL / 2;
    Ok(Issued {
        certified: identity.certified_key(),
        made_at: now,
        not_before: identity.not_before(),
        not_after: identity.not_after(),
        renew_at: now.saturating_add(half),
        renew_after: Instant::now() + half,
    })
}

impl fmt::Debug for RaftIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RaftIdentity").field("server", &self.server).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for RaftIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified_key())
    }
}

impl ResolvesClientCert for RaftIdentity {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified_key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Returns what a server is dialled with by other servers. [`raft_peer`] tells afterwards which one it is.
pub fn raft_server_config(identity: &Arc<RaftIdentity>) -> Arc<ServerConfig> {
    let verifier = SpiffeVerifier::new(Arc::clone(&identity.anchors), ExpectedPeer::ServerOf(raft_trust_domain()));
    let resolver: Arc<dyn ResolvesServerCert> = Arc::<RaftIdentity>::clone(identity);
    Arc::new(server(verifier, resolver, ALPN_RAFT))
}

/// Returns what a server dials another one with: nobody but the server `expected` is accepted.
pub fn raft_client_config(identity: &Arc<RaftIdentity>, expected: &ServerId) -> Arc<ClientConfig> {
    let expected = ExpectedPeer::Exactly(raft_identity(expected));
    let verifier = SpiffeVerifier::new(Arc::clone(&identity.anchors), expected);
    let resolver: Arc<dyn ResolvesClientCert> = Arc::<RaftIdentity>::clone(identity);
    Arc::new(client(verifier, Some(resolver), ALPN_RAFT))
}

/// Returns what a server dials an address with at which it does not know yet which server lives: [`raft_peer`] tells
/// afterwards. Nothing but getting to know each other may be done over such a connection.
pub fn raft_meeting_config(identity: &Arc<RaftIdentity>) -> Arc<ClientConfig> {
    let verifier = SpiffeVerifier::new(Arc::clone(&identity.anchors), ExpectedPeer::ServerOf(raft_trust_domain()));
    let resolver: Arc<dyn ResolvesClientCert> = Arc::<RaftIdentity>::clone(identity);
    Arc::new(client(verifier, Some(resolver), ALPN_RAFT))
}

/// Returns what an operator who holds the cluster key calls a server's API with: whoever proves to hold it too is accepted,
/// under whatever name it was called, and nobody else.
pub fn cluster_key_client_config(key: &ClusterKey) -> Arc<ClientConfig> {
    let expected = ExpectedPeer::ServerOf(raft_trust_domain());
    let verifier = SpiffeVerifier::new(anchors(std::iter::once(key)), expected);
    Arc::new(client(verifier, None, ALPN_CLUSTER_KEY))
}

/// Returns which server is at the other end of a finished handshake.
///
/// # Errors
///
/// [`PeerRejected`] if the connection was not made with a configuration of this module.
pub fn raft_peer(connection: &CommonState) -> Result<ServerId, PeerRejected> {
    let peer = peer_identity(connection)?.ok_or(PeerRejected::NoCertificate)?;
    let name = peer.id.path().strip_prefix("/server/").and_then(|name| name.parse().ok());
    match name {
        Some(server) if *peer.id.trust_domain() == raft_trust_domain() => Ok(server),
        _ => Err(PeerRejected::WrongIdentity {
            expected: ExpectedPeer::ServerOf(raft_trust_domain()).to_string(),
            presented: peer.id,
        }),
    }
}

#[cfg(test)]
mod tests;
