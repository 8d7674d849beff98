//! Reading all of a stopped server's log back, and rewriting what follows from it: for one server that goes on alone.

use catalog::{Catalog, CatalogIndex, DecodeError, Envelope};
use raft::eraftpb::{ConfState, EntryType, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, Storage};

use super::config::RoomConfig;
use super::disk::Disk;
use super::room::{Fatal, OpenError};
use super::snapshot;
use super::storage::Store;

/// Is a stopped server's log, read back to its end: what is not known to be committed may have been acknowledged by a leader
/// that is lost, so that it counts, too.
pub struct Replayed<D: Disk> {
    store: Store<D>,
    catalog: Catalog,
    last_index: u64,
}

/// Why a log cannot be read back to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log or the snapshot cannot be opened.
    #[error("cannot open the log")]
    Open(#[from] OpenError),
    /// The entries cannot be read.
    #[error("cannot read the log's entries")]
    Entries(#[source] raft::Error),
    /// An entry is none that this release knows.
    #[error("entry {index} cannot be read; use the release that wrote it")]
    Entry {
        /// Its index.
        index: u64,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
}

impl<D: Disk> Replayed<D> {
    /// Reads the log back. As at every start, a record that a crash cut off is removed.
    ///
    /// # Errors
    /// [`ReplayError`]
    pub fn read(disk: D) -> Result<Self, ReplayError> {
        // Neither number matters: nothing takes part in Raft here, and a log that is there is not bootstrapped.
        let (store, mut catalog) = Store::open(disk, &RoomConfig::new(1, Vec::new(), 0))?;
        let last_index = store.last_index().map_err(ReplayError::Entries)?;
        let mut next = catalog.index().0 + 1;
        while next <= last_index {
            let context = GetEntriesContext::empty(false);
            let entries =
                store.entries(next, last_index + 1, Some(PIECE_BYTES), context).map_err(ReplayError::Entries)?;
            for entry in entries {
                let index = CatalogIndex(entry.index);
                next = entry.index + 1;
                if entry.entry_type == EntryType::EntryNormal as i32 && !entry.data.is_empty() {
                    let envelope = Envelope::decode(&entry.data)
                        .map_err(|source| ReplayError::Entry { index: entry.index, source })?;
                    catalog.apply(index, &envelope, wire::crypto::sha256);
                } else {
                    catalog.apply_empty(index);
                }
            }
        }
        Ok(Self { store, catalog, last_index })
    }

    /// Returns the catalog after the last entry.
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Returns the index of the last entry.
    pub(crate) fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Makes `survivor` the only server, in a new term and at a new index, durably: after a crash on the way the log is the
    /// old one or the new one.
    ///
    /// # Errors
    /// [`Fatal`]
    pub fn rewrite(mut self, survivor: u64) -> Result<(Catalog, D), Fatal> {
        let index = self.last_index + 1;
        let term = self.store.hard_state().term + 1;
        self.catalog.recover_membership(CatalogIndex(index), survivor, wire::crypto::sha256);
        let members = ConfState { voters: vec![survivor], ..ConfState::default() };
        let data = snapshot::encode(index, term, &members, &self.catalog.snapshot());
        let metadata = SnapshotMetadata { index, term, conf_state: Some(members) };
        let snapshot = Snapshot { data, metadata: Some(metadata) };
        let hard_state = HardState { term, vote: 0, commit: index };
        self.store.install(&snapshot, Some(hard_state), Vec::new())?;
        Ok((self.catalog, self.store.into_disk()))
    }
}

/// Entries are read in pieces of this size.
const PIECE_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::raft::{Input, MemoryDisk, Room};

    #[test]
    fn fault_11_a_survivor_leads_alone_with_everything_that_was_on_its_disk() {
        let mut room = Room::open(MemoryDisk::default(), RoomConfig::new(1, vec![1], 7)).unwrap();
        let mut at = Duration::ZERO;
        let mut step = |room: &mut Room<MemoryDisk>, input| {
            at += Duration::from_millis(100);
            room.step(input, at, &mut |_| ()).unwrap();
        };
        step(&mut room, Input::Tick);
        let servers = serde_json::json!([
            {"id": "s1", "raft_id": 1, "disk_id": "d1", "raft_address": "127.0.0.1:1"},
            {"id": "s2", "raft_id": 2, "disk_id": "d2", "raft_address": "127.0.0.1:2"},
            {"id": "s3", "raft_id": 3, "disk_id": "d3", "raft_address": "127.0.0.1:3"},
        ]);
        let envelope = serde_json::json!({
            "version": 1, "request_id": "r1", "actor": {"server": "s1"}, "proposed_at": 1,
            "command": {"kind": "bootstrap", "mesh": {"cluster_id": "c1", "datacenter": "dc1",
                "trust_domain": "mesh.example", "template": "/ns/{namespace}/sa/{service}", "servers": servers}},
        });
        step(&mut room, Input::Propose { id: 1, data: serde_json::to_vec(&envelope).unwrap() });
        assert_eq!(room.catalog().membership().members.len(), 3);
        let (last, term) = (room.catalog().index(), room.status(Duration::ZERO).term);

        let replayed = Replayed::read(room.into_disk()).unwrap();
        assert_eq!((replayed.last_index(), replayed.catalog().index()), (last.0, last));
        let (catalog, disk) = replayed.rewrite(1).unwrap();
        assert_eq!(catalog.membership().epoch, 1);
        let mut room = Room::open(disk, RoomConfig::new(1, vec![1, 2, 3], 8)).unwrap();
        step(&mut room, Input::Tick);
        let status = room.status(Duration::ZERO);
        assert!(status.is_established && status.term > term, "{status:?}");
        assert_eq!(status.group.voters, [1]);
        assert_eq!(room.catalog().membership().voters().collect::<Vec<_>>(), [1]);
    }
}
