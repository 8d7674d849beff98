//! What signed certificates say, read back by another library than the one that wrote them.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::FromDer;

use super::*;
use crate::pki::{LeafKey, Serial, parse_csr, pem};
use catalog::CatalogIndex;

const DAY: Duration = Duration::from_secs(24 * 3600);
const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn domain() -> TrustDomain {
    "mesh.test".parse().unwrap()
}

fn web() -> SpiffeId {
    "spiffe://mesh.test/ns/default/sa/web".parse().unwrap()
}

fn root() -> LocalRoot {
    LocalRoot::create(&domain(), NOW, 365 * DAY).unwrap()
}

fn sign(signer: &dyn Signer, csr: &Csr, id: &SpiffeId, ttl: Duration) -> Result<SignedLeaf, SignError> {
    signer.sign_leaf(&LeafRequest { csr, id, platform: None, serial: Serial::draw(CatalogIndex(7)), now: NOW, ttl })
}

fn csr() -> Csr {
    parse_csr(&LeafKey::generate().csr_der(None)).unwrap()
}

fn inspect(certificate_pem: &str, look: impl FnOnce(&X509Certificate<'_>)) {
    let der = pem::certificate(certificate_pem).unwrap();
    look(&X509Certificate::from_der(&der).unwrap().1);
}

#[test]
fn c1_a_leaf_says_what_its_record_says_and_nothing_of_the_request() {
    let signer = root().create_intermediate(NOW, 90 * DAY).unwrap();
    let key = LeafKey::generate();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Mallory");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    let own = P256Key::from_pkcs8(&pem::private_key(key.to_pem().expose()).unwrap()).unwrap();
    let csr = parse_csr(params.serialize_request(&own).unwrap().der()).unwrap();
    let leaf = sign(&signer, &csr, &web(), DAY).unwrap();
    inspect(&leaf.certificate_pem, |leaf| {
        assert_eq!(leaf.subject().iter().count(), 0);
        let names = leaf.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME).unwrap().unwrap();
        assert!(names.critical);
        let names = leaf.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names, [GeneralName::URI("spiffe://mesh.test/ns/default/sa/web")]);
        let usage = leaf.key_usage().unwrap().unwrap();
        assert!(usage.critical);
        assert_eq!(usage.value.flags, 1, "digitalSignature alone");
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth && !extended.code_signing && extended.other.is_empty());
        let constraints = leaf.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && !constraints.value.ca);
        assert_eq!(crate::crypto::sha256_hex(leaf.public_key().raw), key.fingerprint().0);
    });
}

#[test]
fn a_leaf_carries_the_serial_and_a_validity_that_begins_in_the_past() {
    let signer = root().create_intermediate(NOW, 90 * DAY).unwrap();
    let serial = Serial::draw(CatalogIndex(300));
    let request =
        LeafRequest { csr: &csr(), id: &web(), platform: None, serial, now: Timestamp(NOW.0 + 999), ttl: DAY };
    let leaf = signer.sign_leaf(&request).unwrap();
    inspect(&leaf.certificate_pem, |parsed| {
        assert_eq!(Serial::from_der_integer(parsed.raw_serial()), Some(serial));
        assert_eq!(crate::pki::from_seconds(parsed.validity().not_before.timestamp()), leaf.not_before);
        assert_eq!(crate::pki::from_seconds(parsed.validity().not_after.timestamp()), leaf.not_after);
    });
    assert_eq!(leaf.not_after, NOW.saturating_add(DAY));
}

#[test]
fn c4_nothing_outlives_what_signed_it() {
    let root = root();
    let signer = root.create_intermediate(NOW, 1000 * DAY).unwrap();
    assert_eq!(signer.not_after(), root.not_after());
    let leaf = sign(&signer, &csr(), &web(), 5000 * DAY).unwrap();
    assert_eq!(leaf.not_after, signer.not_after());
    assert!(leaf.not_before >= signer.not_before() && signer.not_before() >= root.not_before());
}

#[test]
fn c4_an_expired_signer_signs_nothing() {
    let root = root();
    let signer = root.create_intermediate(NOW, DAY).unwrap();
    let (csr, id) = (csr(), web());
    let later = NOW.saturating_add(2 * DAY);
    let request =
        LeafRequest { csr: &csr, id: &id, platform: None, serial: Serial::draw(CatalogIndex(7)), now: later, ttl: DAY };
    assert!(matches!(signer.sign_leaf(&request), Err(SignError::Expired { .. })));
    assert!(matches!(root.create_intermediate(NOW.saturating_add(400 * DAY), DAY), Err(SignError::Expired { .. })));
}

