//! The Raft thread: owns the room, and waits for nothing but its inbox and the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use catalog::{Catalog, CatalogIndex, RequestId, WatchKey};
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};
use wire::crypto;

use super::budget::HeldBytes;
use super::inbox::{Inbox, Request, Unanswered};
use super::slow_disk::SlowDisk;
use super::start::{Failure, FatalError};
use super::status::{Role, Standing};
use super::transport::links::Links;
use super::{Committed, Shared};
use crate::raft::{
    Aside, Disk, Fatal, Input, Output, ProposalFailure, Role as RoomRole, Room, SnapshotFileError, WRITTEN_ASIDE,
    encode_snapshot, is_full,
};

/// Requests taken in one round, and so covered by one sync.
const BATCH_MAX: usize = 1024;

/// Runs `room` on a thread of its own until it is told to stop. A failure or panic in it is set as the server's end.
///
/// # Errors
/// As the operating system says, where there is no thread to be had.
pub(super) fn spawn<D: Disk + Send + 'static>(
    room: Room<D>,
    requests: Receiver<Request>,
    shared: Arc<Shared>,
    links: Arc<Links>,
    failure: Failure,
) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name("weft-raft".to_owned()).spawn(move || {
        let (proposals, reads) = (BTreeMap::new(), BTreeMap::new());
        let aside = room.aside();
        aside.iter().for_each(|aside| links.read_snapshots_through(Arc::clone(aside)));
        let (digesting, backup_read) = (Arc::default(), None);
        let desk =
            Desk { shared, links, next_id: 0, proposals, reads, digesting, backup_read, snapshot_failed: None, aside };
        let thread = RaftThread {
            room,
            requests,
            desk,
            slow_disk: SlowDisk::default(),
            started: Instant::now(),
            published: None,
        };
        let fatal = match catch_unwind(AssertUnwindSafe(|| thread.run())) {
            Ok(Ok(())) => return,
            Ok(Err(fatal)) => FatalError::Raft(Arc::new(fatal)),
            Err(panic) => FatalError::Panicked { thread: "raft", message: panic_message(&*panic) },
        };
        error!(error = wire::one_line(&fatal), "raft halted");
        failure.set(fatal);
    })
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

struct RaftThread<D: Disk> {
    room: Room<D>,
    requests: Receiver<Request>,
    desk: Desk,
    slow_disk: SlowDisk,
    started: Instant,
    /// When the others were told last what the room says of itself.
    published: Option<Duration>,
}

impl<D: Disk> RaftThread<D> {
    fn run(mut self) -> Result<(), Fatal> {
        let tick = self.desk.shared.timing.tick;
        self.desk.replace_catalog(self.room.catalog().clone(), None);
        let mut next_tick = Instant::now() + tick;
        let mut batch = Batch::default();
        loop {
            // The first round has no inputs: it applies what the log holds beyond the snapshot.
            let now = self.started.elapsed();
            let desk = &mut self.desk;
            self.room.step_all(batch.inputs.drain(..), now, &mut |output| desk.carry_out(output))?;
            batch.inputs.extend(self.watch_disk());
            self.report(now);
            if batch.is_last {
                return Ok(());
            }
            batch.held.clear();
            batch.inputs.extend(self.desk.snapshot_failed.take().map(|index| Input::SnapshotFailed { index }));
            match self.requests.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(request) => batch.take(request, &mut self.desk),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            while batch.inputs.len() < BATCH_MAX
                && let Ok(request) = self.requests.try_recv()
            {
                batch.take(request, &mut self.desk);
            }
            if Instant::now() >= next_tick {
                batch.inputs.push(Input::Tick);
                // After a stall the missed ticks are gone: several at once would look like a leader's silence.
                next_tick = (next_tick + tick).max(Instant::now());
            }
        }
    }

