//! What a room does while its disk has no room: it takes nothing more into its log, and goes on with everything else.

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::{Disk, Output, Room};
use crate::raft::disk::Space;

/// Of a small disk, this part is kept free; of a large one [`Limits::space_floor_bytes`](super::Limits).
const FLOOR_PART: u64 = 16;
/// How much more than the floor must be free before the room takes writes again: it must not go back and forth.
const RECOVERED_PART: u64 = 2;
/// A leader whose disk is full tries to hand over once in so many election timeouts.
const HANDOVER_TIMEOUTS: u64 = 20;

/// What the room knows of the space on its disk.
#[derive(Debug, Default)]
pub(super) struct SpaceWatch {
    is_low: bool,
    /// Whether a snapshot was asked for, to have less log, since space got low.
    asked_for_snapshot: bool,
    /// The tick at which leadership may be offered to the next one.
    offer_at: u64,
    /// Whom it was offered to last.
    offered: u64,
}

impl SpaceWatch {
    pub(super) fn is_low(&self) -> bool {
        self.is_low
    }
}

/// Returns how many bytes must stay free.
fn floor(space: Space, floor_bytes: u64) -> u64 {
    floor_bytes.min(space.total / FLOOR_PART)
}

impl<D: Disk> Room<D> {
    /// Looks at the disk, once a tick. What is written in between fits into the floor, for what may be uncommitted is bounded.
    pub(super) fn watch_space(&mut self, out: &mut dyn FnMut(Output)) {
        // A disk that cannot say how much is free says so when it is written to.
        let Ok(Some(space)) = self.node.mut_store().disk_mut().space() else { return };
        let floor = floor(space, self.limits.space_floor_bytes);
        let was_low = self.space.is_low;
        self.space.is_low = space.free < if was_low { floor + floor / RECOVERED_PART } else { floor };
        if self.space.is_low != was_low {
            self.space.asked_for_snapshot = false;
            self.space.offer_at = self.ticks;
            let (free, floor) = (space.free, floor);
            if self.space.is_low {
                tracing::error!(free, floor, "the disk is nearly full: no write is taken until there is space");
            } else {
                tracing::warn!(free, floor, "the disk has space again: writes are taken");
            }
            out(Output::SpaceLow { is_low: self.space.is_low });
        }
        if self.space.is_low {
            self.make_space();
            self.offer_leadership();
        }
    }

    /// Asks for a snapshot, once: after it the log can be cut to nothing.
    fn make_space(&mut self) {
        let has_log = self.catalog.index().0 > self.node.store().snapshot_metadata().index;
        if !self.space.asked_for_snapshot && has_log && self.encoding.is_none() {
            self.space.asked_for_snapshot = true;
            self.applied_since_snapshot.0 += self.limits.snapshot_entries;
        }
    }

    /// Offers leadership to the voters that keep up, one after the other. One whose disk is full as well does not take it.
    fn offer_leadership(&mut self) {
        if self.node.raft.state != StateRole::Leader || self.ticks < self.space.offer_at {
            return;
        }
        self.space.offer_at = self.ticks + HANDOVER_TIMEOUTS * self.node.raft.election_timeout() as u64;
        self.offer_to_next();
    }

    /// Offers leadership to the next of the voters that keep up.
    pub(super) fn offer_to_next(&mut self) {
        if self.node.raft.state != StateRole::Leader {
            return;
        }
        let (own, committed) = (self.node.raft.id, self.node.raft.raft_log.committed);
        let mut able: Vec<u64> = self
            .node
            .raft
            .prs()
            .iter()
            .filter(|(id, progress)| **id != own && progress.recent_active && progress.matched >= committed)
            .map(|(id, _)| *id)
            .filter(|id| self.conf_state.voters.contains(id))
            .collect();
        able.sort_unstable();
        let next = able.iter().copied().find(|id| *id > self.space.offered).or(able.first().copied());
        let Some(next) = next else { return };
        self.space.offered = next;
        tracing::info!(peer = next, "leadership is offered to another server, for this one's disk is full or slow");
        self.node.transfer_leader(next);
    }

    /// Takes from a peer's message what would fill the disk; none is left of one that is nothing else.
    ///
    /// An append without its entries is one that the leader may have sent: it says that the leader lives, and is answered by
    /// what this server really has.
    pub(super) fn without_load(&self, mut message: Message) -> Option<Message> {
        if !self.space.is_low {
            return Some(message);
        }
        match MessageType::from_i32(message.msg_type) {
            Some(MessageType::MsgAppend) => {
                message.entries.clear();
                Some(message)
            }
            Some(MessageType::MsgSnapshot | MessageType::MsgTimeoutNow) => None,
            _ => Some(message),
        }
    }

    /// Tells whether the room takes nothing into its log because its disk is nearly full.
    pub fn is_read_only(&self) -> bool {
        self.space.is_low
    }
}
