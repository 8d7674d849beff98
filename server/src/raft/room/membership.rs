//! Changes of the group: who votes and who only listens, one change at a time and always by joint consensus.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{Catalog, Command, Envelope, MembershipChange};
use raft::StateRole;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};

use super::{Disk, Output, Room};

/// Is one change of the group, proposed as a whole. With nothing in it, the group leaves a joint membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupChange {
    /// Who begins to receive the log.
    pub learners: Vec<u64>,
    /// Who begins to vote.
    pub voters: Vec<u64>,
    /// Who is taken out.
    pub removed: Vec<u64>,
}

impl GroupChange {
    fn to_raft(&self) -> ConfChangeV2 {
        let kinds = [
            (&self.learners, ConfChangeType::AddLearnerNode),
            (&self.voters, ConfChangeType::AddNode),
            (&self.removed, ConfChangeType::RemoveNode),
        ];
        let changes: Vec<ConfChangeSingle> = kinds
            .into_iter()
            .flat_map(|(ids, kind)| ids.iter().map(move |node_id| (*node_id, kind)))
            .map(|(node_id, kind)| ConfChangeSingle { change_type: kind as i32, node_id })
            .collect();
        // The leader leaves the joint membership by itself once both halves have it.
        let transition =
            if changes.is_empty() { ConfChangeTransition::Auto } else { ConfChangeTransition::Implicit } as i32;
        ConfChangeV2 { transition, changes, ..ConfChangeV2::default() }
    }
}

/// Is a peer as a leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerProgress {
    /// The last index that it is known to have.
    pub matched: u64,
    /// How long ago it was heard; none if never since this server leads or started.
    pub silent_for: Option<Duration>,
}

/// Is the group as Raft has it now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Who votes, sorted.
    pub voters: Vec<u64>,
    /// Who only listens, sorted.
    pub learners: Vec<u64>,
    /// Who voted before the change under way; empty where there is none.
    pub outgoing: Vec<u64>,
    /// Whether a change is in the log that is not applied yet. Meaningful on a leader only.
    pub is_changing: bool,
    /// The others, on a leader; empty elsewhere.
    pub peers: BTreeMap<u64, PeerProgress>,
}

impl Group {
    /// Reports whether Raft sends anything to this server, or counts its vote.
    #[must_use]
    pub fn has(&self, raft_id: u64) -> bool {
        [&self.voters, &self.learners, &self.outgoing].into_iter().any(|ids| ids.contains(&raft_id))
    }
}

impl<D: Disk> Room<D> {
    /// Proposes a change of the group. Nobody is told what becomes of it: whoever wants it looks at the group again.
    pub(super) fn change_group(&mut self, change: &GroupChange) {
        if self.node.raft.state != StateRole::Leader || self.node.raft.has_pending_conf() {
            return;
        }
        // A leader that takes itself out would lead a group that it is no part of.
        if change.removed.contains(&self.node.raft.id) {
            return;
        }
        if let Err(error) = self.node.propose_conf_change(Vec::new(), change.to_raft()) {
            tracing::debug!(%error, "a change of the group was not taken");
        }
    }

    /// Returns the group as Raft has it now.
    pub(super) fn group(&self, now: Duration) -> Group {
        let raft = &self.node.raft;
        let leads = raft.state == StateRole::Leader;
        let peers = raft.prs().iter().filter(|(id, _)| leads && **id != raft.id).map(|(id, progress)| {
            let silent_for = self.heard.get(id).map(|heard| now.saturating_sub(*heard));
            (*id, PeerProgress { matched: progress.matched, silent_for })
        });
        Group {
            voters: self.conf_state.voters.clone(),
            learners: self.conf_state.learners.clone(),
            outgoing: self.conf_state.voters_outgoing.clone(),
            is_changing: raft.has_pending_conf(),
            peers: peers.collect(),
        }
    }

    /// Hands the catalog out wherever all servers do, so that they can compare what they have.
    pub(super) fn checkpoint(&self, out: &mut dyn FnMut(Output)) {
        let index = self.catalog.index();
        if index.0.is_multiple_of(self.limits.checkpoint_entries) {
            out(Output::Checkpoint { index, catalog: self.catalog.clone() });
        }
    }
}

/// Sorts the sets in a membership: Raft keeps them in no order, and a snapshot must be the same on every server.
pub(super) fn sorted(mut members: ConfState) -> ConfState {
    for ids in [&mut members.voters, &mut members.learners, &mut members.voters_outgoing, &mut members.learners_next] {
        ids.sort_unstable();
    }
    members
}