#[test]
fn c1_a_request_that_names_another_identity_is_not_signed() {
    let signer = root().create_intermediate(NOW, 90 * DAY).unwrap();
    let api: SpiffeId = "spiffe://mesh.test/ns/default/sa/api".parse().unwrap();
    let csr = parse_csr(&LeafKey::generate().csr_der(Some(&api))).unwrap();
    let error = sign(&signer, &csr, &web(), DAY).unwrap_err();
    assert!(matches!(error, SignError::Csr(CsrError::Mismatch { .. })), "{error}");
}

#[test]
fn c2_an_identity_of_another_trust_domain_is_not_signed() {
    let signer = root().create_intermediate(NOW, 90 * DAY).unwrap();
    let foreign: SpiffeId = "spiffe://other.test/ns/default/sa/web".parse().unwrap();
    assert!(matches!(sign(&signer, &csr(), &foreign, DAY), Err(SignError::TrustDomain { .. })));
}

#[test]
fn signers_are_authorities_of_bounded_path_length_without_leaf_use() {
    let root = root();
    let signer = root.create_intermediate(NOW, 90 * DAY).unwrap();
    for (certificate, path_length) in [(root.certificate_pem(), 2), (signer.certificate_pem(), 0)] {
        inspect(certificate, |parsed| {
            let constraints = parsed.basic_constraints().unwrap().unwrap();
            assert!(constraints.critical && constraints.value.ca);
            assert_eq!(constraints.value.path_len_constraint, Some(path_length));
            let usage = parsed.key_usage().unwrap().unwrap();
            assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
            assert!(parsed.extended_key_usage().unwrap().is_none());
            assert!(parsed.name_constraints().unwrap().is_none());
            let names = parsed.subject_alternative_name().unwrap().unwrap().value;
            assert_eq!(names.general_names, [GeneralName::URI("spiffe://mesh.test")]);
        });
    }
}

#[test]
fn no_two_signers_share_a_name() {
    let name = |pem: &str| {
        let mut name = String::new();
        inspect(pem, |parsed| name = parsed.subject().to_string());
        name
    };
    let root = root();
    let signers = [root.create_intermediate(NOW, DAY).unwrap(), root.create_intermediate(NOW, DAY).unwrap()];
    assert_ne!(name(signers[0].certificate_pem()), name(signers[1].certificate_pem()));
    assert_ne!(name(root.certificate_pem()), name(self::root().certificate_pem()));
}

#[test]
fn key_identifiers_lead_from_each_certificate_to_its_signer() {
    let key_identifiers = |pem: &str| {
        let mut found = (Vec::new(), Vec::new());
        inspect(pem, |parsed| {
            for extension in parsed.iter_extensions() {
                match extension.parsed_extension() {
                    x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => found.0 = id.0.to_vec(),
                    x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
                        found.1 = id.key_identifier.as_ref().unwrap().0.to_vec();
                    }
                    _ => {}
                }
            }
        });
        found
    };
    let root = root();
    let signer = root.create_intermediate(NOW, DAY).unwrap();
    // The one that was loaded signs just as the one that was created.
    let signer = LocalSigner::load(signer.certificate_pem(), &signer.key_pem()).unwrap();
    let leaf = sign(&signer, &csr(), &web(), DAY).unwrap();
    let (root, signer) = (key_identifiers(root.certificate_pem()), key_identifiers(Signer::certificate_pem(&signer)));
    let leaf = key_identifiers(&leaf.certificate_pem);
    assert_eq!((&signer.1, &leaf.1), (&root.0, &signer.0));
    assert!(!leaf.0.is_empty() && leaf.0 != leaf.1);
}

#[test]
fn an_authority_survives_its_text() {
    let root = root();
    let signer = root.create_intermediate(NOW, 90 * DAY).unwrap();
    let root_copy = LocalRoot::load(root.certificate_pem(), &root.key_pem()).unwrap();
    assert_eq!((root_copy.id(), root_copy.not_after()), (root.id(), root.not_after()));
    assert_eq!(root_copy.trust_domain(), &domain());
    let copy = LocalSigner::load(signer.certificate_pem(), &signer.key_pem()).unwrap();
    assert_eq!(
        (copy.id(), copy.not_before(), copy.not_after()),
        (signer.id(), signer.not_before(), signer.not_after())
    );
    assert_eq!(crate::pki::fingerprint(root.certificate_pem()).unwrap().to_vec(), {
        data_encoding::HEXLOWER.decode(root.id().as_bytes()).unwrap()
    });
}

