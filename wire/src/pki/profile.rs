//! The shape of every certificate that weft signs.

use std::time::Duration;

use catalog::{Platform, SpiffeId, Timestamp};
use data_encoding::HEXLOWER;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};

use super::instant::to_date;
use super::serial::Serial;
use crate::crypto;

/// How long before its making a certificate becomes valid, for peers whose clocks are late.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl Validity {
    /// From a little before `now` until `ttl` after it, and never outside that of the issuer.
    pub(crate) fn within(issuer: Validity, now: Timestamp, ttl: Duration) -> Self {
        Self {
            not_before: whole_second(now.saturating_sub(BACKDATE).max(issuer.not_before)),
            not_after: whole_second(now.saturating_add(ttl).min(issuer.not_after)),
        }
    }

    /// From a little before `now` until `ttl` after it.
    pub(crate) fn starting(now: Timestamp, ttl: Duration) -> Self {
        Self {
            not_before: whole_second(now.saturating_sub(BACKDATE)),
            not_after: whole_second(now.saturating_add(ttl)),
        }
    }
}

/// What a certificate can say of an instant, so that what is reported is what is written.
fn whole_second(timestamp: Timestamp) -> Timestamp {
    super::from_seconds(to_date(timestamp).unix_timestamp())
}

/// A leaf: one URI SAN, critical because the subject is empty; not a CA; good for both ends of a connection.
pub(crate) fn leaf_params(
    id: &SpiffeId,
    platform: Option<Platform>,
    serial: Serial,
    validity: Validity,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = to_date(validity.not_before);
    params.not_after = to_date(validity.not_after);
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id.to_string())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.custom_extensions = platform.map(super::platform::extension).into_iter().collect();
    params
}

/// A signer: a CA of bounded path length that may sign certificates and nothing else.
///
/// There are no name constraints, because verifiers built on webpki, ours among them, refuse every chain under a CA that
/// constrains URIs: who may be named is decided by the trust domain's own bundle. The subject carries the key's name,
/// so that no two signers share one and a chain can be built in one way only.
pub(crate) fn authority_params(
    role: &str,
    uri_name: &str,
    key: &impl PublicKeyData,
    path_length: u8,
    validity: Validity,
) -> CertificateParams {
    let key_name = HEXLOWER.encode(&crypto::sha256(&key.subject_public_key_info())[..8]);
    let mut params = CertificateParams::default();
    params.not_before = to_date(validity.not_before);
    params.not_after = to_date(validity.not_after);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("weft {role} {key_name}"));
    params.subject_alt_names = vec![uri(uri_name.to_owned())];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    params
}

fn uri(text: String) -> SanType {
    SanType::URI(Ia5String::try_from(text).expect("a SPIFFE ID is ASCII"))
}
