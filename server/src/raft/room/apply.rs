//! Applies committed entries and snapshots to the catalog.

use std::collections::BTreeSet;

use catalog::{Catalog, Envelope, WatchKey};
use raft::eraftpb::{ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};
use raft::eraftpb::{Entry, EntryType, Snapshot, SnapshotMetadata};
use raft::{INVALID_ID, StateRole, Storage};
use raft_prost::Message as _;

use super::{CatalogIndex, Disk, EntryError, Fatal, Output, Room, membership};
use crate::raft::snapshot::{self, SnapshotFileError};
use crate::raft::storage::Compaction;

/// How many times as much is applied before the next snapshot, while the last one is on its way to a follower.
const SENDING_PATIENCE: u64 = 16;

impl<D: Disk> Room<D> {
    /// Applies committed entries, then answers those that proposed them.
    pub(super) fn apply(&mut self, entries: Vec<Entry>, out: &mut dyn FnMut(Output)) -> Result<(), Fatal> {
        let Some(last) = entries.last() else { return Ok(()) };
        let last = CatalogIndex(last.index);
        let mut touched = BTreeSet::new();
        let mut answers = Vec::new();
        for entry in entries {
            let (index, term) = (entry.index, entry.term);
            self.applied_since_snapshot.0 += 1;
            self.applied_since_snapshot.1 += entry.data.len() as u64;
            let applied = self.apply_entry(entry).map_err(|source| Fatal::Entry { index, term, source })?;
            let outcome = applied.map(|applied: Applied| {
                touched.extend(applied.touched);
                applied.outcome
            });
            answers.extend(self.proposals.answer(index, term, outcome));
            self.checkpoint(out);
        }
        out(Output::Applied { index: last, touched, catalog: self.catalog.clone(), restored: false });
        answers.into_iter().for_each(out);
        Ok(())
    }

    fn apply_entry(&mut self, entry: Entry) -> Result<Option<Applied>, EntryError> {
        let index = CatalogIndex(entry.index);
        match EntryType::from_i32(entry.entry_type) {
            None => return Err(EntryError::Kind(entry.entry_type)),
            Some(EntryType::EntryNormal) if !entry.data.is_empty() => {
                let envelope = Envelope::decode(&entry.data).map_err(EntryError::Envelope)?;
                let catalog::Applied { outcome, touched, .. } =
                    self.catalog.apply(index, &envelope, wire::crypto::sha256);
                return Ok(Some(Applied { outcome, touched }));
            }
            // With it a leader begins its term.
            Some(EntryType::EntryNormal) => {}
            Some(EntryType::EntryConfChange | EntryType::EntryConfChangeV2) => {
                let change = decode_conf_change(&entry).ok_or(EntryError::ConfChange)?;
                match self.node.apply_conf_change(&change) {
                    Ok(conf_state) => {
                        self.conf_state = membership::sorted(conf_state);
                        // Whom it added can use no older snapshot.
                        self.applied_since_snapshot.0 += self.limits.snapshot_entries;
                        self.step_down_if_removed();
                    }
                    // Every server comes to the same verdict, for it follows from the membership alone.
                    Err(error) => {
                        tracing::error!(index = entry.index, %error, "ignored an impossible membership change")
                    }
                }
            }
        }
        self.catalog.apply_empty(index);
        Ok(None)
    }

