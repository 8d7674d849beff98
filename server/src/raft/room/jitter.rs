//! Jitters elections from the room's seed.

use raft::{RawNode, StateRole, Storage};

use wire::random::Seeded;

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
    random: Seeded,
}

impl ElectionJitter {
    pub(super) fn new(lease: usize, mut random: Seeded) -> ElectionJitter {
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
        // The leader was heard, or a vote was given, since the last tick.
        if node.raft.election_elapsed < self.elapsed {
            self.draw();
        }
        let before = node.raft.election_elapsed;
        node.tick();
        let is_due = |elapsed: usize| (self.lease + self.extra..self.lease * 2 - 1).contains(&elapsed);
        while is_waiting(node) && is_due(node.raft.election_elapsed) {
            node.tick();
        }
        self.elapsed = node.raft.election_elapsed;
        // An election began. Without a new draw, two candidates that once drew alike would split every vote from then on.
        if self.elapsed <= before {
            self.draw();
        }
    }

    fn draw(&mut self) {
        self.extra = self.random.below(self.lease as u64) as usize;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use raft::eraftpb::MessageType;

    use crate::raft::{Input, MemoryDisk, Output, Room, RoomConfig};

    #[test]
    fn a_candidate_that_wins_nothing_waits_another_time_before_each_election() {
        let config = RoomConfig::new(1, vec![1, 2, 3], 7);
        let mut room = Room::open(MemoryDisk::default(), config).unwrap();
        let (mut waits, mut waited) = (Vec::new(), 0);
        for tick in 0..1_000 {
            waited += 1;
            let mut campaigned = false;
            let mut out = |output| {
                if let Output::Send(message) = output {
                    campaigned |= message.msg_type == MessageType::MsgRequestPreVote as i32;
                }
            };
            room.step(Input::Tick, Duration::from_millis(100 * tick), &mut out).unwrap();
            if campaigned {
                waits.push(std::mem::take(&mut waited));
            }
        }
        assert!(waits.len() > 40, "{waits:?}");
        let mut distinct = waits.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 5, "every election after the same wait: {waits:?}");
    }
}