    /// Looks at how long the disk took; a leader whose disk stays slow hands over.
    fn watch_disk(&mut self) -> Option<Input> {
        let now = self.started.elapsed();
        let metrics = &self.desk.shared.metrics;
        for sync in self.room.take_sync_times() {
            #[cfg(test)]
            let sync = self.desk.shared.as_it_looks(sync);
            metrics.raft_synced(sync);
            self.slow_disk.took(now, sync);
        }
        let disk = self.slow_disk.status(now);
        metrics.raft_disk_slow(disk.slow);
        self.desk.shared.disk.store(Some(Arc::new(disk)));
        let leads = self.desk.shared.standing.borrow().role == Role::Leader;
        if !leads || !self.slow_disk.should_hand_over(now) {
            return None;
        }
        error!("this server leads and its disk is slow: another one is asked to lead");
        Some(Input::OfferLeadership)
    }

    /// Tells everybody where this server stands, and wakes them only if that changed.
    fn report(&mut self, now: Duration) {
        let status = self.room.status(now);
        let role = match status.role {
            RoomRole::Leader => Role::Leader,
            RoomRole::Follower => Role::Follower,
            RoomRole::Candidate => Role::Candidate,
        };
        let heard = status.last_contact.and_then(|ago| Instant::now().checked_sub(ago));
        let is_read_only = self.room.is_read_only();
        let standing = Standing { role, leader: status.leader, term: status.term, heard, is_read_only };
        let shared = Arc::clone(&self.desk.shared);
        // Who looks at the group needs no more than that.
        if self.published.is_none_or(|published| now.saturating_sub(published) >= shared.timing.tick) {
            self.published = Some(now);
            shared.group.send_replace(Some(Arc::new(status.clone())));
        }
        shared.metrics.raft_state(status.term, status.applied, role == Role::Leader);
        shared.standing.send_if_modified(|before| {
            let is_news = (before.role, before.leader, before.term) != (role, status.leader, status.term);
            *before = standing;
            is_news
        });
    }
}

/// Gathers the inputs of one round.
#[derive(Default)]
struct Batch {
    inputs: Vec<Input>,
    /// Kept until the round is done: its bytes are in memory as long.
    held: Vec<HeldBytes>,
    is_last: bool,
}

impl Batch {
    fn take(&mut self, request: Request, desk: &mut Desk) {
        let input = match request {
            Request::Propose { data, held, answer } => {
                self.held.push(held);
                Input::Propose { id: desk.expect_outcome(answer), data }
            }
            Request::Read { answer } => Input::ReadIndex { id: desk.expect_read(answer) },
            Request::Peer { message, held } => {
                self.held.push(held);
                Input::Peer(*message)
            }
            Request::Unreachable { peer } => Input::Unreachable(peer),
            Request::SnapshotStatus { peer, delivered } => Input::SnapshotStatus { to: peer, delivered },
            Request::SnapshotEncoded { index, bytes } => Input::SnapshotEncoded { index, bytes },
            Request::SnapshotWritten { index } => Input::SnapshotWritten { index },
            Request::SnapshotBroken { error } => Input::SnapshotBroken { error },
            Request::SnapshotProgress { peer } => Input::SnapshotProgress { to: peer },
            Request::SnapshotFailed { index } => Input::SnapshotFailed { index },
            Request::TransferLeader { to } => Input::TransferLeader(to),
            Request::ChangeGroup { change } => Input::ChangeGroup(change),
            Request::Readers { readers } => Input::Readers(readers),
            Request::Follow => return desk.links.follow(),
            Request::Stop => {
                self.is_last = true;
                Input::Stop
            }
        };
        self.inputs.push(input);
    }
}

