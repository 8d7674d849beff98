//! What the room does while its disk is full: nothing half, nothing more, and everything else as before.

use std::time::Duration;

use super::*;
use crate::raft::{Disk, MemoryDisk};

/// Makes a server's disk as large as what it holds and `free` bytes more, of which a sixteenth has to stay free.
fn leave(cluster: &mut Cluster, id: u64, free: u64) {
    let disk = &mut cluster.rooms.get_mut(&id).unwrap().node.mut_store().disk_mut().disk;
    let used = disk.used();
    disk.set_capacity(Some(used + free));
}

/// Lets somebody else's file take a server's disk but for `free` bytes.
fn fill(cluster: &mut Cluster, id: u64, free: u64) {
    const SIZE: u64 = 1 << 20;
    let disk = &mut cluster.rooms.get_mut(&id).unwrap().node.mut_store().disk_mut().disk;
    disk.set_capacity(Some(SIZE));
    let bytes = SIZE - free - disk.used();
    disk.append("of-somebody-else", &vec![1; usize::try_from(bytes).unwrap()]).unwrap();
}

fn free(cluster: &mut Cluster, id: u64) {
    let disk = &mut cluster.rooms.get_mut(&id).unwrap().node.mut_store().disk_mut().disk;
    disk.remove("of-somebody-else").unwrap();
}

/// Proposes a command and tells whether it was carried out, refused for want of space, or neither.
fn write(cluster: &mut Cluster, id: u64, number: u64) -> Option<Result<(), ProposalFailure>> {
    cluster.propose(id, number);
    cluster.take_outputs(id).into_iter().find_map(|output| match output {
        Output::ProposalDone { id, .. } if id == number => Some(Ok(())),
        Output::ProposalFailed { id, reason } if id == number => Some(Err(reason)),
        _ => None,
    })
}

#[test]
fn z1_a_full_disk_refuses_writes_serves_reads_and_recovers_by_itself() {
    let mut cluster = Cluster::new(1);
    cluster.tick(1);
    assert_eq!(write(&mut cluster, 1, 1), Some(Ok(())));
    fill(&mut cluster, 1, 4096);
    cluster.tick(2);
    assert!(cluster.rooms[&1].is_read_only());
    assert!(cluster.take_outputs(1).iter().any(|output| matches!(output, Output::SpaceLow { is_low: true })));
    for number in 2..10 {
        assert_eq!(write(&mut cluster, 1, number), Some(Err(ProposalFailure::DiskFull)));
        cluster.step(1, Input::ReadIndex { id: 100 + number });
        let read = cluster.take_outputs(1);
        assert!(read.iter().any(|output| matches!(output, Output::ReadReady { .. })), "{:?}", words(&read));
        cluster.tick(1);
    }
    let disk = cluster.rooms[&1].node.store().disk().disk.clone();
    assert!(disk.used() <= 1 << 20);
    assert_eq!(cluster.role(1), Role::Leader, "it leads on, for reads");
    // Nothing half is on the disk: a restart finds nothing to cut off.
    let mut again = Room::open(Recording { disk, ..Recording::default() }, RoomConfig::new(1, vec![1], 9)).unwrap();
    again.step(Input::Tick, Duration::ZERO, &mut |_| {}).unwrap();
    assert!(again.catalog().intentions().count() == 1);

    free(&mut cluster, 1);
    cluster.tick(1);
    assert!(!cluster.rooms[&1].is_read_only());
    assert!(cluster.take_outputs(1).iter().any(|output| matches!(output, Output::SpaceLow { is_low: false })));
    assert_eq!(write(&mut cluster, 1, 20), Some(Ok(())));
}

