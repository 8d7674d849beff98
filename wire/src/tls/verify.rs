//! The verification of peers, the same for both ends of a connection: the one place that replaces rustls's own.

use std::fmt;
use std::sync::Arc;

use catalog::{ServerId, SpiffeId, Timestamp, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::leaf::{inspect, may_sign, unix_time};
use super::{PeerIdentity, PeerRejected, TrustAnchors};
use crate::crypto;

/// The most certificates that a peer may send: a leaf, an intermediate, a root that another certified, and both roots.
pub const CHAIN_CERTIFICATES_MAX: usize = 5;

/// The most bytes that a peer's certificates may have together.
pub const CHAIN_BYTES_MAX: usize = 32 * 1024;

/// Who may be at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// Anyone whom a trusted root vouches for; what they may do is decided later.
    Anyone,
    /// One identity.
    Exactly(SpiffeId),
    /// Any server of a trust domain.
    ServerOf(TrustDomain),
    /// Any server of whatever trust domain the trusted root is for.
    AnyServer,
}

/// What becomes of a leaf that has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiredLeaf {
    /// It is refused.
    Refused,
    /// It is accepted if its chain was good until the end, and marked in [`PeerIdentity::expired`].
    Marked,
}

/// Whom the chain of a peer must lead to.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// Roots that are known.
    Anchors(Arc<TrustAnchors>),
    /// Roots that the peer sends itself, recognised by the SHA-256 of their DER.
    Pinned(Vec<[u8; 32]>),
}

/// Verifies a peer's chain and the rules of SPIFFE, in this order: size, leaf, chain, identity.
#[derive(Clone)]
pub struct SpiffeVerifier {
    trust: Trust,
    expected: ExpectedPeer,
    expired: ExpiredLeaf,
    certificate_required: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Which end of the connection the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

impl SpiffeVerifier {
    /// Makes a verifier that trusts `anchors`, wants `expected`, and refuses expired leaves and peers without one.
    pub fn new(anchors: Arc<TrustAnchors>, expected: ExpectedPeer) -> Self {
        Self::trusting(Trust::Anchors(anchors), expected)
    }

    pub(super) fn trusting(trust: Trust, expected: ExpectedPeer) -> Self {
        Self {
            trust,
            expected,
            expired: ExpiredLeaf::Refused,
            certificate_required: true,
            algorithms: crypto::provider().signature_verification_algorithms,
        }
    }

    /// Says what becomes of expired leaves.
    #[must_use]
    pub fn with_expired(self, expired: ExpiredLeaf) -> Self {
        Self { expired, ..self }
    }

    /// Lets clients in that show no certificate at all.
    #[must_use]
    pub fn with_optional_certificate(self) -> Self {
        Self { certificate_required: false, ..self }
    }

