//! The Raft room: one server's part in its group, as a machine of the form `step(input, now) -> outputs`.

mod apply;
mod interface;
mod jitter;
mod membership;
mod peer;
mod proposals;
mod reads;
mod settle;
mod space;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use catalog::{Catalog, CatalogIndex, Envelope};
use raft::eraftpb::{ConfState, Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};

pub(crate) use interface::REPLACE;
pub use interface::{
    EntryError, Fatal, Input, OpenError, Output, PeerMessageRefused, ProposalFailure, ReadFailure, Role, RoomStatus,
};
use jitter::ElectionJitter;
pub use membership::{Group, GroupChange, PeerProgress};
use proposals::Proposals;
use reads::Reads;

use super::config::{Limits, RoomConfig};
use super::disk::{Aside, Disk};
use super::logger;
use super::storage::Store;
use wire::random::Seeded;

/// One server's part in its Raft group: the log, the catalog, and who waits for what.
///
/// The shell that owns it runs it on a thread of its own, in a loop: gather what came in, [`Room::step_all`], carry
/// out the outputs. It turns a [`Fatal`] or a panic into the end of the process.
pub struct Room<D: Disk> {
    node: RawNode<Store<D>>,
    catalog: Catalog,
    /// The membership after the last applied entry.
    conf_state: ConfState,
    limits: Limits,
    jitter: ElectionJitter,
    proposals: Proposals,
    reads: Reads,
    /// How many entries and bytes were applied since the newest snapshot.
    applied_since_snapshot: (u64, u64),
    /// The snapshot that the shell is encoding.
    encoding: Option<raft::eraftpb::SnapshotMetadata>,
    /// The catalog of a leader's snapshot that was checked on arrival and is not installed yet.
    arrived: Option<Catalog>,
    /// Snapshots under way to followers.
    sent_snapshots: BTreeMap<u64, Sent>,
    /// The tick until which one that failed may be sent again.
    resend_until: u64,
    ticks: u64,
    /// Role, leader and term as last reported.
    reported: (Role, Option<u64>, u64),
    leader_heard_at: Option<Duration>,
    /// When each peer was heard last.
    heard: BTreeMap<u64, Duration>,
    /// The highest version of an envelope that each peer reads, by what it said when it was met.
    readers: BTreeMap<u64, u16>,
    refused_messages: u64,
    space: space::SpaceWatch,
    phase: Phase,
}

/// A snapshot on its way to a follower.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// The index that it stands for.
    index: u64,
    /// The tick at which it counts as lost if nobody says anything.
    until: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Stopped,
    Halted,
}

impl<D: Disk> Room<D> {
    /// Reads log and snapshot back, or bootstraps an empty disk. What is committed but younger than the snapshot is
    /// applied by the first step.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was written unless a write itself failed.
    pub fn open(disk: D, config: RoomConfig) -> Result<Room<D>, OpenError> {
        config.raft(0).validate().map_err(OpenError::Config)?;
        let (store, catalog) = Store::open(disk, &config)?;
        let raft_config = config.raft(store.snapshot_metadata().index);
        let conf_state = store.snapshot_metadata().get_conf_state().clone();
        let node = RawNode::new(&raft_config, store, &logger::logger()).map_err(OpenError::Config)?;
        let mut random = Seeded::new(config.seed);
        let term = node.raft.term;
        Ok(Room {
            node,
            catalog,
            conf_state,
            reads: Reads::new(config.raft_id, random.next(), &config.limits),
            proposals: Proposals::new(&config.limits),
            jitter: ElectionJitter::new(config.election_tick, random),
            limits: config.limits,
            applied_since_snapshot: (0, 0),
            encoding: None,
            arrived: None,
            sent_snapshots: BTreeMap::new(),
            resend_until: 0,
            ticks: 0,
            reported: (Role::Follower, None, term),
            leader_heard_at: None,
            heard: BTreeMap::new(),
            readers: BTreeMap::new(),
            refused_messages: 0,
            space: space::SpaceWatch::default(),
            phase: Phase::Running,
        })
    }

    /// Takes one input and hands every consequence to `out`, in order.
    ///
    /// # Errors
    /// [`Fatal`]: the room has halted, and the process must end.
    pub fn step(&mut self, input: Input, now: Duration, out: &mut dyn FnMut(Output)) -> Result<(), Fatal> {
        self.step_all(std::iter::once(input), now, out)
    }

    /// Takes a batch of inputs and hands every consequence to `out`, in order. One sync covers the whole batch.
    ///
    /// # Errors
    /// [`Fatal`]: the room has halted, and the process must end.
    pub fn step_all(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        now: Duration,
        out: &mut dyn FnMut(Output),
    ) -> Result<(), Fatal> {
        match self.phase {
            Phase::Running => {}
            Phase::Stopped => return Ok(()),
            Phase::Halted => return Err(Fatal::Halted),
        }
        let result = self.take_all(inputs, now, out);
        if result.is_err() {
            self.phase = Phase::Halted;
        }
        result
    }

    fn take_all(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        now: Duration,
        out: &mut dyn FnMut(Output),
    ) -> Result<(), Fatal> {
        for input in inputs {
            self.take(input, now, out)?;
            if self.phase == Phase::Stopped {
                return Ok(());
            }
        }
        self.proposals.flush(&mut self.node, out);
        loop {
            self.reads.begin_round(&mut self.node, out);
            self.settle(out)?;
            if !self.reads.wants_round() {
                break;
            }
        }
        if self.node.raft.state == StateRole::Leader {
            self.leader_heard_at = Some(now);
        }
        Ok(())
    }

