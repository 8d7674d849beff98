//! Why a peer was not let in.

use std::io;

use catalog::{SpiffeId, SpiffeIdError, TrustDomain};
use rustls::{CertificateError, OtherError};

/// Why a peer's certificates were refused. One variant is one value of the metric's label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRejected {
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// The chain is longer than any that is needed.
    #[error("the peer's chain has {certificates} certificates and {bytes} bytes, which is too long")]
    ChainTooLong {
        /// How many certificates there are.
        certificates: usize,
        /// How long they are together.
        bytes: usize,
    },
    /// A certificate cannot be read.
    #[error("a certificate of the peer is malformed")]
    Malformed,
    /// The leaf has no URI among its names.
    #[error("the peer's certificate has no SPIFFE ID")]
    NoUriName,
    /// The leaf has several URIs among its names.
    #[error("the peer's certificate has {names} URI names instead of one")]
    SeveralUriNames {
        /// How many URIs there are.
        names: usize,
    },
    /// The leaf has names of other kinds.
    #[error("the peer's certificate has other names beside its SPIFFE ID")]
    OtherNames,
    /// The leaf has neither a subject nor critical names, as RFC 5280 §4.1.2.6 wants.
    #[error("the peer's certificate has no subject, and its names are not marked critical")]
    NamesNotCritical,
    /// The URI is no SPIFFE ID.
    #[error("the peer's certificate names something that is not a SPIFFE ID")]
    MalformedSpiffeId(#[source] SpiffeIdError),
    /// The leaf is a certificate authority.
    #[error("the peer `{id}` showed the certificate of a certificate authority")]
    AuthorityLeaf {
        /// Who it says it is.
        id: SpiffeId,
    },
    /// The leaf's key is not for signatures, or is for signing certificates.
    #[error("the certificate of `{id}` has a key usage that no workload has")]
    KeyUsage {
        /// Who it says it is.
        id: SpiffeId,
    },
    /// The leaf is not for both ends of a connection.
    #[error("the certificate of `{id}` is not for both client and server authentication")]
    ExtendedKeyUsage {
        /// Who it says it is.
        id: SpiffeId,
    },
    /// The leaf's serial number is not positive, or longer than 16 octets.
    #[error("the certificate of `{id}` has a serial number that is not positive or longer than 16 octets")]
    SerialNumber {
        /// Who it says it is.
        id: SpiffeId,
    },
    /// Nothing is known of the trust domain.
    #[error("the peer `{id}` is of trust domain `{trust_domain}`, which is not trusted here")]
    ForeignTrustDomain {
        /// Who it says it is.
        id: SpiffeId,
        /// Its trust domain.
        trust_domain: TrustDomain,
    },
    /// No trusted root leads to the leaf.
    #[error("no root that is trusted for its trust domain vouches for `{id}` ({detail})")]
    UnknownAuthority {
        /// Who it says it is.
        id: SpiffeId,
        /// What the chain failed at.
        detail: String,
    },
    /// A certificate authority in the chain constrains names, in a way that the leaf breaks or that is not supported.
    #[error(
        "the chain of `{id}` has a certificate authority with name constraints that do not admit it (constraints on URIs never do)"
    )]
    NameConstraints {
        /// Who it says it is.
        id: SpiffeId,
    },
    /// The leaf, or what signed it, is not valid yet.
    #[error("the certificate of `{id}` is not valid yet; compare the clocks")]
    NotYetValid {
        /// Who it says it is.
        id: SpiffeId,
    },
    /// The leaf, or what signed it, has expired.
    #[error("the certificate of `{id}` has expired")]
    Expired {
        /// Who it says it is.
        id: SpiffeId,
    },
    /// The peer is somebody else than the one that was meant.
    #[error("the peer is `{presented}`, not {expected}")]
    WrongIdentity {
        /// Who was meant.
        expected: String,
        /// Who answered.
        presented: SpiffeId,
    },
}

impl PeerRejected {
    /// Returns the reason in one word, for a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong { .. } => "chain_too_long",
            Self::Malformed => "malformed",
            Self::NoUriName => "no_uri_name",
            Self::SeveralUriNames { .. } => "several_uri_names",
            Self::OtherNames => "other_names",
            Self::NamesNotCritical => "names_not_critical",
            Self::MalformedSpiffeId(_) => "malformed_spiffe_id",
            Self::AuthorityLeaf { .. } => "authority_leaf",
            Self::KeyUsage { .. } => "key_usage",
            Self::ExtendedKeyUsage { .. } => "extended_key_usage",
            Self::SerialNumber { .. } => "serial_number",
            Self::ForeignTrustDomain { .. } => "foreign_trust_domain",
            Self::UnknownAuthority { .. } => "unknown_authority",
            Self::NameConstraints { .. } => "name_constraints",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Expired { .. } => "expired",
            Self::WrongIdentity { .. } => "wrong_identity",
        }
    }

    /// Finds the reason in the error of a failed handshake, if this side refused the peer's certificates.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<rustls::Error>().and_then(Self::of_tls)
    }

    /// Finds the reason in an error of rustls, if this side refused the peer's certificates.
    pub fn of_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref::<Self>().cloned()
            }
            _ => None,
        }
    }
}

impl From<PeerRejected> for rustls::Error {
    fn from(rejected: PeerRejected) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(std::sync::Arc::new(rejected))))
    }
}
