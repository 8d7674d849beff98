use std::time::Duration;

use super::super::tests::{Log, digest, envelope};
use super::*;
use crate::{Command, CrossCertificate, Envelope, Item, Topic};

const YEAR: u64 = 365 * 24 * 3600 * 1000;

fn sealed(key: &str, nonce: &str) -> SealedSecret {
    SealedSecret { key_id: key.to_owned(), nonce: nonce.to_owned(), ciphertext: "AA==".to_owned() }
}

fn root(id: &str, crossed_by: Option<&str>) -> CaRoot {
    CaRoot {
        id: id.to_owned(),
        certificate_pem: format!("({id})"),
        sealed_key: Some(sealed("k1", id)),
        active: crossed_by.is_none(),
        cross: crossed_by
            .map(|by| CrossCertificate { signed_by: by.to_owned(), certificate_pem: format!("({id} by {by})") }),
        replaced_at: None,
        retired: false,
        not_before: Timestamp(1),
        not_after: Timestamp(10 * YEAR),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

fn intermediate(id: &str, root: &str) -> CaIntermediate {
    CaIntermediate {
        id: id.to_owned(),
        root_id: root.to_owned(),
        certificate_pem: format!("({id})"),
        sealed_key: Some(sealed("k1", id)),
        active: true,
        not_before: Timestamp(1),
        not_after: Timestamp(YEAR),
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    }
}

fn change(change: CaChange) -> Command {
    Command::Ca { change, not_before: None }
}

fn start(new: &str, replaces: &str) -> Command {
    change(CaChange::StartRotation {
        root: Box::new(root(new, Some(replaces))),
        intermediate: Box::new(intermediate(&format!("{new}-signer"), new)),
        replaces: replaces.to_owned(),
        distrust_replaced: false,
    })
}

fn activate(root: &str) -> Command {
    change(CaChange::Activate { root: root.to_owned() })
}

fn finish(root: &str) -> Command {
    change(CaChange::Finish { root: root.to_owned() })
}

fn retire(root: &str) -> Command {
    change(CaChange::Retire { root: root.to_owned() })
}

fn distrust(root: &str) -> Command {
    change(CaChange::Distrust { root: root.to_owned() })
}

/// A mesh whose authority is founded; the agents `a8` and on are enrolled as `acks` needs them.
fn founded() -> Log {
    let mut log = Log::default();
    log.done(Command::InstallCa {
        root: Box::new(root("r1", None)),
        intermediate: Box::new(intermediate("r1-signer", "r1")),
    });
    log
}

/// One of each change, as the golden files hold them.
pub(in crate::catalog) fn every_kind() -> Vec<Command> {
    let config = CaConfig { leaf_ttl_ms: Some(3_600_000), intermediate_ttl_ms: Some(YEAR), ..CaConfig::default() };
    let ack = RootsAck { roots: CatalogIndex(21), renewed: false };
    let secret = Resealed {
        of: SealedKind::Intermediate,
        id: "r2-signer".to_owned(),
        replaces_nonce: "r2-signer".to_owned(),
        sealed: sealed("k2", "01"),
    };
    vec![
        start("r2", "root"),
        change(CaChange::Acknowledge { acks: BTreeMap::from([(AgentId::enrolled_at(CatalogIndex(7)), ack)]) }),
        Command::Ca { change: CaChange::Activate { root: "r2".to_owned() }, not_before: Some(Timestamp(3)) },
        finish("r2"),
        retire("root"),
        change(CaChange::RenewIntermediate {
            intermediate: Box::new(intermediate("r2-second", "r2")),
            replaces: "r2-signer".to_owned(),
        }),
        change(CaChange::Reseal { secrets: vec![secret] }),
        change(CaChange::Configure { config, compare: Some(CatalogIndex(0)) }),
        start("r3", "r2"),
        change(CaChange::CancelRotation { root: "r3".to_owned() }),
        distrust("gone"),
    ]
}

fn bundle(catalog: &Catalog) -> Vec<String> {
    catalog.view(&Topic::Roots).into_keys().collect()
}

#[test]
fn p6_a_rotation_goes_through_its_steps_once_and_in_order() {
    let mut log = founded();
    log.refused(activate("r2"));
    let touched = log.done(start("r2", "r1"));
    assert!(touched.contains(&WatchKey::Roots) && touched.contains(&WatchKey::CaRotation));
    assert_eq!(bundle(&log.catalog), ["r1", "r2"]);
    assert_eq!(log.catalog.active_root().unwrap().id, "r1", "nothing signs with it yet");
    assert_eq!(log.catalog.active_intermediate().unwrap().id, "r1-signer");
    log.refused(start("r3", "r1"));
    log.refused(finish("r2"));
    log.refused(retire("r1"));

    log.done(activate("r2"));
    log.refused(activate("r2"));
    assert_eq!(log.catalog.active_root().unwrap().id, "r2");
    assert_eq!(log.catalog.active_intermediate().unwrap().id, "r2-signer");
    assert_eq!(bundle(&log.catalog), ["r1", "r2"], "what was signed before is recognised");
    assert!(log.catalog.root("r1").unwrap().sealed_key.is_none(), "nobody needs its key any more");
    let sealed: Vec<&str> = log.catalog.sealed_secrets().map(|(_, id, _)| id).collect();
    assert_eq!(sealed, ["r2", "r2-signer"]);
    log.refused(retire("r1"));

    log.done(finish("r2"));
    assert!(log.catalog.ca_rotation().is_none());
    log.done(retire("r1"));
    log.refused(retire("r1"));
    assert_eq!(bundle(&log.catalog), ["r2"]);
    assert!(log.catalog.root("r1").unwrap().retired, "whoever was away for long is recognised by it to renew");
    log.done(start("r3", "r2"));
}

#[test]
fn p6_the_item_of_the_active_root_names_what_signs() {
    let mut log = founded();
    log.done(start("r2", "r1"));
    let signers = |catalog: &Catalog| -> Vec<Option<String>> {
        catalog
            .view(&Topic::Roots)
            .into_values()
            .map(|item| match item {
                Item::Root { signer, .. } => signer,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(signers(&log.catalog), [Some("r1-signer".to_owned()), None]);
    log.done(activate("r2"));
    assert_eq!(signers(&log.catalog), [None, Some("r2-signer".to_owned())]);
    let renew = |id: &str, replaces: &str| {
        let intermediate = Box::new(intermediate(id, "r2"));
        change(CaChange::RenewIntermediate { intermediate, replaces: replaces.to_owned() })
    };
    log.refused(renew("another", "r1-signer"));
    log.done(renew("another", "r2-signer"));
    log.refused(renew("third", "r2-signer"));
    assert_eq!(signers(&log.catalog), [None, Some("another".to_owned())]);
}

#[test]
fn p6_acknowledgements_count_for_the_rotation_under_way_and_never_go_back() {
    let mut log = Log::default();
    for envelope in crate::catalog::tests::every_kind().iter().take(8) {
        let next = CatalogIndex(log.catalog.index().0 + 1);
        log.catalog.apply(next, envelope, digest);
    }
    let agent = AgentId::enrolled_at(CatalogIndex(7));
    let acknowledge = |agent: &AgentId, roots: u64, renewed: bool| {
        let ack = RootsAck { roots: CatalogIndex(roots), renewed };
        change(CaChange::Acknowledge { acks: BTreeMap::from([(agent.clone(), ack)]) })
    };
    log.refused(acknowledge(&agent, 9, false));
    log.done(start("r2", "root"));
    let rotation = log.catalog.ca_rotation().unwrap().clone();
    let distributed = rotation.distributed.0;
    assert!(log.done(acknowledge(&agent, distributed - 1, true)).contains(&WatchKey::CaRotation));
    assert!(!rotation.is_met(log.catalog.roots_ack(&agent).unwrap()), "it has an older list in force");
    log.done(acknowledge(&agent, distributed, false));
    assert!(rotation.is_met(log.catalog.roots_ack(&agent).unwrap()));
    assert!(log.done(acknowledge(&agent, distributed - 1, true)).is_empty(), "a late voice takes nothing back");
    assert!(
        log.done(acknowledge(&AgentId::enrolled_at(CatalogIndex(99)), 99, true)).is_empty(),
        "nobody has this record"
    );

    log.done(activate("r2"));
    let rotation = log.catalog.ca_rotation().unwrap().clone();
    assert!(!rotation.is_met(log.catalog.roots_ack(&agent).unwrap()));
    log.done(acknowledge(&agent, rotation.activated.unwrap().0, false));
    assert!(!rotation.is_met(log.catalog.roots_ack(&agent).unwrap()), "its leaves are of the old root still");
    log.done(acknowledge(&agent, rotation.activated.unwrap().0, true));
    assert!(rotation.is_met(log.catalog.roots_ack(&agent).unwrap()));
    log.done(finish("r2"));
    assert_eq!(log.catalog.roots_acks().count(), 0);
}

#[test]
fn a_root_that_is_distrusted_leaves_at_once_and_everybody_hears_of_it() {
    let mut log = founded();
    log.refused(distrust("r1"));
    log.done(start("r2", "r1"));
    log.refused(distrust("r1"));
    log.refused(distrust("r2"));
    log.done(activate("r2"));
    let touched = log.done(distrust("r1"));
    assert!(touched.contains(&WatchKey::Revocations) && touched.contains(&WatchKey::Roots));
    assert_eq!(bundle(&log.catalog), ["r2"]);
    assert!(log.catalog.root("r1").is_none(), "not even to renew");
    assert!(log.catalog.root("r2").unwrap().cross.is_none(), "what it certified is worth nothing");
    assert!(log.catalog.ca_rotation().is_none());
    let revoked: Vec<String> = log.catalog.view(&Topic::Revocations).into_keys().collect();
    assert_eq!(revoked, ["root:r1"]);
    log.done(start("r3", "r2"));
    let back = CaChange::StartRotation {
        root: Box::new(root("r1", Some("r3"))),
        intermediate: Box::new(intermediate("r1-signer", "r1")),
        replaces: "r3".to_owned(),
        distrust_replaced: false,
    };
    log.done(activate("r3"));
    log.done(finish("r3"));
    log.refused(change(back));
}

#[test]
fn what_certified_a_distrusted_root_is_distrusted_with_it() {
    let mut log = founded();
    for (new, old) in [("r2", "r1"), ("r3", "r2")] {
        log.done(start(new, old));
        log.done(activate(new));
        log.done(finish(new));
    }
    log.done(retire("r1"));
    // Whoever has the key of r2 could show what r1 said of it.
    log.done(distrust("r2"));
    let distrusted: Vec<&String> = log.catalog.distrusted_roots().map(|(id, _)| id).collect();
    assert_eq!(distrusted, ["r1", "r2"]);
    assert_eq!(log.catalog.roots().count(), 1);
}

#[test]
fn everybody_hears_when_a_distrusted_root_has_expired_and_is_forgotten() {
    let mut log = founded();
    log.done(start("r2", "r1"));
    log.done(activate("r2"));
    log.done(distrust("r1"));
    log.done(start("r3", "r2"));
    log.done(activate("r3"));
    log.done(finish("r3"));
    log.catalog.ca.distrusted.get_mut("r1").unwrap().not_after = Timestamp(0);
    let touched = log.done(retire("r2"));
    assert!(touched.contains(&WatchKey::Revocations), "{touched:?}");
    assert!(log.catalog.view(&Topic::Revocations).is_empty());
}

#[test]
fn a_cancelled_rotation_leaves_everything_as_it_was() {
    let mut log = founded();
    log.done(start("r2", "r1"));
    let cancel = change(CaChange::CancelRotation { root: "r2".to_owned() });
    log.done(cancel.clone());
    log.refused(cancel.clone());
    assert_eq!(bundle(&log.catalog), ["r1"]);
    assert_eq!(log.catalog.intermediates().count(), 1);
    log.done(start("r2", "r1"));
    log.done(activate("r2"));
    log.refused(cancel);
}

#[test]
fn fault_20_a_step_that_is_too_early_by_the_meshs_clock_is_refused() {
    let mut log = founded();
    log.done(start("r2", "r1"));
    let early = Command::Ca {
        change: CaChange::Activate { root: "r2".to_owned() },
        not_before: Some(log.catalog.clock().saturating_add(Duration::from_secs(600))),
    };
    // One server's clock is ten years ahead: it moves the mesh's by nothing, however often it asks, and otherwise by a minute.
    let mut wild = |command: Command| {
        let index = CatalogIndex(log.catalog.index().0 + 1);
        let wild = Envelope { proposed_at: Timestamp(10 * YEAR), ..envelope(index.0, command) };
        log.catalog.apply(index, &wild, digest)
    };
    for _ in 0..20 {
        let outcome = wild(early.clone()).outcome;
        assert!(matches!(outcome, Outcome::Refused(Refusal::TooEarly { left_s: 599..=600 })), "{outcome:?}");
    }
    for _ in 0..9 {
        let applied = wild(Command::Time);
        assert_eq!((applied.outcome, applied.touched.len()), (Outcome::Done, 0), "nobody watches the time");
    }
    assert!(matches!(wild(early.clone()).outcome, Outcome::Refused(Refusal::TooEarly { left_s: 59..=60 })));
    wild(Command::Time);
    assert_eq!(wild(early).outcome, Outcome::Done);
    assert_eq!(log.catalog.active_root().unwrap().id, "r2");
}

#[test]
fn fault_20_a_rotation_that_a_clock_a_day_behind_starts_gives_agents_their_time() {
    let mut log = founded();
    for step in [start("r2", "r1"), activate("r2")] {
        let index = CatalogIndex(log.catalog.index().0 + 1);
        let mut behind = envelope(index.0, step);
        behind.proposed_at = Timestamp(0);
        let outcome = log.catalog.apply(index, &behind, digest).outcome;
        assert!(matches!(outcome, Outcome::Done | Outcome::RotationBegun { .. }), "{outcome:?}");
    }
    let (clock, rotation) = (log.catalog.clock(), log.catalog.ca_rotation().unwrap());
    assert_eq!((rotation.started_at, rotation.activated_at), (clock, Some(clock)));
    assert_eq!(log.catalog.root("r1").unwrap().replaced_at, Some(clock));
}

#[test]
fn what_was_sealed_anew_meanwhile_is_left_alone() {
    let mut log = founded();
    let reseal = |of, id: &str, nonce: &str, key: &str| Resealed {
        of,
        id: id.to_owned(),
        replaces_nonce: nonce.to_owned(),
        sealed: sealed(key, &format!("{nonce}-{key}")),
    };
    let secrets = vec![
        reseal(SealedKind::Root, "r1", "r1", "k2"),
        reseal(SealedKind::Intermediate, "r1-signer", "r1-signer", "k2"),
        reseal(SealedKind::Root, "gone", "gone", "k2"),
    ];
    log.done(change(CaChange::Reseal { secrets }));
    let late = reseal(SealedKind::Root, "r1", "r1", "k0");
    assert!(log.done(change(CaChange::Reseal { secrets: vec![late] })).is_empty());
    assert!(log.catalog.sealed_secrets().all(|(_, _, sealed)| sealed.key_id == "k2"));
    assert_eq!(log.catalog.sealed_secrets().count(), 2);
}

#[test]
fn settings_that_contradict_each_other_are_refused_by_name() {
    let config = |leaf, intermediate, root| CaConfig {
        leaf_ttl_ms: leaf,
        intermediate_ttl_ms: intermediate,
        root_ttl_ms: root,
        ..CaConfig::default()
    };
    let judged = |config| change(CaChange::Configure { config, compare: None }).validate();
    assert_eq!(judged(config(Some(3_600_000), None, None)), Ok(()));
    assert_eq!(judged(config(Some(3_600_000), Some(YEAR), Some(10 * YEAR))), Ok(()));
    for (bad, field) in [
        (config(Some(10), None, None), "LeafCertTTL"),
        (config(Some(YEAR), None, None), "LeafCertTTL"),
        (config(Some(3_600_000), Some(3_700_000), None), "IntermediateCertTTL"),
        (config(None, Some(YEAR), Some(2 * YEAR)), "RootCertTTL"),
        (config(None, None, Some(60 * YEAR)), "RootCertTTL"),
    ] {
        let refusal = judged(bad.clone()).unwrap_err();
        assert!(matches!(&refusal, Refusal::Invalid { field: named, .. } if named == field), "{bad:?}: {refusal}");
    }
    let mut log = founded();
    let write = |compare| change(CaChange::Configure { config: config(Some(9_000), None, None), compare });
    log.done(write(Some(CatalogIndex(0))));
    log.refused(write(Some(CatalogIndex(0))));
    assert_eq!(log.catalog.ca_config().leaf_ttl(), Some(Duration::from_secs(9)));
}
