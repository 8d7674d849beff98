use super::*;
use crate::testing::{HOUR, TestMesh};

fn web() -> Subject {
    Subject::Service("web".parse().unwrap())
}

#[test]
fn c6_a_leaf_of_somebody_else_is_not_taken() {
    let (mesh, start) = (TestMesh::new(), wire::crypto::now());
    let identity = mesh.identity(&LeafKey::generate(), &["web"]);
    let key = LeafKey::generate();
    let other = named(&Subject::Agent, &identity);
    let leaf = mesh.sign(&key.csr_der(Some(&other)), &other, start, HOUR);
    let wanted = named(&web(), &identity);
    assert!(matches!(HeldLeaf::new(&key, &leaf, &wanted, start), Err(LeafError::Other { .. })));
    let another = LeafKey::generate();
    assert!(matches!(HeldLeaf::new(&another, &leaf, &other, start), Err(LeafError::Identity(_))));
}

#[test]
fn p6_a_leaf_of_a_root_that_is_not_known_yet_is_told_from_one_that_clocks_are_wrong_for() {
    let (mesh, start) = (TestMesh::new(), wire::crypto::now());
    let identity = mesh.identity(&LeafKey::generate(), &["web"]);
    let (key, wanted) = (LeafKey::generate(), named(&web(), &identity));
    let leaf = mesh.sign(&key.csr_der(Some(&wanted)), &wanted, start, HOUR);
    let held = HeldLeaf::new(&key, &leaf, &wanted, start).unwrap();
    let anchors_of = |mesh: &TestMesh| {
        let roots = mesh.identity(&LeafKey::generate(), &["web"]).roots_pem;
        Arc::new(TrustAnchors::of_domain(wanted.trust_domain(), roots).unwrap())
    };
    let (own, other) = (anchors_of(&mesh), anchors_of(&TestMesh::new()));
    assert!(held.is_vouched_for(&own, start));
    assert!(!held.is_vouched_for(&other, start));
    for skewed in [start.saturating_add(HOUR * 48), Timestamp(start.0 - 48 * 3_600_000)] {
        assert!(held.is_vouched_for(&own, skewed), "the root is known, whatever the clock shows");
    }
}

#[test]
fn p6_a_leaf_of_a_root_that_only_an_older_one_certified_is_of_a_root_that_is_not_known_yet() {
    let (old, new, start) = (TestMesh::new(), TestMesh::new(), wire::crypto::now());
    let identity = new.identity(&LeafKey::generate(), &["web"]);
    let (key, wanted) = (LeafKey::generate(), named(&web(), &identity));
    let mut leaf = new.sign(&key.csr_der(Some(&wanted)), &wanted, start, HOUR);
    leaf.chain_pem.push(old.root.cross_sign(new.root.certificate_pem(), start).unwrap());
    let held = HeldLeaf::new(&key, &leaf, &wanted, start).unwrap();
    let anchors = |roots: &[&TestMesh]| {
        let roots = roots.iter().flat_map(|mesh| mesh.roots_pem()).collect();
        Arc::new(TrustAnchors::of_domain(wanted.trust_domain(), roots).unwrap())
    };
    // Peers that know the old root only recognise it while that one is not retired; its own agent would outlive that.
    let peer = SpiffeVerifier::new(anchors(&[&old]), ExpectedPeer::Exactly(wanted.clone()));
    assert!(peer.verify_client(&held.tls().certified_key().cert, start).is_ok());
    assert!(!held.is_vouched_for(&anchors(&[&old]), start));
    assert!(held.is_vouched_for(&anchors(&[&old, &new]), start));
    assert!(held.is_vouched_for(&anchors(&[&new]), start));
}

#[test]
fn the_agent_keeps_its_key_and_a_service_gets_a_new_one() {
    let key = LeafKey::generate();
    assert_eq!(key_for(&Subject::Agent, &key).fingerprint(), key.fingerprint());
    assert_ne!(key_for(&web(), &key).fingerprint(), key.fingerprint());
}
