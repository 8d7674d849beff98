//! What the `raft` crate reads from, and where a `Ready` is made durable: log and snapshots over one disk.

use std::cell::RefCell;
use std::collections::BTreeSet;

use catalog::{Catalog, CatalogIndex};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::config::{Limits, RoomConfig};
use super::disk::Disk;
use super::log::{Log, LogError};
use super::room::{Fatal, OpenError};
use super::snapshot::{self, SnapshotFileError};

/// Where a group's log starts: every bootstrapped server begins with a snapshot of the empty catalog at this index.
/// A server that joins later has nothing, so that it is always sent a snapshot, which tells it the membership.
const BOOTSTRAP_INDEX: u64 = 1;
const BOOTSTRAP_TERM: u64 = 1;

/// While a follower receives a snapshot, up to so many times the usual bytes stay in the log for it.
const SENDING_RETAINED: u64 = 8;

/// How much of the log goes once a snapshot stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compaction {
    /// All but what slow followers may need.
    Usual,
    /// All but that and what follows the entry of this index, which a follower is just being sent a snapshot up to.
    Keeping(u64),
    /// All: the disk is full.
    All,
}

/// Log and snapshots over one disk.
#[derive(Debug)]
pub(crate) struct Store<D> {
    disk: D,
    log: Log,
    limits: Limits,
    /// The newest snapshot; all zero where there is none.
    snapshot: SnapshotMetadata,
    /// Why the newest snapshot could not be read back when a follower needed it. The `raft` crate has no way to say so.
    damage: RefCell<Option<SnapshotFileError>>,
}

impl<D: Disk> Store<D> {
    /// Reads everything back, bootstraps an empty disk if there are voters to bootstrap, and returns the catalog of the
    /// newest snapshot. Nothing is written before everything was found to be in order.
    pub(crate) fn open(disk: D, config: &RoomConfig) -> Result<(Store<D>, Catalog), OpenError> {
        let files = disk.list().map_err(OpenError::List)?;
        let (snapshot, mut catalog) = match snapshot::among(&files).pop() {
            None => (SnapshotMetadata::default(), Catalog::default()),
            Some(file) => read_newest(&disk, file)?,
        };
        let log = Log::read(&disk, &files, config.limits.segment_bytes)?;
        let is_fresh = log.is_empty() && snapshot.index == 0;
        check(&log, &snapshot)?;

        let mut store = Store { disk, log, limits: config.limits.clone(), snapshot, damage: RefCell::default() };
        store.log.repair(&mut store.disk)?;
        let kept = snapshot::file_name(store.snapshot.index, store.snapshot.term);
        snapshot::remove_others(&mut store.disk, &kept)?;
        if files.iter().any(|file| file == snapshot::WRITTEN_ASIDE) {
            store.drop_written_aside();
        }
        if is_fresh && !config.voters.is_empty() {
            catalog = store.bootstrap(&config.voters)?;
        } else if is_fresh {
            // From here on a missing log is known to be a lost one.
            store.log.append(&mut store.disk, HardState::default(), Vec::new())?;
        }
        store.catch_up_with_snapshot()?;
        Ok((store, catalog))
    }

    fn bootstrap(&mut self, voters: &[u64]) -> Result<Catalog, OpenError> {
        let mut catalog = Catalog::default();
        catalog.apply_empty(CatalogIndex(BOOTSTRAP_INDEX));
        // Every bootstrapped server must come to the same snapshot.
        let voters: BTreeSet<u64> = voters.iter().copied().collect();
        let conf_state = ConfState { voters: voters.into_iter().collect(), ..ConfState::default() };
        let bytes = snapshot::encode(BOOTSTRAP_INDEX, BOOTSTRAP_TERM, &conf_state, &catalog.snapshot());
        self.snapshot = SnapshotMetadata { index: BOOTSTRAP_INDEX, term: BOOTSTRAP_TERM, conf_state: Some(conf_state) };
        snapshot::write(&mut self.disk, &self.snapshot, &bytes)?;
        Ok(catalog)
    }

