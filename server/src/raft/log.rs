//! The durable log: segment files of checksummed records, and the same entries in memory.

mod record;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;

use raft::eraftpb::{Entry, HardState};
use raft_prost::Message as _;

pub(crate) use record::Record;
pub use record::RecordError;
use recovery::{Recovered, Repair};

use super::disk::Disk;
use super::room::REPLACE;

/// An index and the term of the entry there.
pub(crate) type Position = (u64, u64);

/// Why the log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed. It is not tried again: after a failed sync nobody knows what it holds.
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
    /// A record or header is damaged, and it is not a torn write at the log's end.
    #[error("`{file}` is damaged at byte {offset}; {REPLACE}")]
    Damaged {
        /// The segment.
        file: String,
        /// Where the damage starts.
        offset: u64,
    },
    /// A record with good checksums cannot be used.
    #[error("the record at byte {offset} of `{file}` cannot be used; {REPLACE}")]
    Unusable {
        /// The segment.
        file: String,
        /// Where the record starts.
        offset: u64,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// A newer version wrote the segment.
    #[error("`{file}` has format version {found}, which is newer than this program reads; start the newer version")]
    Newer {
        /// The segment.
        file: String,
        /// The version found.
        found: u8,
    },
    /// A segment between others is not there.
    #[error("`{file}` is missing; {REPLACE}")]
    SegmentMissing {
        /// The segment.
        file: String,
    },
    /// No segment is there although the server had begun to keep a log.
    #[error("the raft log is missing but the snapshot at index {snapshot} is there; {REPLACE}")]
    Missing {
        /// The snapshot's index.
        snapshot: u64,
    },
    /// The log ends before what it says is committed.
    #[error("the raft log ends at index {last_index} but knows {commit} as committed; {REPLACE}")]
    CommitMissing {
        /// Where the log ends.
        last_index: u64,
        /// What is committed.
        commit: u64,
    },
    /// A record is too long to be framed.
    #[error("a record of {entries} entries is too long for the log")]
    TooLong {
        /// How many entries it has.
        entries: usize,
    },
}

/// One segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) length: u64,
    /// The highest index of any entry in it, replaced ones included.
    pub(crate) last_index: u64,
}

/// The durable log.
///
/// A record is synced before the next one is written, so at most the last record of the last segment can be torn.
#[derive(Debug)]
pub(crate) struct Log {
    segment_bytes: u64,
    /// Oldest first. The last one is appended to and never removed.
    segments: VecDeque<Segment>,
    /// What the first of `entries` follows.
    base: Position,
    entries: VecDeque<Entry>,
    /// As last written, but for `commit`, which may be ahead: it is written with the next record, for a restart learns
    /// it again from the leader.
    hard_state: HardState,
    repair: Option<Repair>,
}

impl Log {
    /// Reads the log back. Writes nothing: [`Log::repair`] does, once everything else is found to be in order.
    pub(crate) fn read(disk: &impl Disk, files: &[String], segment_bytes: u64) -> Result<Log, LogError> {
        let sequences: Vec<u64> = files.iter().filter_map(|file| segment::sequence_of(file)).collect();
        let recovered = recovery::recover(&sequences, |sequence| {
            let file = segment::file_name(sequence);
            disk.read(&file).map_err(|source| LogError::Disk { operation: "read", file, source })
        })?;
        let Recovered { base, entries, hard_state, segments, repair } = recovered;
        Ok(Log { segment_bytes, segments, base, entries, hard_state, repair })
    }

    /// Cuts off a torn write, if there was one. Must be called before the first append.
    pub(crate) fn repair(&mut self, disk: &mut impl Disk) -> Result<(), LogError> {
        match self.repair.take() {
            None => Ok(()),
            Some(Repair::Truncate { file, length }) => {
                tracing::warn!(file, length, "cut a torn write off the raft log");
                disk.truncate(&file, length).map_err(|source| LogError::Disk { operation: "truncate", file, source })
            }
            Some(Repair::Remove { file }) => {
                tracing::warn!(file, "removed a raft log segment whose first write was torn");
                disk.remove(&file).map_err(|source| LogError::Disk { operation: "remove", file, source })
            }
        }
    }

    /// Tells whether the log never held a record.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Notes what is committed; durable with the next record.
    pub(crate) fn set_commit(&mut self, commit: u64) {
        self.hard_state.commit = self.hard_state.commit.max(commit);
    }

    pub(crate) fn base(&self) -> Position {
        self.base
    }

    pub(crate) fn last(&self) -> Position {
        self.entries.back().map_or(self.base, |entry| (entry.index, entry.term))
    }

