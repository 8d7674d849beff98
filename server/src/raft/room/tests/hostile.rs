//! What peers may send and what they may not: nothing panics, nothing malformed reaches Raft.

use std::time::Duration;

use raft::eraftpb::{ConfState, Entry, EntryType, Snapshot};

use super::*;
use wire::random::Seeded;

fn message(kind: MessageType, term: u64) -> Message {
    Message { msg_type: kind as i32, from: 1, to: 2, term, ..Message::default() }
}

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    Entry { index, term, data: data.to_vec(), ..Entry::default() }
}

#[test]
fn r5_malformed_messages_are_dropped_and_counted() {
    let append = |entries: Vec<Entry>| Message { index: 1, log_term: 1, entries, ..message(MessageType::MsgAppend, 2) };
    let conf_change =
        |kind: EntryType, data: &[u8]| append(vec![Entry { entry_type: kind as i32, ..entry(2, 2, data) }]);
    let snapshot = |index: u64, data: &[u8], voters: Vec<u64>| {
        let mut snapshot = Snapshot { data: data.to_vec(), ..Snapshot::default() };
        snapshot.mut_metadata().index = index;
        snapshot.mut_metadata().term = 2;
        snapshot.mut_metadata().set_conf_state(ConfState { voters, ..ConfState::default() });
        Message { snapshot: Some(snapshot), ..message(MessageType::MsgSnapshot, 2) }
    };
    let malformed = [
        Message { msg_type: 99, ..message(MessageType::MsgAppend, 2) },
        Message { msg_type: -1, ..message(MessageType::MsgAppend, 2) },
        message(MessageType::MsgHup, 2),
        message(MessageType::MsgBeat, 2),
        message(MessageType::MsgCheckQuorum, 2),
        message(MessageType::MsgUnreachable, 2),
        message(MessageType::MsgSnapStatus, 2),
        message(MessageType::MsgTransferLeader, 2),
        Message { entries: vec![entry(0, 0, b"x")], ..message(MessageType::MsgPropose, 0) },
        message(MessageType::MsgPropose, 0),
        message(MessageType::MsgAppend, 0),
        message(MessageType::MsgAppend, u64::MAX),
        Message { from: 2, ..message(MessageType::MsgHeartbeat, 2) },
        Message { from: 0, ..message(MessageType::MsgHeartbeat, 2) },
        Message { to: 3, ..message(MessageType::MsgHeartbeat, 2) },
        Message { commit: 9, ..message(MessageType::MsgHeartbeat, 2) },
        Message { commit: u64::MAX, ..message(MessageType::MsgHeartbeat, 2) },
        append(vec![entry(3, 2, b"gap")]),
        Message { index: 26, log_term: 0, commit: 26, ..append(vec![]) },
        append(vec![entry(2, 2, b"a"), entry(2, 2, b"again")]),
        append(vec![entry(2, 2, b"a"), entry(3, 1, b"falling term")]),
        append(vec![entry(2, 3, b"term of the future")]),
        append(vec![entry(2, 0, b"no term")]),
        append(vec![Entry { entry_type: 7, ..entry(2, 2, b"unknown kind") }]),
        Message { index: u64::MAX, ..append(vec![entry(0, 2, b"overflow")]) },
        conf_change(EntryType::EntryConfChange, b"\xff\xff"),
        conf_change(EntryType::EntryConfChange, &[0x10, 9]),
        conf_change(EntryType::EntryConfChangeV2, &[0x08, 9]),
        conf_change(EntryType::EntryConfChangeV2, &[0x12, 4, 0x08, 9, 0x10, 4]),
        message(MessageType::MsgReadIndex, 0),
        Message { entries: vec![entry(0, 0, b"x")], ..message(MessageType::MsgReadIndex, 2) },
        message(MessageType::MsgReadIndexResp, 2),
        Message { reject: true, reject_hint: u64::MAX, ..message(MessageType::MsgAppendResponse, 2) },
        Message { request_snapshot: 5, ..message(MessageType::MsgAppendResponse, 2) },
        message(MessageType::MsgSnapshot, 2),
        snapshot(0, b"", vec![1, 2, 3]),
        snapshot(5, b"garbage", vec![1, 2, 3]),
        snapshot(5, b"", vec![]),
        snapshot(5, b"", vec![1, 1, 2]),
    ];
    let mut cluster = Cluster::new(3);
    let room = cluster.rooms.get_mut(&2).unwrap();
    for (count, message) in malformed.into_iter().enumerate() {
        let shown = format!("{message:?}");
        room.step(Input::Peer(message), Duration::ZERO, &mut |output| panic!("{shown} caused {output:?}")).unwrap();
        assert_eq!(room.status(Duration::ZERO).refused_messages, count as u64 + 1, "{shown} was taken");
    }
    assert_eq!(room.status(Duration::ZERO).term, 1, "nothing of it reached raft");
}

