//! What goes into the Raft room and what comes out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use catalog::{Catalog, CatalogIndex, DecodeError, Outcome, SnapshotError, WatchKey};
use raft::eraftpb::{ConfState, Message};

use super::{Group, GroupChange};
use crate::raft::log::LogError;
use crate::raft::snapshot::SnapshotFileError;

/// One thing that happened to the room.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a peer's message is the common case; boxing it would cost more")]
pub enum Input {
    /// One tick of the Raft clock passed.
    Tick,
    /// A peer's message arrived. The transport has checked that `from` is the peer that sent it.
    Peer(Message),
    /// Somebody wants an encoded [`catalog::Envelope`] committed.
    Propose {
        /// Names the proposal in the answer. Unique among those that wait.
        id: u64,
        /// The encoded envelope.
        data: Vec<u8>,
    },
    /// Somebody wants to read what is committed now.
    ReadIndex {
        /// Names the read in the answer. Unique among those that wait.
        id: u64,
    },
    /// The transport could not reach this peer.
    Unreachable(u64),
    /// The transport delivered a snapshot to a peer, or failed to.
    SnapshotStatus {
        /// The peer it was meant for.
        to: u64,
        /// Whether all of it arrived.
        delivered: bool,
    },
    /// The shell encoded the catalog that [`Output::EncodeSnapshot`] carried.
    SnapshotEncoded {
        /// The index that the request carried.
        index: u64,
        /// What [`Catalog::snapshot`] returned.
        bytes: Vec<u8>,
    },
    /// The shell encoded the catalog that [`Output::EncodeSnapshot`] carried, and wrote the file aside.
    SnapshotWritten {
        /// The index that the request carried.
        index: u64,
    },
    /// The shell could not write a snapshot, for another reason than want of space, or not read one back: the disk fails.
    SnapshotBroken {
        /// What is wrong.
        error: SnapshotFileError,
    },
    /// A snapshot under way to a peer goes on arriving.
    SnapshotProgress {
        /// The peer.
        to: u64,
    },
    /// The shell could not encode it. A later snapshot is asked for once as much again was applied.
    SnapshotFailed {
        /// The index that the request carried.
        index: u64,
    },
    /// This server's disk is slow: another one that keeps up should lead. Ignored by a room that does not lead.
    OfferLeadership,
    /// The operator (or a leader about to stop) wants this peer to lead. Ignored by a room that does not lead.
    TransferLeader(u64),
    /// The steward wants the group to change. Ignored by a room that does not lead, or while a change is under way.
    ChangeGroup(GroupChange),
    /// The transport has met peers: the highest version of an envelope that each reads, by Raft id.
    Readers(BTreeMap<u64, u16>),
    /// The process is about to end: everything that waits fails, later inputs are ignored.
    Stop,
}

/// One thing that the shell must carry out, in the order given.
#[derive(Debug)]
pub enum Output {
    /// Send this to the peer `to`. May be dropped, never delayed behind other work.
    Send(Message),
    /// The catalog changed.
    Applied {
        /// The last index applied.
        index: CatalogIndex,
        /// What watchers wake for.
        touched: BTreeSet<WatchKey>,
        /// The catalog at `index`.
        catalog: Catalog,
        /// Whether the whole catalog was replaced by a leader's snapshot: every watcher wakes, `touched` is empty.
        restored: bool,
    },
    /// A proposal was committed and applied. Comes after the [`Output::Applied`] that carries its effect.
    ProposalDone {
        /// The proposal's name.
        id: u64,
        /// The index it was applied at.
        index: CatalogIndex,
        /// What the state machine answered.
        outcome: Outcome,
    },
    /// A proposal will not be answered.
    ProposalFailed {
        /// The proposal's name.
        id: u64,
        /// Why, and whether it may have happened all the same.
        reason: ProposalFailure,
    },
    /// The catalog now holds everything that was committed when the read arrived.
    ReadReady {
        /// The read's name.
        id: u64,
        /// What was committed.
        index: CatalogIndex,
    },
    /// A read cannot be served as linearizable; the caller may try again.
    ReadFailed {
        /// The read's name.
        id: u64,
        /// Why.
        reason: ReadFailure,
    },
    /// Role, known leader or term changed.
    RoleChanged {
        /// What this server now is.
        role: Role,
        /// Who leads, where known.
        leader: Option<u64>,
        /// The current term.
        term: u64,
    },
    /// The disk got nearly full, or has space again. While it is, nothing enters this server's log.
    SpaceLow {
        /// Whether it is nearly full.
        is_low: bool,
    },
    /// The catalog at an index at which every server hands it out: compare it with what the others have.
    Checkpoint {
        /// The index.
        index: CatalogIndex,
        /// The catalog at that index.
        catalog: Catalog,
    },
    /// Encode this catalog off the Raft thread and return it as [`Input::SnapshotEncoded`], or say
    /// [`Input::SnapshotFailed`]: nothing more is encoded before one of them.
    EncodeSnapshot {
        /// The index it holds.
        index: u64,
        /// The term of that index.
        term: u64,
        /// The membership at that index.
        conf_state: ConfState,
        /// The catalog at that index.
        catalog: Catalog,
    },
}