/// Carries out what the room wants, and knows who waits for which answer. Nothing it does waits.
struct Desk {
    shared: Arc<Shared>,
    links: Arc<Links>,
    next_id: u64,
    proposals: BTreeMap<u64, oneshot::Sender<Result<Committed, Unanswered>>>,
    reads: BTreeMap<u64, oneshot::Sender<Result<(), Unanswered>>>,
    /// Reaches the disk from other threads.
    aside: Option<Arc<dyn Aside>>,
    /// Whether a digest of the state is being computed.
    digesting: Arc<AtomicBool>,
    /// The backup that was last given to a thread to be read.
    backup_read: Option<RequestId>,
    /// A snapshot for which there was no thread; the room hears of it in the next round.
    snapshot_failed: Option<u64>,
}

impl Desk {
    fn expect_outcome(&mut self, answer: oneshot::Sender<Result<Committed, Unanswered>>) -> u64 {
        self.next_id += 1;
        self.proposals.insert(self.next_id, answer);
        self.next_id
    }

    fn expect_read(&mut self, answer: oneshot::Sender<Result<(), Unanswered>>) -> u64 {
        self.next_id += 1;
        self.reads.insert(self.next_id, answer);
        self.next_id
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send(message) => self.links.send(message),
            Output::Applied { touched, catalog, restored, .. } => {
                self.read_backup(&catalog);
                self.replace_catalog(catalog, (!restored).then_some(touched));
            }
            Output::ProposalDone { id, index, outcome } => self.answer(id, Ok(Committed { index, outcome })),
            Output::ProposalFailed { id, reason } => {
                debug!(error = %reason, "proposal not answered");
                self.answer(id, Err(unanswered(&reason)));
            }
            Output::ReadReady { id, .. } => self.answer_read(id, Ok(())),
            Output::ReadFailed { id, reason } => {
                debug!(error = %reason, "read not confirmed");
                self.answer_read(id, Err(Unanswered::NotTaken));
            }
            Output::RoleChanged { role, leader, term } => {
                let leader = leader.and_then(|id| self.shared.members.member(id));
                let leader = leader.map_or("none".to_owned(), |member| member.id.to_string());
                info!(role = ?role, leader, term, "raft role changed");
            }
            Output::Checkpoint { index, catalog } => self.digest(index, catalog),
            Output::SpaceLow { is_low } => self.shared.metrics.raft_disk_full(is_low),
            Output::EncodeSnapshot { index, term, conf_state, catalog } => {
                let aside = self.aside.clone();
                let encoding = encode(index, self.shared.inbox.clone(), move || {
                    let state = catalog.snapshot();
                    drop(catalog);
                    match aside {
                        // Nothing waits for the disk but this thread.
                        Some(aside) => aside
                            .write(WRITTEN_ASIDE, &encode_snapshot(index, term, &conf_state, &state))
                            .map(|()| Request::SnapshotWritten { index }),
                        None => Ok(Request::SnapshotEncoded { index, bytes: state }),
                    }
                });
                if let Err(error) = encoding {
                    // Without a snapshot the log grows until a later one succeeds.
                    warn!(error = %error, index, "cannot start a thread to encode a snapshot");
                    self.snapshot_failed = Some(index);
                }
            }
        }
    }

    /// Puts a catalog in place and wakes whoever waits for what it touched: for everything where that is not known.
    fn replace_catalog(&self, catalog: Catalog, touched: Option<BTreeSet<WatchKey>>) {
        let shared = &self.shared;
        let (index, after) = (catalog.index(), Arc::new(catalog));
        shared.metrics.audit_forgotten(after.audit_forgotten());
        let before = shared.catalog.swap(Arc::clone(&after));
        if touched
            .as_ref()
            .is_none_or(|touched| touched.contains(&WatchKey::Members) || touched.contains(&WatchKey::Mesh))
        {
            shared.members.follow(after.membership());
            self.links.follow();
        }
        match touched {
            Some(touched) => shared.watches.wake(&touched),
            None => shared.watches.wake_all(&before, &after),
        }
        shared.applied.send_replace(index);
    }

    /// Has a backup of which all has arrived read on a thread of its own: the command that puts it in force finds that done,
    /// and costs this thread no heartbeats.
    fn read_backup(&mut self, catalog: &Catalog) {
        let Some(arrived) = catalog.arrived_backup() else { return };
        if self.backup_read.as_ref() == Some(arrived.id()) {
            return;
        }
        self.backup_read = Some(arrived.id().clone());
        if let Err(error) = Builder::new().name("weft-restore".to_owned()).spawn(move || arrived.read(crypto::sha256)) {
            // It is read when it is put in force.
            warn!(error = %error, "cannot start a thread to read a backup");
        }
    }

    /// Computes what the state is at an index at which all servers look, on a thread of its own; one at a time.
    fn digest(&self, index: CatalogIndex, catalog: Catalog) {
        if self.digesting.swap(true, Ordering::Relaxed) {
            return;
        }
        let (shared, digesting) = (Arc::clone(&self.shared), Arc::clone(&self.digesting));
        let digest = move || {
            let digest = crypto::sha256(&catalog.snapshot());
            shared.states.found(index, digest.iter().map(|byte| format!("{byte:02x}")).collect());
            digesting.store(false, Ordering::Relaxed);
        };
        if let Err(error) = Builder::new().name("weft-digest".to_owned()).spawn(digest) {
            // The others compare theirs without this one.
            warn!(error = %error, index = index.0, "cannot start a thread to compute a state's digest");
            self.digesting.store(false, Ordering::Relaxed);
        }
    }

    fn answer(&mut self, id: u64, result: Result<Committed, Unanswered>) {
        if let Some(answer) = self.proposals.remove(&id) {
            // Whoever gave up does not need the answer.
            let _ = answer.send(result);
        }
    }

    fn answer_read(&mut self, id: u64, result: Result<(), Unanswered>) {
        if let Some(answer) = self.reads.remove(&id) {
            // Whoever gave up does not need the answer.
            let _ = answer.send(result);
        }
    }
}

