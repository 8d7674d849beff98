//! The shell around the Raft room: one thread that owns it, the transport to the other servers, and the handle by which
//! the rest of the server reads and writes the catalog.

mod admit;
mod ask;
mod bootstrap;
mod budget;
mod clock;
mod establish;
mod forward;
mod gather;
mod identity;
mod inbox;
mod io;
mod join;
mod members;
mod reap;
pub mod recovery;
mod slow_disk;
mod start;
mod states;
mod status;
pub mod steward;
#[cfg(test)]
pub(crate) mod testing;
mod thread;
mod transport;
mod watch;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use catalog::{
    Actor, AgentId, Catalog, CatalogIndex, Command, Envelope, Outcome, RequestId, ServerId, Timestamp, WatchKey,
};
use tokio::sync::watch as latest;
use tokio::time::{Instant as Deadline, timeout_at};
use tracing::debug;
use wire::crypto;
use wire::mesh_status::DiskStatus;
use wire::report::AgentReport;

use crate::config::RaftTiming;
use crate::metrics::Metrics;
use crate::raft::RoomStatus;
use crate::reports::{NotTaken, Reports};
use crate::taps::TapDesk;
use catalog::Lifetime;
use forward::Forwarder;
use inbox::{Inbox, Unanswered};
use members::Members;
use states::States;
use steward::GroupHealth;
use watch::Watches;

pub(crate) use ask::{Answer, AskError, Asker, Question};
pub(crate) use budget::ByteBudget;
pub use identity::IdentityError;
pub use start::{ConsensusError, FatalError};
pub(crate) use start::{Running, start};
pub(crate) use status::{RaftStatus, Role, Standing};
pub(crate) use watch::TouchedReceiver;

/// Longest command that is carried to the leader, encoded; the room's own limit is the same.
const ENTRY_BYTES_MAX: usize = 4 << 20;

/// Pauses between two attempts of the same write or read: the first is short, for a leader is often found at once.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(10);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(250);

/// A leader without space hands over to another server in this many attempts, or there is none with space.
const DISK_FULL_ATTEMPTS_MAX: u32 = 12;

/// Is what became of a write: where in the log it stands, and what the state machine answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    /// The log index that it was applied at.
    pub(crate) index: CatalogIndex,
    /// What the state machine answered; a refusal is an answer, too.
    pub(crate) outcome: Outcome,
}

/// Explains why a write has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposeError {
    /// No leader took it: nothing has changed.
    #[error(
        "No cluster leader took the write within {waited:?}, and nothing has changed: try again once `weft status` shows a leader"
    )]
    NoLeader {
        /// How long it was tried.
        waited: Duration,
    },
    /// A leader took it, and what became of it is not known: it may be applied now, later or never.
    #[error("the write's outcome is not known after {waited:?}: repeat it with request id `{request_id}` to learn it", request_id = request_id.as_str())]
    Unknown {
        /// What to repeat it under: the repeat is carried out once only.
        request_id: RequestId,
        /// How long it was tried.
        waited: Duration,
    },
    /// The leader's disk is nearly full, and no other server took over: nothing has changed.
    #[error(
        "the leader's disk is nearly full, and nothing has changed: make space on the servers' disks; reads go on meanwhile"
    )]
    DiskFull,
    /// The leader has more writes waiting than it accepts: nothing has changed.
    #[error("the leader has too many writes waiting after {waited:?}, and nothing has changed: try again later")]
    Overloaded {
        /// How long it was tried.
        waited: Duration,
    },
    /// The leader, or another server, runs an older release and cannot read it: nothing has changed.
    #[error(
        "not every server can read the write ({reason}), and nothing has changed: finish the upgrade of all servers first"
    )]
    NotUnderstood {
        /// What the leader said.
        reason: String,
    },
    /// It is larger than a log entry may be: nothing has changed.
    #[error("the write has {bytes} bytes and at most {bytes_max} are accepted: split it")]
    TooLarge {
        /// Its size, encoded.
        bytes: usize,
        /// What is accepted.
        bytes_max: usize,
    },
}

/// Explains why a read cannot be linearizable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    /// No leader confirmed the state in time.
    #[error(
        "No cluster leader confirmed the state within {waited:?}: try again, or ask with `stale` for what this server knows"
    )]
    NoLeader {
        /// How long it was tried.
        waited: Duration,
    },
}

/// Reads and writes the catalog; a clone reaches the same one.
#[derive(Clone)]
pub(crate) struct Consensus {
    shared: Arc<Shared>,
}

impl fmt::Debug for Consensus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Consensus").field("server", &self.shared.server).finish_non_exhaustive()
    }
}

