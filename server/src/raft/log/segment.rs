//! Segment files: their names and their header.

use super::LogError;

/// The version of everything inside a segment.
pub(crate) const FORMAT_VERSION: u8 = 1;
pub(crate) const HEADER_LEN: usize = 20;
const MAGIC: &[u8; 7] = b"WEFTLOG";

/// Returns the name of the segment with this sequence number; names sort as numbers do.
pub(crate) fn file_name(sequence: u64) -> String {
    format!("log-{sequence:020}")
}

/// Returns the sequence number that a file's name carries, if it is a segment's.
pub(crate) fn sequence_of(file: &str) -> Option<u64> {
    let digits = file.strip_prefix("log-")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Returns the header: magic, version, sequence number, checksum.
pub(crate) fn encode_header(sequence: u64) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..7].copy_from_slice(MAGIC);
    header[7] = FORMAT_VERSION;
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    let checksum = crc32fast::hash(&header[..16]);
    header[16..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Checks a segment's header: `Ok(false)` if it is damaged or cut short.
///
/// # Errors
/// [`LogError::Newer`] if a later version wrote it. Nothing but magic and version is relied on for that, for a later
/// version may lay out the rest differently, and taking it for a torn write would remove it.
pub(crate) fn check_header(sequence: u64, bytes: &[u8]) -> Result<bool, LogError> {
    let version = bytes.get(MAGIC.len()).copied().unwrap_or_default();
    if bytes.starts_with(MAGIC) && version > FORMAT_VERSION {
        return Err(LogError::Newer { file: file_name(sequence), found: version });
    }
    Ok(bytes.get(..HEADER_LEN) == Some(&encode_header(sequence)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_not_segments() {
        assert_eq!(sequence_of(&file_name(42)), Some(42));
        assert_eq!(sequence_of(&file_name(u64::MAX)), Some(u64::MAX));
        for stranger in ["log-42", "log-", "snapshot-1-1", "log-0000000000000000000x", "log-99999999999999999999"] {
            assert_eq!(sequence_of(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn f3_a_newer_version_is_told_apart_from_damage() {
        let mut newer = encode_header(3);
        newer[7] = FORMAT_VERSION + 1;
        assert!(matches!(check_header(3, &newer), Err(LogError::Newer { found: 2, .. })));
        assert!(!check_header(3, &encode_header(3)[..19]).unwrap(), "a header cut short is damage");
        assert!(check_header(3, &encode_header(3)).unwrap());
        assert!(!check_header(4, &encode_header(3)).unwrap(), "a renamed segment is damage");
    }
}
