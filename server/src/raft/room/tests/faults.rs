//! What the room does when its disk fails, lies, or holds what it should not.

use std::time::Duration;

use super::*;
use crate::raft::{Disk, LogError, MemoryDisk, SnapshotFileError};

/// Opens a server that is alone in its group over this disk.
fn open(disk: Recording) -> Result<Room<Recording>, OpenError> {
    let limits = Limits { snapshot_entries: 6, retained_entries: 2, segment_bytes: 700, ..Limits::default() };
    Room::open(disk, RoomConfig { limits, ..RoomConfig::new(1, vec![1], 7) })
}

/// Proposes commands until the room halts or the numbers end; returns which were acknowledged.
fn work(room: &mut Room<Recording>, numbers: std::ops::Range<u64>) -> (Vec<u64>, Result<(), Fatal>) {
    let mut acknowledged = Vec::new();
    let inputs = numbers.map(|id| Input::Propose { id, data: command(id) });
    for input in std::iter::once(Input::Tick).chain(inputs) {
        let mut encode = Vec::new();
        let result = room.step(input, Duration::ZERO, &mut |output| match output {
            Output::ProposalDone { id, .. } => acknowledged.push(id),
            Output::EncodeSnapshot { index, catalog, .. } => {
                encode.push(Input::SnapshotEncoded { index, bytes: catalog.snapshot() });
            }
            _ => {}
        });
        let result = result.and_then(|()| room.step_all(encode, Duration::ZERO, &mut |_| {}));
        if result.is_err() {
            return (acknowledged, result);
        }
    }
    (acknowledged, Ok(()))
}

#[test]
fn fault_18_a_crash_at_any_storage_step_loses_nothing_acknowledged() {
    let mut halted = 0;
    for writes in 0..200 {
        let disk = Recording { writes_left: Some(writes), ..Recording::default() };
        // A disk that broke while it was opened is not handed back; the bytes that it kept are those of a fresh one.
        let Ok(mut room) = open(disk) else { continue };
        let (acknowledged, result) = work(&mut room, 0..40);
        if result.is_ok() {
            assert!(writes > 80, "the run has more storage steps than {writes}");
            break;
        }
        halted += 1;
        assert!(matches!(room.step(Input::Tick, Duration::ZERO, &mut |_| {}), Err(Fatal::Halted)), "never tried again");
        let broken = room.into_disk();
        for seed in 0..8 {
            let mut disk = broken.disk.clone();
            disk.crash(seed);
            let mut room = open(Recording { disk, ..Recording::default() }).unwrap();
            let (_, result) = work(&mut room, 1000..1003);
            result.unwrap();
            for number in &acknowledged {
                let destination = format!("service-{number}").parse::<catalog::ServicePattern>().unwrap();
                let is_there = room.catalog().intentions().any(|intention| intention.destination == destination);
                assert!(is_there, "write {number} was acknowledged, then lost at step {writes} with seed {seed}");
            }
        }
    }
    assert!(halted > 80, "{halted} storage steps were tried");
}

/// Returns the disk of a server that has a snapshot and log entries after it.
fn used_disk() -> MemoryDisk {
    let mut room = open(Recording::default()).unwrap();
    let (_, result) = work(&mut room, 0..16);
    result.unwrap();
    room.into_disk().disk
}

fn reopen(disk: &MemoryDisk) -> Result<Room<Recording>, OpenError> {
    open(Recording { disk: disk.clone(), ..Recording::default() })
}

fn file_of(disk: &MemoryDisk, prefix: &str) -> String {
    disk.list().unwrap().into_iter().rfind(|file| file.starts_with(prefix)).unwrap()
}

#[test]
fn z3_a_damaged_snapshot_is_refused_and_an_older_one_is_never_used_instead() {
    let mut disk = used_disk();
    reopen(&disk).unwrap();
    let newest = file_of(&disk, "snapshot-");
    let bytes = disk.read(&newest).unwrap();
    disk.append("snapshot-00000000000000000002-00000000000000000002", &bytes).unwrap();
    for position in (0..bytes.len()).step_by(7) {
        disk.file_mut(&newest).unwrap()[position] ^= 4;
        let error = reopen(&disk).err().unwrap();
        assert!(matches!(
            error,
            OpenError::Snapshot(SnapshotFileError::Damaged { .. } | SnapshotFileError::Newer { .. })
        ));
        disk.file_mut(&newest).unwrap()[position] ^= 4;
    }
    reopen(&disk).unwrap();
}

