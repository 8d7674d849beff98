//! Reads segments back: what they hold, and whether their end is a torn write or damage.

use std::collections::VecDeque;

use raft::eraftpb::{Entry, HardState};

use super::record::{self, Found, Record, RecordError};
use super::{LogError, Position, Segment, segment};

/// What a real disk writes at once or not at all.
const SECTOR: usize = 512;

/// What the segments hold.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) base: Position,
    pub(crate) entries: VecDeque<Entry>,
    pub(crate) hard_state: HardState,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) repair: Option<Repair>,
}

/// What has to be done before the log can be appended to. The write it undoes was never synced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    Truncate { file: String, length: u64 },
    Remove { file: String },
}

/// Reads all segments, oldest first. Writes nothing.
///
/// A bad spot is a torn write only in the last segment, and only if no record stands anywhere after it and the bad
/// record is shorter than it says or has a sector that was never written. Everything else is damage: cutting it off
/// would forget what this server has acknowledged.
pub(crate) fn recover(
    sequences: &[u64],
    mut read: impl FnMut(u64) -> Result<Vec<u8>, LogError>,
) -> Result<Recovered, LogError> {
    let mut recovered = Recovered::default();
    for (position, &sequence) in sequences.iter().enumerate() {
        if position > 0 && sequences[position - 1] + 1 != sequence {
            return Err(LogError::SegmentMissing { file: segment::file_name(sequence - 1) });
        }
        let bytes = read(sequence)?;
        let is_last = position + 1 == sequences.len();
        recovered.read_segment(sequence, &bytes, is_last)?;
    }
    Ok(recovered)
}

impl Recovered {
    fn read_segment(&mut self, sequence: u64, bytes: &[u8], is_last: bool) -> Result<(), LogError> {
        let file = segment::file_name(sequence);
        let remove = Some(Repair::Remove { file: file.clone() });
        if !segment::check_header(sequence, bytes)? {
            let is_cut = bytes.len() < segment::HEADER_LEN;
            if is_last && is_torn(bytes, sequence, 0, is_cut) {
                self.repair = remove;
                return Ok(());
            }
            return Err(LogError::Damaged { file, offset: 0 });
        }
        let mut offset = segment::HEADER_LEN;
        let mut last_index = 0;
        let mut count = 0;
        let cut_at = loop {
            match record::read_at(bytes, sequence, offset) {
                Found::Record(record, next) => {
                    let is_first = self.segments.is_empty() && count == 0;
                    last_index = last_index.max(record.last_index());
                    let unusable = |source| LogError::Unusable { file: file.clone(), offset: offset as u64, source };
                    self.take(record, is_first).map_err(unusable)?;
                    count += 1;
                    offset = next;
                }
                Found::End => break None,
                Found::Unusable(source) => return Err(LogError::Unusable { file, offset: offset as u64, source }),
                found @ (Found::Cut | Found::Damaged) => {
                    if is_last && is_torn(bytes, sequence, offset, found == Found::Cut) {
                        break Some(offset);
                    }
                    return Err(LogError::Damaged { file, offset: offset as u64 });
                }
            }
        };
        // A segment is begun by one write, header and first record together: without a record it is a torn one.
        if count == 0 {
            if !is_last {
                return Err(LogError::Damaged { file, offset: offset as u64 });
            }
            self.repair = remove;
            return Ok(());
        }
        if let Some(length) = cut_at {
            self.repair = Some(Repair::Truncate { file, length: length as u64 });
        }
        self.segments.push_back(Segment { sequence, length: offset as u64, last_index });
        Ok(())
    }

    /// Takes one record over what the ones before it said.
    fn take(&mut self, record: Record, is_first: bool) -> Result<(), RecordError> {
        let Record { is_reset, hard_state, after, entries } = record;
        let (after, after_term) = after;
        let (base, base_term) = self.base;
        let last_index = base + self.entries.len() as u64;
        if is_reset || is_first || after < base {
            // Below the base only uncommitted entries of a removed segment were replaced: the log goes on from there.
            self.base = (after, after_term);
            self.entries.clear();
        } else {
            let gap = RecordError::Gap { after, after_term };
            let known_term = match after.checked_sub(base + 1) {
                None => Some(base_term),
                Some(position) => self.entries.get(position as usize).map(|entry| entry.term),
            };
            if after > last_index || known_term != Some(after_term) {
                return Err(gap);
            }
            if !entries.is_empty() {
                self.entries.truncate((after - base) as usize);
            }
        }
        self.entries.extend(entries);
        self.hard_state = hard_state;
        Ok(())
    }
}

/// Tells whether the bad record at `offset` is a write that a crash interrupted.
fn is_torn(segment: &[u8], sequence: u64, offset: usize, is_cut: bool) -> bool {
    let is_unwritten = || {
        let first = SECTOR - offset % SECTOR;
        let (head, rest) = segment[offset..].split_at(first.min(segment.len() - offset));
        std::iter::once(head).chain(rest.chunks(SECTOR)).any(|sector| sector.iter().all(|&byte| byte == 0))
    };
    (is_cut || is_unwritten()) && record::find_after(segment, sequence, offset + 1).is_none()
}
