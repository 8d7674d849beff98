//! The private keys of agents and workloads.

use std::sync::Arc;

use catalog::{KeyFingerprint, SpiffeId};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SanType};

use super::pem::{self, PemError};
use crate::crypto::{self, KeyError, P256Key, Secret};

/// An ECDSA P-256 key that is made where it is used. Only requests for certificates of it leave the machine.
#[derive(Debug, Clone)]
pub struct LeafKey(Arc<P256Key>);

/// Why a private key could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeafKeyError {
    /// The text is not PEM.
    #[error("cannot read the private key")]
    Pem(#[source] PemError),
    /// The key is of another kind.
    #[error("cannot use the private key")]
    Kind(#[source] KeyError),
}

impl LeafKey {
    /// Draws a new key.
    pub fn generate() -> Self {
        Self(Arc::new(P256Key::generate()))
    }

    /// Reads a key from PEM.
    ///
    /// # Errors
    ///
    /// [`LeafKeyError`] if the text holds no P-256 key in PKCS#8.
    pub fn from_pem(text: &Secret) -> Result<Self, LeafKeyError> {
        let pkcs8 = pem::private_key(text.expose()).map_err(LeafKeyError::Pem)?;
        P256Key::from_pkcs8(&pkcs8).map(|key| Self(Arc::new(key))).map_err(LeafKeyError::Kind)
    }

    /// Writes the key as PEM.
    pub fn to_pem(&self) -> Secret {
        pem::encode_private_key(self.0.pkcs8())
    }

    /// Returns the name of the public key: the SHA-256 of its SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> KeyFingerprint {
        KeyFingerprint(crypto::sha256_hex(&self.0.subject_public_key_info()))
    }

    /// Returns a request, in DER, for a certificate of this key.
    ///
    /// `id` only lets a mistake be noticed: a signer takes the identity from its own records.
    pub fn csr_der(&self, id: Option<&SpiffeId>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = id
            .map(|id| SanType::URI(Ia5String::try_from(id.to_string()).expect("a SPIFFE ID is ASCII")))
            .into_iter()
            .collect();
        let request = params.serialize_request(self.0.as_ref()).expect("a P-256 key signs its own request");
        request.der().to_vec()
    }

    /// Returns the key as rustls signs handshakes with it.
    pub(crate) fn tls_key(&self) -> Arc<dyn rustls::sign::SigningKey> {
        self.0.tls_key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text() {
        let key = LeafKey::generate();
        let copy = LeafKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(copy.fingerprint(), key.fingerprint());
        assert_eq!(copy.to_pem(), key.to_pem());
        assert_ne!(key.fingerprint(), LeafKey::generate().fingerprint());
    }

    #[test]
    fn what_is_no_p256_key_is_refused() {
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(LeafKey::from_pem(&other.serialize_pem().into()).unwrap_err(), LeafKeyError::Kind(KeyError));
        let nothing = LeafKey::from_pem(&Secret::new("nothing")).unwrap_err();
        assert_eq!(nothing, LeafKeyError::Pem(PemError::NoPrivateKey));
    }

    #[test]
    fn a_key_is_not_shown_by_debug() {
        assert_eq!(format!("{:?}", LeafKey::generate()), "LeafKey(P256Key([redacted]))");
    }
}