fn unanswered(reason: &ProposalFailure) -> Unanswered {
    match reason {
        ProposalFailure::NotLeader { .. } => Unanswered::NotTaken,
        ProposalFailure::DiskFull => Unanswered::DiskFull,
        ProposalFailure::Overloaded => Unanswered::Overloaded,
        ProposalFailure::LeadershipLost | ProposalFailure::Stopped => Unanswered::Lost,
        ProposalFailure::TooLarge { bytes, bytes_max } => Unanswered::TooLarge { bytes: *bytes, bytes_max: *bytes_max },
        ProposalFailure::Malformed(reason) => Unanswered::Malformed { reason: reason.clone() },
    }
}

/// Encodes a snapshot on a thread of its own, and writes it there: both take as long as the catalog is large. The Raft
/// thread is told how it ended, whatever becomes of it.
fn encode(
    index: u64,
    inbox: Inbox,
    snapshot: impl FnOnce() -> std::io::Result<Request> + Send + 'static,
) -> std::io::Result<()> {
    let encode = move || match catch_unwind(AssertUnwindSafe(snapshot)) {
        Ok(Ok(done)) => done,
        Ok(Err(error)) if is_full(&error) => {
            warn!(%error, index, "no space for a snapshot");
            Request::SnapshotFailed { index }
        }
        Ok(Err(error)) => {
            // A disk that fails on one file will fail on others: what it held before is not to be trusted either.
            error!(%error, index, "cannot write a snapshot");
            let file = WRITTEN_ASIDE.to_owned();
            Request::SnapshotBroken { error: SnapshotFileError::Disk { operation: "write", file, source: error } }
        }
        Err(panic) => {
            error!(error = panic_message(&*panic), index, "cannot encode a snapshot");
            Request::SnapshotFailed { index }
        }
    };
    Builder::new().name("weft-snapshot".to_owned()).spawn(move || inbox.tell_surely(encode()))?;
    Ok(())
}

#[cfg(test)]
mod tests;
