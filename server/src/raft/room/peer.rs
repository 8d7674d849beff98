//! Checks a peer's message before Raft sees it: the `raft` crate panics on what it does not expect.
//!
//! A snapshot is checked by reading the whole catalog in it, here on the Raft thread. A large one therefore keeps this
//! server from answering anybody for as long as that takes. Only a follower that lags is sent one, so no quorum waits
//! for it. The limit is a catalog whose reading takes longer than an election: the server then stands for one afterwards,
//! which the others refuse while they have a leader.

use catalog::Catalog;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};
use raft::{RawNode, StateRole, Storage};

use super::PeerMessageRefused;
use super::apply::{decode_conf_change, decode_snapshot};

/// What no index or term reaches; above it sums could overflow.
const BEYOND: u64 = u64::MAX / 4;

/// Checks a peer's message. Returns the catalog of a snapshot that is new here.
pub(super) fn check<S: Storage>(message: &Message, node: &RawNode<S>) -> Result<Option<Catalog>, PeerMessageRefused> {
    let kind = MessageType::from_i32(message.msg_type).ok_or(PeerMessageRefused::Type(message.msg_type))?;
    let is_own = message.from == node.raft.id || message.from == raft::INVALID_ID;
    if is_own || message.to != node.raft.id {
        return Err(PeerMessageRefused::Address { from: message.from, to: message.to });
    }
    // Requests for a read travel without a term. Anything else without one would pass for a message of our own.
    if (message.term == 0) != (kind == MessageType::MsgReadIndex) || message.term > BEYOND {
        return Err(PeerMessageRefused::Term(message.term));
    }
    let numbers = [message.index, message.commit, message.reject_hint, message.log_term, message.commit_term];
    if let Some(&number) = numbers.iter().find(|number| **number > BEYOND) {
        return Err(PeerMessageRefused::Index(number));
    }
    let last_index = node.raft.raft_log.last_index();
    match kind {
        MessageType::MsgAppend => check_entries(message).map(|()| None),
        MessageType::MsgHeartbeat => {
            // A leader counts what was acknowledged to it, and nothing is acknowledged before it is synced.
            if message.term >= node.raft.term && message.commit > last_index {
                return Err(PeerMessageRefused::CommitBeyondLog { commit: message.commit, last_index });
            }
            Ok(None)
        }
        MessageType::MsgAppendResponse => {
            // A follower has nothing in our term that we have not, and we never ask for another snapshot.
            let is_ours = message.term == node.raft.term && node.raft.state == StateRole::Leader;
            let known = message.index.max(message.reject_hint);
            if (is_ours && known > last_index) || message.request_snapshot != 0 {
                return Err(PeerMessageRefused::Index(known));
            }
            Ok(None)
        }
        MessageType::MsgSnapshot => check_snapshot(message, node),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if message.entries.len() != 1 => {
            Err(PeerMessageRefused::Entry(0))
        }
        MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgTimeoutNow => Ok(None),
        // What a server says to itself; and forwarded proposals, which nobody here sends.
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => Err(PeerMessageRefused::Type(message.msg_type)),
    }
}

/// Checks that entries are consecutive from the message's index on, of no falling terms, and of known kinds.
fn check_entries(message: &Message) -> Result<(), PeerMessageRefused> {
    // Raft holds term 0 for what lies beyond its log: an index without a term would match there.
    if (message.index == 0) != (message.log_term == 0) || message.log_term > message.term {
        return Err(PeerMessageRefused::Index(message.index));
    }
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in &message.entries {
        index += 1;
        if entry.index != index || entry.term < term || entry.term > message.term || entry.term == 0 || !is_known(entry)
        {
            return Err(PeerMessageRefused::Entry(index));
        }
        term = entry.term;
    }
    Ok(())
}

/// Tells whether an entry's kind is known, down to what a membership change says. An envelope is read when it is
/// committed: one of a newer version must be kept, not lost.
fn is_known(entry: &Entry) -> bool {
    match EntryType::from_i32(entry.entry_type) {
        None => false,
        Some(EntryType::EntryNormal) => true,
        Some(EntryType::EntryConfChange | EntryType::EntryConfChangeV2) => decode_conf_change(entry).is_some(),
    }
}

fn check_snapshot<S: Storage>(message: &Message, node: &RawNode<S>) -> Result<Option<Catalog>, PeerMessageRefused> {
    let Snapshot { metadata: Some(metadata), .. } = message.get_snapshot() else {
        return Err(PeerMessageRefused::Snapshot(0));
    };
    let (index, term) = (metadata.index, metadata.term);
    let refused = Err(PeerMessageRefused::Snapshot(index));
    if index == 0 || index > BEYOND || term == 0 || term > message.term || !is_sound(metadata.get_conf_state()) {
        return refused;
    }
    // Raft ignores it unless it is news; reading it would be wasted.
    if index <= node.raft.raft_log.committed {
        return Ok(None);
    }
    match decode_snapshot(message.get_snapshot()) {
        Ok(catalog) => Ok(Some(catalog)),
        Err(error) => {
            tracing::warn!(index, %error, "a leader's snapshot cannot be read");
            refused
        }
    }
}

/// Tells whether a membership has voters, and names nobody twice on one side.
fn is_sound(members: &ConfState) -> bool {
    let unique = |mut ids: Vec<u64>| {
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        ids.len() == count && ids.first() != Some(&0)
    };
    !members.voters.is_empty()
        && unique([members.voters.clone(), members.learners.clone()].concat())
        && unique([members.voters_outgoing.clone(), members.learners.clone()].concat())
        && unique(members.learners_next.clone())
        && members.learners_next.iter().all(|id| members.voters_outgoing.contains(id))
        && (!members.voters_outgoing.is_empty() || (members.learners_next.is_empty() && !members.auto_leave))
}