/// Is what the handle, the Raft thread and the transport have in common.
pub(crate) struct Shared {
    server: ServerId,
    timing: RaftTiming,
    catalog: ArcSwap<Catalog>,
    watches: Watches,
    standing: latest::Sender<Standing>,
    /// The index of `catalog`; sent after `catalog` was stored.
    applied: latest::Sender<CatalogIndex>,
    members: Members,
    /// What the room said of itself last; sent once a tick.
    group: latest::Sender<Option<Arc<RoomStatus>>>,
    /// How the servers do; on the leader only.
    health: ArcSwapOption<GroupHealth>,
    /// What the leader, wherever it is, said of that last.
    seen: ArcSwapOption<ask::Seen>,
    states: States,
    inbox: Inbox,
    forwarder: Forwarder,
    /// What agents tell of what they see.
    reports: Reports,
    /// Who watches requests through this server.
    taps: Arc<TapDesk>,
    /// Where the catalog's clock was seen last.
    clock: clock::SeenClock,
    /// How long syncs of the log take.
    disk: ArcSwapOption<DiskStatus>,
    /// Whether syncs look slow, however long they took.
    #[cfg(test)]
    looks_slow: std::sync::atomic::AtomicBool,
    metrics: Metrics,
}

impl Consensus {
    /// Returns the catalog as this server knows it now.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.shared.catalog.load_full()
    }

    /// Returns how this server's disk does; none before it has a log.
    pub(crate) fn disk(&self) -> Option<DiskStatus> {
        self.shared.disk.load().as_deref().copied()
    }

    /// Carries out a command, and returns once it is applied on the leader and here.
    ///
    /// While there is no leader, and when one is lost on the way, it is tried again under the same request id, so that it
    /// is carried out once at most. Dropping the future does not take the write back.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`] where the write may have happened; after every other one nothing has changed.
    pub(crate) async fn propose(&self, mut envelope: Envelope) -> Result<Committed, ProposeError> {
        // What an older release could read, too, it may: a group is upgraded one server at a time.
        envelope.version = envelope.command.reads_from();
        let data = envelope.encode();
        if data.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: data.len(), bytes_max: ENTRY_BYTES_MAX });
        }
        let started = Instant::now();
        let deadline = Deadline::from_std(started + self.shared.timing.write_deadline);
        let mut attempts = Attempts::default();
        while let Some(leader) = self.leader_until(deadline).await {
            let attempt = timeout_at(deadline, self.attempt(leader, data.clone())).await;
            match attempt {
                Ok(Ok(committed)) => {
                    self.applied_until(committed.index, deadline).await;
                    self.shared.metrics.raft_committed(started.elapsed());
                    return Ok(committed);
                }
                Ok(Err(Unanswered::TooLarge { bytes, bytes_max })) => {
                    return Err(ProposeError::TooLarge { bytes, bytes_max });
                }
                Ok(Err(Unanswered::Malformed { reason })) => return Err(ProposeError::NotUnderstood { reason }),
                Ok(Err(why)) => attempts.failed(&why),
                Err(_) => attempts.failed(&Unanswered::Lost),
            }
            if !attempts.pause(deadline).await {
                break;
            }
        }
        Err(attempts.error(envelope.request_id, started.elapsed()))
    }

    /// Carries out a command in this server's own name.
    ///
    /// # Errors
    /// As [`Consensus::propose`].
    pub(crate) async fn propose_as_server(&self, command: Command) -> Result<Committed, ProposeError> {
        self.propose_as_server_at(crypto::now(), command).await
    }

    async fn propose_as_server_at(&self, now: Timestamp, command: Command) -> Result<Committed, ProposeError> {
        let envelope = Envelope {
            version: command.reads_from(),
            request_id: crypto::uuid_v4().parse().expect("a UUID is a request id: 36 letters, digits and hyphens"),
            actor: Actor::Server(self.shared.server.clone()),
            source_address: None,
            proposed_at: now,
            command,
        };
        self.propose(envelope).await
    }

    /// Confirms with the leader that [`Consensus::catalog`] holds everything that was acknowledged before this call.
    ///
    /// One round through the leader serves all calls that wait when it starts.
    ///
    /// # Errors
    /// [`ReadError::NoLeader`] where no leader confirms it in time.
    pub(crate) async fn read_index(&self) -> Result<(), ReadError> {
        let started = Instant::now();
        let deadline = Deadline::from_std(started + self.shared.timing.read_deadline);
        let mut attempts = Attempts::default();
        while self.leader_until(deadline).await.is_some() {
            match timeout_at(deadline, self.shared.inbox.read()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(why)) => attempts.failed(&why),
                Err(_) => break,
            }
            if !attempts.pause(deadline).await {
                break;
            }
        }
        Err(ReadError::NoLeader { waited: started.elapsed() })
    }

    /// Returns how this server stands in its Raft group.
    pub(crate) fn status(&self) -> RaftStatus {
        let standing = *self.shared.standing.borrow();
        RaftStatus {
            role: standing.role,
            leader: standing.leader.and_then(|id| self.shared.members.member(id)),
            term: standing.term,
            members: self.shared.members.all(),
            last_contact: standing.last_contact(),
            applied: *self.shared.applied.borrow(),
        }
    }

    /// Returns the Raft ids of those that vote, by what this server has applied.
    pub(crate) fn voters(&self) -> Vec<u64> {
        self.shared.group.borrow().as_ref().map(|status| status.group.voters.clone()).unwrap_or_default()
    }

    /// Waits until a leader is known.
    pub(crate) async fn led(&self) {
        // The sender is as old as this handle's own memory: it does not go away before.
        let _ = self.shared.standing.subscribe().wait_for(|standing| standing.leader.is_some()).await;
    }

    /// Returns the addresses of the servers' agent ports that are known: this server's, then those of its peers.
    pub(crate) fn agent_addresses(&self) -> Vec<String> {
        self.shared.members.agent_addresses()
    }

    /// Returns the servers that this one hears over Raft's connections, and itself.
    pub(crate) fn servers_heard(&self) -> BTreeSet<ServerId> {
        self.shared.members.all_heard()
    }

    /// Waits until something behind `keys` changed after `since`, or until `deadline`, and returns the catalog then.
    ///
    /// It wakes for these keys only. Where very many calls wait already it returns early: the caller asks again.
    pub(crate) async fn changed(&self, keys: &[WatchKey], since: CatalogIndex, deadline: Deadline) -> Arc<Catalog> {
        // Registered before the catalog is looked at, or a change in between would be slept through.
        let Some(waiter) = self.shared.watches.wait_for(keys) else {
            return self.catalog();
        };
        loop {
            let catalog = self.catalog();
            if catalog.index_of(keys) > since || timeout_at(deadline, waiter.woken()).await.is_err() {
                return catalog;
            }
        }
    }

    /// Returns a receiver of everything that changes from now on.
    pub(crate) fn touched(&self) -> TouchedReceiver {
        self.shared.watches.touched(self.clone())
    }

    /// Returns the lifetime of the certificate that this server shows to other servers; none before it can dial them.
    pub(crate) fn raft_certificate(&self) -> Option<Lifetime> {
        let (begin, end) = self.shared.forwarder.context()?.identity.lifetime();
        Some(Lifetime { begin, end })
    }

    /// Returns who watches requests through this server.
    pub(crate) fn taps(&self) -> &Arc<TapDesk> {
        &self.shared.taps
    }

    /// Takes what an agent tells of what it sees; it is never written to the log.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub(crate) fn take_report(&self, agent: &AgentId, report: AgentReport) -> Result<(), NotTaken> {
        self.shared.reports.take(&self.catalog(), &self.shared.server, agent, report)
    }

    /// Makes one attempt at a write: here if this server leads, through the leader otherwise.
    async fn attempt(&self, leader: u64, data: Vec<u8>) -> Result<Committed, Unanswered> {
        if self.shared.members.own_raft_id() == Some(leader) {
            return self.shared.inbox.propose(data).await;
        }
        let member = self.shared.members.member(leader).ok_or(Unanswered::NotTaken)?;
        let mut standing = self.shared.standing.subscribe();
        tokio::select! {
            answer = self.shared.forwarder.propose(&member, data) => answer,
            // A leader that hangs is replaced by another one long before the write's deadline.
            _ = standing.wait_for(|standing| standing.leader != Some(leader)) => Err(Unanswered::Lost),
        }
    }

    /// Waits until a leader is known, and returns its Raft id; none at the deadline.
    async fn leader_until(&self, deadline: Deadline) -> Option<u64> {
        let mut standing = self.shared.standing.subscribe();
        let known = timeout_at(deadline, standing.wait_for(|standing| standing.leader.is_some())).await.ok()?.ok()?;
        known.leader
    }

    /// Waits until the catalog here holds `index`, so that whoever wrote it reads it here.
    async fn applied_until(&self, index: CatalogIndex, deadline: Deadline) {
        let mut applied = self.shared.applied.subscribe();
        if timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await.is_err() {
            debug!(index = index.0, "a write was acknowledged that this server has not applied yet");
        }
    }
}

