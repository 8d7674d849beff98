//! What changes with the `mesh` entry.

use super::*;

#[test]
fn l9_of_a_namespace_that_refuses_bypassable_instances_callers_are_told_of_none() {
    let mut log = Log::default();
    let bypassable = |id: &str, bypassable| Instance { bypassable, ..instance("n1", "web", id) };
    let all = vec![bypassable("open", Some(true)), bypassable("closed", Some(false)), bypassable("unknown", None)];
    log.done(register(node("n1", Owner::External), all, vec![], None));
    let topic = Topic::Endpoints("web".parse().unwrap());
    let told = |log: &Log| log.catalog.view(&topic).values().filter(|item| matches!(item, Item::Endpoint(_))).count();
    let refuse = |namespaces: &[&str]| {
        let refuses_bypassable = namespaces.iter().map(|name| name.parse().unwrap()).collect();
        Command::WriteMesh { entry: MeshEntry { refuses_bypassable, ..MeshEntry::default() }, compare: None }
    };
    assert_eq!(refuse(&["shop"]).reads_from(), 2);
    let key = WatchKey::Service("web".parse().unwrap());
    // The first entry of a later form gives services their numbers; the second concerns others.
    log.done(refuse(&["shop"]));
    assert!(!log.done(refuse(&["shop", "other"])).contains(&key));
    assert_eq!(told(&log), 3);
    assert!(log.done(refuse(&["shop", "default"])).contains(&key));
    assert_eq!(told(&log), 2);
    assert!(log.done(Command::DeleteMesh { compare: None }).contains(&key));
    assert_eq!(told(&log), 3);
}

#[test]
fn the_mesh_entry_can_be_taken_back_to_its_default() {
    let mut log = Log::default();
    let entry = MeshEntry { default_action: Action::Allow, ..MeshEntry::default() };
    log.done(Command::WriteMesh { entry, compare: None });
    let index = log.catalog.index();
    log.refused(Command::DeleteMesh { compare: Some(CatalogIndex(index.0 + 7)) });
    log.done(Command::DeleteMesh { compare: Some(index) });
    assert_eq!(*log.catalog.mesh_entry(), MeshEntry::default());
    assert!(log.done(Command::DeleteMesh { compare: None }).is_empty());
}
