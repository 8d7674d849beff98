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
fn the_agent_keeps_its_key_and_a_service_gets_a_new_one() {
    let key = LeafKey::generate();
    assert_eq!(key_for(&Subject::Agent, &key).fingerprint(), key.fingerprint());
    assert_ne!(key_for(&web(), &key).fingerprint(), key.fingerprint());
}
