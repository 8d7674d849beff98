use super::*;
use crate::testing::{HOUR, TestMesh};
use catalog::{CatalogIndex, Item};
use std::collections::BTreeSet;
use wire::pki::LeafKey;

fn store(path: &Path) -> Store {
    Store::open(Some(path)).unwrap()
}

fn saved(mesh: &TestMesh) -> Saved {
    let items = BTreeMap::from([("mesh".to_owned(), Item::Mesh(Box::new(mesh.item.clone())))]);
    let state = TopicState { index: CatalogIndex(3), items };
    let key = CheckKey {
        node: "vm-1".parse().unwrap(),
        namespace: catalog::Namespace::default(),
        id: "alive".parse().unwrap(),
    };
    Saved {
        servers: vec!["server:8300".to_owned()],
        group: None,
        view: View::from([(Topic::Mesh, Arc::new(state.clone()))]),
        restraint: View::from([(Topic::Revocations, Arc::new(TopicState { items: BTreeMap::new(), ..state }))]),
        known: Some(Known { instances: BTreeSet::new(), checks: BTreeSet::from([key.clone()]) }),
        statuses: BTreeMap::from([(key, (CheckStatus::Warning, "slow".to_owned()))]),
        mesh_port: 20000,
        advertised: Some("10.0.0.7".parse().unwrap()),
        outbound: Default::default(),
    }
}

#[test]
fn p5_everything_is_read_back_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = TestMesh::new();
    let first = store(dir.path());
    let key = first.agent_key().unwrap();
    let identity = mesh.identity(&key, &["web"]);
    let web = Subject::Service("web".parse().unwrap());
    let leaf = mesh.leaf(&web, &identity, wire::crypto::now(), HOUR);
    first.keep_identity(&identity).unwrap();
    first.keep_leaves(&identity.record.id, &[(web.clone(), leaf.stored().clone())]).unwrap();
    first.save(&identity.record.id, &saved(&mesh)).unwrap();
    drop(first);

    let second = store(dir.path());
    assert_eq!(second.agent_key().unwrap().fingerprint(), key.fingerprint());
    let identity = second.identity().unwrap();
    assert_eq!(second.leaves(&identity)[&web].tls().serial(), leaf.tls().serial());
    let read = second.saved(&identity.record.id).unwrap();
    let wanted = saved(&mesh);
    assert_eq!((read.view, read.known, read.statuses), (wanted.view, wanted.known, wanted.statuses));
    assert_eq!(read.restraint, wanted.restraint);
    assert_eq!((read.servers, read.mesh_port), (wanted.servers, wanted.mesh_port));
    assert_eq!(read.advertised, wanted.advertised);
}

#[test]
fn what_an_earlier_enrolment_kept_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = TestMesh::new();
    let store = store(dir.path());
    store.save(&catalog::AgentId::enrolled_at(CatalogIndex(1)), &saved(&mesh)).unwrap();
    assert!(store.saved(&catalog::AgentId::enrolled_at(CatalogIndex(2))).is_none());
    assert!(store.saved(&catalog::AgentId::enrolled_at(CatalogIndex(1))).is_some());
}

#[test]
fn a_damaged_state_is_as_good_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = TestMesh::new();
    let store = store(dir.path());
    let agent = catalog::AgentId::enrolled_at(CatalogIndex(1));
    store.save(&agent, &saved(&mesh)).unwrap();
    let path = dir.path().join(STATE_FILE);
    let text = std::fs::read_to_string(&path).unwrap().replace("\"deny\"", "\"allow\"");
    std::fs::write(&path, text).unwrap();
    assert!(store.saved(&agent).is_none());
    std::fs::write(&path, b"").unwrap();
    assert!(store.saved(&agent).is_none());
}

#[test]
fn a_damaged_key_is_an_error_and_not_a_new_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.agent_key().unwrap();
    std::fs::write(dir.path().join(KEY_FILE), b"damaged").unwrap();
    assert!(matches!(store.agent_key(), Err(DataDirError::Damaged { .. })));
}

#[test]
fn the_key_is_on_disk_before_anybody_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    let key = first.agent_key().unwrap();
    drop(first);
    assert_eq!(store(dir.path()).agent_key().unwrap().fingerprint(), key.fingerprint());
}

#[test]
fn without_a_data_directory_nothing_is_kept() {
    let store = Store::open(None).unwrap();
    let mesh = TestMesh::new();
    let agent = catalog::AgentId::enrolled_at(CatalogIndex(1));
    store.save(&agent, &saved(&mesh)).unwrap();
    assert!(store.saved(&agent).is_none() && store.identity().is_none());
    assert_ne!(store.agent_key().unwrap().fingerprint(), LeafKey::generate().fingerprint());
}
