//! Reading certificate requests of agents that may be hostile.

use catalog::{KeyFingerprint, SpiffeId, SpiffeIdError};
use rcgen::PublicKeyData;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256;
use x509_parser::prelude::FromDer;

use crate::crypto;

/// A longer request is refused unread. Ours have about 250 bytes.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

/// An uncompressed point of P-256: a mark and two coordinates.
const POINT_BYTES: usize = 65;

/// The public key of a request whose sender has proved to hold the private one.
///
/// The names in a request are wishes: they never reach a certificate, and serve only to notice that sender and signer
/// disagree about who is asking.
#[derive(Debug, Clone)]
pub struct Csr {
    key: rcgen::SubjectPublicKeyInfo,
    fingerprint: KeyFingerprint,
    requested: Option<SpiffeId>,
    common_names: Vec<String>,
}

/// Why a certificate request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// The request is too long.
    #[error("the certificate request has {bytes} bytes, more than {CSR_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The request is not PKCS#10 in DER.
    #[error("the certificate request is not PKCS#10 in DER")]
    Malformed,
    /// The key is of a kind that weft does not certify.
    #[error("the certificate request is not for an ECDSA P-256 key")]
    KeyKind,
    /// The sender did not prove to hold the private key.
    #[error("the certificate request is not signed by its own key with ECDSA and SHA-256")]
    Signature,
    /// The request asks for names beside one SPIFFE ID.
    #[error("the certificate request asks for more names than one SPIFFE ID")]
    OtherNames,
    /// The one name asked for is no SPIFFE ID.
    #[error("the certificate request asks for a name that is not a SPIFFE ID")]
    Name(#[source] SpiffeIdError),
    /// The request asks for the rights of a certificate authority.
    #[error("the certificate request asks to be a certificate authority")]
    Authority,
    /// The request asks for an extension that leaves do not have.
    #[error("the certificate request asks for an extension that leaf certificates do not have")]
    Extension,
    /// The sender expects another identity than it is entitled to.
    #[error("the certificate request asks for `{requested}`, but its sender is entitled to `{authorised}`")]
    Mismatch {
        /// What the request names.
        requested: String,
        /// What the signer knows the sender to be.
        authorised: SpiffeId,
    },
}

impl Csr {
    /// Returns the name of the public key: the SHA-256 of its SubjectPublicKeyInfo.
    pub fn fingerprint(&self) -> &KeyFingerprint {
        &self.fingerprint
    }

    /// Returns the key as certificates are signed over it.
    pub(crate) fn public_key(&self) -> &rcgen::SubjectPublicKeyInfo {
        &self.key
    }

    /// Checks that the names in the request, if it has any, are those of `authorised`.
    ///
    /// # Errors
    ///
    /// [`CsrError::Mismatch`] if one of them is not.
    pub fn agrees_with(&self, authorised: &SpiffeId) -> Result<(), CsrError> {
        let expected = authorised.to_string();
        let requested = self.requested.as_ref().map(SpiffeId::to_string);
        match requested.iter().chain(&self.common_names).find(|name| **name != expected) {
            None => Ok(()),
            Some(other) => Err(CsrError::Mismatch {
                requested: other.chars().take(256).flat_map(char::escape_debug).collect(),
                authorised: authorised.clone(),
            }),
        }
    }
}