/// What a server is in its Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It takes proposals.
    Leader,
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks for votes.
    Candidate,
}

/// Why a proposal was not answered with an outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposalFailure {
    /// This server does not take proposals now. Nothing happened.
    #[error("this server does not lead (leader: {})", leader.map_or("unknown".to_owned(), |id| id.to_string()))]
    NotLeader {
        /// Who leads, where known.
        leader: Option<u64>,
    },
    /// Leadership was lost while it waited: it may or may not be applied later. Retry with the same request id.
    #[error("leadership was lost before the outcome was known; retry with the same request id")]
    LeadershipLost,
    /// This server leads and its disk is nearly full. Nothing happened.
    #[error("the leader's disk is nearly full: make space there")]
    DiskFull,
    /// Too many proposals, or too many bytes of them, wait already. Nothing happened.
    #[error("too many proposals wait already; retry later")]
    Overloaded,
    /// It is larger than an entry may be. Nothing happened.
    #[error("the proposal is {bytes} bytes long, an entry may have {bytes_max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// What is allowed.
        bytes_max: usize,
    },
    /// It is not an envelope that servers could read once committed. Nothing happened.
    #[error("the proposal is not a readable envelope: {0}")]
    Malformed(String),
    /// The room was stopped: it may or may not be applied later.
    #[error("the server is stopping")]
    Stopped,
}

/// Why a linearizable read cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadFailure {
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// The leader, this server, has not committed an entry of its own term yet.
    #[error("the leader has not committed an entry in its term yet")]
    NotCommittedInTerm,
    /// The leader changed while the read waited.
    #[error("the leader changed while the read waited")]
    LeaderChanged,
    /// No quorum confirmed the leader in time.
    #[error("no quorum confirmed the leader in time")]
    TimedOut,
    /// Too many reads wait already.
    #[error("too many reads wait already; retry later")]
    Overloaded,
    /// The room was stopped.
    #[error("the server is stopping")]
    Stopped,
}

/// Why a peer's message was dropped before it reached Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum PeerMessageRefused {
    /// The message type is unknown, or not one that a peer may send.
    #[error("message type {0} is not one that a peer may send")]
    Type(i32),
    /// Sender or addressee are not what they must be.
    #[error("message from {from} to {to} is not for this server")]
    Address {
        /// The sender it names.
        from: u64,
        /// The addressee it names.
        to: u64,
    },
    /// The term does not fit the type.
    #[error("term {0} does not fit the message type")]
    Term(u64),
    /// An index is beyond what the sender can know, or out of all bounds.
    #[error("index {0} is beyond what the sender can know")]
    Index(u64),
    /// The leader believes that this server has what it has not: a disk lost what it had synced.
    #[error("the leader counts index {commit} as held here, the log ends at {last_index}: this disk lost synced data")]
    CommitBeyondLog {
        /// What the leader believes committed here.
        commit: u64,
        /// Where the log ends.
        last_index: u64,
    },
    /// The entries are not consecutive, of falling terms, or of an unknown kind.
    #[error("entry {0} is malformed")]
    Entry(u64),
    /// The snapshot is damaged, of an unknown version, or not what its metadata says.
    #[error("the snapshot at index {0} is damaged")]
    Snapshot(u64),
}

