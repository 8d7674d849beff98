//! Which instance is chosen, by what the instances, their zones and the service's entries say.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{Leg, Platform, Weights};

use super::super::endpoints::{Chosen, Endpoints};
use super::super::ring::hash_of;
use super::*;
use crate::proxy::tests::bare_snapshot;

/// Is a row of instances of one service, as an agent in zone `a` chooses among them.
struct World {
    endpoints: Endpoints,
    targets: Vec<Arc<Cluster>>,
    now: Instant,
}

impl World {
    /// `zones` has a letter for each instance: its zone, a capital one where its checks say that it is unwell.
    fn new(zones: &str, balancing: Balancing) -> Self {
        Self::weighted(&zones.chars().map(|zone| (zone, 1)).collect::<Vec<_>>(), balancing)
    }

    fn weighted(instances: &[(char, u32)], balancing: Balancing) -> Self {
        let endpoint = |(number, (zone, weight)): (usize, &(char, u32))| Endpoint {
            key: InstanceKey {
                node: format!("n{number}").parse().unwrap(),
                namespace: "default".parse().unwrap(),
                id: "i".parse().unwrap(),
            },
            address: format!("10.0.0.{number}"),
            mesh_port: Some(20_000),
            port: 80,
            ports: BTreeMap::new(),
            status: if zone.is_uppercase() { CheckStatus::Critical } else { CheckStatus::Passing },
            zone: Some(zone.to_ascii_lowercase().to_string()),
            network: String::new(),
            platform: Platform::Vm,
            weights: Weights { passing: *weight, warning: *weight },
            meta: BTreeMap::new(),
            tags: Vec::new(),
            node_meta: BTreeMap::new(),
        };
        let service: ServiceKey = "api".parse().unwrap();
        let mut snapshot = bare_snapshot();
        snapshot.zone = Some("a".to_owned());
        snapshot.endpoints.insert(service.clone(), instances.iter().enumerate().map(endpoint).collect());
        let endpoints = Endpoints::default();
        let leg = Leg { balancing, ..Leg::plain(service) };
        let targets = endpoints.targets(&snapshot, &leg, Scope::Anywhere);
        Self { endpoints, targets, now: Instant::now() }
    }

    fn choose(&self, hash: Option<u64>, tried: &Tried) -> Option<Chosen> {
        self.endpoints.choose(&self.targets, hash, tried, self.now).ok()
    }

    /// Chooses often, each call being over before the next one; returns how often each instance was chosen.
    fn tally(&self, calls: u64) -> Vec<usize> {
        let mut tally = vec![0; self.targets[0].known];
        for call in 0..calls {
            let chosen = self.choose(Some(hash_of(&call.to_le_bytes())), &Tried::default()).unwrap();
            tally[number_of(&chosen)] += 1;
        }
        tally
    }

    /// Puts an instance aside, from now on for a minute.
    fn put_aside(&self, number: usize) {
        let members = self.targets[0].members();
        let member = members.into_iter().find(|member| member.key.node.as_str() == format!("n{number}")).unwrap();
        member.standing.eject(self.now, Duration::from_secs(10), |_| Duration::from_secs(60));
    }
}

fn number_of(chosen: &Chosen) -> usize {
    chosen.key.node.as_str()[1..].parse().unwrap()
}

fn by(policy: Balance) -> Balancing {
    Balancing { policy, ..Balancing::default() }
}

const POLICIES: [Balance; 4] = [Balance::LeastRequest, Balance::RoundRobin, Balance::Random, Balance::RingHash];

#[track_caller]
fn check_shares(tally: &[usize], want: &[usize]) {
    let calls: usize = tally.iter().sum();
    for (count, want) in tally.iter().zip(want) {
        let share = *count * 100 / calls;
        assert!(share.abs_diff(*want) <= 6, "{tally:?}, wanted about {want} percent");
    }
}

#[test]
fn every_policy_reaches_every_instance_that_is_fit_and_no_other() {
    for policy in POLICIES {
        let world = World::new("aaaa", by(policy));
        check_shares(&world.tally(4_000), &[25; 4]);
        world.put_aside(1);
        let tally = world.tally(3_000);
        assert_eq!(tally[1], 0, "{policy:?}: {tally:?}");
        assert!(tally.iter().filter(|count| **count > 500).count() == 3, "{policy:?}: {tally:?}");
        let unwell = World::new("aAaa", by(policy));
        assert_eq!(unwell.tally(100)[1], 0, "{policy:?}");
        let unwanted = World::weighted(&[('a', 0), ('a', 1), ('a', 1)], by(policy));
        assert_eq!(unwanted.tally(100)[0], 0, "{policy:?}");
    }
}

#[test]
fn weights_are_shares() {
    for policy in [Balance::RoundRobin, Balance::Random, Balance::RingHash] {
        let world = World::weighted(&[('a', 6), ('a', 3), ('a', 1)], by(policy));
        check_shares(&world.tally(5_000), &[60, 30, 10]);
    }
    assert_eq!(in_turn(&[1, 1, 1]), [0, 1, 2]);
    assert_eq!(in_turn(&[4, 2]), [0, 1, 0], "none stands together without need");
    assert_eq!(in_turn(&[0, 7]), [1]);
    // More than anybody counts through.
    let before = std::time::Instant::now();
    let (mut weights, count) =
        (vec![1; 50_000], |turns: &[u32], number| turns.iter().filter(|one| **one == number).count());
    assert!(in_turn(&weights).into_iter().eq(0..50_000));
    weights[7] = 3;
    let turns = in_turn(&weights);
    assert_eq!((turns.len(), count(&turns, 7), count(&turns, 8)), (50_001, 2, 1));
    let places: Vec<usize> = (0..turns.len()).filter(|place| turns[*place] == 7).collect();
    assert!(places[1] - places[0] > 10_000, "{places:?}");
    assert!(before.elapsed() < std::time::Duration::from_secs(10));
    let many = in_turn(&[1_000_000, 1]);
    assert!(many.len() <= 1_025 && many.contains(&1), "the least has its turn, and the order an end");
    let one_after_the_other: Vec<usize> = {
        let world = World::new("aaa", by(Balance::RoundRobin));
        (0..9).map(|_| number_of(&world.choose(None, &Tried::default()).unwrap())).collect()
    };
    assert!(one_after_the_other.windows(3).all(|three| three[0] != three[1] && three[1] != three[2]));
}

