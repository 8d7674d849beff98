use super::super::tests::{Log, digest, envelope, instance, node, register};
use super::*;
use crate::{
    AuditHash, BackupStep, CatalogIndex, Command, ConfigChange, ConfigContent, ConfigEntry, DeregisterTarget, Envelope,
    Item, Mesh, Owner, PathTemplate, ServiceDefaults, Topic, Upstream,
};

fn key(service: &str) -> ServiceKey {
    service.parse().unwrap()
}

fn number(log: &Log, service: &str) -> Option<u32> {
    log.catalog.address_number(&key(service)).map(AddressNumber::get)
}

/// Registers an instance on a node of its own, which calls `upstreams`.
fn serves(service: &str, upstreams: &[&str]) -> Command {
    let upstream = |destination: &&str| Upstream {
        destination: key(destination),
        local_bind_address: None,
        local_bind_port: 9000,
    };
    let instance =
        Instance { upstreams: upstreams.iter().map(upstream).collect(), ..instance(service, service, "one") };
    register(node(service, Owner::External), vec![instance], vec![], None)
}

fn leaves(node: &str) -> Command {
    Command::Deregister { node: node.parse().unwrap(), target: DeregisterTarget::Node, incarnation: None }
}

/// Applies a command at a time of the catalog's own clock, which follows by a minute a command.
fn at(log: &mut Log, seconds: u64, command: Command) {
    while log.catalog.clock < Timestamp(seconds * 1000) {
        let next = log.catalog.index.0 + 1;
        let proposed_at = Timestamp(seconds * 1000);
        let tick = Command::DeleteMesh { compare: None };
        log.catalog.apply(CatalogIndex(next), &Envelope { proposed_at, ..envelope(next, tick) }, digest);
    }
    log.done(command);
}

/// A log whose clock stands still, so that it can be set.
fn log() -> Log {
    let mut log = Log::default();
    log.done(Command::Config { change: ConfigChange::Delete { key: crate::ConfigKey::ProxyDefaults, compare: None } });
    log
}

#[test]
fn whoever_serves_calls_or_shapes_a_service_gives_it_one_number_for_good() {
    let mut log = log();
    log.done(serves("web", &["api", "team/db"]));
    let first = [number(&log, "web"), number(&log, "api"), number(&log, "team/db")];
    assert_eq!(first, [Some(1), Some(2), Some(3)]);
    log.done(serves("api", &[]));
    let defaults = ConfigContent::ServiceDefaults(ServiceDefaults::new(key("shop")));
    let entry = Box::new(ConfigEntry::new(defaults));
    log.done(Command::Config { change: ConfigChange::Write { entry, compare: None } });
    assert_eq!([number(&log, "api"), number(&log, "shop"), number(&log, "none")], [Some(2), Some(4), None]);
    // Scaled to nothing and deployed anew.
    log.done(leaves("web"));
    log.done(leaves("api"));
    log.done(serves("other", &[]));
    log.done(serves("web", &[]));
    assert_eq!([number(&log, "web"), number(&log, "api"), number(&log, "other")], [Some(1), Some(2), Some(5)]);
    assert_eq!(number(&log, "team/db"), Some(3), "nobody has called it since, and it is kept");
    assert_eq!(log.catalog.address_numbers_left(), AddressNumber::MAX - 5);
    assert_eq!(Catalog::restore(&log.catalog.snapshot()).unwrap(), log.catalog);
}

#[test]
fn agents_are_told_a_number_before_there_is_an_instance() {
    let mut log = log();
    let touched = log.done(serves("web", &["api"]));
    assert!(touched.contains(&WatchKey::Service(key("api"))));
    let items = log.catalog.view(&Topic::Endpoints(key("api")));
    assert_eq!(items.values().collect::<Vec<_>>(), [&Item::Address(AddressNumber::new(2).unwrap())]);
    assert!(log.catalog.view(&Topic::Endpoints(key("none"))).is_empty());
}

#[test]
fn a_number_is_kept_for_days_and_then_not_given_again_before_all_others() {
    let mut log = log();
    log.done(serves("web", &["api"]));
    log.done(leaves("web"));
    let day = 24 * 60 * 60;
    at(&mut log, 2 * day, serves("x", &[]));
    assert_eq!([number(&log, "web"), number(&log, "api"), number(&log, "x")], [Some(1), Some(2), Some(3)]);
    at(&mut log, 4 * day, serves("y", &[]));
    assert_eq!([number(&log, "web"), number(&log, "api"), number(&log, "y")], [None, None, Some(4)]);
    log.done(serves("web", &[]));
    assert_eq!(number(&log, "web"), Some(5));
    log.catalog.addresses.last = AddressNumber::new(AddressNumber::MAX);
    log.done(serves("z", &[]));
    assert_eq!(number(&log, "z"), Some(1), "the first that is free follows the last");
    log.done(serves("zz", &[]));
    assert_eq!(number(&log, "zz"), Some(2));
    log.done(serves("zzz", &[]));
    assert_eq!(number(&log, "zzz"), Some(6), "those that are taken are passed over");
}