/// Reads a certificate request in DER and verifies that its sender holds the private key.
///
/// Cheap checks come first: size, kind of key and wishes are judged before any signature is computed.
///
/// # Errors
///
/// [`CsrError`] if the request is malformed, for a key that is not P-256, unproved, or asks for what no leaf has.
pub fn parse_csr(der: &[u8]) -> Result<Csr, CsrError> {
    if der.len() > CSR_BYTES_MAX {
        return Err(CsrError::TooLong { bytes: der.len() });
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let key = public_key(&request)?;
    let requested = requested_id(&request)?;
    let subject = &request.certification_request_info.subject;
    let common_names: Result<Vec<_>, _> =
        subject.iter_common_name().map(|name| name.as_str().map(str::to_owned)).collect();
    let common_names = common_names.map_err(|_| CsrError::OtherNames)?;
    verify_possession(&request)?;
    let fingerprint = KeyFingerprint(crypto::sha256_hex(&key.subject_public_key_info()));
    Ok(Csr { key, fingerprint, requested, common_names })
}

/// Reads which key a certificate request in DER is for. Nothing is proved by it: [`parse_csr`] does that.
///
/// # Errors
///
/// [`CsrError`] if the request is malformed, or for a key that is not P-256.
pub fn requested_key(der: &[u8]) -> Result<KeyFingerprint, CsrError> {
    if der.len() > CSR_BYTES_MAX {
        return Err(CsrError::TooLong { bytes: der.len() });
    }
    let (_, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    Ok(KeyFingerprint(crypto::sha256_hex(&public_key(&request)?.subject_public_key_info())))
}

fn public_key(request: &X509CertificationRequest<'_>) -> Result<rcgen::SubjectPublicKeyInfo, CsrError> {
    let raw = request.certification_request_info.subject_pki.raw;
    let key = rcgen::SubjectPublicKeyInfo::from_der(raw).map_err(|_| CsrError::KeyKind)?;
    let uncompressed = key.der_bytes().len() == POINT_BYTES && key.der_bytes().first() == Some(&4);
    // Encoding it again must give the same bytes, so that one key has one fingerprint.
    if key.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256 && uncompressed && key.subject_public_key_info() == raw {
        Ok(key)
    } else {
        Err(CsrError::KeyKind)
    }
}

fn requested_id(request: &X509CertificationRequest<'_>) -> Result<Option<SpiffeId>, CsrError> {
    let mut requested = None;
    let mut names_seen = false;
    let mut extensions_seen = false;
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(extensions) = attribute.parsed_attribute() else { continue };
        if std::mem::replace(&mut extensions_seen, true) {
            return Err(CsrError::Malformed);
        }
        for extension in &extensions.extensions {
            if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
                if std::mem::replace(&mut names_seen, true) {
                    return Err(CsrError::OtherNames);
                }
                requested = one_id(&names.general_names)?;
            } else {
                check_extension(extension)?;
            }
        }
    }
    Ok(requested)
}

