//! Mutants of a good leaf, made with rcgen, and what becomes of each.

use std::time::Duration;

use catalog::{Platform, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};

use super::*;
use crate::pki::pem;
use crate::tls::testing::{API, DAY, Mesh, SERVER, WEB};

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn anyone(mesh: &Mesh) -> SpiffeVerifier {
    SpiffeVerifier::new(mesh.anchors(), ExpectedPeer::Anyone)
}

#[track_caller]
fn check(mesh: &Mesh, chain: &[CertificateDer<'_>], want: &str) {
    let verifier = anyone(mesh);
    for verified in [verifier.verify_client(chain, mesh.now), verifier.verify_server(chain, mesh.now)] {
        let found = match &verified {
            Ok(_) => "accepted",
            Err(rejected) => rejected.label(),
        };
        assert_eq!(found, want, "{verified:?}");
    }
}

/// The content of a subjectAltName extension with one URI.
fn san_content(uri: &str) -> Vec<u8> {
    let length = u8::try_from(uri.len()).unwrap();
    [&[0x30, length + 2, 0x86, length], uri.as_bytes()].concat()
}

#[test]
fn a_leaf_of_ours_is_accepted_and_its_identity_read() {
    let mesh = Mesh::new("mesh.test");
    let identity = mesh.identity(WEB);
    let chain = &identity.certified_key().cert;
    for peer in
        [anyone(&mesh).verify_client(chain, mesh.now).unwrap(), anyone(&mesh).verify_server(chain, mesh.now).unwrap()]
    {
        assert_eq!(peer.id.to_string(), WEB);
        assert_eq!(peer.serial[..8], 7u64.to_be_bytes());
        assert_eq!(peer.not_after, identity.not_after());
        assert!(!peer.expired);
    }
    check(&mesh, &mesh.mutant(|_| ()), "accepted");
    check(&mesh, &[], "no_certificate");
}

#[test]
fn h11_a_leaf_says_what_its_holder_runs_on_or_nothing() {
    let mesh = Mesh::new("mesh.test");
    let platform = |chain: &[CertificateDer<'_>]| anyone(&mesh).verify_client(chain, mesh.now).unwrap().platform;
    let key = KeyPair::generate().unwrap();
    let signed = |platform| {
        let validity = crate::pki::Validity::starting(mesh.now, DAY);
        let serial = crate::pki::Serial::draw(catalog::CatalogIndex(7));
        let params = crate::pki::leaf_params(&WEB.parse().unwrap(), platform, serial, validity);
        let intermediate = mesh.mutant(|_| ()).pop().unwrap();
        vec![params.signed_by(&key, &mesh.issuer()).unwrap().der().clone(), intermediate]
    };
    for one in [Platform::Vm, Platform::Ecs, Platform::Kubernetes] {
        assert_eq!(platform(&signed(Some(one))), Some(one));
    }
    assert_eq!(platform(&signed(None)), None);
    // What this release cannot read says nothing, and is no reason to refuse whom a root vouches for.
    let arc = [1, 2, 840, 113_556, 1, 8000, 2554, 27_421, 31_294, 21_188, 20_235, 40_582, 4_140_433, 12_887_422];
    for content in [&b""[..], b"ecs", b"\x0c\x04mars", b"\x0c\x09ecs", b"\x0c\x02ecs", b"\x0c\x03ec\xff"] {
        let extension = || CustomExtension::from_oid_content(&arc, content.to_vec());
        assert_eq!(platform(&mesh.mutant(|leaf| leaf.custom_extensions = vec![extension()])), None);
        check(&mesh, &mesh.mutant(|leaf| leaf.custom_extensions = vec![extension(), extension()]), "malformed");
    }
}

#[test]
fn c5_a_leaf_must_name_exactly_one_uri_and_nothing_else() {
    let mesh = Mesh::new("mesh.test");
    let rows: [(Vec<SanType>, &str); 7] = [
        (vec![], "no_uri_name"),
        (vec![SanType::DnsName("web.test".try_into().unwrap())], "no_uri_name"),
        (vec![uri(WEB), uri(API)], "several_uri_names"),
        (vec![uri(WEB), uri(WEB)], "several_uri_names"),
        (vec![uri(WEB), SanType::DnsName("web.test".try_into().unwrap())], "other_names"),
        (vec![uri(WEB), SanType::IpAddress([10, 0, 0, 1].into())], "other_names"),
        (vec![SanType::Rfc822Name("web@mesh.test".try_into().unwrap()), uri(WEB)], "other_names"),
    ];
    for (names, want) in rows {
        check(&mesh, &mesh.mutant(|params| params.subject_alt_names = names), want);
    }
}

#[test]
fn c5_the_uri_must_be_a_strict_spiffe_id() {
    let mesh = Mesh::new("mesh.test");
    let too_long = format!("spiffe://mesh.test/{}", "a".repeat(2048));
    let long_domain = format!("spiffe://{}/ns/default/sa/web", "a".repeat(256));
    let rows = [
        "SPIFFE://mesh.test/ns/default/sa/web",
        "Spiffe://mesh.test/ns/default/sa/web",
        "spiffe://MESH.test/ns/default/sa/web",
        "spiffe://mesh.test:8443/ns/default/sa/web",
        "spiffe://user@mesh.test/ns/default/sa/web",
        "spiffe://mesh.test/ns/default/sa/web?role=admin",
        "spiffe://mesh.test/ns/default/sa/web#admin",
        "spiffe://mesh.test/ns/default/sa/%2e%2e/web",
        "spiffe://mesh.test/ns/default/sa/w%65b",
        "spiffe://mesh.test/ns//sa/web",
        "spiffe://mesh.test//ns/default/sa/web",
        "spiffe://mesh.test/ns/default/./sa/web",
        "spiffe://mesh.test/ns/default/../sa/web",
        "spiffe://mesh.test/ns/default/sa/web/",
        "spiffe://mesh.test/",
        "spiffe://mesh.test",
        "spiffe:///ns/default/sa/web",
        "spiffe://mesh.test/ns/default/sa/web\0.evil.test",
        "spiffe://mesh.test\0.evil.test/ns/default/sa/web",
        "spiffe://mesh.test/ns/default/sa/web ",
        " spiffe://mesh.test/ns/default/sa/web",
        "spiffe://mesh.test/ns/default/sa/we b",
        "spiffe:/mesh.test/ns/default/sa/web",
        "https://mesh.test/ns/default/sa/web",
        "",
        too_long.as_str(),
        long_domain.as_str(),
    ];
    for row in rows {
        check(&mesh, &mesh.mutant(|params| params.subject_alt_names = vec![uri(row)]), "malformed_spiffe_id");
    }
}

#[test]
fn c5_names_that_are_not_ascii_are_refused() {
    let mesh = Mesh::new("mesh.test");
    for bytes in ["spiffe://mesh.test/ns/default/sa/wéb".as_bytes(), b"spiffe://mesh.test/ns/default/sa/w\xffb"] {
        let length = u8::try_from(bytes.len()).unwrap();
        let mut names =
            CustomExtension::from_oid_content(&[2, 5, 29, 17], [&[0x30, length + 2, 0x86, length], bytes].concat());
        names.set_criticality(true);
        let chain = mesh.mutant(|params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![names];
        });
        // Whether the parser drops the name or shows it, nobody is let in.
        let rejected = anyone(&mesh).verify_client(&chain, mesh.now).unwrap_err();
        let expected = ["no_uri_name", "malformed_spiffe_id", "malformed"];
        assert!(expected.contains(&rejected.label()), "{rejected}");
    }
}

#[test]
fn c5_names_given_twice_are_refused() {
    let mesh = Mesh::new("mesh.test");
    let mut again = CustomExtension::from_oid_content(&[2, 5, 29, 17], san_content(API));
    again.set_criticality(true);
    check(&mesh, &mesh.mutant(|params| params.custom_extensions = vec![again]), "malformed");
}

#[test]
fn c5_names_must_be_critical_where_the_subject_is_empty() {
    let mesh = Mesh::new("mesh.test");
    let names = CustomExtension::from_oid_content(&[2, 5, 29, 17], san_content(WEB));
    let without_subject = mesh.mutant(|params| {
        params.subject_alt_names.clear();
        params.custom_extensions = vec![names.clone()];
    });
    check(&mesh, &without_subject, "names_not_critical");
    let with_subject = mesh.mutant(|params| {
        params.distinguished_name.push(DnType::OrganizationName, "SPIRE");
        params.subject_alt_names.clear();
        params.custom_extensions = vec![names];
    });
    check(&mesh, &with_subject, "accepted");
}

#[test]
fn c5_a_leaf_must_not_be_an_authority() {
    let mesh = Mesh::new("mesh.test");
    let rows = [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::Ca(BasicConstraints::Constrained(0))];
    for is_ca in rows {
        check(&mesh, &mesh.mutant(|params| params.is_ca = is_ca), "authority_leaf");
    }
    check(&mesh, &mesh.mutant(|params| params.is_ca = IsCa::NoCa), "accepted");
}

#[test]
fn c5_a_leafs_key_is_for_signatures_and_signs_no_certificates() {
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyAgreement, KeyCertSign, KeyEncipherment};
    let mesh = Mesh::new("mesh.test");
    let rows: [(&[KeyUsagePurpose], &str); 6] = [
        (&[], "key_usage"),
        (&[KeyEncipherment], "key_usage"),
        (&[DigitalSignature, KeyCertSign], "key_usage"),
        (&[DigitalSignature, CrlSign], "key_usage"),
        (&[KeyCertSign], "key_usage"),
        (&[DigitalSignature, KeyEncipherment, KeyAgreement], "accepted"),
    ];
    for (usages, want) in rows {
        check(&mesh, &mesh.mutant(|params| params.key_usages = usages.to_vec()), want);
    }
    let not_critical = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
    let chain = mesh.mutant(|params| {
        params.key_usages.clear();
        params.custom_extensions = vec![not_critical];
    });
    check(&mesh, &chain, "key_usage");
}

