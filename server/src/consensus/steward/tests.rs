//! The steward against a group that does at once what it is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalog::{CatalogIndex, MemberFacts};
use proptest::prelude::*;

use super::*;
use crate::raft::PeerProgress;

const SECOND: Duration = Duration::from_secs(1);

/// A list of servers, a group, and a clock. Server 1 leads.
struct World {
    membership: Membership,
    group: Group,
    commit: u64,
    leader: u64,
    now: Duration,
    steward: Steward,
}

fn member(raft_id: u64, role: MemberRole) -> Arc<Member> {
    Arc::new(Member {
        id: format!("s{raft_id}").parse().unwrap(),
        raft_id,
        disk_id: format!("d{raft_id}"),
        role,
        facts: MemberFacts {
            raft_address: String::new(),
            agent_address: String::new(),
            release: String::new(),
            reads: 2,
            keys: Vec::new(),
        },
        created: CatalogIndex(0),
        modified: CatalogIndex(0),
    })
}

impl World {
    fn of(voters: u64) -> Self {
        let mut world = Self {
            membership: Membership { next_raft_id: voters + 1, ..Membership::default() },
            group: Group::default(),
            commit: 1_000,
            leader: 1,
            now: Duration::ZERO,
            steward: Steward::default(),
        };
        for raft_id in 1..=voters {
            world.membership.members.insert(raft_id, member(raft_id, MemberRole::Voter));
            world.group.voters.push(raft_id);
            world.hears(raft_id);
        }
        world
    }

    fn hears(&mut self, raft_id: u64) {
        let heard = PeerProgress { matched: self.commit, silent_for: Some(Duration::ZERO) };
        self.group.peers.insert(raft_id, heard);
    }

    fn is_silent(&mut self, raft_id: u64, silent_for: Duration) {
        self.group.peers.insert(raft_id, PeerProgress { matched: 0, silent_for: Some(silent_for) });
    }

    fn adds(&mut self) -> u64 {
        let raft_id = self.membership.next_raft_id;
        self.membership.next_raft_id += 1;
        self.membership.members.insert(raft_id, member(raft_id, MemberRole::Learner));
        raft_id
    }

    fn removes(&mut self, raft_id: u64) {
        self.membership.members.insert(raft_id, member(raft_id, MemberRole::Leaving));
    }

    fn step(&mut self) -> Option<Output> {
        self.now += SECOND;
        let view = View {
            own: self.leader,
            membership: &self.membership,
            group: &self.group,
            commit: self.commit,
            term: self.leader,
        };
        self.steward.step(&view, self.now).1
    }

    /// Does what an output says, at once.
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Change(change) => {
                let GroupChange { learners, voters, removed } = change;
                let group = &mut self.group;
                group.voters.retain(|id| !removed.contains(id));
                group.learners.retain(|id| !removed.contains(id) && !voters.contains(id));
                group.voters.extend(voters);
                group.learners.extend(learners);
                group.outgoing.clear();
            }
            Output::TransferLeader(to) => self.leader = to,
            Output::Propose(MembershipChange::Promote { raft_id }) => {
                self.membership.members.insert(raft_id, member(raft_id, MemberRole::Voter));
            }
            Output::Propose(MembershipChange::Remove { raft_id }) => self.removes(raft_id),
            Output::Propose(MembershipChange::Retire { raft_id }) => {
                assert!(!self.group.has(raft_id), "{raft_id} is forgotten while Raft still counts it");
                self.membership.members.remove(&raft_id);
            }
            Output::Propose(other) => panic!("a steward does not say {other:?}"),
        }
    }

    /// Goes on until there is nothing to do for a minute; returns everything that was done.
    fn settle(&mut self) -> Vec<Output> {
        let mut done = Vec::new();
        let mut idle = 0;
        while idle < 60 {
            match self.step() {
                Some(output) => {
                    idle = 0;
                    done.push(output.clone());
                    self.carry_out(output);
                }
                None => idle += 1,
            }
            assert!(done.len() < 1_000, "it never comes to rest: {:?}", &done[done.len() - 4..]);
        }
        done
    }
}

#[test]
fn r9_a_newcomer_listens_first_and_votes_once_it_is_stable() {
    let mut world = World::of(3);
    let newcomer = world.adds();
    let added = GroupChange { learners: vec![newcomer], ..GroupChange::default() };
    assert_eq!(world.step(), Some(Output::Change(added.clone())));
    world.carry_out(Output::Change(added));
    world.is_silent(newcomer, SECOND / 2);
    for _ in 0..30 {
        assert_eq!(world.step(), None, "it is behind: it must not vote");
    }
    world.hears(newcomer);
    let began = world.now;
    while world.step().is_none() {}
    assert!(world.now - began >= world.membership.autopilot.server_stabilization_time(), "it was not stable yet");
    world.settle();
    assert_eq!(world.group.voters, [1, 2, 3, newcomer]);
    assert!(world.group.learners.is_empty());
}

#[test]
fn fault_35_a_learner_that_falls_behind_again_begins_anew() {
    let mut world = World::of(3);
    let newcomer = world.adds();
    let first = world.step().unwrap();
    world.carry_out(first);
    for _ in 0..10 {
        world.hears(newcomer);
        assert!((0..9).all(|_| world.step().is_none()));
        world.is_silent(newcomer, 5 * SECOND);
        assert_eq!(world.step(), None);
    }
}

#[test]
fn r9_one_change_at_a_time() {
    let mut world = World::of(3);
    world.adds();
    world.group.is_changing = true;
    assert_eq!(world.step(), None);
    world.group.is_changing = false;
    world.group.outgoing = vec![1, 2];
    assert_eq!(world.step(), Some(Output::Change(GroupChange::default())), "a change that was begun is ended first");
}