#[test]
fn of_two_the_one_that_is_busier_or_slower_for_its_weight_is_not_taken() {
    let world = World::new("aa", by(Balance::LeastRequest));
    let held: Vec<Chosen> = (0..10).map(|_| world.choose(None, &Tried::default()).unwrap()).collect();
    let first = held.iter().filter(|chosen| number_of(chosen) == 0).count();
    assert!((4..=6).contains(&first), "what is open weighs: {first} of 10");
    drop(held);
    // Both have answered: one in a millisecond, one in twenty.
    let members: Vec<_> = world.targets[0].members().cloned().collect();
    for ms in [1, 20] {
        members[0].standing.took(world.now, Duration::from_millis(1), false);
        members[1].standing.took(world.now, Duration::from_millis(ms), false);
    }
    assert_eq!(world.tally(100), [100, 0]);
    let heavy = World::weighted(&[('a', 3), ('a', 1)], by(Balance::LeastRequest));
    let held: Vec<Chosen> = (0..40).map(|_| heavy.choose(None, &Tried::default()).unwrap()).collect();
    let first = held.iter().filter(|chosen| number_of(chosen) == 0).count();
    assert!((27..=33).contains(&first), "three quarters of 40: {first}");
    let choosy = World::new("aaaaaaaaaa", Balancing { choices: Some(10), ..by(Balance::LeastRequest) });
    let held: Vec<Chosen> = (0..10).map(|_| choosy.choose(None, &Tried::default()).unwrap()).collect();
    let distinct: std::collections::BTreeSet<usize> = held.iter().map(number_of).collect();
    assert!(distinct.len() >= 7, "among ten the idle ones are found: {distinct:?}");
}

#[test]
fn on_a_ring_the_same_goes_to_the_same_and_only_what_was_aside_moves() {
    let world = World::new("aaaaa", by(Balance::RingHash));
    let at = |hash: u64| number_of(&world.choose(Some(hash_of(&hash.to_le_bytes())), &Tried::default()).unwrap());
    let before: Vec<usize> = (0..500).map(at).collect();
    assert_eq!(before, (0..500).map(at).collect::<Vec<_>>());
    world.put_aside(2);
    let moved = (0..500).zip(&before).filter(|(hash, before)| at(*hash) != **before);
    assert!(moved.into_iter().all(|(_, before)| *before == 2));
}

#[test]
fn calls_stay_in_their_own_zone_until_too_few_are_left_there_and_spill_over_in_proportion() {
    let by_locality = || Balancing { by_locality: true, ..Balancing::default() };
    let near = |zones: &str| {
        let world = World::new(zones, by_locality());
        let near = zones.chars().map(|zone| zone.eq_ignore_ascii_case(&'a'));
        let near: usize = world.tally(4_000).iter().zip(near).filter(|(_, near)| *near).map(|(count, _)| *count).sum();
        near / 40
    };
    assert_eq!(near("aaabbb"), 100);
    assert_eq!(near("aaaAbbb"), 100, "three of four bear it all");
    assert!(near("aaAAbbb").abs_diff(70) <= 4, "half of them bear seven tenths");
    assert!(near("aAAAbbbb").abs_diff(35) <= 4);
    assert_eq!(near("AAAbbb"), 0);
    assert_eq!(near("aaaBBB"), 100);
    let world = World::new("aabb", by_locality());
    world.put_aside(0);
    let tally = world.tally(4_000);
    assert!(tally[0] == 0 && (tally[1] / 40).abs_diff(70) <= 4, "those put aside count as gone: {tally:?}");
    world.put_aside(1);
    let later = World { now: world.now + Duration::from_millis(200), ..world };
    assert_eq!(later.tally(100)[..2], [0, 0]);
    let anywhere = World::new("ab", Balancing::default());
    check_shares(&anywhere.tally(2_000), &[50, 50]);
}

#[test]
fn the_last_resort_is_better_than_nobody_and_nobody_is_asked_twice() {
    for policy in POLICIES {
        let world = World::new("aa", by(policy));
        world.put_aside(0);
        world.put_aside(1);
        let mut tried = Tried::default();
        let first = world.choose(None, &tried).unwrap();
        tried.add(&first);
        let second = world.choose(None, &tried).unwrap();
        assert_ne!(first.key, second.key, "{policy:?}");
        tried.add(&second);
        assert!(world.choose(None, &tried).is_none());
    }
    // Unwanted instances come after those that just failed.
    let world = World::weighted(&[('a', 0), ('a', 1)], Balancing::default());
    world.put_aside(1);
    assert_eq!(number_of(&world.choose(None, &Tried::default()).unwrap()), 1);
}

#[test]
fn an_ipv6_address_gets_brackets_before_its_port() {
    assert_eq!(host_and_port("fd00::1", 80), "[fd00::1]:80");
    assert_eq!(host_and_port("10.0.0.1", 80), "10.0.0.1:80");
    assert_eq!(host_and_port("db.example", 80), "db.example:80");
}