/// Keeps count of failed attempts: how long to pause, and what is known about the write when time is up.
#[derive(Debug, Default)]
struct Attempts {
    failed: u32,
    is_maybe_done: bool,
    is_overloaded: bool,
    /// How often in a row the leader had no space.
    disk_full: u32,
}

impl Attempts {
    fn failed(&mut self, why: &Unanswered) {
        self.failed += 1;
        self.is_maybe_done |= *why == Unanswered::Lost;
        self.is_overloaded = *why == Unanswered::Overloaded;
        self.disk_full = if *why == Unanswered::DiskFull { self.disk_full + 1 } else { 0 };
    }

    /// Pauses before the next attempt; false where the deadline comes first.
    async fn pause(&self, deadline: Deadline) -> bool {
        if self.disk_full >= DISK_FULL_ATTEMPTS_MAX {
            return false;
        }
        let doubled = RETRY_PAUSE_MIN.saturating_mul(1 << self.failed.min(8));
        let pause = transport::jittered(doubled.min(RETRY_PAUSE_MAX));
        if Deadline::now() + pause >= deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }

    fn error(&self, request_id: RequestId, waited: Duration) -> ProposeError {
        if self.is_maybe_done {
            ProposeError::Unknown { request_id, waited }
        } else if self.disk_full > 0 {
            ProposeError::DiskFull
        } else if self.is_overloaded {
            ProposeError::Overloaded { waited }
        } else {
            ProposeError::NoLeader { waited }
        }
    }
}
