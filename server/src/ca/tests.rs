use catalog::{Actor, AgentId, Attestation, Envelope, IdentityScheme, KeyFingerprint, Mesh, PathTemplate, Platform};
use wire::cluster_key::ClusterKey;
use wire::tls::{ExpectedPeer, SpiffeVerifier, TrustAnchors};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn keys() -> ClusterKeys {
    ClusterKeys::single(ClusterKey::generate())
}

fn write(catalog: &mut Catalog, command: Command) {
    let index = CatalogIndex(catalog.index().0 + 1);
    let envelope = Envelope {
        version: catalog::ENVELOPE_VERSION,
        request_id: format!("r{index}").parse().unwrap(),
        actor: Actor::ClusterKey,
        source_address: None,
        proposed_at: wire::crypto::now(),
        command,
    };
    let applied = catalog.apply(index, &envelope, wire::crypto::sha256);
    assert_eq!(applied.outcome, catalog::Outcome::Done);
}

/// A catalog with a certificate authority founded at `now`.
fn founded(keys: &ClusterKeys, now: Timestamp) -> Catalog {
    let mut catalog = Catalog::default();
    let mesh = Mesh {
        cluster_id: "c1".to_owned(),
        datacenter: "dc1".to_owned(),
        trust_domain: "mesh.test".parse().unwrap(),
        template: PathTemplate::default(),
        servers: Vec::new(),
    };
    let install = new_authority(keys, &mesh.cluster_id, &mesh.trust_domain, now).unwrap();
    write(&mut catalog, Command::Bootstrap { mesh });
    write(&mut catalog, install);
    catalog
}

fn record(key: &LeafKey) -> AgentRecord {
    let enrolled = CatalogIndex(4711);
    AgentRecord {
        id: AgentId::enrolled_at(enrolled),
        node: "vm-1".parse().unwrap(),
        platform: Platform::Vm,
        key: key.fingerprint(),
        services: vec!["web".parse().unwrap(), "team/web".parse().unwrap()],
        attestation: Attestation::JoinToken(wire::crypto::uuid_v4().parse().unwrap()),
        enrolled,
        incarnation: None,
        server: None,
        modified: enrolled,
    }
}

fn scheme(catalog: &Catalog) -> IdentityScheme {
    catalog.scheme().unwrap()
}

fn der(pem: &str) -> rustls_pki_types::CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Returns the URI names of a leaf and the index in its serial.
fn read(leaf: &Leaf) -> (Vec<String>, u64) {
    let der = der(&leaf.chain_pem[0]);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let names = names.value.general_names.iter().map(|name| match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => panic!("another name: {other}"),
    });
    let mut serial = certificate.raw_serial().to_vec();
    while serial.len() < 16 {
        serial.insert(0, 0);
    }
    (names.collect(), u64::from_be_bytes(serial[serial.len() - 16..][..8].try_into().unwrap()))
}

#[test]
fn c1_a_leaf_names_what_the_record_says_whatever_the_request_asks_for() {
    let (keys, now) = (keys(), wire::crypto::now());
    let catalog = founded(&keys, now);
    let authority = CertificateAuthority::new(keys, DAY);
    let key = LeafKey::generate();
    let record = record(&key);
    for (subject, want) in [
        (Subject::Agent, "spiffe://mesh.test/agent/vm/vm-1"),
        (Subject::Service("web".parse().unwrap()), "spiffe://mesh.test/ns/default/sa/web"),
        (Subject::Service("team/web".parse().unwrap()), "spiffe://mesh.test/ns/team/sa/web"),
    ] {
        let leaf = authority.sign(&catalog, &record, &subject, &key.csr_der(None), now).unwrap();
        assert_eq!(read(&leaf), (vec![want.to_owned()], 4711));
        let named = key.csr_der(Some(&want.parse().unwrap()));
        assert!(authority.sign(&catalog, &record, &subject, &named, now).is_ok());
        let other = key.csr_der(Some(&scheme(&catalog).workload(&"billing".parse().unwrap())));
        let error = authority.sign(&catalog, &record, &subject, &other, now).unwrap_err();
        assert!(matches!(error, SignError::Csr(CsrError::Mismatch { .. })), "{error}");
        assert_eq!(error.status(), StatusCode::FORBIDDEN);
    }
}

#[test]
fn c2_a_service_that_the_record_does_not_name_is_refused_by_name() {
    let (keys, now) = (keys(), wire::crypto::now());
    let catalog = founded(&keys, now);
    let authority = CertificateAuthority::new(keys, DAY);
    let key = LeafKey::generate();
    for service in ["billing", "team/billing", "other/web"] {
        let subject = Subject::Service(service.parse().unwrap());
        let error = authority.sign(&catalog, &record(&key), &subject, &key.csr_der(None), now).unwrap_err();
        assert!(matches!(error, SignError::NotEntitled { .. }), "{error}");
        assert_eq!(error.status(), StatusCode::FORBIDDEN);
        assert!(error.to_string().contains(service), "{error}");
    }
}