#[test]
fn certificates_and_keys_that_do_not_belong_together_are_refused() {
    let root = root();
    let signer = root.create_intermediate(NOW, 90 * DAY).unwrap();
    let leaf_key = LeafKey::generate();
    let leaf = parse_csr(&leaf_key.csr_der(None)).map(|csr| sign(&signer, &csr, &web(), DAY).unwrap()).unwrap();
    let rows = [
        (LocalSigner::load(signer.certificate_pem(), &root.key_pem()).unwrap_err(), LoadError::OtherKey),
        (
            LocalSigner::load(root.certificate_pem(), &root.key_pem()).unwrap_err(),
            LoadError::NotAuthority { path_length: 0 },
        ),
        (
            LocalRoot::load(signer.certificate_pem(), &signer.key_pem()).unwrap_err(),
            LoadError::NotAuthority { path_length: 2 },
        ),
        (
            LocalSigner::load(&leaf.certificate_pem, &leaf_key.to_pem()).unwrap_err(),
            LoadError::NotAuthority { path_length: 0 },
        ),
    ];
    for (found, want) in rows {
        assert_eq!(found, want);
    }
    assert!(matches!(LocalRoot::load("", &root.key_pem()), Err(LoadError::Pem(_))));
}

#[test]
fn a_signer_does_not_show_its_key() {
    let root = root();
    let shown = format!("{root:?}");
    assert!(shown.contains(&root.id()) && !shown.contains("PRIVATE"), "{shown}");
}

/// Signs a leaf under a new root that an old one certified, and returns the chain with the old and the new root.
fn crossed() -> (Vec<rustls_pki_types::CertificateDer<'static>>, LocalRoot, LocalRoot) {
    let (old, new) = (root(), root());
    let signer = new.create_intermediate(NOW, 90 * DAY).unwrap();
    let leaf = sign(&signer, &csr(), &web(), DAY).unwrap();
    let cross = old.cross_sign(new.certificate_pem(), NOW).unwrap();
    let chain = [leaf.certificate_pem.as_str(), Signer::certificate_pem(&signer), &cross];
    (chain.iter().map(|text| pem::certificate(text).unwrap()).collect(), old, new)
}

#[test]
fn p6_a_leaf_under_the_new_root_is_recognised_by_either_root() {
    use crate::tls::{ExpectedPeer, SpiffeVerifier, TrustAnchors};
    let (chain, old, new) = crossed();
    let verify = |roots: &[&LocalRoot], chain: &[rustls_pki_types::CertificateDer<'static>]| {
        let roots: Vec<String> = roots.iter().map(|root| root.certificate_pem().to_owned()).collect();
        let anchors = std::sync::Arc::new(TrustAnchors::from_pem(&roots).unwrap());
        let verifier = SpiffeVerifier::new(anchors, ExpectedPeer::Exactly(web()));
        verifier.verify_client(chain, NOW).and(verifier.verify_server(chain, NOW))
    };
    for roots in [[&old].as_slice(), &[&new], &[&old, &new], &[&new, &old]] {
        assert!(verify(roots, &chain).is_ok());
    }
    assert!(verify(&[&new], &chain[..2]).is_ok());
    assert!(verify(&[&old], &chain[..2]).is_err(), "without the cross-signed root nothing leads to the old one");
    assert!(verify(&[&root()], &chain).is_err());
}

#[test]
fn p6_a_cross_signed_root_says_of_the_other_nothing_but_its_name_and_key() {
    let (chain, old, new) = crossed();
    let (_, cross) = X509Certificate::from_der(&chain[2]).unwrap();
    inspect(new.certificate_pem(), |new| {
        assert_eq!(cross.subject().as_raw(), new.subject().as_raw());
        assert_eq!(cross.public_key().raw, new.public_key().raw);
        let constraints = cross.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(1));
        assert!(cross.name_constraints().unwrap().is_none());
    });
    let end = crate::pki::from_seconds(cross.validity().not_after.timestamp());
    assert!(end <= old.not_after() && end <= new.not_after());
    let later = NOW.saturating_add(400 * DAY);
    assert!(matches!(
        old.cross_sign(new.certificate_pem(), later),
        Err(CrossSignError::Sign(SignError::Expired { .. }))
    ));
    assert!(matches!(old.cross_sign("rubbish", NOW), Err(CrossSignError::Pem(_))));
}