#[test]
fn z3_a_missing_snapshot_or_log_is_refused() {
    let disk = used_disk();
    let mut without_snapshot = disk.clone();
    without_snapshot.remove(&file_of(&disk, "snapshot-")).unwrap();
    assert!(matches!(reopen(&without_snapshot), Err(OpenError::SnapshotMissing { .. })));

    let mut without_log = disk.clone();
    for file in disk.list().unwrap().iter().filter(|file| file.starts_with("log-")) {
        without_log.remove(file).unwrap();
    }
    assert!(matches!(reopen(&without_log), Err(OpenError::Log(LogError::Missing { .. }))));

    let mut older_log = without_log.clone();
    let fresh = open(Recording::default()).unwrap().into_disk().disk;
    let first = file_of(&fresh, "log-");
    older_log.append(&first, &fresh.read(&first).unwrap()).unwrap();
    // A log that ends before the snapshot is what an interrupted installation leaves: its state is whole.
    let room = reopen(&older_log).unwrap();
    assert_eq!(room.catalog().index().0, room.status(Duration::ZERO).last_index);
}

#[test]
fn what_to_do_about_damage_is_said() {
    let mut disk = used_disk();
    let file = file_of(&disk, "log-");
    disk.file_mut(&file).unwrap()[40] ^= 1;
    let error = reopen(&disk).err().unwrap();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains(&file) && source.contains("data directory back (no older copy)"), "{source}");
}

#[test]
fn a_snapshot_that_cannot_be_encoded_is_followed_by_a_later_one() {
    let mut room = open(Recording::default()).unwrap();
    let mut asked_for = Vec::new();
    for id in 0..40 {
        let before = asked_for.len();
        let inputs = [Input::Tick, Input::Propose { id, data: command(id) }];
        let note = &mut |output| {
            if let Output::EncodeSnapshot { index, .. } = output {
                asked_for.push(index);
            }
        };
        room.step_all(inputs, Duration::ZERO, note).unwrap();
        let failed = asked_for[before..].iter().map(|index| Input::SnapshotFailed { index: *index });
        let failed: Vec<Input> = failed.collect();
        room.step_all(failed, Duration::ZERO, &mut |_| {}).unwrap();
    }
    assert!(asked_for.len() > 2, "{asked_for:?}");
    assert!(asked_for.windows(2).all(|pair| pair[0] + 6 <= pair[1]), "at once would be in vain: {asked_for:?}");
}

#[test]
fn a_bootstrap_interrupted_anywhere_is_completed() {
    let complete = open(Recording::default()).unwrap().into_disk().disk;
    let mut only_snapshot = complete.clone();
    only_snapshot.remove(&file_of(&complete, "log-")).unwrap();
    only_snapshot.append("snapshot.new", b"half").unwrap();
    let disk = reopen(&only_snapshot).unwrap().into_disk().disk;
    assert_eq!(disk.list().unwrap(), complete.list().unwrap());
    for file in disk.list().unwrap() {
        assert_eq!(disk.read(&file).unwrap(), complete.read(&file).unwrap(), "{file}");
    }
}

#[test]
fn a_snapshot_that_a_follower_needs_and_nobody_can_read_halts_the_leader() {
    let limits = Limits { snapshot_entries: 10, retained_entries: 2, ..Limits::default() };
    let mut cluster = Cluster::with_limits(3, limits);
    cluster.elect(1);
    cluster.cut_off.insert(3);
    (1..=25).for_each(|number| cluster.propose(1, number));
    let mut room = cluster.rooms.remove(&1).unwrap();
    let file = file_of(&room.node.store().disk().disk, "snapshot-");
    room.node.mut_store().disk_mut().disk.file_mut(&file).unwrap()[50] ^= 1;
    // The follower answers again, from its old position.
    let answer = Message {
        msg_type: MessageType::MsgAppendResponse as i32,
        from: 3,
        to: 1,
        term: room.node.raft.term,
        index: 2,
        reject: true,
        reject_hint: 1,
        ..Message::default()
    };
    let mut result = room.step(Input::Unreachable(3), Duration::ZERO, &mut |_| {});
    for index in (1..=27).rev() {
        result = result.and_then(|()| {
            let answer = Message { index, ..answer.clone() };
            room.step(Input::Peer(answer), Duration::ZERO, &mut |_| {})
        });
    }
    assert!(matches!(result, Err(Fatal::Snapshot(SnapshotFileError::Damaged { .. }))), "{result:?}");
}
