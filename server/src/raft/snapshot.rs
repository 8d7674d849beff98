//! Snapshot files: the catalog at an index, with checksums, under a name that says which.

use std::io;

use raft::eraftpb::{ConfState, SnapshotMetadata};
use raft_prost::Message as _;

use super::disk::{Aside, Disk, is_full};
use super::room::REPLACE;

/// The version of the file around the state; the state has a version of its own.
const FORMAT_VERSION: u8 = 1;
const MAGIC: &[u8; 7] = b"WEFTSNP";
const TEMPORARY: &str = "snapshot.new";
/// The name under which a snapshot is written aside, beside a leader's that may come in meanwhile.
pub(crate) const WRITTEN_ASIDE: &str = "snapshot.own";
/// Magic and version, index, term, length of the membership, length of the state.
const FIXED_LEN: usize = 36;

/// Why a snapshot file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// The disk failed.
    #[error("cannot {operation} `{file}`")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// The file.
        file: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what was written. An older one is never used instead: entries after it are gone from the log.
    #[error("`{file}` is damaged: {what}; {REPLACE}")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A newer version wrote it.
    #[error("`{file}` has format version {found}, which is newer than this program reads; start the newer version")]
    Newer {
        /// The file.
        file: String,
        /// The version found.
        found: u8,
    },
}

impl SnapshotFileError {
    /// Tells whether the file is not there any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Tells whether there was nothing wrong but that the disk is full.
    pub(crate) fn is_want_of_space(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if is_full(source))
    }
}

/// Returns the name of the file for this snapshot; names sort as (index, term) do.
pub(crate) fn file_name(index: u64, term: u64) -> String {
    format!("snapshot-{index:020}-{term:020}")
}

/// Returns the names of all snapshot files among `files`, oldest first.
pub(crate) fn among(files: &[String]) -> Vec<&String> {
    let is_number = |digits: &str| digits.len() == 20 && digits.parse::<u64>().is_ok();
    let is_snapshot = |file: &&String| {
        file.strip_prefix("snapshot-")
            .and_then(|rest| rest.split_once('-'))
            .is_some_and(|(index, term)| is_number(index) && is_number(term))
    };
    let mut names: Vec<&String> = files.iter().filter(is_snapshot).collect();
    names.sort();
    names
}

