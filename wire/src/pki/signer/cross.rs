//! One root's key certified by another root, so that whoever trusts only the second recognises what the first signs.

use catalog::Timestamp;
use rcgen::string::{Ia5String, PrintableString};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyIdMethod, KeyUsagePurpose,
    SubjectPublicKeyInfo,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::{LocalRoot, SignError};
use crate::pki::pem::{self, PemError};
use crate::pki::{Validity, from_seconds};

/// Below a root that another has certified stand its intermediates, and below these leaves only.
const CROSS_PATH_LENGTH: u8 = 1;

/// Why one root cannot certify another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrossSignError {
    /// The other root is not PEM.
    #[error("cannot certify a root")]
    Pem(#[source] PemError),
    /// The other root cannot be read.
    #[error("cannot certify a root: its certificate is not X.509 in DER")]
    Malformed,
    /// What is signed must carry the other root's name and key to the byte, and this one's cannot be written that way.
    #[error("cannot certify the root `{subject}`: its {what} is of a kind that cannot be repeated to the byte")]
    Unrepeatable {
        /// The other root.
        subject: String,
        /// What of it.
        what: &'static str,
    },
    /// This root did not sign.
    #[error("cannot certify a root")]
    Sign(#[source] SignError),
}

impl LocalRoot {
    /// Certifies another root's name and key, no longer than either root lives; returns the certificate, PEM.
    ///
    /// # Errors
    ///
    /// [`CrossSignError`] if the other is no certificate, or cannot be repeated to the byte, or this root has expired.
    pub fn cross_sign(&self, other_pem: &str, now: Timestamp) -> Result<String, CrossSignError> {
        let der = pem::certificate(other_pem).map_err(CrossSignError::Pem)?;
        let (_, other) = X509Certificate::from_der(&der).map_err(|_| CrossSignError::Malformed)?;
        let unrepeatable = |what| CrossSignError::Unrepeatable { subject: other.subject().to_string(), what };
        let its_end = from_seconds(other.validity().not_after.timestamp());
        let validity = self.0.validity_at(now, its_end.since(now)).map_err(CrossSignError::Sign)?;
        let key = SubjectPublicKeyInfo::from_der(other.public_key().raw).map_err(|_| unrepeatable("key"))?;
        let subject = repeated(other.subject()).ok_or_else(|| unrepeatable("name"))?;
        let params = cross_params(subject, key_id(&other), validity);
        let failed = |error| CrossSignError::Sign(SignError::Key(error));
        let certificate = params.signed_by(&key, &self.0.issuer).map_err(failed)?;
        let (_, made) = X509Certificate::from_der(certificate.der()).map_err(|_| CrossSignError::Malformed)?;
        if made.subject().as_raw() != other.subject().as_raw() {
            return Err(unrepeatable("name"));
        }
        if made.public_key().raw != other.public_key().raw {
            return Err(unrepeatable("key"));
        }
        Ok(certificate.pem())
    }
}

fn cross_params(subject: DistinguishedName, key_id: Option<Vec<u8>>, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = super::super::instant::to_date(validity.not_before);
    params.not_after = super::super::instant::to_date(validity.not_after);
    params.distinguished_name = subject;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(CROSS_PATH_LENGTH));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    if let Some(key_id) = key_id {
        // What the root signed names its signer by this.
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_id);
    }
    params
}

fn key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

/// Returns a name as it can be written again; nothing where it has parts of unusual kinds.
fn repeated(name: &X509Name<'_>) -> Option<DistinguishedName> {
    let mut repeated = DistinguishedName::new();
    for relative in name.iter() {
        let mut attributes = relative.iter();
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else { return None };
        let kind = DnType::from_oid(&attribute.attr_type().iter()?.collect::<Vec<u64>>());
        let text = std::str::from_utf8(attribute.attr_value().data).ok()?;
        let value = match attribute.attr_value().header.tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(PrintableString::try_from(text).ok()?),
            Tag::Ia5String => DnValue::Ia5String(Ia5String::try_from(text).ok()?),
            _ => return None,
        };
        repeated.push(kind, value);
    }
    Some(repeated)
}