#[test]
fn c5_a_leaf_is_for_both_ends_of_a_connection() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
    let mesh = Mesh::new("mesh.test");
    let rows: [(&[ExtendedKeyUsagePurpose], &str); 6] = [
        (&[], "extended_key_usage"),
        (&[ClientAuth], "extended_key_usage"),
        (&[ServerAuth], "extended_key_usage"),
        (&[Any], "extended_key_usage"),
        (&[CodeSigning], "extended_key_usage"),
        (&[ServerAuth, ClientAuth, CodeSigning], "accepted"),
    ];
    for (usages, want) in rows {
        check(&mesh, &mesh.mutant(|params| params.extended_key_usages = usages.to_vec()), want);
    }
}

#[test]
fn serials_that_weft_never_issues_are_refused() {
    let mesh = Mesh::new("mesh.test");
    for (serial, want) in [(vec![1; 17], "serial_number"), (vec![0], "serial_number"), (vec![1], "accepted")] {
        let chain = mesh.mutant(|params| params.serial_number = Some(SerialNumber::from_slice(&serial)));
        check(&mesh, &chain, want);
    }
}

#[test]
fn unknown_critical_extensions_are_refused() {
    let mesh = Mesh::new("mesh.test");
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    check(&mesh, &mesh.mutant(|params| params.custom_extensions = vec![extension.clone()]), "accepted");
    extension.set_criticality(true);
    check(&mesh, &mesh.mutant(|params| params.custom_extensions = vec![extension]), "malformed");
}

