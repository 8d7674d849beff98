//! A certificate authority's certificate with the key that signs for it.

use std::fmt;
use std::time::Duration;

use catalog::{SpiffeIdError, Timestamp, TrustDomain};
use rcgen::{CertificateParams, Issuer, PublicKeyData};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::SignError;
use crate::crypto::{self, KeyError, P256Key, Secret};
use crate::pki::pem::{self, PemError};
use crate::pki::{Validity, from_seconds};

/// Why a certificate authority could not be read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The texts are not PEM.
    #[error("cannot load the certificate authority")]
    Pem(#[source] PemError),
    /// The key is of another kind.
    #[error("cannot load the certificate authority's key")]
    Key(#[source] KeyError),
    /// The certificate cannot be read.
    #[error("cannot load the certificate authority: its certificate is not X.509 in DER")]
    Malformed,
    /// The certificate is not one that weft makes.
    #[error("cannot load the certificate authority: its certificate is no CA of path length {path_length}")]
    NotAuthority {
        /// The path length that was expected.
        path_length: u8,
    },
    /// The certificate does not name one trust domain.
    #[error("cannot load the certificate authority: its certificate names no trust domain")]
    TrustDomain(#[source] Option<SpiffeIdError>),
    /// The certificate names another trust domain.
    #[error("cannot load the certificate authority: its certificate is of trust domain `{found}`, not `{wanted}`")]
    OtherTrustDomain {
        /// What the certificate says.
        found: TrustDomain,
        /// What it is to sign for.
        wanted: TrustDomain,
    },
    /// The certificate is no CA's.
    #[error("cannot load the certificate authority: its certificate is no CA that may sign certificates")]
    NoAuthority,
    /// The key is not the certificate's.
    #[error("cannot load the certificate authority: key and certificate do not belong together")]
    OtherKey,
}

/// A certificate authority with its key in this process.
pub(super) struct CertificateAuthority {
    pub(super) pem: String,
    pub(super) issuer: Issuer<'static, P256Key>,
    pub(super) trust_domain: TrustDomain,
    pub(super) validity: Validity,
    der: CertificateDer<'static>,
}

impl CertificateAuthority {
    pub(super) fn new(
        certificate: &rcgen::Certificate,
        params: CertificateParams,
        key: P256Key,
        trust_domain: TrustDomain,
        validity: Validity,
    ) -> Self {
        let der = certificate.der().clone();
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key), trust_domain, validity, der }
    }

    /// Reads one of our own back: of exactly this path length, and with its trust domain in its name.
    pub(super) fn load(certificate_pem: &str, key_pem: &Secret, path_length: u8) -> Result<Self, LoadError> {
        Self::read(certificate_pem, key_pem, |certificate| {
            check_role(certificate, path_length)?;
            trust_domain(certificate)
        })
    }

    /// Reads one that somebody else made, to sign leaves for `trust_domain`; it may leave its trust domain unsaid.
    pub(super) fn load_operators(
        certificate_pem: &str,
        key_pem: &Secret,
        wanted: &TrustDomain,
    ) -> Result<Self, LoadError> {
        Self::read(certificate_pem, key_pem, |certificate| {
            let usage = certificate.key_usage().map_err(|_| LoadError::Malformed)?;
            if !certificate.is_ca() || !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
                return Err(LoadError::NoAuthority);
            }
            match trust_domain(certificate) {
                Ok(found) if found != *wanted => Err(LoadError::OtherTrustDomain { found, wanted: wanted.clone() }),
                Ok(_) | Err(LoadError::TrustDomain(_)) => Ok(wanted.clone()),
                Err(error) => Err(error),
            }
        })
    }

    fn read(
        certificate_pem: &str,
        key_pem: &Secret,
        judge: impl FnOnce(&X509Certificate<'_>) -> Result<TrustDomain, LoadError>,
    ) -> Result<Self, LoadError> {
        let der = pem::certificate(certificate_pem).map_err(LoadError::Pem)?;
        let pkcs8 = pem::private_key(key_pem.expose()).map_err(LoadError::Pem)?;
        let key = P256Key::from_pkcs8(&pkcs8).map_err(LoadError::Key)?;
        let (rest, certificate) = X509Certificate::from_der(&der).map_err(|_| LoadError::Malformed)?;
        if !rest.is_empty() {
            return Err(LoadError::Malformed);
        }
        let trust_domain = judge(&certificate)?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(LoadError::OtherKey);
        }
        let validity = Validity {
            not_before: from_seconds(certificate.validity().not_before.timestamp()),
            not_after: from_seconds(certificate.validity().not_after.timestamp()),
        };
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| LoadError::Malformed)?;
        Ok(Self { pem: pem::encode_certificate(&der), issuer, trust_domain, validity, der })
    }

    /// The validity of something signed at `now`: inside this authority's own, however long it was meant to be.
    pub(super) fn validity_at(&self, now: Timestamp, ttl: Duration) -> Result<Validity, SignError> {
        if now > self.validity.not_after {
            return Err(SignError::Expired { not_after: self.validity.not_after });
        }
        Ok(Validity::within(self.validity, now, ttl))
    }

    pub(super) fn id(&self) -> String {
        crypto::sha256_hex(&self.der)
    }

    pub(super) fn key_pem(&self) -> Secret {
        pem::encode_private_key(self.issuer.key().pkcs8())
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CertificateAuthority")
            .field("id", &self.id())
            .field("trust_domain", &self.trust_domain)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

fn check_role(certificate: &X509Certificate<'_>, path_length: u8) -> Result<(), LoadError> {
    let constraints = certificate.basic_constraints().map_err(|_| LoadError::Malformed)?;
    let usage = certificate.key_usage().map_err(|_| LoadError::Malformed)?;
    let signs = usage.is_some_and(|usage| usage.value.key_cert_sign());
    let bounded = constraints.is_some_and(|constraints| {
        constraints.value.ca && constraints.value.path_len_constraint == Some(u32::from(path_length))
    });
    if signs && bounded { Ok(()) } else { Err(LoadError::NotAuthority { path_length }) }
}

fn trust_domain(certificate: &X509Certificate<'_>) -> Result<TrustDomain, LoadError> {
    let names = certificate.subject_alternative_name().map_err(|_| LoadError::Malformed)?;
    let names = names.as_ref().map_or(&[][..], |names| names.value.general_names.as_slice());
    let [GeneralName::URI(uri)] = names else { return Err(LoadError::TrustDomain(None)) };
    let domain = uri.strip_prefix("spiffe://").ok_or(LoadError::TrustDomain(None))?;
    domain.parse().map_err(|source| LoadError::TrustDomain(Some(source)))
}
