//! The steward: brings Raft's group in line with the catalog's list of servers, as a machine of the form
//! `step(view, now) -> outputs`.
//!
//! It runs on the leader. It knows no more than what it sees, so that the next leader's goes on where this one's stopped:
//! what is wanted stands in the catalog, what is stands in Raft, and it takes one step toward the one from the other.
//! It never takes a step after which those that are heard would be no majority.

pub(crate) mod shell;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catalog::{Autopilot, Member, MemberRole, Membership, MembershipChange};
use serde::{Deserialize, Serialize};

use crate::raft::{Group, GroupChange};

/// Is what the steward of a leader sees.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// This server's Raft id.
    pub own: u64,
    /// What is wanted.
    pub membership: &'a Membership,
    /// What is.
    pub group: &'a Group,
    /// What is committed.
    pub commit: u64,
    /// The current term.
    pub term: u64,
}

/// Is one thing that the shell must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Have Raft change its group.
    Change(GroupChange),
    /// Write to the list of servers.
    Propose(MembershipChange),
    /// Hand leadership to this server.
    TransferLeader(u64),
}

/// Is how one server does, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHealth {
    /// Its number in Raft.
    pub raft_id: u64,
    /// Whether Raft counts its vote.
    pub votes: bool,
    /// The last index that it is known to have.
    pub last_index: u64,
    /// How long ago it was heard; zero for the leader, none if not since this leader began.
    pub silent_ms: Option<u64>,
    /// Whether it was heard lately and is not behind.
    pub is_healthy: bool,
    /// For how long it has been as healthy or unhealthy as it is.
    pub stable_ms: u64,
}

/// Is how the servers do, as the leader sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupHealth {
    /// Who leads, by its number in Raft.
    pub leader: u64,
    /// Its term.
    pub term: u64,
    /// Each server that Raft knows, by number.
    pub servers: Vec<ServerHealth>,
    /// Why a change that is wanted is not made now.
    pub held: Option<String>,
    /// For how long it has looked since it leads, in milliseconds.
    #[serde(skip)]
    pub seen_for_ms: u64,
}

impl GroupHealth {
    /// Reports whether the leader has looked for this long: before, whoever was not heard may just not have spoken yet.
    pub fn is_known_since(&self, patience: Duration) -> bool {
        Duration::from_millis(self.seen_for_ms) >= patience
    }

    /// Returns how many more servers may fail before the group stops.
    pub fn tolerance(&self) -> usize {
        let voters = self.servers.iter().filter(|server| server.votes).count();
        let healthy = self.servers.iter().filter(|server| server.votes && server.is_healthy).count();
        healthy.saturating_sub(majority(voters))
    }

    /// Reports whether a server was heard within this time; none of one that the leader does not know.
    pub fn hears(&self, raft_id: u64, within: Duration) -> Option<bool> {
        let server = self.servers.iter().find(|server| server.raft_id == raft_id)?;
        Some(server.silent_ms.is_some_and(|silent| Duration::from_millis(silent) <= within))
    }

    /// Reports whether every server is healthy.
    pub fn is_healthy(&self) -> bool {
        self.servers.iter().all(|server| server.is_healthy)
    }

    /// Reports whether leadership may be handed to a server.
    pub fn could_lead(&self, raft_id: u64) -> bool {
        self.servers.iter().any(|server| server.raft_id == raft_id && server.votes && server.is_healthy)
    }

    /// Returns who has most of the log among those that could lead.
    pub fn best_successor(&self) -> Option<u64> {
        let others = self.servers.iter().filter(|server| server.raft_id != self.leader && server.votes);
        others.filter(|server| server.is_healthy).max_by_key(|server| server.last_index).map(|server| server.raft_id)
    }

    /// Says why taking a server out would stop the group.
    pub fn objection_to_removing(&self, raft_id: u64) -> Option<String> {
        let is_voter = |server: &&ServerHealth| server.votes && server.raft_id != raft_id;
        if !self.servers.iter().any(|server| server.raft_id == raft_id && server.votes) {
            return None;
        }
        let left = self.servers.iter().filter(is_voter).count();
        let heard = self.servers.iter().filter(is_voter).filter(|server| server.is_healthy).count();
        (left == 0 || heard < majority(left)).then(|| {
            format!(
                "of the {left} voters that would be left only {heard} are healthy, which is no majority: bring another one back first"
            )
        })
    }
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Reads a duration as milliseconds.
fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The machine.
#[derive(Debug, Default)]
pub struct Steward {
    /// Since when each server is as healthy or unhealthy as it is.
    since: BTreeMap<u64, (bool, Duration)>,
    /// Since when this server leads in its term.
    leads_since: Option<(u64, Duration)>,
    held: Option<String>,
}

impl Steward {
    /// Forgets what it has seen: this server does not lead.
    pub fn rest(&mut self) {
        *self = Self::default();
    }

