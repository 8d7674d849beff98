use catalog::{
    Actor, AgentId, Attestation, Command, Envelope, IdentityScheme, KeyFingerprint, Mesh, Outcome, PathTemplate,
    Platform,
};
use wire::cluster_key::ClusterKey;
use wire::crypto::Secret;
use wire::pki::LocalRoot;
use wire::tls::{ExpectedPeer, SpiffeVerifier, TrustAnchors};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn keys() -> ClusterKeys {
    ClusterKeys::single(ClusterKey::generate())
}

/// Applies a command and returns what it came to.
pub(super) fn outcome_of(catalog: &mut Catalog, command: Command) -> Outcome {
    outcome_at(catalog, wire::crypto::now(), command)
}

/// Applies a command that was proposed at that time, and returns what it came to.
pub(super) fn outcome_at(catalog: &mut Catalog, proposed_at: Timestamp, command: Command) -> Outcome {
    let index = CatalogIndex(catalog.index().0 + 1);
    let envelope = Envelope {
        version: catalog::ENVELOPE_VERSION,
        request_id: format!("r{index}").parse().unwrap(),
        actor: Actor::ClusterKey,
        source_address: None,
        proposed_at,
        command,
    };
    envelope.command.validate().unwrap();
    catalog.apply(index, &envelope, wire::crypto::sha256).outcome
}

pub(super) fn write(catalog: &mut Catalog, command: Command) {
    let outcome = outcome_of(catalog, command);
    assert!(matches!(outcome, Outcome::Done | Outcome::RotationBegun { .. }), "{outcome:?}");
}

