//! What decides calls comes into force together.

use catalog::{Command, MeshEntry};

use super::*;
use crate::sync::settling::PATIENCE;

fn web() -> Topic {
    Topic::Intentions("web".parse().unwrap())
}

fn default_is(action: Action) -> Command {
    let entry = MeshEntry { default_action: action, ..MeshEntry::default() };
    Command::WriteMesh { entry, compare: None }
}

fn publishes(world: &World) -> usize {
    world.count(|output| matches!(output, Output::Publish(_)))
}

/// Lets the mesh allow by default, with an exception, in the order in which a careful operator does it.
fn opens_up(world: &mut World) {
    world.cluster.commit(intend("shop", "web", Action::Deny));
    world.cluster.commit(default_is(Action::Allow));
}

#[test]
fn p5_what_decides_calls_comes_into_force_together() {
    let (mut world, _) = serving(1);
    let before = world.published.clone();
    world.seen.clear();
    world.loses_settled = true;
    opens_up(&mut world);
    world.settle();
    assert_eq!((publishes(&world), world.sync.view()), (0, &before), "a part of it is in force");
    world.loses_settled = false;
    world.cluster.commit(intend("shop", "api", Action::Deny));
    world.settle();
    assert_eq!(publishes(&world), 1);
    world.assert_in_step();
    assert_eq!(world.sync.settled_at(), Some(world.cluster.leader().index()));
}

#[test]
fn p5_what_is_not_settled_restrains_after_a_moment_and_over_a_restart() {
    let (mut world, _) = serving(1);
    let before = world.published.clone();
    world.loses_settled = true;
    opens_up(&mut world);
    world.settle();
    assert!(world.sync.restraint().is_empty());
    // A lost connection and absent servers hold no denial back.
    world.refuse_connections = true;
    world.pass(PATIENCE);
    let (view, restraint) = (world.sync.view().clone(), world.sync.restraint().clone());
    assert_eq!(view, before);
    assert_eq!((restraint[&web()].items.len(), restraint.len()), (1, 5), "{restraint:?}");
    assert!(restraint.keys().all(Topic::decides_calls));

    // What a restart finds is what was in force. Nothing of what restrains goes before all of it is settled.
    let World { cluster, .. } = world;
    let start = Start {
        servers: vec!["server-0:8300".to_owned()],
        view: view.clone(),
        restraint: restraint.clone(),
        seed: 9,
        ..Start::default()
    };
    let mut world = World::with(cluster, start);
    assert_eq!((world.sync.view(), world.sync.restraint()), (&view, &restraint));
    world.loses_settled = true;
    world.pass(PATIENCE * 2);
    assert_eq!((world.sync.view(), world.sync.restraint()[&web()].items.len()), (&view, 1));
    world.loses_settled = false;
    let (attempt, _) = world.connected.unwrap();
    world.cut();
    world.feed(Input::Closed { attempt });
    world.pass(Duration::from_secs(5));
    assert!(world.sync.restraint().is_empty());
    world.assert_in_step();
}

#[test]
fn p5_fault_31_a_topic_that_is_poisoned_for_ever_keeps_no_denial_back_and_lets_nothing_wider_in() {
    let (mut world, _) = serving(1);
    world.poison = true;
    world.cluster.commit(default_is(Action::Allow));
    world.settle();
    world.cluster.commit(intend("shop", "web", Action::Deny));
    world.cluster.commit(intend("desk", "web", Action::Allow));
    world.pass(PATIENCE * 2);
    assert_eq!(world.sync.view()[&web()].items.len(), 0, "rules are in force beside an older default");
    assert_eq!(world.sync.restraint()[&web()].items.len(), 2);
    // Once it is asked for again, all of it counts.
    world.pass(Duration::from_secs(31));
    assert!(world.sync.restraint().is_empty());
    world.assert_in_step();
}

#[test]
fn p5_whatever_is_needed_no_longer_keeps_nothing_back() {
    let (mut world, _) = serving(1);
    world.poison = true;
    world.cluster.commit(intend("shop", "api", Action::Allow));
    world.cluster.commit(intend("shop", "web", Action::Allow));
    world.settle();
    assert_eq!(world.sync.view()[&web()].items.len(), 0);
    let api = Topic::Intentions("api".parse().unwrap());
    let needs = topics().into_iter().filter(|topic| *topic != api).collect();
    world.feed(Input::Needs(needs));
    assert_eq!((world.sync.view()[&web()].items.len(), world.sync.view().contains_key(&api)), (1, false));
}

#[test]
fn p5_fault_22_of_a_server_that_settles_nothing_each_topic_counts_when_it_is_told() {
    let mut cluster = Cluster::new(1, &services());
    cluster.knows = Capabilities::default();
    let start = Start { servers: vec!["server-0:8300".to_owned()], seed: 3, ..Start::default() };
    let mut world = World::with(cluster, start);
    world.pass(Duration::from_secs(1));
    world.seen.clear();
    opens_up(&mut world);
    world.settle();
    assert_eq!((publishes(&world), world.sync.settled_at()), (2, None));
    world.assert_in_step();
    assert!(world.sync.restraint().is_empty());
}