/// As a server that was taken out, or cut off, would ask again and again once it is heard.
#[test]
fn r4_a_flood_of_future_terms_moves_no_term_and_takes_no_leader_down() {
    const NEVER_A_MEMBER: u64 = 9;
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, 1);
    let term = cluster.rooms[&1].status(Duration::ZERO).term;
    for round in 1..=200 {
        for kind in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote] {
            for (from, to) in [(NEVER_A_MEMBER, 1), (NEVER_A_MEMBER, 2), (NEVER_A_MEMBER, 3), (3, 1), (3, 2)] {
                let future = term + 1_000 * round;
                let asked = Message { from, to, index: 1 << 20, log_term: future - 1, ..message(kind, future) };
                cluster.step(to, Input::Peer(asked));
            }
        }
        cluster.tick(1);
        for id in 1..=3 {
            let status = cluster.rooms[&id].status(Duration::ZERO);
            assert_eq!((status.term, status.leader), (term, Some(1)), "server {id} after {round} rounds");
        }
    }
    cluster.take_outputs(1);
    cluster.propose(1, 2);
    let answered = cluster.take_outputs(1);
    assert!(!answered.is_empty(), "the leader commits on");
}

#[test]
fn r5_a_committed_entry_of_an_unknown_kind_halts_and_is_not_skipped() {
    for (data, what) in [
        (b"{\"version\":1,\"command\":{\"kind\":\"from-the-future\"}}".as_slice(), "unknown command"),
        (b"{\"version\":2}", "newer version"),
        (b"garbage", "no envelope"),
    ] {
        let mut cluster = Cluster::new(3);
        let room = cluster.rooms.get_mut(&2).unwrap();
        let entries = vec![entry(2, 2, b""), entry(3, 2, data)];
        let append = Message { index: 1, log_term: 1, entries, commit: 3, ..message(MessageType::MsgAppend, 2) };
        let error = room.step(Input::Peer(append), Duration::ZERO, &mut |_| {}).unwrap_err();
        assert!(
            matches!(error, Fatal::Entry { index: 3, term: 2, source: EntryError::Envelope(_) }),
            "{what}: {error}"
        );
        assert!(matches!(room.step(Input::Tick, Duration::ZERO, &mut |_| {}), Err(Fatal::Halted)), "{what}");
        // It halts again after a restart, until a version that knows the kind is started.
        let mut room = Room::open(cluster.stop(2), RoomConfig::new(2, vec![], 1)).unwrap();
        let append = Message { index: 3, log_term: 2, commit: 3, ..message(MessageType::MsgAppend, 2) };
        assert!(room.step(Input::Peer(append), Duration::ZERO, &mut |_| {}).is_err(), "{what}");
    }
}

#[test]
fn fault_19_a_leader_that_counts_on_a_lost_disk_is_not_followed_into_a_panic() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, 1);
    cluster.stop(2);
    cluster.start(2, Recording::default(), vec![1, 2, 3]);
    cluster.tick(5);
    let status = cluster.rooms[&2].status(Duration::ZERO);
    assert!(status.refused_messages > 0, "the leader's heartbeats name what this disk lost");
    assert_eq!(cluster.role(1), Role::Leader);
}

/// Changes a real message in one place.
fn mutate(message: &mut Message, random: &mut Seeded) {
    let number = match random.below(4) {
        0 => random.next(),
        1 => random.below(8),
        2 => u64::MAX - random.below(3),
        _ => random.below(40),
    };
    match random.below(14) {
        0 => message.msg_type = random.below(22) as i32,
        1 => message.from = random.below(5),
        2 => message.term = number,
        3 => message.log_term = number,
        4 => message.index = number,
        5 => message.commit = number,
        6 => message.commit_term = number,
        7 => message.reject = !message.reject,
        8 => message.reject_hint = number,
        9 => message.context = vec![0; random.below(30) as usize],
        10 => message.entries.push(Entry { index: number, term: random.below(4), ..Entry::default() }),
        11 => message.entries.clear(),
        12 => message.request_snapshot = number,
        _ => {
            if let Some(entry) = message.entries.first_mut() {
                entry.entry_type = random.below(5) as i32;
                entry.data = vec![random.next() as u8; random.below(10) as usize];
            }
        }
    }
}

#[test]
fn r5_no_mutated_message_makes_a_room_panic() {
    let mut real = Vec::new();
    let limits = Limits { snapshot_entries: 10, retained_entries: 2, ..Limits::default() };
    let mut cluster = Cluster::with_limits(3, limits);
    cluster.elect(1);
    cluster.cut_off.insert(3);
    (1..=25).for_each(|number| cluster.propose(1, number));
    cluster.cut_off.clear();
    cluster.tick(25);
    cluster.elect(2);
    for id in 1..=3 {
        cluster.step(id, Input::ReadIndex { id });
        real.extend(cluster.take_events(id).into_iter().filter_map(|event| match event {
            Event::Send(message) => Some(message),
            _ => None,
        }));
    }
    let mut random = Seeded::new(42);
    let mut rounds = 0;
    while rounds < 300 {
        let mut cluster = Cluster::new(3);
        cluster.elect(1 + random.below(3));
        cluster.propose(1, 1);
        let id = 1 + random.below(3);
        let mut room = cluster.rooms.remove(&id).unwrap();
        for _ in 0..40 {
            let mut message = real[random.below(real.len() as u64) as usize].clone();
            message.to = id;
            message.from = 1 + id % 3;
            for _ in 0..random.below(3) {
                mutate(&mut message, &mut random);
            }
            // Halting on an undecodable committed entry is right; panicking is not.
            let is_bounded = message.term < 1 << 40;
            if !is_bounded || room.step(Input::Peer(message), Duration::ZERO, &mut |_| {}).is_err() {
                break;
            }
        }
        rounds += 1;
    }
}