    /// Gives leadership up where the membership has no place for this server any more: Raft's own counting of answers
    /// takes it for granted that who leads is a member.
    fn step_down_if_removed(&mut self) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Leader && raft.prs().get(raft.id).is_none() {
            raft.become_follower(raft.term, INVALID_ID);
        }
    }

    /// Replaces the catalog by a leader's snapshot, which is durable already.
    pub(super) fn restore(&mut self, snapshot: &Snapshot, out: &mut dyn FnMut(Output)) -> Result<(), Fatal> {
        let metadata = snapshot.get_metadata();
        let index = CatalogIndex(metadata.index);
        self.catalog = match self.arrived.take().filter(|catalog| catalog.index() == index) {
            Some(catalog) => catalog,
            None => decode_snapshot(snapshot)?,
        };
        self.conf_state = metadata.get_conf_state().clone();
        self.applied_since_snapshot = (0, 0);
        out(Output::Applied { index, touched: BTreeSet::new(), catalog: self.catalog.clone(), restored: true });
        Ok(())
    }

    /// Asks the shell to encode the catalog once enough was applied since the newest snapshot.
    pub(super) fn request_snapshot(&mut self, out: &mut dyn FnMut(Output)) {
        let (entries, bytes) = self.applied_since_snapshot;
        // A newer one would make worthless what a follower has received of the last.
        let patience = if self.sends_snapshots() { SENDING_PATIENCE } else { 1 };
        let is_due = entries >= self.limits.snapshot_entries.saturating_mul(patience)
            || bytes >= self.limits.snapshot_bytes.saturating_mul(patience);
        if !is_due || self.encoding.is_some() {
            return;
        }
        let index = self.catalog.index().0;
        let Ok(term) = self.node.store().term(index) else { return };
        self.applied_since_snapshot = (0, 0);
        self.encoding = Some(SnapshotMetadata { index, term, conf_state: Some(self.conf_state.clone()) });
        let (conf_state, catalog) = (self.conf_state.clone(), self.catalog.clone());
        out(Output::EncodeSnapshot { index, term, conf_state, catalog });
    }

    fn compaction(&self) -> Compaction {
        match self.sent_snapshots.values().map(|sent| sent.index).min() {
            _ if self.space.is_low() => Compaction::All,
            Some(oldest) => Compaction::Keeping(oldest),
            None => Compaction::Usual,
        }
    }

    /// Tells whether a snapshot is on its way to a follower, or soon will be again.
    fn sends_snapshots(&self) -> bool {
        !self.space.is_low() && (!self.sent_snapshots.is_empty() || self.ticks < self.resend_until)
    }

    /// Stores the snapshot that the shell encoded, unless a leader's newer one came in between.
    pub(super) fn save_snapshot(&mut self, index: u64, state: &[u8]) -> Result<(), Fatal> {
        let Some(metadata) = self.encoding.take_if(|metadata| metadata.index == index) else { return Ok(()) };
        if metadata.index > self.node.store().snapshot_metadata().index {
            let compaction = self.compaction();
            match self.node.mut_store().save_snapshot(metadata, state, compaction) {
                Err(Fatal::Snapshot(error)) if error.is_want_of_space() => self.snapshot_failed(index),
                saved => saved?,
            }
        }
        Ok(())
    }

    /// Puts the snapshot in use that the shell wrote aside, unless a leader's newer one came in between.
    pub(super) fn adopt_snapshot(&mut self, index: u64) -> Result<(), Fatal> {
        let compaction = self.compaction();
        let newest = self.node.store().snapshot_metadata().index;
        let store = self.node.mut_store();
        match self.encoding.take_if(|metadata| metadata.index == index).filter(|metadata| metadata.index > newest) {
            Some(metadata) => store.adopt_snapshot(metadata, compaction)?,
            None => store.drop_written_aside(),
        }
        Ok(())
    }

    /// Goes on without a snapshot; the log grows until a later one succeeds. On a full disk the space that is held back is
    /// given up for it.
    pub(super) fn snapshot_failed(&mut self, index: u64) {
        self.encoding.take_if(|metadata| metadata.index == index);
        if self.space.is_low() {
            self.node.mut_store().disk_mut().release_reserve();
        }
    }
}

struct Applied {
    outcome: catalog::Outcome,
    touched: BTreeSet<WatchKey>,
}

/// Reads the catalog in a snapshot and checks that it is what the metadata says.
pub(super) fn decode_snapshot(snapshot: &Snapshot) -> Result<Catalog, SnapshotFileError> {
    let metadata = snapshot.get_metadata();
    let file = snapshot::file_name(metadata.index, metadata.term);
    let (written, state) = snapshot::decode(&file, &snapshot.data)?;
    let what = "its state cannot be read, or is of another index";
    match Catalog::restore(state) {
        Ok(catalog) if catalog.index().0 == metadata.index && written == *metadata => Ok(catalog),
        _ => Err(SnapshotFileError::Damaged { file, what }),
    }
}

/// Reads the membership change in an entry; `None` if anything in it is unknown. The `raft` crate would panic on it.
pub(super) fn decode_conf_change(entry: &Entry) -> Option<ConfChangeV2> {
    let change = if entry.entry_type == EntryType::EntryConfChange as i32 {
        let ConfChange { change_type, node_id, context, .. } = ConfChange::decode(entry.data.as_slice()).ok()?;
        ConfChangeV2 { changes: vec![ConfChangeSingle { change_type, node_id }], context, ..ConfChangeV2::default() }
    } else {
        ConfChangeV2::decode(entry.data.as_slice()).ok()?
    };
    ConfChangeTransition::from_i32(change.transition)?;
    let is_known = |kind: i32| ConfChangeType::from_i32(kind).is_some();
    change.changes.iter().all(|single| is_known(single.change_type) && single.node_id != 0).then_some(change)
}