#[test]
fn c2_an_agents_own_leaf_is_for_the_key_that_it_enrolled_with() {
    let (keys, now) = (keys(), wire::crypto::now());
    let catalog = founded(&keys, now);
    let authority = CertificateAuthority::new(keys, DAY);
    let record = record(&LeafKey::generate());
    let other = LeafKey::generate().csr_der(None);
    let error = authority.sign(&catalog, &record, &Subject::Agent, &other, now).unwrap_err();
    assert!(matches!(error, SignError::OtherKey { .. }), "{error}");
    // Workloads' keys are made afresh.
    assert!(authority.sign(&catalog, &record, &Subject::Service("web".parse().unwrap()), &other, now).is_ok());
}

#[test]
fn c3_what_is_no_request_is_refused_before_the_key_is_opened() {
    let now = wire::crypto::now();
    let catalog = founded(&keys(), now);
    let key = LeafKey::generate();
    // With a cluster key of another mesh the intermediate could not even be opened.
    let authority = CertificateAuthority::new(keys(), DAY);
    for request in [vec![], vec![0x30; 100], vec![0; 100_000]] {
        let error = authority.sign(&catalog, &record(&key), &Subject::Agent, &request, now).unwrap_err();
        assert!(matches!(error, SignError::Csr(_)), "{error}");
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    }
    let error = authority.sign(&catalog, &record(&key), &Subject::Agent, &key.csr_der(None), now).unwrap_err();
    assert!(matches!(error, SignError::Sealed(_)), "{error}");
}

#[test]
fn c4_a_leaf_lives_as_long_as_asked_for_and_never_longer_than_its_signer() {
    let (keys, now) = (keys(), wire::crypto::now());
    let catalog = founded(&keys, now);
    let authority = CertificateAuthority::new(keys, DAY);
    let key = LeafKey::generate();
    let sign = |at| authority.sign(&catalog, &record(&key), &Subject::Agent, &key.csr_der(None), at);
    let leaf = sign(now).unwrap();
    assert!(leaf.not_after.since(now) <= DAY && leaf.not_after.since(now) > DAY - Duration::from_secs(2));
    let end = catalog.active_intermediate().unwrap().not_after;
    let late = sign(end.saturating_sub(DAY / 2)).unwrap();
    assert_eq!(late.not_after, end);
    assert!(matches!(sign(end.saturating_add(DAY)), Err(SignError::Signer(_))));
}

#[test]
fn keys_are_in_the_catalog_only_sealed_and_each_for_its_own_record() {
    let (keys, now) = (keys(), wire::crypto::now());
    let catalog = founded(&keys, now);
    let snapshot = String::from_utf8_lossy(&catalog.snapshot()).into_owned();
    assert!(!snapshot.contains("PRIVATE KEY"));
    let root = catalog.active_root().unwrap();
    let context = |kind, cluster_id| SealContext { cluster_id, kind, id: &root.id };
    let opened = keys.open(&context(ROOT_KIND, "c1"), &root.sealed_key).unwrap();
    assert!(LocalRoot::load(&root.certificate_pem, &Secret::new(std::str::from_utf8(&opened).unwrap())).is_ok());
    assert!(keys.open(&context(INTERMEDIATE_KIND, "c1"), &root.sealed_key).is_err());
    assert!(keys.open(&context(ROOT_KIND, "c2"), &root.sealed_key).is_err());
}

#[test]
fn peers_trust_what_is_signed_and_a_servers_chain_ends_in_the_root() {
    let (keys, now) = (keys(), wire::crypto::now());
    let catalog = founded(&keys, now);
    let authority = CertificateAuthority::new(keys, DAY);
    let anchors = Arc::new(TrustAnchors::from_bundles(&catalog.trust_bundles()).unwrap());

    let key = LeafKey::generate();
    let leaf = authority.sign(&catalog, &record(&key), &Subject::Agent, &key.csr_der(None), now).unwrap();
    let chain: Vec<_> = leaf.chain_pem.iter().map(|pem| der(pem)).collect();
    let verifier = SpiffeVerifier::new(Arc::clone(&anchors), ExpectedPeer::Anyone);
    let peer = verifier.verify_client(&chain, now).unwrap();
    assert_eq!(peer.id, scheme(&catalog).agent(Platform::Vm, &"vm-1".parse().unwrap()));
    assert_eq!(peer.key, KeyFingerprint(key.fingerprint().0));

    let server = authority.server_identity(&catalog, &"s1".parse().unwrap(), now).unwrap();
    let chain = &server.tls.certified_key().cert;
    let verifier = SpiffeVerifier::new(anchors, ExpectedPeer::ServerOf("mesh.test".parse().unwrap()));
    assert_eq!(verifier.verify_server(chain, now).unwrap().id.to_string(), "spiffe://mesh.test/server/s1");
    assert_eq!(chain.len(), 3);
    assert_eq!(wire::crypto::sha256_hex(&chain[2]), catalog.active_root().unwrap().id);
    let half = server.renew_at.since(now);
    assert!(half > DAY * 2 / 5 && half <= DAY / 2, "{half:?}");
}