#[test]
fn only_the_roots_of_its_own_trust_domain_vouch_for_an_identity() {
    let (mesh, other) = (Mesh::new("mesh.test"), Mesh::new("other.test"));
    let foreign = mesh.mutant(|params| params.subject_alt_names = vec![uri("spiffe://other.test/ns/default/sa/web")]);
    check(&mesh, &foreign, "foreign_trust_domain");
    // Both domains are trusted, and each signs for the other.
    let both = Arc::new(TrustAnchors::from_pem(&[mesh.root_pem(), other.root_pem()]).unwrap());
    let verifier = SpiffeVerifier::new(both, ExpectedPeer::Anyone);
    for chain in [foreign, other.mutant(|_| ())] {
        let rejected = verifier.verify_client(&chain, mesh.now).unwrap_err();
        assert_eq!(rejected.label(), "unknown_authority", "{rejected}");
    }
    // An authority that calls itself the same is still another.
    check(&mesh, &Mesh::new("mesh.test").mutant(|_| ()), "unknown_authority");
}

#[test]
fn c6_a_valid_leaf_of_another_service_is_refused() {
    let mesh = Mesh::new("mesh.test");
    let verifier = SpiffeVerifier::new(mesh.anchors(), ExpectedPeer::Exactly(WEB.parse().unwrap()));
    let now = mesh.now;
    assert!(verifier.verify_server(&mesh.identity(WEB).certified_key().cert, now).is_ok());
    for other in [API, SERVER, "spiffe://mesh.test/ns/default/sa/web2", "spiffe://mesh.test/ns/other/sa/web"] {
        let rejected = verifier.verify_server(&mesh.identity(other).certified_key().cert, now).unwrap_err();
        assert_eq!(rejected.label(), "wrong_identity", "{rejected}");
    }
}