    /// Takes one step, and says how the servers do. `now` is the time since any fixed start and never goes back.
    pub fn step(&mut self, view: &View<'_>, now: Duration) -> (GroupHealth, Option<Output>) {
        if self.leads_since.is_none_or(|(term, _)| term != view.term) {
            self.rest();
            self.leads_since = Some((view.term, now));
        }
        let sight = Sight { view, leads_for: self.leads_since.map_or(Duration::ZERO, |(_, since)| now - since) };
        self.watch(&sight, now);
        self.held = None;
        let output = self.decide(&sight, now);
        (self.health(&sight, now), output)
    }

    fn watch(&mut self, sight: &Sight<'_>, now: Duration) {
        let group = sight.view.group;
        let all: BTreeSet<u64> = group.voters.iter().chain(&group.learners).chain(&group.outgoing).copied().collect();
        self.since.retain(|raft_id, _| all.contains(raft_id));
        for raft_id in all {
            let is_healthy = sight.is_healthy(raft_id);
            let entry = self.since.entry(raft_id).or_insert((is_healthy, now));
            if entry.0 != is_healthy {
                *entry = (is_healthy, now);
            }
        }
    }

    fn health(&self, sight: &Sight<'_>, now: Duration) -> GroupHealth {
        let view = sight.view;
        let servers = self.since.iter().map(|(raft_id, (is_healthy, since))| ServerHealth {
            raft_id: *raft_id,
            votes: view.group.voters.contains(raft_id),
            last_index: sight.matched(*raft_id),
            silent_ms: sight.heard(*raft_id).map(in_ms),
            is_healthy: *is_healthy,
            stable_ms: in_ms(now.saturating_sub(*since)),
        });
        GroupHealth {
            leader: view.own,
            term: view.term,
            servers: servers.collect(),
            held: self.held.clone(),
            seen_for_ms: in_ms(sight.leads_for),
        }
    }

    fn decide(&mut self, sight: &Sight<'_>, now: Duration) -> Option<Output> {
        let Sight { view: View { own, membership, group, .. }, .. } = sight;
        if group.is_changing || membership.members.is_empty() {
            return None;
        }
        // Who led before may have stopped between the two halves of a change.
        if !group.outgoing.is_empty() {
            return Some(Output::Change(GroupChange::default()));
        }
        let wanted = |role| move |member: &&Member| member.role == role;
        let members = || membership.members.values().map(|member| &**member);
        let missing: Vec<u64> = members()
            .filter(|member| member.role != MemberRole::Leaving && !group.has(member.raft_id))
            .map(|member| member.raft_id)
            .collect();
        if !missing.is_empty() {
            return Some(Output::Change(GroupChange { learners: missing, ..GroupChange::default() }));
        }
        let present = group.voters.iter().chain(&group.learners).copied();
        let removed: Vec<u64> = present
            .filter(|raft_id| membership.member(*raft_id).is_none_or(|member| member.role == MemberRole::Leaving))
            .collect();
        let promoted: Vec<u64> = members()
            .filter(wanted(MemberRole::Voter))
            .map(|member| member.raft_id)
            .filter(|raft_id| group.learners.contains(raft_id))
            .collect();
        let is_leaving = removed.contains(own);
        let others = removed.into_iter().filter(|raft_id| raft_id != own).collect();
        if let Some(change) = self.reshape(sight, promoted, others) {
            return Some(Output::Change(change));
        }
        if is_leaving {
            return self.give_up_leadership(sight);
        }
        if let Some(gone) = members().filter(wanted(MemberRole::Leaving)).find(|member| !group.has(member.raft_id)) {
            return Some(Output::Propose(MembershipChange::Retire { raft_id: gone.raft_id }));
        }
        let ready = members().filter(wanted(MemberRole::Learner)).find(|member| self.is_ready(member, sight, now));
        if let Some(ready) = ready {
            return Some(Output::Propose(MembershipChange::Promote { raft_id: ready.raft_id }));
        }
        sight.superfluous().map(|raft_id| Output::Propose(MembershipChange::Remove { raft_id }))
    }

    /// Returns the change that lets all of `promoted` vote and takes all of `removed` out, or as much of it as leaves a
    /// majority that is heard.
    fn reshape(&mut self, sight: &Sight<'_>, promoted: Vec<u64>, removed: Vec<u64>) -> Option<GroupChange> {
        if promoted.is_empty() && removed.is_empty() {
            return None;
        }
        let (voters, learners) = (&sight.view.group.voters, &sight.view.group.learners);
        let silent: Vec<u64> = removed.iter().copied().filter(|raft_id| learners.contains(raft_id)).collect();
        let attempts = [(promoted.clone(), removed.clone()), (promoted, silent.clone()), (Vec::new(), removed)];
        for (promoted, removed) in attempts {
            let kept = voters.iter().filter(|raft_id| !removed.contains(raft_id));
            let after: Vec<u64> = kept.chain(&promoted).copied().collect();
            let is_change = !promoted.is_empty() || !removed.is_empty();
            if is_change && sight.has_majority(&after) {
                return Some(GroupChange { voters: promoted, removed, ..GroupChange::default() });
            }
        }
        self.held = Some("of the voters that would be left, those that are heard are no majority".to_owned());
        None
    }

