//! Proposals on their way into the log, and those that wait for their outcome.

use std::collections::BTreeMap;

use catalog::{CatalogIndex, Envelope, Outcome};
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{RawNode, StateRole, Storage};

use super::{Output, ProposalFailure};
use crate::raft::config::Limits;

/// Proposals on their way into the log, and those that wait for their outcome.
#[derive(Debug)]
pub(super) struct Proposals {
    /// By log index: the term it was proposed in, and its name. Another term at that index means another entry.
    waiting: BTreeMap<u64, (u64, u64)>,
    /// Taken in this step, to be appended in one go.
    batch: Vec<(u64, Vec<u8>)>,
    batch_bytes: u64,
    batch_bytes_max: u64,
    waiting_max: usize,
    entry_bytes_max: usize,
}

impl Proposals {
    pub(super) fn new(limits: &Limits) -> Proposals {
        Proposals {
            waiting: BTreeMap::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            batch_bytes_max: limits.append_bytes_max,
            waiting_max: limits.proposals_max,
            entry_bytes_max: limits.entry_bytes_max,
        }
    }

    /// Takes a proposal into the batch, or refuses it at once.
    pub(super) fn take<S: Storage>(
        &mut self,
        node: &mut RawNode<S>,
        id: u64,
        data: Vec<u8>,
        objection: &dyn Fn(&Envelope) -> Option<String>,
        out: &mut dyn FnMut(Output),
    ) {
        let bytes = data.len();
        let reason = if node.raft.state != StateRole::Leader {
            not_leader(node)
        } else if bytes > self.entry_bytes_max {
            ProposalFailure::TooLarge { bytes, bytes_max: self.entry_bytes_max }
        } else if self.waiting.len() + self.batch.len() >= self.waiting_max {
            ProposalFailure::Overloaded
        } else if let Some(problem) =
            Envelope::decode(&data).map_or_else(|error| Some(error.to_string()), |envelope| objection(&envelope))
        {
            // Once committed it would halt every server that cannot read it.
            ProposalFailure::Malformed(problem)
        } else {
            self.batch_bytes += bytes as u64;
            self.batch.push((id, data));
            if self.batch_bytes >= self.batch_bytes_max {
                self.flush(node, out);
            }
            return;
        };
        out(Output::ProposalFailed { id, reason });
    }

    /// Appends the batch to the leader's log.
    pub(super) fn flush<S: Storage>(&mut self, node: &mut RawNode<S>, out: &mut dyn FnMut(Output)) {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return;
        }
        // Raft would forward a follower's proposal, and nobody would learn what became of it.
        if node.raft.state != StateRole::Leader {
            let reason = not_leader(node);
            return batch.into_iter().for_each(|(id, _)| out(Output::ProposalFailed { id, reason: reason.clone() }));
        }
        let (ids, entries): (Vec<u64>, Vec<Entry>) =
            batch.into_iter().map(|(id, data)| (id, Entry { data, ..Entry::default() })).unzip();
        let msg_type = MessageType::MsgPropose as i32;
        match node.raft.step(Message { msg_type, from: node.raft.id, entries, ..Message::default() }) {
            Ok(()) => {
                let first = node.raft.raft_log.last_index() + 1 - ids.len() as u64;
                let term = node.raft.term;
                self.waiting.extend((first..).zip(ids.into_iter().map(|id| (term, id))));
            }
            Err(_) => {
                let is_leaving = node.raft.lead_transferee.is_some() || !node.raft.promotable();
                let reason = match is_leaving {
                    true => ProposalFailure::NotLeader { leader: None },
                    false => ProposalFailure::Overloaded,
                };
                ids.into_iter().for_each(|id| out(Output::ProposalFailed { id, reason: reason.clone() }));
            }
        }
    }

    /// Returns the answer for whoever proposed what was applied at `index`, if he waits here.
    pub(super) fn answer(&mut self, index: u64, term: u64, outcome: Option<Outcome>) -> Option<Output> {
        let (proposed_term, id) = self.waiting.remove(&index)?;
        Some(match outcome {
            Some(outcome) if proposed_term == term => Output::ProposalDone { id, index: CatalogIndex(index), outcome },
            _ => Output::ProposalFailed { id, reason: ProposalFailure::LeadershipLost },
        })
    }

    /// Fails every proposal that was not made in the term this server leads in.
    pub(super) fn fail_lost(&mut self, leading_term: Option<u64>, out: &mut dyn FnMut(Output)) {
        for (_, (_, id)) in self.waiting.extract_if(.., |_, (term, _)| Some(*term) != leading_term) {
            out(Output::ProposalFailed { id, reason: ProposalFailure::LeadershipLost });
        }
    }

    pub(super) fn fail_all(&mut self, reason: &ProposalFailure, out: &mut dyn FnMut(Output)) {
        let waiting = std::mem::take(&mut self.waiting).into_values().map(|(_, id)| id);
        let batch = std::mem::take(&mut self.batch).into_iter().map(|(id, _)| id);
        waiting.chain(batch).for_each(|id| out(Output::ProposalFailed { id, reason: reason.clone() }));
    }
}

fn not_leader<S: Storage>(node: &RawNode<S>) -> ProposalFailure {
    let leader = node.raft.leader_id;
    // A leader that has just stepped down still names itself nowhere; a candidate names nobody.
    ProposalFailure::NotLeader { leader: (leader != raft::INVALID_ID && leader != node.raft.id).then_some(leader) }
}
