//! Private keys that sign certificates.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::KEY_BYTES;

/// A private key could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the private key is not an unencrypted ECDSA P-256 key in PKCS#8")]
pub struct KeyError;

/// An ECDSA P-256 private key: what leaves, intermediates and roots use.
///
/// Its memory is wiped when it is dropped.
pub struct P256Key {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl P256Key {
    /// Draws a new key.
    pub fn generate() -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .expect("the library draws a P-256 key from its own random generator");
        Self::from_pkcs8(document.as_ref()).expect("the library reads the key that it wrote")
    }

    /// Reads a key from the DER form of PKCS#8.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the bytes are anything else, keys of other kinds included.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).map_err(|_| KeyError)?;
        Ok(Self { pair, pkcs8: Zeroizing::new(pkcs8.to_vec()) })
    }

    /// Returns the DER form of PKCS#8, private part included.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Returns the key as rustls signs handshakes with it.
    pub fn tls_key(&self) -> Arc<dyn rustls::sign::SigningKey> {
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.as_slice()));
        rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&pkcs8).expect("rustls reads the key that its library wrote")
    }
}

impl fmt::Debug for P256Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("P256Key([redacted])")
    }
}

impl rcgen::PublicKeyData for P256Key {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for P256Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// An Ed25519 private key that is derived, not stored: the authority with which servers trust one another.
///
/// Its memory is wiped when it is dropped.
pub struct Ed25519Key(Ed25519KeyPair);

impl Ed25519Key {
    /// Makes the key of a seed (RFC 8032 §5.1.5). Equal seeds give equal keys, and these equal signatures.
    pub fn from_seed(seed: &[u8; KEY_BYTES]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed).expect("every 32 bytes are the seed of an Ed25519 key"))
    }
}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Ed25519Key([redacted])")
    }
}

impl rcgen::PublicKeyData for Ed25519Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for Ed25519Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use rcgen::{PublicKeyData as _, SigningKey as _};

    use super::*;

    #[test]
    fn an_ed25519_key_is_the_one_of_its_seed() {
        // RFC 8032 §7.1, test 1.
        let seed = HEXLOWER.decode(b"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let key = Ed25519Key::from_seed(&seed.try_into().unwrap());
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(HEXLOWER.encode(key.der_bytes()), public);
        assert!(HEXLOWER.encode(&key.sign(b"").unwrap()).starts_with("e5564300c360ac729086e2cc806e828a"));
    }

    #[test]
    fn a_p256_key_survives_its_serialized_form() {
        let key = P256Key::generate();
        let copy = P256Key::from_pkcs8(key.pkcs8()).unwrap();
        assert_eq!(key.der_bytes(), copy.der_bytes());
        assert_ne!(key.der_bytes(), P256Key::generate().der_bytes());
    }

    #[test]
    fn keys_of_other_kinds_are_refused() {
        for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let other = rcgen::KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(P256Key::from_pkcs8(other.serialized_der()).unwrap_err(), KeyError);
        }
        assert_eq!(P256Key::from_pkcs8(b"").unwrap_err(), KeyError);
    }

    #[test]
    fn private_keys_are_not_shown_by_debug() {
        assert_eq!(format!("{:?}", P256Key::generate()), "P256Key([redacted])");
        assert_eq!(format!("{:?}", Ed25519Key::from_seed(&[1; 32])), "Ed25519Key([redacted])");
    }
}