/// Returns the bytes of a snapshot file. A leader sends the same bytes to a follower.
pub(crate) fn encode(index: u64, term: u64, conf_state: &ConfState, state: &[u8]) -> Vec<u8> {
    let conf_state = conf_state.encode_to_vec();
    let mut bytes = Vec::with_capacity(FIXED_LEN + conf_state.len() + state.len() + 8);
    bytes.extend_from_slice(MAGIC);
    bytes.push(FORMAT_VERSION);
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.extend_from_slice(&term.to_le_bytes());
    bytes.extend_from_slice(&(conf_state.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(state.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&conf_state);
    let header_checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&header_checksum.to_le_bytes());
    bytes.extend_from_slice(state);
    let state_checksum = crc32fast::hash(state);
    bytes.extend_from_slice(&state_checksum.to_le_bytes());
    bytes
}

/// Checks the bytes of a snapshot file and returns its metadata and the state in it.
pub(crate) fn decode<'a>(file: &str, bytes: &'a [u8]) -> Result<(SnapshotMetadata, &'a [u8]), SnapshotFileError> {
    let damaged = |what| SnapshotFileError::Damaged { file: file.to_owned(), what };
    let Some(fixed) = bytes.get(..FIXED_LEN) else { return Err(damaged("it is cut short")) };
    if !fixed.starts_with(MAGIC) {
        return Err(damaged("it does not start as a snapshot"));
    }
    if fixed[7] > FORMAT_VERSION {
        return Err(SnapshotFileError::Newer { file: file.to_owned(), found: fixed[7] });
    }
    let number = |at: usize| fixed[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let (index, term, state_len) = (number(8), number(16), number(28));
    let conf_state_len = fixed[24..28].try_into().map_or(0, u32::from_le_bytes) as usize;
    let (header, rest) =
        bytes.split_at_checked(FIXED_LEN.saturating_add(conf_state_len)).ok_or_else(|| damaged("it is cut short"))?;
    let (header_checksum, rest) = rest.split_at_checked(4).ok_or_else(|| damaged("it is cut short"))?;
    if header_checksum != crc32fast::hash(header).to_le_bytes() {
        return Err(damaged("the header's checksum is wrong"));
    }
    let state_len = usize::try_from(state_len).map_err(|_| damaged("it is cut short"))?;
    let (state, state_checksum) = rest.split_at_checked(state_len).ok_or_else(|| damaged("it is cut short"))?;
    if state_checksum != crc32fast::hash(state).to_le_bytes() {
        return Err(damaged("the state's checksum is wrong, or bytes follow it"));
    }
    let conf_state =
        ConfState::decode(&header[FIXED_LEN..]).map_err(|_| damaged("the membership cannot be decoded"))?;
    Ok((SnapshotMetadata { index, term, conf_state: Some(conf_state) }, state))
}

/// Reads and checks the file of a snapshot from another thread, and returns its bytes.
pub(crate) fn read_aside(aside: &dyn Aside, metadata: &SnapshotMetadata) -> Result<Vec<u8>, SnapshotFileError> {
    let file = file_name(metadata.index, metadata.term);
    let read = |source| SnapshotFileError::Disk { operation: "read", file: file.clone(), source };
    let bytes = aside.read(&file).map_err(read)?;
    let (found, _) = decode(&file, &bytes)?;
    if (found.index, found.term) != (metadata.index, metadata.term) {
        return Err(SnapshotFileError::Damaged { file, what: "it is the file of another snapshot" });
    }
    Ok(bytes)
}

/// Reads and checks a snapshot file, and returns its bytes and its metadata.
pub(crate) fn read(disk: &impl Disk, file: &str) -> Result<(Vec<u8>, SnapshotMetadata), SnapshotFileError> {
    let bytes = disk.read(file).map_err(|source| SnapshotFileError::Disk {
        operation: "read",
        file: file.to_owned(),
        source,
    })?;
    let (metadata, _) = decode(file, &bytes)?;
    if file != file_name(metadata.index, metadata.term) {
        return Err(SnapshotFileError::Damaged { file: file.to_owned(), what: "it is the file of another snapshot" });
    }
    Ok((bytes, metadata))
}

/// Writes a snapshot file: under a temporary name, synced, renamed, so that a file with its proper name is whole.
pub(crate) fn write(disk: &mut impl Disk, metadata: &SnapshotMetadata, bytes: &[u8]) -> Result<(), SnapshotFileError> {
    let file = file_name(metadata.index, metadata.term);
    let failed = |operation| {
        let file = file.clone();
        move |source| SnapshotFileError::Disk { operation, file, source }
    };
    if let Err(source) = disk.append(TEMPORARY, bytes) {
        if is_full(&source) {
            // Whoever can do without it goes on; half of it must not take space from the log.
            let _ = disk.remove(TEMPORARY);
        }
        return Err(failed("write")(source));
    }
    disk.sync(TEMPORARY).map_err(failed("sync"))?;
    disk.rename(TEMPORARY, &file).map_err(failed("rename to"))
}

/// Gives a snapshot that was written aside its name.
pub(crate) fn adopt(disk: &mut impl Disk, metadata: &SnapshotMetadata) -> Result<(), SnapshotFileError> {
    let file = file_name(metadata.index, metadata.term);
    disk.rename(WRITTEN_ASIDE, &file).map_err(|source| SnapshotFileError::Disk { operation: "rename to", file, source })
}

/// Removes every snapshot file but `kept`, and a half-written one.
pub(crate) fn remove_others(disk: &mut impl Disk, kept: &str) -> Result<(), SnapshotFileError> {
    let failed = |operation, file: &str| {
        let file = file.to_owned();
        move |source| SnapshotFileError::Disk { operation, file, source }
    };
    let files = disk.list().map_err(failed("list the directory of", kept))?;
    let others = among(&files).into_iter().filter(|file| *file != kept);
    for file in others.chain(files.iter().filter(|file| *file == TEMPORARY)) {
        disk.remove(file).map_err(failed("remove", file))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::disk::MemoryDisk;

    fn members() -> ConfState {
        ConfState { voters: vec![1, 2, 3], ..ConfState::default() }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let bytes = encode(7, 2, &members(), b"state");
        let (metadata, state) = decode("file", &bytes).unwrap();
        assert_eq!((metadata.index, metadata.term, state), (7, 2, b"state".as_slice()));
        assert_eq!(metadata.get_conf_state(), &members());
    }

    #[test]
    fn p10_any_flipped_bit_any_cut_and_any_added_byte_is_refused() {
        let bytes = encode(7, 2, &members(), b"some state");
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[position] ^= 1 << bit;
                assert!(decode("file", &flipped).is_err(), "bit {bit} of byte {position}");
            }
            assert!(decode("file", &bytes[..position]).is_err(), "cut to {position}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(decode("file", &longer).is_err());
    }

    #[test]
    fn f3_a_newer_version_is_refused_as_such() {
        let mut bytes = encode(7, 2, &members(), b"state");
        bytes[7] = FORMAT_VERSION + 1;
        assert!(matches!(decode("file", &bytes), Err(SnapshotFileError::Newer { found: 2, .. })));
    }

    #[test]
    fn a_snapshot_under_another_ones_name_is_refused() {
        let mut disk = MemoryDisk::new();
        let bytes = encode(7, 2, &members(), b"state");
        let (metadata, _) = decode("file", &bytes).unwrap();
        write(&mut disk, &metadata, &bytes).unwrap();
        disk.rename(&file_name(7, 2), &file_name(9, 2)).unwrap();
        assert!(matches!(read(&disk, &file_name(9, 2)), Err(SnapshotFileError::Damaged { .. })));
    }

    #[test]
    fn golden_a_snapshot_written_by_version_1_is_read() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/snapshot-v1.bin");
        let bytes = encode(7, 2, &members(), b"state");
        if std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        let (metadata, state) = decode("golden", &golden).unwrap();
        assert_eq!((metadata.index, metadata.term, state), (7, 2, b"state".as_slice()));
        assert_eq!(metadata.get_conf_state(), &members());
        assert_eq!(bytes, golden, "the format changed without a new version");
    }

    #[test]
    fn the_newest_sorts_last_and_strangers_are_left_alone() {
        let files =
            [file_name(10, 1), "log-1".to_owned(), "snapshot-1-1".to_owned(), file_name(9, 3), TEMPORARY.to_owned()];
        assert_eq!(among(&files), [&file_name(9, 3), &file_name(10, 1)]);
    }
}
