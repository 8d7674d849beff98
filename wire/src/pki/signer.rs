//! Signing certificates: a root, the intermediates under it, and the leaves under these.

mod api;
mod authority;
mod cross;

use std::fmt;
use std::time::Duration;

use catalog::{Platform, SpiffeId, Timestamp, TrustDomain};

use super::csr::{Csr, CsrError};
use super::profile::{Validity, authority_params, leaf_params};
use super::serial::Serial;
use crate::crypto::{P256Key, Secret};
use authority::CertificateAuthority;

pub use authority::LoadError;
pub use cross::CrossSignError;

/// How many signers may stand between a root and a leaf: the intermediate, and during a rotation the new root, signed by
/// the old one, too.
const ROOT_PATH_LENGTH: u8 = 2;

/// An intermediate signs leaves only.
const INTERMEDIATE_PATH_LENGTH: u8 = 0;

/// What signs leaves: a key in this process, or later one in an HSM or a cloud's key service.
pub trait Signer: fmt::Debug + Send + Sync {
    /// Returns the certificate that leaves are signed with, which goes with every leaf.
    fn certificate_pem(&self) -> &str;

    /// Returns the instant after which no leaf can be valid.
    fn not_after(&self) -> Timestamp;

    /// Signs one leaf.
    ///
    /// # Errors
    ///
    /// [`SignError`] if the request names another identity, or this signer has expired or serves another trust domain.
    fn sign_leaf(&self, request: &LeafRequest<'_>) -> Result<SignedLeaf, SignError>;
}

/// What a leaf is to say. All of it comes from the signer's own records but the key.
#[derive(Debug, Clone, Copy)]
pub struct LeafRequest<'a> {
    /// The key, with proof of possession.
    pub csr: &'a Csr,
    /// The identity that the sender is entitled to.
    pub id: &'a SpiffeId,
    /// What the sender runs on, as its record says; none for those that have no record.
    pub platform: Option<Platform>,
    /// The leaf's serial number.
    pub serial: Serial,
    /// The wall clock.
    pub now: Timestamp,
    /// How long the leaf is to live; cut off where the signer's own certificate ends.
    pub ttl: Duration,
}

/// A leaf certificate, fresh from the signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedLeaf {
    /// The leaf.
    pub certificate_pem: String,
    /// When it becomes valid: a little before it was signed, for peers whose clocks are late.
    pub not_before: Timestamp,
    /// When it expires.
    pub not_after: Timestamp,
}