    /// Hands leadership over, for a leader that is to be taken out cannot do it itself.
    fn give_up_leadership(&mut self, sight: &Sight<'_>) -> Option<Output> {
        let View { own, membership, group, .. } = sight.view;
        let stays = |raft_id: &u64| membership.member(*raft_id).is_some_and(|member| member.role == MemberRole::Voter);
        let others = group.voters.iter().filter(|raft_id| *raft_id != own && stays(raft_id));
        let successor =
            others.filter(|raft_id| sight.is_healthy(**raft_id)).max_by_key(|raft_id| sight.matched(**raft_id));
        if successor.is_none() {
            self.held = Some("the leader is to be taken out, and no other voter is healthy".to_owned());
        }
        successor.map(|raft_id| Output::TransferLeader(*raft_id))
    }

    /// Reports whether a learner may vote: it is up to date, and has been for long enough.
    fn is_ready(&self, member: &Member, sight: &Sight<'_>, now: Duration) -> bool {
        let View { membership, group, .. } = sight.view;
        let patience = membership.autopilot.server_stabilization_time();
        let is_stable = self
            .since
            .get(&member.raft_id)
            .is_some_and(|(is_healthy, since)| *is_healthy && now.saturating_sub(*since) >= patience);
        is_stable && group.learners.contains(&member.raft_id)
    }
}

/// Is a view with how long its leader has looked.
struct Sight<'a> {
    view: &'a View<'a>,
    leads_for: Duration,
}

impl Sight<'_> {
    fn autopilot(&self) -> &Autopilot {
        &self.view.membership.autopilot
    }

    /// Returns how long ago a server was heard; none if not since this leader began.
    fn heard(&self, raft_id: u64) -> Option<Duration> {
        if raft_id == self.view.own {
            return Some(Duration::ZERO);
        }
        self.view.group.peers.get(&raft_id).and_then(|peer| peer.silent_for)
    }

    /// Returns for how long a server has been silent: for one that was never heard, since this leader began to listen.
    fn silent_for(&self, raft_id: u64) -> Duration {
        self.heard(raft_id).unwrap_or(self.leads_for).min(self.leads_for)
    }

    fn matched(&self, raft_id: u64) -> u64 {
        if raft_id == self.view.own {
            return self.view.commit;
        }
        self.view.group.peers.get(&raft_id).map_or(0, |peer| peer.matched)
    }

    fn is_heard(&self, raft_id: u64) -> bool {
        self.heard(raft_id).is_some_and(|silent_for| silent_for <= self.autopilot().last_contact_threshold())
    }

    fn is_healthy(&self, raft_id: u64) -> bool {
        let trails = self.view.commit.saturating_sub(self.matched(raft_id));
        self.is_heard(raft_id) && trails <= self.autopilot().max_trailing_logs
    }

    fn has_majority(&self, voters: &[u64]) -> bool {
        let heard = voters.iter().filter(|raft_id| self.is_heard(**raft_id)).count();
        !voters.is_empty() && heard >= majority(voters.len())
    }

    /// Returns a server that is dead for so long that it should go, where its going lets the group survive more.
    fn superfluous(&self) -> Option<u64> {
        let View { own, membership, group, .. } = self.view;
        if !self.autopilot().cleanup_dead_servers {
            return None;
        }
        let is_dead = |raft_id: &u64| raft_id != own && self.silent_for(*raft_id) >= self.autopilot().dead_after();
        if let Some(learner) = group.learners.iter().copied().find(|raft_id| is_dead(raft_id)) {
            return Some(learner);
        }
        let votes: Vec<u64> = membership.voters().filter(|raft_id| group.voters.contains(raft_id)).collect();
        let heard = votes.iter().filter(|raft_id| self.is_heard(**raft_id)).count();
        let dead: Vec<u64> = votes.iter().copied().filter(is_dead).collect();
        // Not below zero: without a majority nothing can be written anyway.
        let tolerance = |voters: usize| heard.checked_sub(majority(voters));
        let before = tolerance(votes.len())?;
        let least = usize::try_from(self.autopilot().min_quorum).unwrap_or(usize::MAX).max(1);
        let helps = |count: &usize| {
            let left = votes.len() - count;
            left >= least && tolerance(left).is_some_and(|after| after > before)
        };
        (1..=dead.len()).find(helps).and_then(|_| dead.first().copied())
    }
}
