use std::path::Path;

use raft::eraftpb::{Entry, HardState};

use super::{Log, LogError, segment};
use crate::raft::disk::{Disk, MemoryDisk};

const ONE_SEGMENT: u64 = u64::MAX;

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit }
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: format!("entry {index} of term {term}").into_bytes(), ..Entry::default() }
}

fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    indexes.map(|index| entry(index, term)).collect()
}

fn read(disk: &MemoryDisk, segment_bytes: u64) -> Result<Log, LogError> {
    Log::read(disk, &disk.list().unwrap(), segment_bytes)
}

fn reopen(disk: &mut MemoryDisk, segment_bytes: u64) -> Log {
    let mut log = read(disk, segment_bytes).unwrap();
    log.repair(disk).unwrap();
    log
}

/// What a log holds, to compare two of them.
type Contents = (super::Position, Vec<Entry>, HardState);

fn contents(log: &Log) -> Contents {
    (log.base(), log.entries.iter().cloned().collect(), log.hard_state().clone())
}

/// Writes a log of several records into one segment; returns the disk, the file's length after each record, and what
/// the log held then.
fn short_log() -> (MemoryDisk, Vec<(usize, Contents)>) {
    let mut disk = MemoryDisk::new();
    let mut log = reopen(&mut disk, ONE_SEGMENT);
    let mut states = Vec::new();
    let records = [
        (hard_state(1, 0, 0), vec![]),
        (hard_state(1, 2, 0), entries(1..=3, 1)),
        (hard_state(1, 2, 2), entries(4..=4, 1)),
        (hard_state(3, 3, 2), vec![]),
        (hard_state(3, 3, 3), entries(4..=6, 3)),
        (hard_state(4, 0, 5), vec![]),
    ];
    for (hard_state, entries) in records {
        log.append(&mut disk, hard_state, entries).unwrap();
        states.push((disk.read(&segment::file_name(1)).unwrap().len(), contents(&log)));
    }
    (disk, states)
}

#[test]
fn what_is_appended_is_read_back() {
    let (mut disk, states) = short_log();
    let log = reopen(&mut disk, ONE_SEGMENT);
    assert_eq!(Some(contents(&log)), states.last().map(|(_, state)| state.clone()));
    assert_eq!((log.term(3), log.term(4), log.term(7)), (Some(1), Some(3), None));
}

#[test]
fn fault_16_a_log_torn_at_any_byte_recovers_to_the_record_before() {
    let (disk, states) = short_log();
    let file = segment::file_name(1);
    let length = disk.read(&file).unwrap().len();
    for cut in 0..length {
        let mut torn = disk.clone();
        torn.truncate(&file, cut as u64).unwrap();
        let mut log = reopen(&mut torn, ONE_SEGMENT);
        let before = states.iter().rev().find(|(end, _)| *end <= cut).map(|(_, state)| state.clone());
        assert_eq!(contents(&log), before.unwrap_or_default(), "cut at {cut}");
        // What is appended after the repair survives like anything else.
        let next = log.last().0 + 1;
        log.append(&mut torn, hard_state(9, 0, log.hard_state().commit), vec![entry(next, 9)]).unwrap();
        assert_eq!(contents(&reopen(&mut torn, ONE_SEGMENT)), contents(&log), "cut at {cut}");
    }
}

#[test]
fn z3_a_flipped_bit_in_any_byte_of_any_record_is_refused() {
    let (disk, _) = short_log();
    let file = segment::file_name(1);
    for position in 0..disk.read(&file).unwrap().len() {
        for bit in 0..8 {
            let mut damaged = disk.clone();
            damaged.file_mut(&file).unwrap()[position] ^= 1 << bit;
            assert!(read(&damaged, ONE_SEGMENT).is_err(), "bit {bit} of byte {position}");
        }
    }
}