/// A catalog with a certificate authority founded at `now`.
pub(super) fn founded(keys: &ClusterKeys, now: Timestamp) -> Catalog {
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
        earlier: Vec::new(),
        gateway: None,
        enrolled,
        incarnation: None,
        server: None,
        presence: Default::default(),
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
        let der = der(&leaf.chain_pem[0]);
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let says_vm = certificate.extensions().iter().any(|one| one.value == b"\x0c\x02vm" && !one.critical);
        assert!(says_vm, "a leaf says what its record runs on");
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
    let sealed = root.sealed_key.as_ref().unwrap();
    let opened = keys.open(&found::ROOT.context("c1", &root.id), sealed).unwrap();
    assert!(LocalRoot::load(&root.certificate_pem, &Secret::new(std::str::from_utf8(&opened).unwrap())).is_ok());
    assert!(keys.open(&found::INTERMEDIATE.context("c1", &root.id), sealed).is_err());
    assert!(keys.open(&found::ROOT.context("c2", &root.id), sealed).is_err());
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

/// Applies a change of the authority.
fn change(catalog: &mut Catalog, change: catalog::CaChange) {
    write(catalog, Command::Ca { change, not_before: None });
}

/// Returns whether somebody who trusts these roots accepts what was signed.
fn is_accepted(chain: &[rustls_pki_types::CertificateDer<'static>], roots_pem: &[String], now: Timestamp) -> bool {
    let anchors = Arc::new(TrustAnchors::of_domain(&"mesh.test".parse().unwrap(), roots_pem.to_vec()).unwrap());
    let verifier = SpiffeVerifier::new(anchors, ExpectedPeer::Anyone);
    verifier.verify_client(chain, now).is_ok() && verifier.verify_server(chain, now).is_ok()
}

#[test]
fn p6_fault_23_at_every_step_of_a_rotation_old_and_new_leaves_are_accepted_by_everybody() {
    let (keys, now) = (keys(), wire::crypto::now());
    let mut catalog = founded(&keys, now);
    let authority = CertificateAuthority::new(keys.clone(), DAY);
    let key = LeafKey::generate();
    let sign = |catalog: &Catalog| {
        let leaf = authority.sign(catalog, &record(&key), &Subject::Agent, &key.csr_der(None), now).unwrap();
        leaf.chain_pem.iter().map(|pem| der(pem)).collect::<Vec<_>>()
    };
    let bundle = |catalog: &Catalog| catalog.trust_bundles().remove(0).roots_pem;
    let (old_roots, old_leaf) = (bundle(&catalog), sign(&catalog));
    let old = catalog.active_root().unwrap().id.clone();
    let started = rotation(&keys, &catalog, false, now).unwrap();
    change(&mut catalog, started);
    let new = catalog.ca_rotation().unwrap().root_id.clone();
    let both_roots = bundle(&catalog);
    assert_eq!((old_roots.len(), both_roots.len()), (1, 2));
    assert_eq!(sign(&catalog).len(), 2, "nothing is signed with the new root yet");
    for roots in [&old_roots, &both_roots] {
        assert!(is_accepted(&sign(&catalog), roots, now));
    }
    change(&mut catalog, catalog::CaChange::Activate { root: new.clone() });
    let new_leaf = sign(&catalog);
    // Some have the list of before, some that of the step before this one.
    for roots in [&old_roots, &both_roots, &bundle(&catalog)] {
        assert!(is_accepted(&old_leaf, roots, now));
        assert!(is_accepted(&new_leaf, roots, now));
    }
    change(&mut catalog, catalog::CaChange::Finish { root: new });
    change(&mut catalog, catalog::CaChange::Retire { root: old });
    let last_leaf = sign(&catalog);
    assert_eq!(last_leaf.len(), 2, "nobody has only the old root any more");
    for roots in [&both_roots, &bundle(&catalog)] {
        assert!(is_accepted(&new_leaf, roots, now) && is_accepted(&last_leaf, roots, now));
    }
    assert!(!is_accepted(&old_leaf, &bundle(&catalog), now));
}

#[test]
fn p6_whoever_knows_either_root_recognises_a_server_after_a_rotation() {
    let (keys, now) = (keys(), wire::crypto::now());
    let mut catalog = founded(&keys, now);
    let authority = CertificateAuthority::new(keys.clone(), DAY);
    let old_bundle = catalog.trust_bundles().remove(0).roots_pem;
    let old = catalog.active_root().unwrap().id.clone();
    let started = rotation(&keys, &catalog, false, now).unwrap();
    change(&mut catalog, started);
    let new = catalog.ca_rotation().unwrap().root_id.clone();
    change(&mut catalog, catalog::CaChange::Activate { root: new.clone() });
    change(&mut catalog, catalog::CaChange::Finish { root: new.clone() });
    change(&mut catalog, catalog::CaChange::Retire { root: old.clone() });
    let server = authority.server_identity(&catalog, &"s1".parse().unwrap(), now).unwrap();
    let chain = server.tls.certified_key().cert.clone();
    assert!(chain.len() <= wire::tls::CHAIN_CERTIFICATES_MAX);
    let sent: Vec<String> = chain.iter().map(|certificate| wire::crypto::sha256_hex(certificate)).collect();
    assert!(sent.contains(&old) && sent.contains(&new), "join tokens of before and of after find their root");
    // An agent that was away for the whole rotation comes back with the old root only.
    assert!(is_accepted(&chain, &old_bundle, now));
    // And is let in to renew, by what it had.
    assert_eq!(catalog.trust_bundles()[0].roots_pem.len(), 1);
    assert_eq!(catalog.renewal_bundles()[0].roots_pem.len(), 2);
}

#[test]
fn an_intermediate_of_the_operators_own_signs_as_ours_does() {
    let (keys, now) = (keys(), wire::crypto::now());
    let mut catalog = founded(&keys, now);
    let authority = CertificateAuthority::new(keys.clone(), DAY);
    let old_bundle = catalog.trust_bundles().remove(0).roots_pem;
    let root = LocalRoot::create(&"mesh.test".parse().unwrap(), now, DAY * 1000).unwrap();
    let given = root.create_intermediate(now, DAY * 100).unwrap();
    let given_key = given.key_pem();
    let parts = (root.certificate_pem(), LocalSigner::certificate_pem(&given), &given_key);
    let brought_in = operators(&keys, &catalog, parts, DAY, now).unwrap();
    change(&mut catalog, brought_in);
    let new = catalog.ca_rotation().unwrap().root_id.clone();
    change(&mut catalog, catalog::CaChange::Activate { root: new.clone() });
    assert!(catalog.active_root().unwrap().sealed_key.is_none(), "its key stays where it is");
    let key = LeafKey::generate();
    let leaf = authority.sign(&catalog, &record(&key), &Subject::Agent, &key.csr_der(None), now).unwrap();
    let chain: Vec<_> = leaf.chain_pem.iter().map(|pem| der(pem)).collect();
    for roots in [&old_bundle, &catalog.trust_bundles()[0].roots_pem] {
        assert!(is_accepted(&chain, roots, now));
    }
    let again = operators(&keys, &catalog, parts, DAY, now).unwrap_err();
    assert!(matches!(again, AuthorityError::Same { .. }), "{again}");
    assert!(matches!(renewed_intermediate(&keys, &catalog, now), Err(AuthorityError::Operators { .. })));
    change(&mut catalog, catalog::CaChange::Finish { root: new });
    // Another one under the same root takes over at once, for everybody trusts the root already.
    let next = root.create_intermediate(now, DAY * 200).unwrap();
    let parts = (root.certificate_pem(), LocalSigner::certificate_pem(&next), &next.key_pem());
    let renewed = operators(&keys, &catalog, parts, DAY, now).unwrap();
    assert!(matches!(renewed, catalog::CaChange::RenewIntermediate { .. }));
    change(&mut catalog, renewed);
    assert_eq!(catalog.active_intermediate().unwrap().id, next.id());
    let leaf = authority.sign(&catalog, &record(&key), &Subject::Agent, &key.csr_der(None), now).unwrap();
    assert_eq!(leaf.chain_pem[1], LocalSigner::certificate_pem(&next));
    // And the mesh's own authority takes over again, without the operator's root to certify it.
    let back = rotation(&keys, &catalog, false, now).unwrap();
    assert!(matches!(&back, catalog::CaChange::StartRotation { root, .. } if root.cross.is_none()));
}

#[test]
fn what_another_cluster_key_sealed_is_sealed_anew_with_the_first_one() {
    let now = wire::crypto::now();
    let (old, new) = (wire::cluster_key::ClusterKey::generate(), wire::cluster_key::ClusterKey::generate());
    let mut catalog = founded(&ClusterKeys::single(old.clone()), now);
    let both = ClusterKeys { primary: new.clone(), previous: Some(old.clone()) };
    assert_eq!(sealing(&both, &catalog).left(), 2);
    let secrets = resealed(&both, &catalog).unwrap();
    assert_eq!(secrets.len(), 2);
    change(&mut catalog, catalog::CaChange::Reseal { secrets });
    let after = sealing(&both, &catalog);
    assert_eq!((after.left(), after.sealed_with.get(&new.key_id())), (0, Some(&2)));
    assert!(resealed(&both, &catalog).unwrap().is_empty());
    // The old key may go: the new one alone opens everything.
    let authority = CertificateAuthority::new(ClusterKeys::single(new.clone()), DAY);
    assert!(authority.server_identity(&catalog, &"s1".parse().unwrap(), now).is_ok());
    assert!(rotation(&ClusterKeys::single(new), &catalog, false, now).is_ok());
    // Who has only the old one is told which it needs.
    let error = resealed(&ClusterKeys::single(old), &catalog).unwrap_err();
    assert!(error.to_string().contains("is sealed with cluster key"), "{error}");
}