    /// Returns the term at `index`, from the base on.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        match index.checked_sub(self.base.0)? {
            0 => Some(self.base.1),
            position => self.entries.get(position as usize - 1).map(|entry| entry.term),
        }
    }

    /// Returns the entries `[low, high)`, cut to `bytes_max` but never to nothing; `None` below the base.
    pub(crate) fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Option<Vec<Entry>> {
        let start = low.checked_sub(self.base.0 + 1)? as usize;
        let end = (high.checked_sub(self.base.0 + 1)? as usize).min(self.entries.len());
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.entries.range(start.min(end)..end) {
            bytes += entry.encoded_len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }

    /// Writes hard state and entries as one record and syncs it. The entries replace what the log holds from the first
    /// one's index on.
    pub(crate) fn append(
        &mut self,
        disk: &mut impl Disk,
        hard_state: HardState,
        entries: Vec<Entry>,
    ) -> Result<(), LogError> {
        let after = match entries.first() {
            None => self.last(),
            Some(first) => {
                let index = first.index - 1;
                let term = self.term(index).expect("raft appends to what the log holds");
                (index, term)
            }
        };
        let record = Record { is_reset: false, hard_state, after, entries };
        let begins_segment = self.segments.back().is_none_or(|segment| segment.length >= self.segment_bytes);
        self.write(disk, &record, begins_segment)?;
        if let Some(first) = record.entries.first() {
            self.entries.truncate((first.index - 1 - self.base.0) as usize);
        }
        self.entries.extend(record.entries);
        self.hard_state = record.hard_state;
        Ok(())
    }

    /// Voids the log, for a snapshot up to `after` takes the place of everything in it.
    pub(crate) fn reset(
        &mut self,
        disk: &mut impl Disk,
        hard_state: HardState,
        after: Position,
        entries: Vec<Entry>,
    ) -> Result<(), LogError> {
        let record = Record { is_reset: true, hard_state, after, entries };
        self.write(disk, &record, true)?;
        self.base = after;
        self.entries = record.entries.into();
        self.hard_state = record.hard_state;
        while self.segments.len() > 1 {
            self.remove_oldest(disk)?;
        }
        Ok(())
    }

    /// Forgets entries up to `index` and removes the segments that hold nothing else.
    pub(crate) fn compact(&mut self, disk: &mut impl Disk, index: u64) -> Result<(), LogError> {
        let Some(term) = self.term(index) else { return Ok(()) };
        self.entries.drain(..(index - self.base.0) as usize);
        self.base = (index, term);
        while self.segments.len() > 1 && self.segments.front().is_some_and(|segment| segment.last_index <= index) {
            self.remove_oldest(disk)?;
        }
        Ok(())
    }

    /// Returns how far back from `index` the entries fit into the given number and bytes.
    pub(crate) fn retained_from(&self, index: u64, entries_max: u64, bytes_max: u64) -> u64 {
        let mut bytes = 0;
        let upto = index.saturating_sub(self.base.0) as usize;
        let newest_first = self.entries.range(..upto.min(self.entries.len())).rev();
        let kept = newest_first.take(entries_max as usize).take_while(|entry| {
            bytes += entry.encoded_len() as u64;
            bytes <= bytes_max
        });
        index - kept.count() as u64
    }

    fn write(&mut self, disk: &mut impl Disk, record: &Record, begins_segment: bool) -> Result<(), LogError> {
        let too_long = LogError::TooLong { entries: record.entries.len() };
        let (sequence, offset, bytes) = match self.segments.back() {
            Some(segment) if !begins_segment => {
                let bytes = record.encode(segment.sequence, segment.length).ok_or(too_long)?;
                (segment.sequence, segment.length, bytes)
            }
            last => {
                let sequence = last.map_or(1, |segment| segment.sequence + 1);
                let mut bytes = segment::encode_header(sequence).to_vec();
                bytes.extend(record.encode(sequence, bytes.len() as u64).ok_or(too_long)?);
                (sequence, 0, bytes)
            }
        };
        let file = segment::file_name(sequence);
        if let Err(source) = disk.append(&file, &bytes) {
            return Err(LogError::Disk { operation: "append to", file, source });
        }
        if let Err(source) = disk.sync(&file) {
            return Err(LogError::Disk { operation: "sync", file, source });
        }
        let length = offset + bytes.len() as u64;
        match self.segments.back_mut() {
            Some(segment) if segment.sequence == sequence => {
                segment.length = length;
                segment.last_index = segment.last_index.max(record.last_index());
            }
            _ => self.segments.push_back(Segment { sequence, length, last_index: record.last_index() }),
        }
        Ok(())
    }

    fn remove_oldest(&mut self, disk: &mut impl Disk) -> Result<(), LogError> {
        let Some(segment) = self.segments.pop_front() else { return Ok(()) };
        let file = segment::file_name(segment.sequence);
        disk.remove(&file).map_err(|source| LogError::Disk { operation: "remove", file, source })
    }
}