#[test]
fn z3_a_log_of_many_segments_is_torn_only_at_its_very_end() {
    let mut disk = MemoryDisk::new();
    let mut log = reopen(&mut disk, 100);
    for index in 1..=9 {
        log.append(&mut disk, hard_state(1, 1, index - 1), entries(index..=index, 1)).unwrap();
    }
    let files = disk.list().unwrap();
    assert!(files.len() > 3, "{files:?}");
    assert_eq!(contents(&reopen(&mut disk, 100)), contents(&log));
    let (last, earlier) = files.split_last().unwrap();
    for file in earlier {
        let mut damaged = disk.clone();
        damaged.file_mut(file).unwrap().pop();
        assert!(matches!(read(&damaged, 100), Err(LogError::Damaged { .. })), "{file} cut short");
        let mut missing = disk.clone();
        missing.remove(file).unwrap();
        if file == &files[0] {
            // Whether that was compaction, the snapshot tells.
            assert!(read(&missing, 100).unwrap().base().0 > 0);
        } else {
            assert!(matches!(read(&missing, 100), Err(LogError::SegmentMissing { .. })), "{file} missing");
        }
    }
    // A crash while a segment is begun leaves nothing, or any part of header and first record.
    for cut in 0..disk.read(last).unwrap().len() {
        let mut torn = disk.clone();
        torn.truncate(last, cut as u64).unwrap();
        let log = reopen(&mut torn, 100);
        assert!(log.last().0 >= 7 && log.last().0 < 9, "cut at {cut}: {:?}", log.last());
    }
}

#[test]
fn a_record_whose_last_sectors_were_never_written_is_torn() {
    let (disk, states) = short_log();
    let file = segment::file_name(1);
    let mut disk = disk;
    let mut log = reopen(&mut disk, ONE_SEGMENT);
    let before = contents(&log);
    let start = states.last().unwrap().0;
    let large = Entry { data: vec![b'x'; 3000], ..entry(7, 4) };
    log.append(&mut disk, hard_state(4, 0, 5), vec![large]).unwrap();
    let length = disk.read(&file).unwrap().len();
    for boundary in (0..length).step_by(512) {
        let mut torn = disk.clone();
        torn.file_mut(&file).unwrap()[boundary.max(start)..].fill(0);
        assert_eq!(contents(&reopen(&mut torn, ONE_SEGMENT)), before, "zeros from {boundary}");
    }
}

#[test]
fn a_record_copied_into_an_entrys_data_is_not_taken_for_a_record() {
    let (mut disk, states) = short_log();
    let file = segment::file_name(1);
    let stolen = disk.read(&file).unwrap()[segment::HEADER_LEN..].to_vec();
    let mut log = reopen(&mut disk, ONE_SEGMENT);
    log.append(&mut disk, hard_state(4, 0, 5), vec![Entry { data: stolen, ..entry(7, 4) }]).unwrap();
    disk.file_mut(&file).unwrap().pop();
    assert_eq!(contents(&reopen(&mut disk, ONE_SEGMENT)), states.last().unwrap().1);
}

#[test]
fn f3_a_segment_of_a_newer_version_is_refused_and_left_alone() {
    let (mut disk, _) = short_log();
    let file = segment::file_name(1);
    disk.file_mut(&file).unwrap()[7] = segment::FORMAT_VERSION + 1;
    let before = disk.read(&file).unwrap();
    let error = read(&disk, ONE_SEGMENT).unwrap_err();
    assert!(matches!(error, LogError::Newer { found: 2, .. }), "{error}");
    assert_eq!(disk.read(&file).unwrap(), before);
}

#[test]
fn compaction_removes_whole_segments_and_keeps_the_last() {
    let mut disk = MemoryDisk::new();
    let mut log = reopen(&mut disk, 200);
    for index in 1..=30 {
        log.append(&mut disk, hard_state(1, 1, index), entries(index..=index, 1)).unwrap();
    }
    let before = disk.list().unwrap().len();
    log.compact(&mut disk, 20).unwrap();
    assert!(disk.list().unwrap().len() < before);
    assert_eq!((log.base(), log.term(20), log.term(19), log.last()), ((20, 1), Some(1), None, (30, 1)));
    let reopened = reopen(&mut disk, 200);
    assert!(reopened.base().0 <= 20, "what compaction kept is still there");
    assert_eq!(reopened.entries(21, 31, u64::MAX), log.entries(21, 31, u64::MAX));

    log.compact(&mut disk, 30).unwrap();
    assert_eq!(disk.list().unwrap().len(), 1);
    let reopened = reopen(&mut disk, 200);
    assert_eq!((reopened.last(), reopened.hard_state().clone()), ((30, 1), hard_state(1, 1, 30)));
}

