//! PEM text (RFC 7468) to DER and back.

use data_encoding::BASE64;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::crypto::Secret;

/// A text holds no PEM block of the kind that was asked for. The message repeats none of it, since it may be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// There is no certificate in it.
    #[error("there is no certificate in the PEM text (a block that starts with `-----BEGIN CERTIFICATE-----`)")]
    NoCertificate,
    /// There is no private key in it.
    #[error("there is no private key in the PEM text (a block that starts with `-----BEGIN PRIVATE KEY-----`)")]
    NoPrivateKey,
}

/// Returns the first certificate of a text.
pub(crate) fn certificate(pem: &str) -> Result<CertificateDer<'static>, PemError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| PemError::NoCertificate)
}

/// Returns all certificates of a text, of which there is at least one.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(PemError::NoCertificate),
    }
}

/// Returns the PKCS#8 private key of a text.
pub(crate) fn private_key(pem: &str) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| PemError::NoPrivateKey)?;
    let mut key = key;
    let bytes = Zeroizing::new(key.secret_pkcs8_der().to_vec());
    zeroize::Zeroize::zeroize(&mut key);
    Ok(bytes)
}

/// Writes a PKCS#8 private key as text.
pub(crate) fn encode_private_key(pkcs8: &[u8]) -> Secret {
    let base64 = Zeroizing::new(BASE64.encode(pkcs8));
    Secret::new(armour("PRIVATE KEY", &base64))
}

/// Writes a certificate as text.
pub(crate) fn encode_certificate(der: &[u8]) -> String {
    armour("CERTIFICATE", &BASE64.encode(der))
}

fn armour(label: &str, base64: &str) -> String {
    let (begin, end) = (format!("-----BEGIN {label}-----\n"), format!("-----END {label}-----\n"));
    // The full size at once: growing would leave copies of a private key behind.
    let mut text = String::with_capacity(begin.len() + base64.len() + base64.len() / 64 + 1 + end.len());
    text.push_str(&begin);
    let mut rest = base64;
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_are_inverse() {
        for bytes in [vec![1; 47], vec![2; 48], vec![3; 49], vec![4; 200]] {
            assert_eq!(private_key(encode_private_key(&bytes).expose()).unwrap().as_slice(), bytes);
            let text = encode_certificate(&bytes);
            assert_eq!(certificate(&text).unwrap().as_ref(), bytes);
            assert!(text.lines().all(|line| line.len() <= 64));
            assert_eq!(certificates(&format!("{text}{text}")).unwrap().len(), 2);
        }
    }

    #[test]
    fn a_text_without_the_block_is_refused() {
        let key = encode_private_key(&[1; 48]);
        assert_eq!(certificate(key.expose()), Err(PemError::NoCertificate));
        assert_eq!(certificates(""), Err(PemError::NoCertificate));
        assert_eq!(private_key(&encode_certificate(&[1; 48])), Err(PemError::NoPrivateKey));
    }
}
