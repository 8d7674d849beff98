//! Keys, certificate requests and the signing of certificates.
//!
//! A root signs intermediates, an intermediate signs leaves. Every field of what is signed comes from here and from the
//! identity that the caller authorised; of a request only the public key is used.

mod csr;
mod instant;
mod leaf_key;
mod operators;
pub(crate) mod pem;
pub(crate) mod platform;
mod profile;
mod serial;
mod signer;

pub use csr::{CSR_BYTES_MAX, Csr, CsrError, parse_csr, requested_key};
pub use leaf_key::{LeafKey, LeafKeyError};
pub use operators::{OperatorsAuthority, OperatorsAuthorityError};
pub use pem::PemError;
pub use serial::{Serial, SerialError};
pub use signer::{CrossSignError, LeafRequest, LoadError, LocalRoot, LocalSigner, SignError, SignedLeaf, Signer};

pub(crate) use instant::from_seconds;
pub(crate) use profile::{Validity, authority_params, leaf_params};

use crate::crypto;

/// Reads the SHA-256 of a certificate: 64 hexadecimal digits, with or without colons between pairs.
pub fn parse_fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|character| *character != ':').collect();
    data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?.try_into().ok()
}

/// Returns the SHA-256 of the first certificate in `certificate_pem`: what join tokens pin a root by.
///
/// # Errors
///
/// [`PemError`] if the text holds no certificate.
pub fn fingerprint(certificate_pem: &str) -> Result<[u8; 32], PemError> {
    Ok(crypto::sha256(&pem::certificate(certificate_pem)?))
}