#[test]
fn a_reset_voids_everything_before_it() {
    let mut disk = MemoryDisk::new();
    let mut log = reopen(&mut disk, 200);
    log.append(&mut disk, hard_state(1, 1, 2), entries(1..=8, 1)).unwrap();
    let older = disk.clone();
    log.reset(&mut disk, hard_state(5, 0, 40), (40, 4), entries(41..=42, 5)).unwrap();
    assert_eq!(contents(&reopen(&mut disk, 200)), contents(&log));
    assert_eq!((log.base(), log.last(), disk.list().unwrap().len()), ((40, 4), (42, 5), 1));
    // A crash before the old segments were removed changes nothing.
    for file in older.list().unwrap() {
        disk.append(&file, &older.read(&file).unwrap()).unwrap();
    }
    assert_eq!(contents(&reopen(&mut disk, 200)), contents(&log));
}

#[test]
fn a_suffix_replaced_after_its_segment_was_removed_is_read_back() {
    let mut disk = MemoryDisk::new();
    let mut log = reopen(&mut disk, 1);
    log.append(&mut disk, hard_state(1, 1, 3), entries(1..=10, 1)).unwrap();
    log.append(&mut disk, hard_state(2, 0, 3), vec![]).unwrap();
    log.append(&mut disk, hard_state(2, 0, 3), entries(6..=12, 2)).unwrap();
    disk.remove(&segment::file_name(1)).unwrap();
    let reopened = reopen(&mut disk, 1);
    assert_eq!((reopened.base(), reopened.last()), ((5, 1), (12, 2)));
    assert_eq!(reopened.entries(6, 13, u64::MAX), log.entries(6, 13, u64::MAX));
}

#[test]
fn reads_are_bounded_by_bytes_and_never_empty() {
    let (mut disk, _) = short_log();
    let log = reopen(&mut disk, ONE_SEGMENT);
    assert_eq!(log.entries(1, 7, 0).unwrap().len(), 1);
    assert_eq!(log.entries(1, 7, 60).unwrap().len(), 2);
    assert_eq!(log.entries(1, 7, u64::MAX).unwrap().len(), 6);
    assert_eq!(log.retained_from(6, 4, u64::MAX), 2);
    assert_eq!(log.retained_from(6, 4, 60), 4);
    assert_eq!(log.retained_from(6, 100, u64::MAX), 0);
}

#[test]
fn what_one_append_writes_does_not_grow_with_the_log() {
    let mut disk = MemoryDisk::new();
    let mut log = reopen(&mut disk, 4096);
    let total =
        |disk: &MemoryDisk| -> usize { disk.list().unwrap().iter().map(|file| disk.read(file).unwrap().len()).sum() };
    let mut most = 0;
    for index in 1..=2000 {
        let before = total(&disk);
        let fixed = Entry { index, term: 1, data: vec![b'x'; 20], ..Entry::default() };
        log.append(&mut disk, hard_state(1, 1, index), vec![fixed]).unwrap();
        most = most.max(total(&disk) - before);
        if index % 100 == 0 {
            log.compact(&mut disk, index - 50).unwrap();
        }
    }
    assert!(most < 160, "{most} bytes for an entry of 20");
    assert!(disk.list().unwrap().len() < 5, "compaction keeps up");
}

#[test]
fn golden_a_log_written_by_version_1_is_read() {
    let (disk, states) = short_log();
    let file = segment::file_name(1);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/log-v1.bin");
    if std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, disk.read(&file).unwrap()).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    let mut old = MemoryDisk::new();
    old.append(&file, &golden).unwrap();
    assert_eq!(
        contents(&reopen(&mut old, ONE_SEGMENT)),
        states.last().unwrap().1,
        "a log of version 1 reads as it did"
    );
    assert_eq!(disk.read(&file).unwrap(), golden, "the format changed without a new version");
}
