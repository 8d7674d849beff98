//! Jitters elections from the room's seed.

use raft::{RawNode, StateRole, Storage};

use crate::raft::random::Random;

/// Decides at which tick without a leader an election starts.
///
/// The `raft` crate would draw a timeout from a thread-local generator, and no run could be repeated. It is given one
/// fixed timeout of almost twice the lease; once the lease and a drawn number of ticks have passed, the remaining ticks
/// are delivered at once. The lease itself, which decides whether a vote is granted, runs in true ticks.
#[derive(Debug)]
pub(super) struct ElectionJitter {
    lease: usize,
    extra: usize,
    elapsed: usize,
    random: Random,
}

impl ElectionJitter {
    pub(super) fn new(lease: usize, mut random: Random) -> ElectionJitter {
        let extra = random.below(lease as u64) as usize;
        ElectionJitter { lease, extra, elapsed: 0, random }
    }

    /// Delivers one tick, and more when it is time for an election.
    pub(super) fn tick<S: Storage>(&mut self, node: &mut RawNode<S>) {
        let is_waiting = |node: &RawNode<S>| node.raft.promotable() && node.raft.state != StateRole::Leader;
        if is_waiting(node) && node.raft.prs().is_singleton() {
            // Nobody else could lead: there is nothing to wait for. Refused while a membership change is unapplied.
            if let Err(error) = node.campaign() {
                tracing::debug!(%error, "cannot campaign yet");
            }
            return;
        }
        // The leader was heard, a vote was given, or an election began.
        if node.raft.election_elapsed < self.elapsed {
            self.extra = self.random.below(self.lease as u64) as usize;
        }
        node.tick();
        let is_due = |elapsed: usize| (self.lease + self.extra..self.lease * 2 - 1).contains(&elapsed);
        while is_waiting(node) && is_due(node.raft.election_elapsed) {
            node.tick();
        }
        self.elapsed = node.raft.election_elapsed;
    }
}
