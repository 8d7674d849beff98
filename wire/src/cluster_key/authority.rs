//! The authority that servers trust one another by.

use std::fmt;
use std::time::Duration;

use catalog::{CatalogIndex, ServerId, SpiffeId, Timestamp, TrustDomain};
use rcgen::Issuer;
use rustls_pki_types::CertificateDer;

use crate::crypto::{Ed25519Key, KEY_BYTES};
use crate::pki::{LeafKey, Serial, Validity, authority_params, leaf_params, parse_csr, pem};

/// The trust domain of servers among themselves. It is no part of any mesh, and no mesh's root can sign for it.
pub const RAFT_TRUST_DOMAIN: &str = "raft.weft.internal";

/// From 2020 on, and to the last instant that a certificate can name: the authority lives as long as its key.
const VALIDITY: Validity = Validity { not_before: Timestamp(1_577_836_800_000), not_after: Timestamp(u64::MAX) };

/// A leaf could not be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot sign the Raft certificate of server `{server}`")]
pub struct AuthorityError {
    /// The server.
    pub server: ServerId,
    /// What the library said.
    #[source]
    pub source: rcgen::Error,
}

/// An Ed25519 certificate authority that every holder of a cluster key derives alike, certificate included.
pub struct Authority {
    issuer: Issuer<'static, Ed25519Key>,
    certificate: CertificateDer<'static>,
}

/// Returns the identity of a server toward other servers.
pub fn raft_identity(server: &ServerId) -> SpiffeId {
    format!("spiffe://{RAFT_TRUST_DOMAIN}/server/{server}").parse().expect("a server id is a SPIFFE path segment")
}

impl Authority {
    pub(super) fn from_seed(seed: &[u8; KEY_BYTES]) -> Self {
        let key = Ed25519Key::from_seed(seed);
        let name = format!("spiffe://{RAFT_TRUST_DOMAIN}");
        let params = authority_params("raft authority", &name, &key, 0, VALIDITY);
        let certificate = params.self_signed(&key).expect("an Ed25519 key signs the certificate that names it");
        Self { certificate: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// Returns the certificate, which is the same on every server.
    pub fn certificate_pem(&self) -> String {
        pem::encode_certificate(&self.certificate)
    }

    /// Draws a key for `server` and signs a leaf for it, valid for `ttl` from `now`.
    ///
    /// Returns the key and the leaf.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`] if the key fails.
    pub fn issue(
        &self,
        server: &ServerId,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<(LeafKey, CertificateDer<'static>), AuthorityError> {
        let key = LeafKey::generate();
        let csr = parse_csr(&key.csr_der(None)).expect("a leaf key writes requests that are accepted");
        let validity = Validity::within(VALIDITY, now, ttl);
        // No record entitles a server to its certificate, so no index names one.
        let params = leaf_params(&raft_identity(server), None, Serial::draw(CatalogIndex(0)), validity);
        match params.signed_by(csr.public_key(), &self.issuer) {
            Ok(leaf) => Ok((key, leaf.der().clone())),
            Err(source) => Err(AuthorityError { server: server.clone(), source }),
        }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Returns the trust domain of servers among themselves.
pub(crate) fn raft_trust_domain() -> TrustDomain {
    RAFT_TRUST_DOMAIN.parse().expect("the name is a trust domain")
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData;

    use super::*;

    #[test]
    fn every_holder_of_the_key_derives_the_same_authority() {
        let (first, again) = (Authority::from_seed(&[1; 32]), Authority::from_seed(&[1; 32]));
        assert_eq!(first.certificate_pem(), again.certificate_pem());
        assert_eq!(first.issuer.key().der_bytes(), again.issuer.key().der_bytes());
        assert_ne!(first.certificate_pem(), Authority::from_seed(&[2; 32]).certificate_pem());
    }

    #[test]
    fn every_leaf_has_a_key_of_its_own() {
        let authority = Authority::from_seed(&[1; 32]);
        let server: ServerId = "s1".parse().unwrap();
        let now = Timestamp(1_800_000_000_000);
        let (first, _) = authority.issue(&server, now, Duration::from_secs(60)).unwrap();
        let (second, _) = authority.issue(&server, now, Duration::from_secs(60)).unwrap();
        assert_ne!(first.fingerprint(), second.fingerprint());
    }
}