#[test]
fn r9_a_leader_that_is_taken_out_hands_over_first() {
    let mut world = World::of(3);
    world.removes(1);
    world.group.peers.get_mut(&2).unwrap().matched = 900;
    assert_eq!(world.step(), Some(Output::TransferLeader(3)), "to whoever has most of the log");
    world.carry_out(Output::TransferLeader(3));
    world.hears(1);
    let done = world.settle();
    assert_eq!(world.group.voters, [2, 3]);
    assert_eq!(done.last(), Some(&Output::Propose(MembershipChange::Retire { raft_id: 1 })));
    let mut alone = World::of(2);
    alone.removes(1);
    alone.is_silent(2, 60 * SECOND);
    assert!(alone.settle().is_empty(), "nobody could take over");
}

#[test]
fn r9_nobody_is_taken_out_where_no_majority_would_be_left() {
    let mut world = World::of(3);
    world.is_silent(3, 60 * SECOND);
    world.removes(2);
    assert!(world.settle().is_empty(), "of 1 and 3, only 1 is heard");
    let view =
        View { own: 1, membership: &world.membership, group: &world.group, commit: world.commit, term: world.leader };
    let (health, _) = world.steward.step(&view, world.now);
    assert!(health.held.is_some());
    assert!(health.objection_to_removing(2).unwrap().contains("of the 2 voters that would be left only 1 are healthy"));
    assert_eq!(health.objection_to_removing(3), None, "a dead one may go");
    assert_eq!(health.tolerance(), 0);
    world.hears(3);
    world.settle();
    assert_eq!(world.group.voters, [1, 3]);
}

#[test]
fn fault_19_a_lost_disk_is_replaced_under_a_new_id() {
    let mut world = World::of(3);
    world.is_silent(2, 60 * SECOND);
    let newcomer = world.adds();
    world.removes(2);
    for _ in 0..100 {
        world.hears(newcomer);
        if let Some(output) = world.step() {
            world.carry_out(output);
        }
    }
    assert_eq!(world.group.voters, [1, 3, newcomer]);
    assert!(world.membership.member(2).is_none());
}

#[test]
fn r9_dead_servers_go_only_where_that_lets_the_group_survive_more() {
    #[track_caller]
    fn check(voters: u64, dead: &[u64], min_quorum: u64, left: &[u64]) {
        let mut world = World::of(voters);
        world.membership.autopilot.min_quorum = min_quorum;
        let dead_after = world.membership.autopilot.dead_after();
        dead.iter().for_each(|raft_id| world.is_silent(*raft_id, dead_after));
        assert!((0..dead_after.as_secs() - 1).all(|_| world.step().is_none()), "a new leader must have waited itself");
        world.settle();
        assert_eq!(world.group.voters, left, "{voters} voters, {dead:?} dead");
    }
    check(3, &[3], 0, &[1, 2, 3]);
    check(4, &[4], 0, &[1, 2, 3]);
    check(5, &[5], 0, &[1, 2, 3, 4, 5]);
    check(5, &[4, 5], 0, &[1, 2, 3]);
    check(5, &[4, 5], 4, &[1, 2, 3, 4, 5]);
    check(5, &[3, 4, 5], 0, &[1, 2, 3, 4, 5]);
    check(2, &[2], 0, &[1, 2]);
}

#[test]
fn dead_servers_stay_where_the_operator_says_so() {
    let mut world = World::of(4);
    world.membership.autopilot.cleanup_dead_servers = false;
    world.is_silent(4, 3_600 * SECOND);
    for _ in 0..4_000 {
        assert_eq!(world.step(), None);
    }
}

#[test]
fn a_leader_of_a_new_term_begins_to_look_anew() {
    let mut world = World::of(4);
    world.is_silent(4, 3_600 * SECOND);
    for _ in 0..500 {
        assert_eq!(world.step(), None);
    }
    world.leader = 2;
    world.hears(1);
    for _ in 0..500 {
        assert_eq!(world.step(), None, "what another leader waited for does not count");
    }
}

proptest! {
    /// Whatever is added and taken out, the group comes to what is wanted, and never lacks a majority that is heard.
    #[test]
    fn r9_storms_of_adding_and_removing_end_in_what_is_wanted(storm in prop::collection::vec((0_u8..3, 0_u64..12), 0..40)) {
        let mut world = World::of(3);
        for (kind, which) in storm {
            match kind {
                0 if world.membership.members.len() < 9 => drop(world.adds()),
                1 => {
                    let others = world.membership.voters().filter(|voter| *voter != which).count();
                    if others > 0 && world.membership.member(which).is_some() {
                        world.removes(which);
                    }
                }
                _ => {}
            }
            let all: Vec<u64> = world.membership.members.keys().copied().collect();
            all.into_iter().for_each(|raft_id| world.hears(raft_id));
            if let Some(output) = world.step() {
                world.carry_out(output);
            }
            prop_assert!(!world.group.voters.is_empty());
            prop_assert!(world.group.voters.contains(&world.leader), "the leader votes");
        }
        let all: Vec<u64> = world.membership.members.keys().copied().collect();
        all.into_iter().for_each(|raft_id| world.hears(raft_id));
        world.settle();
        let wanted: BTreeMap<u64, MemberRole> =
            world.membership.members.iter().map(|(raft_id, member)| (*raft_id, member.role)).collect();
        prop_assert!(wanted.values().all(|role| *role == MemberRole::Voter), "{wanted:?}");
        let mut voters = world.group.voters.clone();
        voters.sort_unstable();
        prop_assert_eq!(voters, wanted.keys().copied().collect::<Vec<_>>());
        prop_assert!(world.group.learners.is_empty());
    }
}