/// Why the room cannot go on. The process must end: what is on disk decides what it knows after a restart.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The log could not be written.
    #[error("cannot write the raft log")]
    Log(#[from] LogError),
    /// A snapshot could not be written or read back.
    #[error("cannot store or read a raft snapshot")]
    Snapshot(#[from] SnapshotFileError),
    /// A committed entry cannot be read: skipping it would let this server's state diverge.
    #[error("committed entry {index} of term {term} cannot be read; upgrade this server to the version that wrote it")]
    Entry {
        /// The entry's index.
        index: u64,
        /// The entry's term.
        term: u64,
        /// What is wrong with it.
        #[source]
        source: EntryError,
    },
    /// The room halted before.
    #[error("the raft room has halted after an earlier failure")]
    Halted,
}

/// What is wrong with a committed entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Its kind is not known.
    #[error("entry kind {0} is unknown")]
    Kind(i32),
    /// Its envelope cannot be decoded.
    #[error("the envelope cannot be decoded")]
    Envelope(#[source] DecodeError),
    /// Its membership change cannot be decoded.
    #[error("the membership change cannot be decoded")]
    ConfChange,
}

/// Why a room cannot be opened. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration makes no sense.
    #[error("the raft configuration is not valid")]
    Config(#[source] raft::Error),
    /// The log is damaged, of a newer version, or cannot be read.
    #[error("cannot open the raft log")]
    Log(#[from] LogError),
    /// The snapshot is damaged, of a newer version, or cannot be read.
    #[error("cannot open the raft snapshot")]
    Snapshot(#[from] SnapshotFileError),
    /// The snapshot's file is whole but its state cannot be read.
    #[error("cannot read the catalog in raft snapshot `{file}`; {REPLACE}")]
    State {
        /// The file.
        file: String,
        /// What is wrong with it.
        #[source]
        source: SnapshotError,
    },
    /// The log starts after the newest snapshot ends: a snapshot file was removed.
    #[error("the raft log starts after index {log_base} but the newest snapshot ends at {snapshot}; {REPLACE}")]
    SnapshotMissing {
        /// The index before the log's first entry.
        log_base: u64,
        /// The newest snapshot's index, 0 where there is none.
        snapshot: u64,
    },
    /// Log and snapshot are of different histories: one of them is an older copy.
    #[error("the raft log and the snapshot at index {index} of term {term} contradict each other; {REPLACE}")]
    SnapshotConflict {
        /// The snapshot's index.
        index: u64,
        /// The snapshot's term.
        term: u64,
    },
    /// The disk could not be listed.
    #[error("cannot list the raft directory")]
    List(#[source] io::Error),
}

/// What an operator does about a data directory that is lost or damaged. An older copy is no help: the server would
/// have forgotten votes that it gave and entries that it acknowledged.
pub(crate) const REPLACE: &str = "put the server's own data directory back (no older copy), or start a new server with an empty one under another --node and take this one out with `weft operator raft remove-peer`";

/// What a room says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomStatus {
    /// This server's Raft id.
    pub id: u64,
    /// What it is.
    pub role: Role,
    /// Who leads, where known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// What is known to be committed.
    pub commit: u64,
    /// What is applied.
    pub applied: u64,
    /// The last index of the log.
    pub last_index: u64,
    /// The newest snapshot's index, 0 where there is none.
    pub snapshot_index: u64,
    /// Whether it leads and has committed an entry of its own term, before which it does not know what is committed.
    pub is_established: bool,
    /// Who belongs to the group, as of the last applied entry.
    pub group: Group,
    /// How long ago a leader was heard; near zero on the leader, `None` if none was since the start.
    pub last_contact: Option<Duration>,
    /// How many messages of peers were dropped as malformed since the start.
    pub refused_messages: u64,
}