    /// Voids a log that ends before the snapshot or disagrees with it: the snapshot is committed, what disagrees is not,
    /// and the record that should have said so was not written before a crash.
    fn catch_up_with_snapshot(&mut self) -> Result<(), OpenError> {
        let SnapshotMetadata { index, term, .. } = self.snapshot;
        self.log.set_commit(index);
        if self.log.term(index) == Some(term) {
            return Ok(());
        }
        let mut hard_state = self.log.hard_state().clone();
        if hard_state.term < term {
            hard_state.term = term;
            hard_state.vote = 0;
        }
        self.log.reset(&mut self.disk, hard_state, (index, term), Vec::new())?;
        Ok(())
    }
}

fn read_newest(disk: &impl Disk, file: &str) -> Result<(SnapshotMetadata, Catalog), OpenError> {
    let (bytes, metadata) = snapshot::read(disk, file)?;
    let (_, state) = snapshot::decode(file, &bytes)?;
    let catalog = Catalog::restore(state).map_err(|source| OpenError::State { file: file.to_owned(), source })?;
    if catalog.index() != CatalogIndex(metadata.index) {
        let what = "its state is of another index";
        return Err(SnapshotFileError::Damaged { file: file.to_owned(), what }.into());
    }
    Ok((metadata, catalog))
}

/// Checks that log and snapshot belong together.
fn check(log: &Log, snapshot: &SnapshotMetadata) -> Result<(), OpenError> {
    if log.base().0 > snapshot.index {
        return Err(OpenError::SnapshotMissing { log_base: log.base().0, snapshot: snapshot.index });
    }
    // A bootstrap that was interrupted between snapshot and log is the only way to have the one without the other.
    if log.is_empty() && snapshot.index > BOOTSTRAP_INDEX {
        return Err(LogError::Missing { snapshot: snapshot.index }.into());
    }
    let (last_index, commit) = (log.last().0, log.hard_state().commit);
    if commit > last_index {
        return Err(LogError::CommitMissing { last_index, commit }.into());
    }
    if commit >= snapshot.index && !log.is_empty() && log.term(snapshot.index) != Some(snapshot.term) {
        return Err(OpenError::SnapshotConflict { index: snapshot.index, term: snapshot.term });
    }
    Ok(())
}

impl<D: Disk> Store<D> {
    pub(crate) fn into_disk(self) -> D {
        self.disk
    }

    pub(crate) fn disk(&self) -> &D {
        &self.disk
    }

    pub(crate) fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Returns the hard state as written last, with what is known to be committed.
    pub(crate) fn hard_state(&self) -> &HardState {
        self.log.hard_state()
    }

    pub(crate) fn snapshot_metadata(&self) -> &SnapshotMetadata {
        &self.snapshot
    }

    /// Makes what a `Ready` carries durable: one record, synced.
    pub(crate) fn save(&mut self, hard_state: Option<HardState>, entries: Vec<Entry>) -> Result<(), LogError> {
        let hard_state = hard_state.unwrap_or_else(|| self.log.hard_state().clone());
        self.log.append(&mut self.disk, hard_state, entries)
    }

    /// Notes what is committed; durable with the next record.
    pub(crate) fn save_commit(&mut self, commit: u64) {
        self.log.set_commit(commit);
    }

    /// Makes a leader's snapshot durable, and what else the `Ready` carries: the file first, then the record that voids
    /// the log before it. A crash in between leaves a file that [`Store::open`] finds to be ahead of the log.
    pub(crate) fn install(
        &mut self,
        snapshot: &Snapshot,
        hard_state: Option<HardState>,
        entries: Vec<Entry>,
    ) -> Result<(), Fatal> {
        let metadata = snapshot.get_metadata();
        snapshot::write(&mut self.disk, metadata, &snapshot.data)?;
        let mut hard_state = hard_state.unwrap_or_else(|| self.log.hard_state().clone());
        hard_state.commit = hard_state.commit.max(metadata.index);
        self.log.reset(&mut self.disk, hard_state, (metadata.index, metadata.term), entries)?;
        self.snapshot = metadata.clone();
        snapshot::remove_others(&mut self.disk, &snapshot::file_name(metadata.index, metadata.term))?;
        Ok(())
    }