#[test]
fn only_servers_pass_for_servers() {
    let mesh = Mesh::new("mesh.test");
    let now = mesh.now;
    let of_domain = ExpectedPeer::ServerOf("mesh.test".parse().unwrap());
    for expected in [of_domain, ExpectedPeer::AnyServer] {
        let verifier = SpiffeVerifier::new(mesh.anchors(), expected);
        assert!(verifier.verify_server(&mesh.identity(SERVER).certified_key().cert, now).is_ok());
        for other in
            [WEB, "spiffe://mesh.test/server", "spiffe://mesh.test/server/a/b", "spiffe://mesh.test/x/server/a"]
        {
            let rejected = verifier.verify_server(&mesh.identity(other).certified_key().cert, now).unwrap_err();
            assert_eq!(rejected.label(), "wrong_identity", "{rejected}");
        }
    }
    let elsewhere = SpiffeVerifier::new(mesh.anchors(), ExpectedPeer::ServerOf("other.test".parse().unwrap()));
    let rejected = elsewhere.verify_server(&mesh.identity(SERVER).certified_key().cert, now).unwrap_err();
    assert_eq!(rejected.label(), "wrong_identity");
}

#[test]
fn c7_a_long_chain_is_refused_before_anything_is_computed() {
    let mesh = Mesh::new("mesh.test");
    let good = mesh.mutant(|_| ());
    let mut padded = good.clone();
    padded.resize(CHAIN_CERTIFICATES_MAX, good[1].clone());
    check(&mesh, &padded, "accepted");
    padded.push(good[1].clone());
    check(&mesh, &padded, "chain_too_long");
    check(&mesh, &vec![good[0].clone(); 51], "chain_too_long");
    let heavy = [good[0].clone(), good[1].clone(), CertificateDer::from(vec![0x30; CHAIN_BYTES_MAX])];
    check(&mesh, &heavy, "chain_too_long");
}

#[test]
fn c7_cycles_of_signers_end() {
    let mesh = Mesh::new("mesh.test");
    // Two authorities that vouch for each other and for nobody else.
    let signer = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        (params, KeyPair::generate().unwrap())
    };
    let ((first, first_key), (second, second_key)) = (signer("first"), signer("second"));
    let first_by_second = first.signed_by(&first_key, &Issuer::from_params(&second, &second_key)).unwrap();
    let second_by_first = second.signed_by(&second_key, &Issuer::from_params(&first, &first_key)).unwrap();
    let mut leaf = CertificateParams::default();
    mesh.mutant(|params| leaf = params.clone());
    let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &Issuer::from_params(&first, &first_key)).unwrap();
    let chain = [leaf.der().clone(), first_by_second.der().clone(), second_by_first.der().clone()];
    check(&mesh, &chain, "unknown_authority");
}

#[test]
fn a_chain_leads_through_signers_only() {
    let mesh = Mesh::new("mesh.test");
    // A workload's leaf does not vouch for another leaf.
    let (workload_pem, _) = mesh.leaf_pem(WEB);
    let workload = pem::certificate(&workload_pem[0]).unwrap();
    let workload_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    mesh.mutant(|good| params = good.clone());
    let issued = params.signed_by(&workload_key, &Issuer::from_params(&params, &workload_key)).unwrap();
    let chain = [issued.der().clone(), workload, mesh.mutant(|_| ())[1].clone()];
    check(&mesh, &chain, "unknown_authority");
    // Nor does a CA whose key is not for signing certificates, which webpki alone would accept.
    let mut weak = CertificateParams::default();
    weak.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    weak.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let weak_key = KeyPair::generate().unwrap();
    let weak_certificate = weak.signed_by(&weak_key, &mesh.root_issuer()).unwrap();
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &Issuer::from_params(&weak, &weak_key)).unwrap();
    check(&mesh, &[leaf.der().clone(), weak_certificate.der().clone()], "unknown_authority");
}