#[test]
fn ever_new_upstreams_do_not_fill_the_servers() {
    let mut log = log();
    for round in 0..40 {
        let names: Vec<String> = (0..500).map(|number| format!("u{}", round * 500 + number)).collect();
        log.done(serves("web", &names.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    assert_eq!(log.catalog.addresses.unused.len(), UNUSED_SERVICES_MAX);
    assert_eq!(log.catalog.addresses.of.len(), UNUSED_SERVICES_MAX + 500 + 1);
    assert_eq!((number(&log, "web"), number(&log, "u0"), number(&log, "u19999")), (Some(1), None, Some(20_001)));
    assert!(log.catalog.watch_keys().all(|key| log.catalog.has_behind(key)));
    assert_eq!(Catalog::restore(&log.catalog.snapshot()).unwrap(), log.catalog);
}

#[test]
fn a_group_of_the_first_release_numbers_its_services_when_it_leaves_it() {
    let mut log = Log::default();
    log.done(serves("web", &["api"]));
    log.done(serves("db", &[]));
    assert_eq!(log.catalog.allotments().count(), 0, "a server of the first release could not agree");
    let change = ConfigChange::Delete { key: crate::ConfigKey::ProxyDefaults, compare: None };
    let touched = log.done(Command::Config { change });
    assert_eq!([number(&log, "api"), number(&log, "db"), number(&log, "web")], [Some(1), Some(2), Some(3)]);
    assert!(touched.contains(&WatchKey::Service(key("web"))));
}

/// What one group has learned since a backup was taken of it, and another group that was once restored from that backup.
fn parted() -> (Log, Log) {
    let mut ours = log();
    let bootstrap = |cluster: &str| Command::Bootstrap {
        mesh: Mesh {
            cluster_id: cluster.to_owned(),
            datacenter: "dc1".to_owned(),
            trust_domain: "mesh.example".parse().unwrap(),
            template: PathTemplate::default(),
            servers: vec![],
        },
    };
    ours.done(bootstrap("ours"));
    ours.done(serves("web", &[]));
    let mut theirs = log();
    theirs.done(bootstrap("theirs"));
    theirs.done(serves("web", &[]));
    theirs.done(serves("db", &["web"]));
    theirs.done(serves("api", &[]));
    ours.done(serves("api", &["web"]));
    (ours, theirs)
}

/// Restores the state of `backup`.
fn restore(log: &mut Log, backup: &Catalog, other_cluster: bool) {
    let (upload, text) = (|| "u1".parse().unwrap(), String::from_utf8(backup.snapshot()).unwrap());
    let (bytes, sha256) = (text.len() as u64, AuditHash(digest(text.as_bytes())));
    log.done(Command::Backup { step: BackupStep::Begin { upload: upload(), bytes, sha256 } });
    log.done(Command::Backup { step: BackupStep::Piece { upload: upload(), offset: 0, text } });
    log.done(Command::Backup { step: BackupStep::Commit { upload: upload(), other_cluster, form: None } });
}

#[test]
fn a_restored_backup_keeps_what_applications_were_told_last() {
    let numbers = |log: &Log| ["web", "api", "db"].map(|service| number(log, service));
    // An older state of this very group: what was given since stays given.
    let (mut ours, _) = parted();
    let before = ours.catalog.clone();
    ours.done(serves("db", &[]));
    restore(&mut ours, &before, false);
    assert_eq!(numbers(&ours), [Some(1), Some(2), Some(3)], "`db` is gone, and its number still its own");
    ours.done(serves("new", &[]));
    assert_eq!(number(&ours, "new"), Some(4));
    assert_eq!(ours.catalog.addresses.callers.get(&key("web")), Some(&1));
    // Another group's: applications were told its addresses there, and whoever is not in it gets another.
    let (mut ours, theirs) = parted();
    ours.done(serves("only-ours", &[]));
    assert_eq!(number(&ours, "only-ours"), Some(3));
    restore(&mut ours, &theirs.catalog, true);
    assert_eq!(numbers(&ours), [Some(1), Some(3), Some(2)]);
    assert_eq!(number(&ours, "only-ours"), None, "another service has it, and nobody serves this one any more");
    assert_eq!(ours.catalog.addresses.callers.get(&key("web")), Some(&1), "counted anew");
    assert_eq!(Catalog::restore(&ours.catalog.snapshot()).unwrap(), ours.catalog);
}

#[test]
fn p11_no_node_uses_up_the_numbers_of_all() {
    let mut log = log();
    let names = |from: usize, count: usize| (from..from + count).map(|number| format!("u{number}")).collect::<Vec<_>>();
    let with = |id: &str, names: &[String]| {
        let Command::Register { node, mut instances, checks, skip_node_update, incarnation } =
            serves("web", &names.iter().map(String::as_str).collect::<Vec<_>>())
        else {
            unreachable!()
        };
        instances[0].key.id = id.parse().unwrap();
        Command::Register { node, instances, checks, skip_node_update, incarnation }
    };
    log.done(with("one", &names(0, 4_000)));
    log.done(with("two", &names(4_000, 96)));
    let refused = log.refused(with("three", &names(5_000, 1)));
    assert!(refused.to_string().contains("more than 4096 upstreams"), "{refused}");
    log.done(with("one", &names(6_000, 4_000)));
    let taken = u32::try_from(log.catalog.addresses.of.len()).unwrap();
    assert_eq!(log.catalog.address_numbers_left(), AddressNumber::MAX - taken);
}

#[test]
fn s1_a_number_that_is_there_twice_is_damage() {
    let mut log = log();
    log.done(serves("web", &["api"]));
    let text = String::from_utf8(log.catalog.snapshot()).unwrap();
    let twice = text.replace("\"number\":2", "\"number\":1");
    assert_ne!(text, twice);
    assert!(matches!(Catalog::restore(twice.as_bytes()), Err(crate::SnapshotError::Inconsistent(_))));
}