    /// Makes a snapshot of this server's own state durable and drops from the log what slow followers do not need.
    pub(crate) fn save_snapshot(
        &mut self,
        metadata: SnapshotMetadata,
        state: &[u8],
        compaction: Compaction,
    ) -> Result<(), Fatal> {
        let bytes = snapshot::encode(metadata.index, metadata.term, metadata.get_conf_state(), state);
        snapshot::write(&mut self.disk, &metadata, &bytes)?;
        self.use_snapshot(metadata, compaction)
    }

    /// Puts a snapshot in use that was written aside, and made durable there.
    pub(crate) fn adopt_snapshot(&mut self, metadata: SnapshotMetadata, compaction: Compaction) -> Result<(), Fatal> {
        snapshot::adopt(&mut self.disk, &metadata)?;
        self.use_snapshot(metadata, compaction)
    }

    /// Removes what was written aside and is not needed any more.
    pub(crate) fn drop_written_aside(&mut self) {
        // It may have been removed with others already.
        let _ = self.disk.remove(snapshot::WRITTEN_ASIDE);
    }

    fn use_snapshot(&mut self, metadata: SnapshotMetadata, compaction: Compaction) -> Result<(), Fatal> {
        snapshot::remove_others(&mut self.disk, &snapshot::file_name(metadata.index, metadata.term))?;
        let Limits { retained_entries, retained_bytes, .. } = self.limits;
        let index = metadata.index;
        let compacted = match compaction {
            Compaction::All => index,
            Compaction::Usual => self.log.retained_from(index, retained_entries, retained_bytes),
            Compaction::Keeping(sent) => {
                let most = self.log.retained_from(index, u64::MAX, retained_bytes.saturating_mul(SENDING_RETAINED));
                self.log.retained_from(index, retained_entries, retained_bytes).min(sent.max(most))
            }
        };
        self.snapshot = metadata;
        self.log.compact(&mut self.disk, compacted)?;
        Ok(())
    }

    /// Returns why a snapshot that a follower needed could not be read.
    pub(crate) fn take_damage(&mut self) -> Option<SnapshotFileError> {
        self.damage.take()
    }

    fn read_snapshot(&self) -> Result<Snapshot, SnapshotFileError> {
        let file = snapshot::file_name(self.snapshot.index, self.snapshot.term);
        let (data, metadata) = snapshot::read(&self.disk, &file)?;
        Ok(Snapshot { data, metadata: Some(metadata) })
    }
}

impl<D: Disk> Storage for Store<D> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.log.hard_state().clone(), self.snapshot.get_conf_state().clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        self.log.entries(low, high, bytes_max).ok_or(raft::Error::Store(StorageError::Compacted))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing = if index < self.log.base().0 { StorageError::Compacted } else { StorageError::Unavailable };
        self.log.term(index).ok_or(raft::Error::Store(missing))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.base().0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log.last().0)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let unavailable = raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable);
        let ConfState { voters, learners, voters_outgoing, .. } = self.snapshot.get_conf_state();
        // A newcomer ignores a snapshot from before it was added; the room makes a new one after every such change.
        let is_member = [voters, learners, voters_outgoing].iter().any(|members| members.contains(&to));
        if self.snapshot.index == 0 || self.snapshot.index < request_index || !is_member {
            return Err(unavailable);
        }
        if self.disk.aside().is_some() {
            // Whoever sends it reads it, where nobody waits for the disk.
            return Ok(Snapshot { data: Vec::new(), metadata: Some(self.snapshot.clone()) });
        }
        self.read_snapshot().map_err(|error| {
            *self.damage.borrow_mut() = Some(error);
            unavailable
        })
    }
}