#[test]
fn z1_a_log_that_fills_its_disk_is_cut_down_to_a_snapshot() {
    let limits = Limits { segment_bytes: 2048, ..Limits::default() };
    let mut cluster = Cluster::with_limits(1, limits);
    cluster.tick(1);
    leave(&mut cluster, 1, 128 << 10);
    // The same few rules again and again: a long log, and a small state.
    let mut refused = 0;
    for number in 0..2000 {
        cluster.step(1, Input::Propose { id: number, data: command(number % 5 + 5 * (number / 2000)) });
        cluster.tick(1);
        let outputs = cluster.take_outputs(1);
        refused += outputs.iter().filter(|output| matches!(output, Output::ProposalFailed { .. })).count();
    }
    let store = cluster.rooms[&1].node.store();
    assert!(store.snapshot_metadata().index > 1, "no snapshot was made");
    assert!(refused < 20, "{refused} of 2000 writes were refused on a disk that the log alone filled");
}

#[test]
fn fault_14_a_leader_without_space_hands_over_to_one_with_space() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    fill(&mut cluster, 1, 4096);
    cluster.tick(20);
    let leader = (2..=3).find(|id| cluster.role(*id) == Role::Leader).expect("one with space leads");
    assert_eq!(write(&mut cluster, leader, 1), Some(Ok(())));
    for number in 2..30 {
        write(&mut cluster, leader, number);
        cluster.tick(1);
    }
    assert_eq!(cluster.rooms[&leader].catalog().intentions().count(), 29);
    assert!(cluster.rooms[&1].catalog().intentions().count() < 29, "what has no space takes nothing");
    assert_eq!(cluster.role(1), Role::Follower);
    free(&mut cluster, 1);
    cluster.tick(30);
    assert_eq!(cluster.rooms[&1].catalog().snapshot(), cluster.rooms[&leader].catalog().snapshot(), "it catches up");
}

#[test]
fn fault_14_where_all_disks_are_full_one_leads_on_for_reads_until_there_is_space() {
    let mut cluster = Cluster::new(3);
    cluster.elect(2);
    (1..=3).for_each(|id| fill(&mut cluster, id, 4096));
    cluster.tick(100);
    let leaders: Vec<u64> = (1..=3).filter(|id| cluster.role(*id) == Role::Leader).collect();
    let [leader] = leaders[..] else { panic!("{leaders:?} lead") };
    assert_eq!(write(&mut cluster, leader, 1), Some(Err(ProposalFailure::DiskFull)));
    cluster.step(leader, Input::ReadIndex { id: 7 });
    let read = cluster.take_outputs(leader);
    assert!(read.iter().any(|output| matches!(output, Output::ReadReady { id: 7, .. })), "{:?}", words(&read));
    (1..=3).for_each(|id| free(&mut cluster, id));
    cluster.tick(30);
    let leader = (1..=3).find(|id| cluster.role(*id) == Role::Leader).unwrap();
    assert_eq!(write(&mut cluster, leader, 2), Some(Ok(())));
}

#[test]
fn z1_whatever_write_the_disk_runs_full_at_nothing_acknowledged_is_lost() {
    let limits = || Limits { snapshot_entries: 6, retained_entries: 2, segment_bytes: 700, ..Limits::default() };
    let open = |disk: MemoryDisk| {
        let config = RoomConfig { limits: limits(), ..RoomConfig::new(1, vec![1], 7) };
        Room::open(Recording { disk, ..Recording::default() }, config)
    };
    let mut halted = 0;
    for capacity in (0..12_000).step_by(97) {
        // No tick comes in between that would look at the disk: the writes themselves fail.
        let mut disk = MemoryDisk::new();
        disk.set_capacity(Some(capacity));
        let Ok(mut room) = open(disk) else { continue };
        let mut acknowledged = Vec::new();
        room.space = Default::default();
        for number in 0..40 {
            let mut encode = Vec::new();
            let input = if number == 0 { Input::Tick } else { Input::Propose { id: number, data: command(number) } };
            let stepped = room.step(input, Duration::ZERO, &mut |output| match output {
                Output::ProposalDone { id, .. } => acknowledged.push(id),
                Output::EncodeSnapshot { index, catalog, .. } => {
                    encode.push(Input::SnapshotEncoded { index, bytes: catalog.snapshot() });
                }
                _ => {}
            });
            if stepped.and_then(|()| room.step_all(encode, Duration::ZERO, &mut |_| {})).is_err() {
                halted += 1;
                break;
            }
        }
        let mut disk = room.into_disk().disk;
        disk.set_capacity(None);
        for seed in 0..4 {
            let mut disk = disk.clone();
            disk.crash(seed);
            let mut room = open(disk).unwrap();
            room.step(Input::Tick, Duration::ZERO, &mut |_| {}).unwrap();
            for number in &acknowledged {
                let destination = format!("service-{number}").parse::<catalog::ServicePattern>().unwrap();
                let is_there = room.catalog().intentions().any(|intention| intention.destination == destination);
                assert!(is_there, "write {number} was acknowledged, then lost on a disk of {capacity} bytes");
            }
        }
    }
    assert!(halted > 20, "{halted} disks ran full under a write");
}