/// Says which server could not read an envelope once it is committed, if there is one.
///
/// A server reads what its record says, or more: what it said when it was met last, here in `met`.
pub(super) fn cannot_read(
    envelope: &Envelope,
    catalog: &Catalog,
    members: &ConfState,
    met: &BTreeMap<u64, u16>,
) -> Option<String> {
    let version = envelope.version;
    let membership = catalog.membership();
    if version <= 1 || membership.members.is_empty() {
        return None;
    }
    // Whoever cannot read must be allowed to go.
    let leaving = match &envelope.command {
        Command::Membership { change: MembershipChange::Remove { raft_id } | MembershipChange::Retire { raft_id } } => {
            Some(*raft_id)
        }
        _ => None,
    };
    let everybody = members.voters.iter().chain(&members.learners).chain(&members.voters_outgoing);
    everybody.filter(|raft_id| Some(**raft_id) != leaving).find_map(|raft_id| {
        let member = membership.member(*raft_id);
        let listed = member.map_or(1, |member| member.facts.reads);
        let reads = met.get(raft_id).copied().unwrap_or(0).max(listed);
        let name = member.map_or_else(|| raft_id.to_string(), |member| member.id.to_string());
        (reads < version).then(|| format!("server `{name}` reads up to version {reads}, and it has version {version}"))
    })
}

#[cfg(test)]
mod tests {
    use catalog::CatalogIndex;
    use serde_json::json;

    use super::*;
    use crate::raft::{Input, MemoryDisk, ProposalFailure, RoomConfig};

    /// A room that leads a group of one, whose catalog says what its server reads.
    fn room() -> Room<MemoryDisk> {
        let mut room = Room::open(MemoryDisk::default(), RoomConfig::new(1, vec![1], 7)).unwrap();
        let server = json!({"id": "s1", "raft_id": 1, "disk_id": "d1", "raft_address": "127.0.0.1:1"});
        let mesh = json!({"cluster_id": "c1", "datacenter": "dc1", "trust_domain": "mesh.example",
            "template": "/ns/{namespace}/sa/{service}", "servers": [server]});
        room.step(Input::Tick, Duration::ZERO, &mut |_| ()).unwrap();
        propose(&mut room, 1, json!({"kind": "bootstrap", "mesh": mesh})).unwrap();
        room
    }

    /// Proposes a command in the envelope version that it has; returns why it was refused, if it was.
    fn propose(room: &mut Room<MemoryDisk>, id: u64, command: serde_json::Value) -> Result<(), ProposalFailure> {
        let command: Command = serde_json::from_value(command).unwrap();
        let envelope = Envelope {
            version: command.reads_from(),
            request_id: format!("r{id}").parse().unwrap(),
            actor: catalog::Actor::Server("s1".parse().unwrap()),
            source_address: None,
            proposed_at: catalog::Timestamp(id),
            command,
        };
        let mut result = None;
        let mut out = |output| match output {
            Output::ProposalDone { .. } => result = Some(Ok(())),
            Output::ProposalFailed { reason, .. } => result = Some(Err(reason)),
            _ => {}
        };
        room.step(Input::Propose { id, data: envelope.encode() }, Duration::ZERO, &mut out).unwrap();
        result.unwrap()
    }

    #[test]
    fn f3_nothing_is_proposed_that_a_member_could_not_read() {
        let mut room = room();
        let autopilot = serde_json::to_value(catalog::Autopilot::default()).unwrap();
        let newer = json!({"kind": "membership", "change": {"change": "set-autopilot", "autopilot": autopilot}});
        let refused = propose(&mut room, 2, newer.clone()).unwrap_err();
        let ProposalFailure::Malformed(reason) = refused else { panic!("{refused}") };
        assert_eq!(reason, "server `s1` reads up to version 1, and it has version 2");
        let index = room.catalog().index();
        // Whoever cannot read may go; here the catalog has the last word.
        propose(&mut room, 3, json!({"kind": "membership", "change": {"change": "remove", "raft_id": 1}})).unwrap();
        assert_eq!(room.catalog().index(), CatalogIndex(index.0 + 1));
        room.step(Input::Readers(BTreeMap::from([(1, 2)])), Duration::ZERO, &mut |_| ()).unwrap();
        propose(&mut room, 4, newer).unwrap();
    }
}