/// Why a certificate could not be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The request names an identity that its sender is not entitled to.
    #[error("cannot sign a leaf certificate")]
    Csr(#[source] CsrError),
    /// The signer's own certificate has expired.
    #[error("cannot sign a certificate: the signer's own expired at {} ms since 1970", not_after.0)]
    Expired {
        /// When it expired.
        not_after: Timestamp,
    },
    /// The identity belongs to another trust domain.
    #[error("cannot sign a certificate for `{id}`: the signer serves trust domain `{trust_domain}`")]
    TrustDomain {
        /// The identity.
        id: SpiffeId,
        /// The signer's trust domain.
        trust_domain: TrustDomain,
    },
    /// The key refused to sign.
    #[error("cannot sign a certificate: the key failed")]
    Key(#[source] rcgen::Error),
}

/// A root: the certificate that a mesh is recognised by, with its key in this process.
#[derive(Debug)]
pub struct LocalRoot(CertificateAuthority);

/// An intermediate: what signs leaves day to day, with its key in this process.
#[derive(Debug)]
pub struct LocalSigner(CertificateAuthority);

impl LocalRoot {
    /// Draws a key and signs its own certificate, valid for `ttl` from `now`.
    ///
    /// # Errors
    ///
    /// [`SignError::Key`] if the key fails.
    pub fn create(trust_domain: &TrustDomain, now: Timestamp, ttl: Duration) -> Result<Self, SignError> {
        let key = P256Key::generate();
        let validity = Validity::starting(now, ttl);
        let params = authority_params("root", &format!("spiffe://{trust_domain}"), &key, ROOT_PATH_LENGTH, validity);
        let certificate = params.self_signed(&key).map_err(SignError::Key)?;
        Ok(Self(CertificateAuthority::new(&certificate, params, key, trust_domain.clone(), validity)))
    }

    /// Reads a root and its key back from PEM.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the two do not belong together, or the certificate is not one of [`LocalRoot::create`].
    pub fn load(certificate_pem: &str, key_pem: &Secret) -> Result<Self, LoadError> {
        CertificateAuthority::load(certificate_pem, key_pem, ROOT_PATH_LENGTH).map(Self)
    }

    /// Draws a key and signs an intermediate for it, valid for `ttl` from `now` but no longer than this root.
    ///
    /// # Errors
    ///
    /// [`SignError`] if this root has expired or its key fails.
    pub fn create_intermediate(&self, now: Timestamp, ttl: Duration) -> Result<LocalSigner, SignError> {
        let key = P256Key::generate();
        let validity = self.0.validity_at(now, ttl)?;
        let trust_domain = &self.0.trust_domain;
        let name = format!("spiffe://{trust_domain}");
        let params = authority_params("intermediate", &name, &key, INTERMEDIATE_PATH_LENGTH, validity);
        let certificate = params.signed_by(&key, &self.0.issuer).map_err(SignError::Key)?;
        Ok(LocalSigner(CertificateAuthority::new(&certificate, params, key, trust_domain.clone(), validity)))
    }
}

impl LocalSigner {
    /// Reads an intermediate and its key back from PEM.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the two do not belong together, or the certificate is not one of
    /// [`LocalRoot::create_intermediate`].
    pub fn load(certificate_pem: &str, key_pem: &Secret) -> Result<Self, LoadError> {
        CertificateAuthority::load(certificate_pem, key_pem, INTERMEDIATE_PATH_LENGTH).map(Self)
    }

    /// Reads an intermediate that somebody else's root signed, with its key; it is to sign for `trust_domain`.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the two do not belong together, or the certificate is no CA, or one of another trust domain.
    pub fn load_operators(
        certificate_pem: &str,
        key_pem: &Secret,
        trust_domain: &TrustDomain,
    ) -> Result<Self, LoadError> {
        CertificateAuthority::load_operators(certificate_pem, key_pem, trust_domain).map(Self)
    }
}

impl Signer for LocalSigner {
    fn certificate_pem(&self) -> &str {
        &self.0.pem
    }

    fn not_after(&self) -> Timestamp {
        self.0.validity.not_after
    }

    fn sign_leaf(&self, request: &LeafRequest<'_>) -> Result<SignedLeaf, SignError> {
        request.csr.agrees_with(request.id).map_err(SignError::Csr)?;
        if *request.id.trust_domain() != self.0.trust_domain {
            let (id, trust_domain) = (request.id.clone(), self.0.trust_domain.clone());
            return Err(SignError::TrustDomain { id, trust_domain });
        }
        let validity = self.0.validity_at(request.now, request.ttl)?;
        let params = leaf_params(request.id, request.platform, request.serial, validity);
        let certificate = params.signed_by(request.csr.public_key(), &self.0.issuer).map_err(SignError::Key)?;
        let Validity { not_before, not_after } = validity;
        Ok(SignedLeaf { certificate_pem: certificate.pem(), not_before, not_after })
    }
}

/// Gives roots and intermediates the same reading methods.
macro_rules! certificate_methods {
    ($holder:ty) => {
        impl $holder {
            /// Returns the certificate.
            pub fn certificate_pem(&self) -> &str {
                &self.0.pem
            }

            /// Returns the SHA-256 of the certificate's DER in hexadecimal: its id in the catalog.
            pub fn id(&self) -> String {
                self.0.id()
            }

            /// Returns the private key, to be sealed before it is stored anywhere.
            pub fn key_pem(&self) -> Secret {
                self.0.key_pem()
            }

            /// Returns the trust domain that the certificate signs for.
            pub fn trust_domain(&self) -> &TrustDomain {
                &self.0.trust_domain
            }

            /// Returns when the certificate becomes valid.
            pub fn not_before(&self) -> Timestamp {
                self.0.validity.not_before
            }

            /// Returns when the certificate expires.
            pub fn not_after(&self) -> Timestamp {
                self.0.validity.not_after
            }
        }
    };
}

certificate_methods!(LocalRoot);
certificate_methods!(LocalSigner);

#[cfg(test)]
mod tests;
