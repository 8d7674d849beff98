//! The Raft room: consensus, the durable log and snapshots, as one machine of the form `step(input, now) -> outputs`.
//!
//! [`Room`] owns the `RawNode` of the `raft` crate, a [`Disk`] and the catalog. Nothing in here reads a clock, draws
//! from the system's randomness or waits: the shell (and the simulator) feed it [`Input`]s and carry out [`Output`]s.
//!
//! What holds, always:
//! - entries and hard state of one `Ready` are one record, synced before a message that depends on it leaves;
//! - a failed write or sync halts the room, it is never retried;
//! - a torn tail is cut, any other damage refuses the start;
//! - a committed entry that cannot be decoded halts the room, it is never skipped.

mod config;
mod disk;
mod log;
mod logger;
mod recovery;
mod room;
mod snapshot;
mod storage;

pub use config::{Limits, RoomConfig};
pub(crate) use disk::is_full;
pub use disk::{Aside, Disk, FileDisk, FileDiskError, MemoryDisk, Space};
pub use log::{LogError, RecordError};
pub use raft::eraftpb::{ConfState, Message, MessageType};
pub use recovery::{ReplayError, Replayed};
pub(crate) use room::REPLACE;
pub use room::{
    EntryError, Fatal, Group, GroupChange, Input, OpenError, Output, PeerMessageRefused, PeerProgress, ProposalFailure,
    ReadFailure, Role, Room, RoomStatus,
};
pub use snapshot::SnapshotFileError;
pub(crate) use snapshot::{WRITTEN_ASIDE, encode as encode_snapshot, read_aside as read_snapshot};