    /// Verifies the chain that a client showed, leaf first; also again later, when trust has changed.
    ///
    /// # Errors
    ///
    /// [`PeerRejected`] with the first rule that it breaks.
    pub fn verify_client(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<PeerIdentity, PeerRejected> {
        let (leaf, intermediates) = chain.split_first().ok_or(PeerRejected::NoCertificate)?;
        self.verify(leaf, intermediates, Role::Client, unix_time(now))
    }

    /// Verifies the chain that a server showed, leaf first; also again later, when trust has changed.
    ///
    /// # Errors
    ///
    /// [`PeerRejected`] with the first rule that it breaks.
    pub fn verify_server(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<PeerIdentity, PeerRejected> {
        let (leaf, intermediates) = chain.split_first().ok_or(PeerRejected::NoCertificate)?;
        self.verify(leaf, intermediates, Role::Server, unix_time(now))
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<PeerIdentity, PeerRejected> {
        check_size(leaf, intermediates)?;
        let peer = inspect(leaf, now)?;
        let at = match self.expired {
            ExpiredLeaf::Marked if peer.expired => unix_time(peer.not_after),
            _ => now,
        };
        match &self.trust {
            Trust::Anchors(anchors) => self.verify_chain(leaf, intermediates, anchors, &peer, role, at)?,
            Trust::Pinned(fingerprints) => {
                let anchors = pinned_root(intermediates, fingerprints, &peer)?;
                self.verify_chain(leaf, intermediates, &anchors, &peer, role, at)?;
            }
        }
        self.expected.check(&peer.id)?;
        Ok(peer)
    }

    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        anchors: &TrustAnchors,
        peer: &PeerIdentity,
        role: Role,
        at: UnixTime,
    ) -> Result<(), PeerRejected> {
        let roots: &[TrustAnchor<'_>] = anchors.of(peer.id.trust_domain());
        if roots.is_empty() {
            let (id, trust_domain) = (peer.id.clone(), peer.id.trust_domain().clone());
            return Err(PeerRejected::ForeignTrustDomain { id, trust_domain });
        }
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let certificate = EndEntityCert::try_from(leaf).map_err(|_| PeerRejected::Malformed)?;
        let path = certificate
            .verify_for_usage(self.algorithms.all, roots, intermediates, at, usage, None, None)
            .map_err(|error| chain_rejected(error, &peer.id))?;
        if path.intermediate_certificates().all(|signer| may_sign(&signer.der())) {
            Ok(())
        } else {
            let detail = "a certificate in the chain may not sign others".to_owned();
            Err(PeerRejected::UnknownAuthority { id: peer.id.clone(), detail })
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

impl ExpectedPeer {
    fn check(&self, id: &SpiffeId) -> Result<(), PeerRejected> {
        let server = || id.path().strip_prefix("/server/").is_some_and(|name| name.parse::<ServerId>().is_ok());
        let meets = match self {
            Self::Anyone => true,
            Self::Exactly(expected) => id == expected,
            Self::ServerOf(trust_domain) => id.trust_domain() == trust_domain && server(),
            Self::AnyServer => server(),
        };
        if meets {
            Ok(())
        } else {
            Err(PeerRejected::WrongIdentity { expected: self.to_string(), presented: id.clone() })
        }
    }
}

impl fmt::Display for ExpectedPeer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => formatter.write_str("anyone"),
            Self::Exactly(id) => write!(formatter, "`{id}`"),
            Self::ServerOf(trust_domain) => write!(formatter, "a server of `{trust_domain}`"),
            Self::AnyServer => formatter.write_str("a server"),
        }
    }
}

fn check_size(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), PeerRejected> {
    let certificates = 1 + intermediates.len();
    let bytes = leaf.len() + intermediates.iter().map(|certificate| certificate.len()).sum::<usize>();
    if certificates > CHAIN_CERTIFICATES_MAX || bytes > CHAIN_BYTES_MAX {
        return Err(PeerRejected::ChainTooLong { certificates, bytes });
    }
    Ok(())
}

/// Finds the pinned root among what the peer sent. It counts for the trust domain that it names, and for the peer's where
/// it names none, as an operator's own root does: the pin says that it is the mesh's.
fn pinned_root(
    chain: &[CertificateDer<'_>],
    fingerprints: &[[u8; 32]],
    peer: &PeerIdentity,
) -> Result<TrustAnchors, PeerRejected> {
    let pinned = chain.iter().find(|certificate| fingerprints.contains(&crypto::sha256(certificate)));
    let refused = |detail: String| PeerRejected::UnknownAuthority { id: peer.id.clone(), detail };
    let root = pinned.ok_or_else(|| refused("it did not send the root that was asked for".to_owned()))?;
    TrustAnchors::from_pinned(root, peer.id.trust_domain()).map_err(|error| refused(error.to_string()))
}

fn chain_rejected(error: webpki::Error, id: &SpiffeId) -> PeerRejected {
    let id = id.clone();
    match error {
        webpki::Error::CertExpired { .. } => PeerRejected::Expired { id },
        webpki::Error::CertNotValidYet { .. } => PeerRejected::NotYetValid { id },
        webpki::Error::NameConstraintViolation => PeerRejected::NameConstraints { id },
        other => PeerRejected::UnknownAuthority { id, detail: other.to_string() },
    }
}

/// What is answered to a signature of TLS 1.2, which no configuration offers.
fn only_tls13() -> rustls::Error {
    rustls::Error::General("TLS 1.3 is the only version spoken".to_owned())
}

impl fmt::Debug for SpiffeVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SpiffeVerifier")
            .field("expected", &self.expected)
            .field("expired", &self.expired)
            .field("certificate_required", &self.certificate_required)
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    // The server name only routes between proxies; who answers is judged by the SPIFFE ID.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, Role::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.certificate_required
    }

    // No hints: a client has one identity to show, and nobody needs to learn from us which roots there are.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, Role::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
