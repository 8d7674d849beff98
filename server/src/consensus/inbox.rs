//! The bounded queue in front of the Raft thread.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use raft::eraftpb::Message;
use tokio::sync::oneshot;

use std::collections::BTreeMap;

use super::Committed;
use super::budget::{ByteBudget, HeldBytes};
use crate::raft::{GroupChange, SnapshotFileError};

/// Requests that wait for the Raft thread. It takes all of them in one round, so that a full queue means a stuck disk.
const REQUESTS_MAX: usize = 4096;

/// Bytes of proposals that wait for the Raft thread.
const PROPOSAL_BYTES_MAX: usize = 64 << 20;

/// Bytes of peers' messages that wait for the Raft thread; beyond it they are dropped, and Raft sends them again.
const PEER_BYTES_MAX: usize = 64 << 20;

/// Says why one attempt at a write or read has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// Nobody took it: it has not happened and will not.
    NotTaken,
    /// The leader's disk is nearly full: it has not happened and will not.
    DiskFull,
    /// Too much waits already: it has not happened and will not.
    Overloaded,
    /// The leader cannot read it, and never will: it runs another release.
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// It was taken, and what became of it is not known.
    Lost,
    /// It is larger than an entry may be, and never will be taken.
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What is accepted.
        bytes_max: usize,
    },
}

/// Is what the Raft thread is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    Propose {
        data: Vec<u8>,
        held: HeldBytes,
        answer: oneshot::Sender<Result<Committed, Unanswered>>,
    },
    Read {
        answer: oneshot::Sender<Result<(), Unanswered>>,
    },
    Peer {
        message: Box<Message>,
        held: HeldBytes,
    },
    Unreachable {
        peer: u64,
    },
    SnapshotStatus {
        peer: u64,
        delivered: bool,
    },
    SnapshotEncoded {
        index: u64,
        bytes: Vec<u8>,
    },
    SnapshotWritten {
        index: u64,
    },
    SnapshotBroken {
        error: SnapshotFileError,
    },
    SnapshotProgress {
        peer: u64,
    },
    SnapshotFailed {
        index: u64,
    },
    TransferLeader {
        to: u64,
    },
    ChangeGroup {
        change: GroupChange,
    },
    Readers {
        readers: BTreeMap<u64, u16>,
    },
    /// The address book has a member that may have no link yet.
    Follow,
    Stop,
}

/// Reaches the Raft thread; a clone reaches the same one. Nothing here ever waits for room in the queue.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    sender: SyncSender<Request>,
    peer_bytes: ByteBudget,
    /// One snapshot at a time, however large.
    snapshot: ByteBudget,
    proposal_bytes: ByteBudget,
}

impl Inbox {
    /// Makes the queue: the end for everybody, and the end for the Raft thread.
    pub(crate) fn new() -> (Self, Receiver<Request>) {
        let (sender, receiver) = sync_channel(REQUESTS_MAX);
        let peer_bytes = ByteBudget::new(PEER_BYTES_MAX);
        (
            Self {
                sender,
                peer_bytes,
                snapshot: ByteBudget::new(1),
                proposal_bytes: ByteBudget::new(PROPOSAL_BYTES_MAX),
            },
            receiver,
        )
    }

    /// Proposes an encoded envelope on this server.
    pub(crate) async fn propose(&self, data: Vec<u8>) -> Result<Committed, Unanswered> {
        let (answer, answered) = oneshot::channel();
        let held = self.proposal_bytes.hold(data.len()).ok_or(Unanswered::Overloaded)?;
        self.try_send(Request::Propose { data, held, answer })?;
        // A thread that ended with the proposal in its hands may have written it to the log.
        answered.await.unwrap_or(Err(Unanswered::Lost))
    }

    /// Asks for a confirmation that everything committed by now is applied here.
    pub(crate) async fn read(&self) -> Result<(), Unanswered> {
        let (answer, answered) = oneshot::channel();
        self.try_send(Request::Read { answer })?;
        answered.await.unwrap_or(Err(Unanswered::NotTaken))
    }

    /// Hands over a peer's message of `bytes` bytes; false where it was dropped for want of room.
    pub(crate) fn peer_message(&self, message: Message, bytes: usize) -> bool {
        let Some(held) = self.peer_bytes.hold(bytes) else { return false };
        self.try_send(Request::Peer { message: Box::new(message), held }).is_ok()
    }

    /// Hands over a leader's snapshot; gives it back where there is no room for it now.
    pub(crate) fn snapshot_message(&self, message: Message) -> Result<(), Box<Message>> {
        let Some(held) = self.snapshot.hold(1) else { return Err(Box::new(message)) };
        match self.sender.try_send(Request::Peer { message: Box::new(message), held }) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(Request::Peer { message, .. })) => Err(message),
            // A thread that ended needs no news.
            Err(_) => Ok(()),
        }
    }

    /// Tells the thread something that it can do without, such as that a peer is unreachable.
    pub(crate) fn tell(&self, request: Request) {
        // A queue that is full has more important news; a thread that ended needs none.
        let _ = self.sender.try_send(request);
    }

    /// Tells the thread something that must not be lost, and waits for room. Not for async code.
    pub(crate) fn tell_surely(&self, request: Request) {
        // A thread that ended needs no news.
        let _ = self.sender.send(request);
    }

    fn try_send(&self, request: Request) -> Result<(), Unanswered> {
        self.sender.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => Unanswered::Overloaded,
            TrySendError::Disconnected(_) => Unanswered::NotTaken,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_messages_are_bounded_by_bytes() {
        let (inbox, requests) = Inbox::new();
        assert!(inbox.peer_message(Message::default(), PEER_BYTES_MAX - 1));
        assert!(inbox.peer_message(Message::default(), 1));
        assert!(!inbox.peer_message(Message::default(), 1));
        drop(requests.recv());
        assert!(inbox.peer_message(Message::default(), 1));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_does_not_wait() {
        let (inbox, requests) = Inbox::new();
        for _ in 0..REQUESTS_MAX {
            inbox.tell(Request::Unreachable { peer: 2 });
        }
        assert_eq!(inbox.propose(Vec::new()).await, Err(Unanswered::Overloaded));
        assert_eq!(inbox.read().await, Err(Unanswered::Overloaded));
        drop(requests);
        assert_eq!(inbox.propose(Vec::new()).await, Err(Unanswered::NotTaken));
    }

    #[tokio::test]
    async fn a_proposal_that_dies_with_the_thread_is_lost_and_not_refused() {
        let (inbox, requests) = Inbox::new();
        let thread = std::thread::spawn(move || drop(requests.recv()));
        assert_eq!(inbox.propose(Vec::new()).await, Err(Unanswered::Lost));
        thread.join().unwrap();
    }
}
