//! Linearizable reads: one ReadIndex round serves all that wait when it starts.

use std::collections::VecDeque;

use catalog::CatalogIndex;
use raft::{RawNode, ReadState, StateRole, Storage};

use super::{Output, ReadFailure};
use crate::raft::config::Limits;

/// Ticks after which a follower asks the leader again: its request or the answer may have been lost.
const REPEAT_TICKS: u64 = 3;

/// Reads that wait for a round, for its end, or for the catalog to reach what it confirmed.
#[derive(Debug)]
pub(super) struct Reads {
    /// What makes a round's name unique: this server, this life of it, and a number.
    raft_id: u64,
    life: u64,
    rounds: u64,
    queue: VecDeque<Waiting>,
    round: Option<Round>,
    /// Confirmed at an index that is not applied yet.
    confirmed: Vec<(CatalogIndex, Waiting)>,
    waiting_max: usize,
    ticks_max: u64,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    /// The tick at which it fails.
    until: u64,
}

#[derive(Debug)]
struct Round {
    name: Vec<u8>,
    leader: u64,
    term: u64,
    waiting: Vec<Waiting>,
}

impl Reads {
    pub(super) fn new(raft_id: u64, life: u64, limits: &Limits) -> Reads {
        Reads {
            raft_id,
            life,
            rounds: 0,
            queue: VecDeque::new(),
            round: None,
            confirmed: Vec::new(),
            waiting_max: limits.reads_max,
            ticks_max: limits.read_ticks_max,
        }
    }

    pub(super) fn take(&mut self, id: u64, ticks: u64, out: &mut dyn FnMut(Output)) {
        let in_round = self.round.as_ref().map_or(0, |round| round.waiting.len());
        if self.queue.len() + in_round + self.confirmed.len() >= self.waiting_max {
            return out(Output::ReadFailed { id, reason: ReadFailure::Overloaded });
        }
        self.queue.push_back(Waiting { id, until: ticks + self.ticks_max });
    }

    /// Tells whether reads wait for a round and none is under way.
    pub(super) fn wants_round(&self) -> bool {
        self.round.is_none() && !self.queue.is_empty()
    }

    /// Starts a round for all that wait, or fails them where Raft would silently drop it.
    pub(super) fn begin_round<S: Storage>(&mut self, node: &mut RawNode<S>, out: &mut dyn FnMut(Output)) {
        if !self.wants_round() {
            return;
        }
        let waiting: Vec<Waiting> = self.queue.drain(..).collect();
        let refusal = if node.raft.leader_id == raft::INVALID_ID {
            Some(ReadFailure::NoLeader)
        } else if node.raft.state == StateRole::Leader && !node.raft.commit_to_current_term() {
            Some(ReadFailure::NotCommittedInTerm)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return waiting.into_iter().for_each(|read| out(Output::ReadFailed { id: read.id, reason }));
        }
        self.rounds += 1;
        let name = [self.raft_id, self.life, self.rounds].iter().flat_map(|number| number.to_be_bytes()).collect();
        let round = Round { name, leader: node.raft.leader_id, term: node.raft.term, waiting };
        node.read_index(round.name.clone());
        self.round = Some(round);
    }

    /// Takes what Raft confirmed.
    pub(super) fn confirm(&mut self, states: Vec<ReadState>) {
        for state in states {
            if let Some(round) = self.round.take_if(|round| round.name == state.request_ctx) {
                let index = CatalogIndex(state.index);
                self.confirmed.extend(round.waiting.into_iter().map(|read| (index, read)));
            }
        }
    }

    /// Answers the reads whose index the catalog has reached.
    pub(super) fn applied(&mut self, applied: CatalogIndex, out: &mut dyn FnMut(Output)) {
        for (index, read) in self.confirmed.extract_if(.., |(index, _)| *index <= applied) {
            out(Output::ReadReady { id: read.id, index });
        }
    }

    /// Fails a round that no leader will answer any more.
    pub(super) fn leader_is(&mut self, leader: Option<u64>, term: u64, out: &mut dyn FnMut(Output)) {
        let is_lost = |round: &mut Round| Some(round.leader) != leader || round.term != term;
        for read in self.round.take_if(is_lost).into_iter().flat_map(|round| round.waiting) {
            out(Output::ReadFailed { id: read.id, reason: ReadFailure::LeaderChanged });
        }
    }

    /// Fails what waited too long, and repeats a follower's request.
    pub(super) fn tick<S: Storage>(&mut self, node: &mut RawNode<S>, ticks: u64, out: &mut dyn FnMut(Output)) {
        let mut late = Vec::new();
        let mut is_late = |read: &Waiting| {
            let is_late = read.until <= ticks;
            late.extend(is_late.then_some(read.id));
            !is_late
        };
        self.queue.retain(&mut is_late);
        self.confirmed.retain(|(_, read)| is_late(read));
        if let Some(round) = &mut self.round {
            round.waiting.retain(is_late);
        }
        self.round.take_if(|round| round.waiting.is_empty());
        late.into_iter().for_each(|id| out(Output::ReadFailed { id, reason: ReadFailure::TimedOut }));
        if let Some(round) = &self.round
            && node.raft.state != StateRole::Leader
            && ticks.is_multiple_of(REPEAT_TICKS)
        {
            node.read_index(round.name.clone());
        }
    }

    pub(super) fn fail_all(&mut self, reason: ReadFailure, out: &mut dyn FnMut(Output)) {
        let queued = std::mem::take(&mut self.queue).into_iter();
        let in_round = self.round.take().into_iter().flat_map(|round| round.waiting);
        let confirmed = std::mem::take(&mut self.confirmed).into_iter().map(|(_, read)| read);
        queued.chain(in_round).chain(confirmed).for_each(|read| out(Output::ReadFailed { id: read.id, reason }));
    }
}