#[test]
fn fault_35_while_a_snapshot_is_on_its_way_no_newer_one_makes_it_worthless() {
    let limits = Limits { snapshot_entries: 20, retained_entries: 4, segment_bytes: 700, ..Limits::default() };
    let mut cluster = Cluster::with_limits(3, limits);
    cluster.elect(1);
    cluster.cut_off.insert(3);
    for number in 0..60 {
        cluster.propose(1, number);
    }
    let before = cluster.rooms[&1].node.store().snapshot_metadata().index;
    assert!(before > 20, "there is a snapshot, and the log before it is gone");
    // The follower is back, but the snapshot that it is sent never arrives whole.
    cluster.cut_off.remove(&3);
    cluster.lost = |message| message.msg_type == MessageType::MsgSnapshot as i32;
    cluster.tick(5);
    assert!(cluster.rooms[&1].sent_snapshots.contains_key(&3));
    for number in 100..150 {
        cluster.propose(1, number);
    }
    for _ in 0..1200 {
        cluster.step(1, Input::SnapshotProgress { to: 3 });
        cluster.tick(1);
    }
    let room = &cluster.rooms[&1];
    assert!(room.sent_snapshots.contains_key(&3), "it counts as under way as long as it goes on");
    assert_eq!(room.node.store().snapshot_metadata().index, before, "a newer one would have to be sent from its start");
    // It failed: the next attempt still finds the same one, for a while.
    cluster.step(1, Input::SnapshotStatus { to: 3, delivered: false });
    cluster.propose(1, 200);
    assert_eq!(cluster.rooms[&1].node.store().snapshot_metadata().index, before);
    cluster.lost = |_| false;
    cluster.tick(30);
    assert_eq!(
        cluster.rooms[&3].catalog().snapshot(),
        cluster.rooms[&1].catalog().snapshot(),
        "the log after it was kept"
    );
}

#[test]
fn fault_12_a_leader_that_offers_leadership_is_followed_by_a_voter_that_has_all_that_is_committed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.cut_off.insert(2);
    cluster.propose(1, 1);
    cluster.step(1, Input::OfferLeadership);
    assert_eq!((cluster.role(1), cluster.role(3)), (Role::Follower, Role::Leader), "server 2 lacks what is committed");
    cluster.take_outputs(3);
    cluster.propose(3, 2);
    assert!(!cluster.take_outputs(3).is_empty(), "it commits on");

    cluster.cut_off.clear();
    cluster.tick(20);
    cluster.step(3, Input::OfferLeadership);
    let led = [1, 2, 3].map(|id| cluster.role(id) == Role::Leader);
    assert_eq!(led.iter().filter(|leads| **leads).count(), 1);
    assert!(!led[2], "another one took it");
    let offered = [1, 2, 3].into_iter().find(|id| cluster.role(*id) != Role::Leader).unwrap();
    cluster.step(offered, Input::OfferLeadership);
    assert_eq!([1, 2, 3].map(|id| cluster.role(id) == Role::Leader), led, "who does not lead has nothing to offer");
}
