//! What this side shows of itself.

use std::sync::Arc;

use catalog::{SpiffeId, Timestamp};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::CertificateDer;

use super::{PeerIdentity, PeerRejected};
use crate::crypto::{self, Secret};
use crate::pki::{LeafKey, LeafKeyError, PemError, pem};

/// A leaf with its chain and private key.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    certified: Arc<CertifiedKey>,
    own: PeerIdentity,
}

/// Why certificates and a key are no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsIdentityError {
    /// The chain is not PEM.
    #[error("cannot read the certificate chain")]
    Chain(#[source] PemError),
    /// The chain has no certificate.
    #[error("the certificate chain is empty")]
    Empty,
    /// The key cannot be used.
    #[error("cannot read the private key of the certificate")]
    Key(#[source] LeafKeyError),
    /// No peer would accept the leaf.
    #[error("the certificate is not a leaf that peers accept")]
    Leaf(#[source] PeerRejected),
    /// The key is not the leaf's.
    #[error("the private key does not belong to the certificate of `{id}`")]
    OtherKey {
        /// Whom the certificate names.
        id: SpiffeId,
    },
}

impl TlsIdentity {
    /// Reads a chain, leaf first, and the leaf's key from PEM.
    ///
    /// # Errors
    ///
    /// [`TlsIdentityError`] if the texts cannot be read, do not belong together, or no peer would accept the leaf.
    pub fn from_pem(chain_pem: &[String], key_pem: &Secret) -> Result<Self, TlsIdentityError> {
        let key = LeafKey::from_pem(key_pem).map_err(TlsIdentityError::Key)?;
        Self::new(chain_pem, &key)
    }

    /// Joins a chain in PEM, leaf first, with the leaf's key.
    ///
    /// # Errors
    ///
    /// [`TlsIdentityError`] if the chain cannot be read, does not belong to the key, or no peer would accept the leaf.
    pub fn new(chain_pem: &[String], key: &LeafKey) -> Result<Self, TlsIdentityError> {
        let mut chain = Vec::new();
        for text in chain_pem {
            chain.extend(pem::certificates(text).map_err(TlsIdentityError::Chain)?);
        }
        Self::from_der(chain, key)
    }

    pub(super) fn from_der(chain: Vec<CertificateDer<'static>>, key: &LeafKey) -> Result<Self, TlsIdentityError> {
        let leaf = chain.first().ok_or(TlsIdentityError::Empty)?;
        let own = PeerIdentity::of_verified(leaf, crypto::now()).map_err(TlsIdentityError::Leaf)?;
        if own.key != key.fingerprint() {
            return Err(TlsIdentityError::OtherKey { id: own.id });
        }
        Ok(Self { certified: Arc::new(CertifiedKey::new(chain, key.tls_key())), own })
    }

    /// Returns chain and key as rustls takes them.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// Returns who this is.
    pub fn id(&self) -> &SpiffeId {
        &self.own.id
    }

    /// Returns the leaf's serial number, padded to 16 octets.
    pub fn serial(&self) -> [u8; 16] {
        self.own.serial
    }

    /// Returns when the leaf became valid.
    pub fn not_before(&self) -> Timestamp {
        self.own.not_before
    }

    /// Returns when the leaf expires.
    pub fn not_after(&self) -> Timestamp {
        self.own.not_after
    }

    /// Returns a resolver that always shows this identity, to a server or to a client.
    pub fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(self.certified_key()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Mesh, WEB};

    #[test]
    fn an_identity_is_read_from_text() {
        let mesh = Mesh::new("mesh.test");
        let (chain, key) = mesh.leaf_pem(WEB);
        let identity = TlsIdentity::from_pem(&chain, &key.to_pem()).unwrap();
        assert_eq!(identity.id().to_string(), WEB);
        assert_eq!(identity.certified_key().cert.len(), 2);
        assert!(identity.not_before() < identity.not_after());
        let joined = TlsIdentity::from_pem(&[chain.concat()], &key.to_pem()).unwrap();
        assert_eq!(joined.serial(), identity.serial());
    }

    #[test]
    fn what_no_peer_would_accept_is_refused_here() {
        let mesh = Mesh::new("mesh.test");
        let (chain, key) = mesh.leaf_pem(WEB);
        let refused = |chain: &[String], key: &Secret| TlsIdentity::from_pem(chain, key).unwrap_err();
        assert_eq!(refused(&[], &key.to_pem()), TlsIdentityError::Empty);
        assert!(matches!(refused(&[String::new()], &key.to_pem()), TlsIdentityError::Chain(_)));
        assert!(matches!(refused(&chain, &Secret::new("")), TlsIdentityError::Key(_)));
        assert!(matches!(refused(&chain, &LeafKey::generate().to_pem()), TlsIdentityError::OtherKey { .. }));
        let authority = refused(&chain[1..], &key.to_pem());
        assert!(matches!(authority, TlsIdentityError::Leaf(PeerRejected::MalformedSpiffeId(_))), "{authority}");
    }
}