    fn take(&mut self, input: Input, now: Duration, out: &mut dyn FnMut(Output)) -> Result<(), Fatal> {
        match input {
            Input::Tick => self.tick(out),
            Input::Peer(message) => self.take_message(message, now),
            Input::Propose { id, .. } if self.space.is_low() => {
                out(Output::ProposalFailed { id, reason: ProposalFailure::DiskFull });
            }
            Input::Propose { id, data } => {
                let (catalog, members, met) = (&self.catalog, &self.conf_state, &self.readers);
                let objection = |envelope: &Envelope| membership::cannot_read(envelope, catalog, members, met);
                self.proposals.take(&mut self.node, id, data, &objection, out);
            }
            Input::ReadIndex { id } => self.reads.take(id, self.ticks, out),
            Input::Unreachable(peer) => self.node.report_unreachable(peer),
            Input::SnapshotStatus { to, delivered } => self.report_snapshot(to, delivered),
            Input::SnapshotEncoded { index, bytes } => self.save_snapshot(index, &bytes)?,
            Input::SnapshotWritten { index } => self.adopt_snapshot(index)?,
            Input::SnapshotBroken { error } => return Err(error.into()),
            Input::SnapshotProgress { to } => {
                if let Some(sent) = self.sent_snapshots.get_mut(&to) {
                    sent.until = self.ticks + self.limits.snapshot_ticks_max;
                }
            }
            Input::SnapshotFailed { index } => self.snapshot_failed(index),
            Input::OfferLeadership => self.offer_to_next(),
            Input::TransferLeader(peer) => {
                if self.node.raft.state == StateRole::Leader {
                    self.node.transfer_leader(peer);
                }
            }
            Input::ChangeGroup(change) => self.change_group(&change),
            Input::Readers(readers) => self.readers = readers,
            Input::Stop => self.stop(out),
        }
        Ok(())
    }

    fn tick(&mut self, out: &mut dyn FnMut(Output)) {
        self.ticks += 1;
        self.watch_space(out);
        self.jitter.tick(&mut self.node);
        self.reads.tick(&mut self.node, self.ticks, out);
        let ticks = self.ticks;
        let lost: Vec<u64> =
            self.sent_snapshots.iter().filter(|(_, sent)| sent.until <= ticks).map(|(peer, _)| *peer).collect();
        for peer in lost {
            self.report_snapshot(peer, false);
        }
    }

    fn take_message(&mut self, message: Message, now: Duration) {
        let from = message.from;
        let kind = MessageType::from_i32(message.msg_type);
        let speaks_for_leader =
            matches!(kind, Some(MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot));
        let arrived = match peer::check(&message, &self.node) {
            Ok(arrived) => arrived,
            Err(error) => {
                self.refused_messages += 1;
                tracing::warn!(peer = from, %error, "dropped a malformed raft message");
                return;
            }
        };
        self.heard.insert(from, now);
        let Some(message) = self.without_load(message) else { return };
        // Raft would pass a read on to the leader it knows, in the asker's name; the asker itself asks again instead.
        if kind == Some(MessageType::MsgReadIndex) && self.node.raft.state != StateRole::Leader {
            return;
        }
        // Raft refuses what it has no use for (an answer from a stranger, for one); nothing follows from that here.
        if let Err(error) = self.node.step(message) {
            tracing::debug!(peer = from, %error, "raft has no use for a message");
        }
        if let Some(catalog) = arrived
            && self.node.snap().is_some_and(|pending| CatalogIndex(pending.get_metadata().index) == catalog.index())
        {
            self.arrived = Some(catalog);
        }
        if speaks_for_leader && self.node.raft.leader_id == from {
            self.leader_heard_at = Some(now);
        }
    }

    fn report_snapshot(&mut self, to: u64, delivered: bool) {
        if self.sent_snapshots.remove(&to).is_some() && !delivered {
            self.resend_until = self.ticks + self.limits.snapshot_ticks_max / 6;
        }
        self.node.report_snapshot(to, if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    fn stop(&mut self, out: &mut dyn FnMut(Output)) {
        self.phase = Phase::Stopped;
        self.proposals.fail_all(&ProposalFailure::Stopped, out);
        self.reads.fail_all(ReadFailure::Stopped, out);
    }

    /// Returns the catalog after the last applied entry.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Returns what the room says about itself; `now` as in [`Room::step`].
    pub fn status(&self, now: Duration) -> RoomStatus {
        let raft = &self.node.raft;
        let (role, leader, term) = self.role();
        let is_established = role == Role::Leader && raft.commit_to_current_term();
        let last_contact = self.leader_heard_at.map(|heard| now.saturating_sub(heard));
        RoomStatus {
            id: raft.id,
            role,
            leader,
            term,
            commit: raft.raft_log.committed,
            applied: self.catalog.index().0,
            last_index: raft.raft_log.last_index(),
            snapshot_index: self.node.store().snapshot_metadata().index,
            group: self.group(now),
            is_established,
            last_contact,
            refused_messages: self.refused_messages,
        }
    }

    /// Returns how long the disk took for each sync since this was asked last.
    pub(crate) fn take_sync_times(&mut self) -> Vec<Duration> {
        self.node.mut_store().disk_mut().take_sync_times()
    }

    /// Returns what reaches the disk from other threads.
    pub(crate) fn aside(&self) -> Option<Arc<dyn Aside>> {
        self.node.store().disk().aside()
    }

    /// Gives the disk back. What was not synced is still not synced.
    pub fn into_disk(self) -> D {
        self.node.raft.r.raft_log.store.into_disk()
    }

    fn role(&self) -> (Role, Option<u64>, u64) {
        let raft = &self.node.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate | StateRole::Candidate => Role::Candidate,
        };
        (role, (raft.leader_id != raft::INVALID_ID).then_some(raft.leader_id), raft.term)
    }
}