#[test]
fn a_signer_with_constraints_on_uris_is_refused_with_the_reason() {
    let mesh = Mesh::new("mesh.test");
    let on_uris = [b"\x30\x0f\xa0\x0d\x30\x0b\x86\x09".as_slice(), b"mesh.test"].concat();
    let mut constrained = CertificateParams::default();
    constrained.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    constrained.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut constraints = CustomExtension::from_oid_content(&[2, 5, 29, 30], on_uris);
    constraints.set_criticality(true);
    constrained.custom_extensions = vec![constraints];
    let key = KeyPair::generate().unwrap();
    let certificate = constrained.signed_by(&key, &mesh.root_issuer()).unwrap();
    let mut params = CertificateParams::default();
    mesh.mutant(|good| params = good.clone());
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &Issuer::from_params(&constrained, &key)).unwrap();
    check(&mesh, &[leaf.der().clone(), certificate.der().clone()], "name_constraints");
}

#[test]
fn expired_leaves_are_refused_or_marked() {
    let mesh = Mesh::new("mesh.test");
    let chain = mesh.mutant(|_| ());
    let (refusing, marking) = (anyone(&mesh), anyone(&mesh).with_expired(ExpiredLeaf::Marked));
    let later = mesh.now.saturating_add(2 * DAY);
    assert_eq!(refusing.verify_client(&chain, later).unwrap_err().label(), "expired");
    assert!(marking.verify_client(&chain, later).unwrap().expired);
    assert!(!marking.verify_client(&chain, mesh.now).unwrap().expired);
    // Expiry excuses nothing else.
    let foreign = Mesh::new("mesh.test").mutant(|_| ());
    assert_eq!(marking.verify_client(&foreign, later).unwrap_err().label(), "unknown_authority");
    // The signer's end is long past too, but the leaf was good until its own.
    assert!(marking.verify_client(&chain, mesh.now.saturating_add(4000 * DAY)).unwrap().expired);
}

#[test]
fn a_leaf_of_the_future_is_refused_even_where_expired_ones_are_not() {
    let mesh = Mesh::new("mesh.test");
    let chain = mesh.mutant(|_| ());
    let earlier = mesh.now.saturating_sub(Duration::from_secs(3600));
    for verifier in [anyone(&mesh), anyone(&mesh).with_expired(ExpiredLeaf::Marked)] {
        assert_eq!(verifier.verify_client(&chain, earlier).unwrap_err().label(), "not_yet_valid");
    }
    let late_clock = mesh.now.saturating_sub(Duration::from_secs(4 * 60));
    assert!(anyone(&mesh).verify_client(&chain, late_clock).is_ok());
    assert!(anyone(&mesh).verify_client(&chain, Timestamp(0)).is_err());
}

#[test]
fn c5_damaged_leaves_never_panic_and_never_pass() {
    let mesh = Mesh::new("mesh.test");
    let good = mesh.mutant(|_| ());
    let verifier = anyone(&mesh);
    for position in 0..good[0].len() {
        for bit in [0, 3, 7] {
            let mut leaf = good[0].to_vec();
            leaf[position] ^= 1 << bit;
            let chain = [CertificateDer::from(leaf), good[1].clone()];
            assert!(verifier.verify_client(&chain, mesh.now).is_err(), "byte {position}, bit {bit}");
        }
    }
    for length in 0..good[0].len() {
        let chain = [CertificateDer::from(good[0][..length].to_vec()), good[1].clone()];
        assert!(verifier.verify_client(&chain, mesh.now).is_err(), "cut at {length}");
    }
    let mut trailing = good[0].to_vec();
    trailing.push(0);
    check(&mesh, &[CertificateDer::from(trailing), good[1].clone()], "malformed");
}