fn one_id(names: &[GeneralName<'_>]) -> Result<Option<SpiffeId>, CsrError> {
    match names {
        [] => Ok(None),
        [GeneralName::URI(uri)] => uri.parse().map(Some).map_err(CsrError::Name),
        _ => Err(CsrError::OtherNames),
    }
}

/// Lets through what a leaf has anyway and common tools ask for; its content is overwritten.
fn check_extension(extension: &X509Extension<'_>) -> Result<(), CsrError> {
    match extension.parsed_extension() {
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => Err(CsrError::Authority),
        ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => Err(CsrError::Authority),
        ParsedExtension::BasicConstraints(_)
        | ParsedExtension::KeyUsage(_)
        | ParsedExtension::ExtendedKeyUsage(_)
        | ParsedExtension::SubjectKeyIdentifier(_) => Ok(()),
        ParsedExtension::ParseError { .. } => Err(CsrError::Malformed),
        _ => Err(CsrError::Extension),
    }
}

fn verify_possession(request: &X509CertificationRequest<'_>) -> Result<(), CsrError> {
    let info = &request.certification_request_info;
    let signature = &request.signature_value;
    if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 || signature.unused_bits != 0 {
        return Err(CsrError::Signature);
    }
    webpki::aws_lc_rs::ECDSA_P256_SHA256
        .verify_signature(&info.subject_pki.subject_public_key.data, info.raw, &signature.data)
        .map_err(|_| CsrError::Signature)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, KeyPair};
    use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType, SignatureAlgorithm};

    use super::*;
    use crate::pki::LeafKey;

    const WEB: &str = "spiffe://mesh.test/ns/default/sa/web";

    fn web() -> SpiffeId {
        WEB.parse().unwrap()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        request_of(&rcgen::PKCS_ECDSA_P256_SHA256, change)
    }

    fn request_of(kind: &'static SignatureAlgorithm, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        params.serialize_request(&KeyPair::generate_for(kind).unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_of_ours_names_its_key() {
        let key = LeafKey::generate();
        for id in [None, Some(web())] {
            let csr = parse_csr(&key.csr_der(id.as_ref())).unwrap();
            assert_eq!(*csr.fingerprint(), key.fingerprint());
            assert_eq!(csr.agrees_with(&web()), Ok(()));
        }
    }

    #[test]
    fn c1_a_request_with_more_names_than_one_spiffe_id_is_refused() {
        let rows: [Vec<SanType>; 5] = [
            vec![uri(WEB), uri("spiffe://mesh.test/ns/default/sa/api")],
            vec![uri(WEB), SanType::DnsName("web.test".try_into().unwrap())],
            vec![uri(WEB), SanType::IpAddress([127, 0, 0, 1].into())],
            vec![uri(WEB), SanType::Rfc822Name("web@mesh.test".try_into().unwrap())],
            vec![SanType::DnsName("web.test".try_into().unwrap())],
        ];
        for names in rows {
            let der = request(|params| params.subject_alt_names = names.clone());
            assert_eq!(parse_csr(&der).unwrap_err(), CsrError::OtherNames, "{names:?}");
        }
        let malformed = request(|params| params.subject_alt_names = vec![uri("https://mesh.test/web")]);
        assert!(matches!(parse_csr(&malformed), Err(CsrError::Name(_))));
    }

    #[test]
    fn c1_a_request_that_names_another_identity_disagrees_with_its_sender() {
        let by_uri = request(|params| params.subject_alt_names = vec![uri("spiffe://mesh.test/ns/default/sa/api")]);
        let by_common_name = request(|params| params.distinguished_name.push(DnType::CommonName, "api"));
        for der in [by_uri, by_common_name] {
            let error = parse_csr(&der).unwrap().agrees_with(&web()).unwrap_err();
            assert!(matches!(error, CsrError::Mismatch { .. }), "{error}");
        }
        let same = request(|params| params.distinguished_name.push(DnType::CommonName, WEB));
        assert_eq!(parse_csr(&same).unwrap().agrees_with(&web()), Ok(()));
    }

    #[test]
    fn c3_a_request_to_become_an_authority_is_refused() {
        let rows = [
            request(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            request(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
            request(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            request(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign]),
        ];
        for der in rows {
            assert_eq!(parse_csr(&der).unwrap_err(), CsrError::Authority);
        }
        let name_constraints = CustomExtension::from_oid_content(&[2, 5, 29, 30], vec![0x30, 0]);
        let unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        for extension in [name_constraints, unknown] {
            let der = request(|params| params.custom_extensions = vec![extension.clone()]);
            let error = parse_csr(&der).unwrap_err();
            assert!(matches!(error, CsrError::Extension | CsrError::Malformed), "{error}");
        }
    }

    #[test]
    fn what_a_leaf_has_anyway_may_be_asked_for() {
        let der = request(|params| {
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
            params.subject_alt_names = vec![uri(WEB)];
        });
        assert!(parse_csr(&der).is_ok());
    }

    #[test]
    fn c3_keys_of_other_kinds_are_refused() {
        let kinds = [
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &rcgen::PKCS_RSA_SHA256,
        ];
        for kind in kinds {
            assert_eq!(parse_csr(&request_of(kind, |_| ())).unwrap_err(), CsrError::KeyKind, "{kind:?}");
        }
        // The same request with the curve's name changed from P-256 (…03 01 07) to P-224 (1.3.132.0.33 is shorter, so
        // another arc of the same length stands for any curve that is not P-256).
        let mut other_curve = request(|_| ());
        let name = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let position = other_curve.windows(name.len()).position(|window| window == name).unwrap();
        other_curve[position + 9] = 0x01;
        assert_eq!(parse_csr(&other_curve).unwrap_err(), CsrError::KeyKind);
    }

    #[test]
    fn c3_a_request_without_proof_of_possession_is_refused() {
        let mut der = request(|_| ());
        let last = der.len() - 1;
        der[last] ^= 1;
        assert_eq!(parse_csr(&der).unwrap_err(), CsrError::Signature);
    }

    #[test]
    fn c3_a_giant_request_is_refused_unread() {
        assert_eq!(parse_csr(&vec![0x30; CSR_BYTES_MAX + 1]).unwrap_err(), CsrError::TooLong { bytes: 8193 });
    }

    #[test]
    fn bytes_after_the_request_are_refused() {
        let mut der = request(|_| ());
        der.push(0);
        assert_eq!(parse_csr(&der).unwrap_err(), CsrError::Malformed);
        assert_eq!(parse_csr(&[]).unwrap_err(), CsrError::Malformed);
    }

    proptest! {
        #[test]
        fn c3_no_damage_to_a_request_is_accepted(position in 0usize..200, bit in 0u8..8) {
            let key = LeafKey::generate();
            let mut der = key.csr_der(Some(&web()));
            let position = position % der.len();
            der[position] ^= 1 << bit;
            // Whatever the parser makes of it, it neither panics nor certifies anything but the sender's own key.
            if let Ok(csr) = parse_csr(&der) {
                prop_assert_eq!(csr.fingerprint(), &key.fingerprint());
            }
        }
    }
}
