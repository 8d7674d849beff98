//! Records: what one `Ready` asks to be made durable, framed so that damage is seen.

use raft::eraftpb::{Entry, EntryType, HardState};
use raft_prost::Message as _;

pub(crate) const HEADER_LEN: usize = 16;
const MAGIC: [u8; 4] = *b"\xf5WRC";
/// Ends every payload, so that no written sector of a record is all zeros unless an entry's data are.
const TRAILER: u8 = 0xf5;

/// What one `Ready` asks to be made durable, in one piece.
///
/// Every record carries the full hard state, so that the newest record alone says what it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Record {
    /// Whether everything before is void, for a snapshot up to `after` took its place.
    pub(crate) is_reset: bool,
    pub(crate) hard_state: HardState,
    /// Index and term of the entry before the first of `entries`, or of the last one if there are none.
    pub(crate) after: (u64, u64),
    /// Consecutive entries, which replace whatever the log holds from the first one's index on.
    pub(crate) entries: Vec<Entry>,
}

/// Why a record with good checksums cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Its kind is not known.
    #[error("record kind {0} is unknown")]
    Kind(u8),
    /// It is shorter or longer than it says.
    #[error("the record's length does not fit its content")]
    Length,
    /// An entry cannot be decoded.
    #[error("entry {0} of the record cannot be decoded")]
    Entry(u64),
    /// It does not fit what stands before it.
    #[error("the record follows entry {after} of term {after_term}, which the log does not have")]
    Gap {
        /// The index before its first entry.
        after: u64,
        /// The term of that index.
        after_term: u64,
    },
}

impl Record {
    pub(crate) fn last_index(&self) -> u64 {
        self.entries.last().map_or(self.after.0, |entry| entry.index)
    }

    /// Returns the record as it stands in segment `sequence` at `offset`; `None` if it is too long to be framed.
    ///
    /// The header's checksum covers its place: bytes of a record are no record anywhere else, not even inside the data
    /// of an entry that somebody proposed.
    pub(crate) fn encode(&self, sequence: u64, offset: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; HEADER_LEN];
        bytes.push(if self.is_reset { 2 } else { 1 });
        let HardState { term, vote, commit } = self.hard_state;
        for number in [term, vote, commit, self.after.0, self.after.1, self.entries.len() as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for entry in &self.entries {
            bytes.extend_from_slice(&u32::try_from(entry.encoded_len()).ok()?.to_le_bytes());
            entry.encode(&mut bytes).ok()?;
        }
        bytes.push(TRAILER);
        let payload_len = u32::try_from(bytes.len() - HEADER_LEN).ok()?;
        let payload_checksum = crc32fast::hash(&bytes[HEADER_LEN..]);
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&payload_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&payload_checksum.to_le_bytes());
        let checksum = header_checksum(&bytes[..12], sequence, offset);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        Some(bytes)
    }

    fn decode(payload: &[u8]) -> Result<Record, RecordError> {
        let mut fields = Fields::new(payload);
        let is_reset = match fields.u8().ok_or(RecordError::Length)? {
            1 => false,
            2 => true,
            kind => return Err(RecordError::Kind(kind)),
        };
        let mut numbers = [0; 6];
        for number in &mut numbers {
            *number = fields.u64().ok_or(RecordError::Length)?;
        }
        let [term, vote, commit, after_index, after_term, count] = numbers;
        let mut hard_state = HardState::default();
        (hard_state.term, hard_state.vote, hard_state.commit) = (term, vote, commit);
        let mut entries = Vec::new();
        for position in 1..=count {
            let index = after_index.checked_add(position).ok_or(RecordError::Length)?;
            let length = fields.u32().ok_or(RecordError::Length)?;
            let bytes = fields.take(length as usize).ok_or(RecordError::Length)?;
            let entry = Entry::decode(bytes).map_err(|_| RecordError::Entry(index))?;
            if entry.index != index || EntryType::from_i32(entry.entry_type).is_none() {
                return Err(RecordError::Entry(index));
            }
            entries.push(entry);
        }
        if fields.u8() != Some(TRAILER) || !fields.is_empty() {
            return Err(RecordError::Length);
        }
        Ok(Record { is_reset, hard_state, after: (after_index, after_term), entries })
    }
}

fn header_checksum(header: &[u8], sequence: u64, offset: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.finalize()
}

/// What stands at one place of a segment.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// The segment ends here.
    End,
    /// A record, and where the next one starts.
    Record(Record, usize),
    /// A record with good checksums that cannot be used.
    Unusable(RecordError),
    /// The segment ends before the record does.
    Cut,
    /// The header's or the payload's checksum is wrong.
    Damaged,
}

/// Reads what stands in segment `sequence` at `offset`.
pub(crate) fn read_at(segment: &[u8], sequence: u64, offset: usize) -> Found {
    let rest = &segment[offset..];
    if rest.is_empty() {
        return Found::End;
    }
    let Some(header) = rest.get(..HEADER_LEN) else { return Found::Cut };
    let mut fields = Fields::new(&header[4..]);
    let (Some(payload_len), Some(payload_checksum), Some(checksum)) = (fields.u32(), fields.u32(), fields.u32()) else {
        return Found::Cut;
    };
    if header[..4] != MAGIC || checksum != header_checksum(&header[..12], sequence, offset as u64) {
        return Found::Damaged;
    }
    let Some(payload) = rest.get(HEADER_LEN..HEADER_LEN.saturating_add(payload_len as usize)) else {
        return Found::Cut;
    };
    if payload_checksum != crc32fast::hash(payload) {
        return Found::Damaged;
    }
    match Record::decode(payload) {
        Ok(record) => Found::Record(record, offset + HEADER_LEN + payload.len()),
        Err(error) => Found::Unusable(error),
    }
}

/// Returns where the first record with good checksums stands at or after `from`.
pub(crate) fn find_after(segment: &[u8], sequence: u64, from: usize) -> Option<usize> {
    (from..segment.len().saturating_sub(HEADER_LEN)).find(|&offset| {
        segment[offset..].starts_with(&MAGIC)
            && matches!(read_at(segment, sequence, offset), Found::Record(..) | Found::Unusable(_))
    })
}

/// Reads little-endian numbers off the front of a slice.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
