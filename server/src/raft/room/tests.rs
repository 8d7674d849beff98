mod cluster;
mod faults;
mod hostile;
mod space;

use catalog::Outcome;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, MessageType};

use super::*;
use crate::raft::Limits;
use cluster::{Cluster, Event, Recording, command};

/// Puts outputs into words that are short to compare.
fn words(outputs: &[Output]) -> Vec<String> {
    let word = |output: &Output| match output {
        Output::Applied { index, touched, restored, .. } => {
            format!(
                "applied {index}{}{}",
                if touched.is_empty() { "" } else { " touched" },
                if *restored { " restored" } else { "" }
            )
        }
        Output::ProposalDone { id, index, outcome } => {
            format!("done {id} at {index}{}", if *outcome == Outcome::Done { "" } else { " otherwise" })
        }
        Output::ProposalFailed { id, reason } => format!("failed {id}: {reason}"),
        Output::ReadReady { id, index } => format!("read {id} at {index}"),
        Output::ReadFailed { id, reason } => format!("unread {id}: {reason}"),
        output => format!("{output:?}"),
    };
    outputs.iter().map(word).collect()
}

#[test]
fn a_proposal_is_answered_after_it_is_applied() {
    let mut cluster = Cluster::new(3);
    cluster.elect(2);
    cluster.propose(2, 7);
    assert_eq!(words(&cluster.take_outputs(2)), ["applied 3 touched", "done 7 at 3"]);
    cluster.tick(2);
    for id in [1, 3] {
        assert_eq!(cluster.rooms[&id].catalog().snapshot(), cluster.rooms[&2].catalog().snapshot());
    }
}

#[test]
fn a_server_alone_leads_from_its_first_tick() {
    let mut cluster = Cluster::new(1);
    cluster.tick(1);
    assert_eq!(cluster.role(1), Role::Leader);
    cluster.propose(1, 1);
    cluster.step(1, Input::ReadIndex { id: 2 });
    let outputs = words(&cluster.take_outputs(1));
    assert_eq!(outputs[1..], ["applied 3 touched", "done 1 at 3", "read 2 at 3"]);
}

#[test]
fn a_follower_names_the_leader_and_proposes_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.propose(1, 6);
    cluster.elect(2);
    cluster.propose(1, 7);
    let sent = cluster.take_events(1);
    let is_proposal = |event: &Event| matches!(event, Event::Send(m) if m.msg_type == MessageType::MsgPropose as i32);
    assert!(!sent.iter().any(is_proposal), "nothing is forwarded");
    let failed = |leader| ProposalFailure::NotLeader { leader };
    let outputs = cluster.take_outputs(1);
    assert!(matches!(&outputs[..], [.., Output::ProposalFailed { id: 7, reason }] if *reason == failed(Some(2))));
}

#[test]
fn proposals_that_cannot_be_entries_are_refused_before_they_are() {
    let limits = Limits { entry_bytes_max: 1000, ..Limits::default() };
    let mut cluster = Cluster::with_limits(1, limits);
    cluster.elect(1);
    for (id, data) in [(1, vec![b'x'; 1001]), (2, Vec::new()), (3, b"{\"version\":1}".to_vec())] {
        cluster.step(1, Input::Propose { id, data });
    }
    let reasons: Vec<ProposalFailure> = cluster
        .take_outputs(1)
        .into_iter()
        .map(|output| match output {
            Output::ProposalFailed { reason, .. } => reason,
            output => panic!("{output:?}"),
        })
        .collect();
    assert!(
        matches!(
            &reasons[..],
            [
                ProposalFailure::TooLarge { bytes: 1001, bytes_max: 1000 },
                ProposalFailure::Malformed(_),
                ProposalFailure::Malformed(_)
            ]
        ),
        "{reasons:?}"
    );
}

#[test]
fn waiting_proposals_and_reads_are_bounded() {
    let limits = Limits { proposals_max: 2, reads_max: 2, ..Limits::default() };
    let mut cluster = Cluster::with_limits(3, limits);
    cluster.elect(1);
    cluster.cut_off.extend([2, 3]);
    for id in 1..=3 {
        cluster.propose(1, id);
        cluster.step(1, Input::ReadIndex { id });
    }
    let expected = [
        "failed 3: too many proposals wait already; retry later",
        "unread 3: too many reads wait already; retry later",
    ];
    assert_eq!(words(&cluster.take_outputs(1)), expected);
}

#[test]
fn a_leader_without_a_quorum_fails_what_waits() {
    let limits = Limits { read_ticks_max: 100, ..Limits::default() };
    let mut cluster = Cluster::with_limits(3, limits);
    cluster.elect(1);
    cluster.cut_off.insert(1);
    cluster.propose(1, 7);
    cluster.step(1, Input::ReadIndex { id: 8 });
    cluster.tick(40);
    let expected = [
        "failed 7: leadership was lost before the outcome was known; retry with the same request id",
        "unread 8: the leader changed while the read waited",
    ];
    assert_eq!(words(&cluster.take_outputs(1)), expected);
    assert_ne!(cluster.role(1), Role::Leader);

    // The entry of the old leader is replaced when it comes back, and nobody hears of it again.
    cluster.elect(2);
    cluster.cut_off.clear();
    cluster.propose(2, 9);
    cluster.tick(10);
    assert!(!words(&cluster.take_outputs(1)).iter().any(|word| word.starts_with("done")));
    assert_eq!(cluster.rooms[&1].catalog().snapshot(), cluster.rooms[&2].catalog().snapshot());
}

#[test]
fn reads_say_why_they_cannot_be_served() {
    let mut cluster = Cluster::new(3);
    cluster.step(1, Input::ReadIndex { id: 1 });
    assert_eq!(words(&cluster.take_outputs(1)), ["unread 1: no leader is known"]);
    cluster.elect(1);

    // A leader that does not answer: the follower's read fails in time.
    cluster.cut_off.insert(1);
    cluster.step(2, Input::ReadIndex { id: 2 });
    for _ in 0..20 {
        cluster.step(2, Input::Tick);
    }
    let outputs = words(&cluster.take_outputs(2));
    assert!(matches!(&outputs[..], [word] if word.starts_with("unread 2: ")), "{outputs:?}");

    // A new leader that has not committed in its term: it does not know what is committed.
    let mut cluster = Cluster::new(3);
    cluster.cut_off.insert(3);
    while cluster.role(1) != Role::Leader {
        // Server 2 votes, but its answers to appends are lost: it is cut off once the votes are in.
        cluster.step(1, Input::Tick);
        if cluster.rooms[&1].status(Duration::ZERO).term > 1 {
            break;
        }
    }
    let room = cluster.rooms.get_mut(&1).unwrap();
    if room.node.raft.commit_to_current_term() {
        // With immediate delivery the term's first entry is committed at once; take the commit back to before it.
        room.node.raft.raft_log.committed = 1;
    }
    let mut outputs = Vec::new();
    room.reads.take(3, 0, &mut |output| outputs.push(output));
    room.reads.begin_round(&mut room.node, &mut |output| outputs.push(output));
    assert_eq!(words(&outputs), ["unread 3: the leader has not committed an entry in its term yet"]);
}

#[test]
fn one_round_serves_all_reads_that_wait_when_it_starts() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    for id in [1, 2] {
        cluster.take_events(id);
        cluster.step_all(id, (10..20).map(|id| Input::ReadIndex { id }).collect());
        let outputs = words(&cluster.take_outputs(id));
        assert_eq!(outputs.len(), 10, "{outputs:?}");
        assert!(outputs.iter().all(|word| word.ends_with("at 2")), "{outputs:?}");
        let rounds = cluster.take_events(1).iter().filter(|event| {
            matches!(event, Event::Send(m) if m.msg_type == MessageType::MsgHeartbeat as i32 && !m.context.is_empty())
        }).count();
        assert_eq!(rounds, 2, "one heartbeat to each follower");
    }
}

#[test]
fn a_read_meant_for_a_leader_that_is_none_any_more_is_not_passed_on() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.step(2, Input::ReadIndex { id: 1 });
    let is_request = |event: &Event| matches!(event, Event::Send(m) if m.msg_type == MessageType::MsgReadIndex as i32);
    let Some(Event::Send(request)) = cluster.take_events(2).into_iter().find(is_request) else { panic!("no request") };
    cluster.elect(2);
    cluster.take_events(1);
    cluster.step(1, Input::Peer(request));
    assert!(!cluster.take_events(1).iter().any(is_request));
}

#[test]
fn a_late_answer_to_an_earlier_life_is_not_taken_for_a_read_of_this_one() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.step(2, Input::ReadIndex { id: 1 });
    let is_request = |event: &Event| matches!(event, Event::Send(m) if m.msg_type == MessageType::MsgReadIndex as i32);
    let events = cluster.take_events(2);
    let Some(Event::Send(first)) = events.iter().find(|event| is_request(event)) else { panic!("no request") };
    let disk = cluster.stop(2);
    let config = RoomConfig { seed: 99, ..RoomConfig::new(2, vec![], 0) };
    cluster.rooms.insert(2, Room::open(disk, config).unwrap());
    cluster.tick(2);
    cluster.take_events(2);
    cluster.step(2, Input::ReadIndex { id: 1 });
    let events = cluster.take_events(2);
    let Some(Event::Send(second)) = events.iter().find(|event| is_request(event)) else { panic!("no request") };
    assert_ne!(first.entries[0].data, second.entries[0].data);
}

#[test]
fn nothing_that_depends_on_a_record_leaves_before_it_is_synced() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    for id in 1..=3 {
        cluster.take_events(id);
    }
    cluster.propose(1, 7);

    // The follower: one record, synced, and only then the acknowledgement.
    let follower = cluster.take_events(2);
    let kinds: Vec<String> = follower
        .iter()
        .map(|event| match event {
            Event::Append(_) => "append".to_owned(),
            Event::Sync(_) => "sync".to_owned(),
            Event::Send(message) => format!("{:?} of {}", message.get_msg_type(), message.index),
        })
        .collect();
    assert_eq!(kinds[..3], ["append", "sync", "MsgAppendResponse of 3"]);

    // The leader: its append may leave before its own disk, which is synced before it counts itself.
    let leader = cluster.take_events(1);
    assert!(matches!(leader[0], Event::Send(_)) && matches!(leader[1], Event::Send(_)), "{leader:?}");
    assert!(matches!((&leader[2], &leader[3]), (Event::Append(_), Event::Sync(_))), "{leader:?}");

    // A vote: the term and whom it went to are on the disk before anybody hears of it.
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let events = cluster.take_events(2);
    let vote = events
        .iter()
        .position(|event| matches!(event, Event::Send(m) if m.msg_type == MessageType::MsgRequestVoteResponse as i32))
        .unwrap();
    assert!(matches!(events[vote - 1], Event::Sync(_)), "{events:?}");
}

#[test]
fn a_candidates_term_is_synced_before_it_asks_for_votes() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let events = cluster.take_events(1);
    let request = events
        .iter()
        .position(|event| matches!(event, Event::Send(m) if m.msg_type == MessageType::MsgRequestVote as i32))
        .unwrap();
    let last_sync = events[..request].iter().rposition(|event| matches!(event, Event::Sync(_))).unwrap();
    let last_append = events[..request].iter().rposition(|event| matches!(event, Event::Append(_))).unwrap();
    assert_eq!(last_sync, last_append + 1);
}

#[test]
fn one_sync_covers_a_batch_of_proposals() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.take_events(1);
    cluster.step_all(1, (1..=50).map(|id| Input::Propose { id, data: command(id) }).collect());
    let syncs = cluster.take_events(1).iter().filter(|event| matches!(event, Event::Sync(_))).count();
    assert_eq!(syncs, 1);
    let done = words(&cluster.take_outputs(1)).iter().filter(|word| word.starts_with("done")).count();
    assert_eq!(done, 50);
}

#[test]
fn a_change_of_the_commit_index_alone_writes_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, 1);
    cluster.take_events(2);
    cluster.tick(3);
    assert!(cluster.take_events(2).iter().all(|event| matches!(event, Event::Send(_))));
    assert_eq!(cluster.rooms[&2].status(Duration::ZERO).commit, 3);
}

#[test]
fn a_follower_too_far_behind_is_sent_a_snapshot() {
    let limits = Limits { snapshot_entries: 10, retained_entries: 2, segment_bytes: 300, ..Limits::default() };
    let mut cluster = Cluster::with_limits(3, limits);
    cluster.elect(1);
    cluster.cut_off.insert(3);
    for number in 1..=25 {
        cluster.propose(1, number);
    }
    assert_eq!(cluster.rooms[&1].status(Duration::ZERO).snapshot_index, 21);
    cluster.cut_off.clear();
    cluster.outputs.clear();
    cluster.tick(5);
    let outputs = words(&cluster.take_outputs(3));
    assert!(outputs.contains(&"applied 21 restored".to_owned()), "{outputs:?}");
    assert_eq!(cluster.rooms[&3].catalog().snapshot(), cluster.rooms[&1].catalog().snapshot());

    // Everybody comes back from what is on the disks, the follower from the snapshot that it was sent.
    let expected = cluster.rooms[&1].catalog().snapshot();
    for id in 1..=3 {
        let disk = cluster.stop(id);
        cluster.start(id, disk, vec![]);
        assert_eq!(cluster.rooms[&id].status(Duration::ZERO).snapshot_index, 21);
    }
    cluster.elect(3);
    cluster.tick(2);
    for id in 1..=3 {
        let restored = cluster.rooms[&id].catalog();
        assert_eq!(restored.intentions().count(), 25, "server {id}");
    }
    assert_ne!(expected, cluster.rooms[&1].catalog().snapshot(), "only the new term's entry was added");
}

#[test]
fn a_newcomer_learns_membership_and_state_from_a_snapshot() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, 1);
    cluster.start(4, Recording::default(), vec![]);
    let add = ConfChangeSingle { change_type: ConfChangeType::AddNode as i32, node_id: 4 };
    let change = ConfChangeV2 { changes: vec![add], ..ConfChangeV2::default() };
    cluster.rooms.get_mut(&1).unwrap().node.propose_conf_change(vec![], change).unwrap();
    cluster.tick(10);
    for id in 1..=4 {
        assert_eq!(cluster.rooms[&id].status(Duration::ZERO).group.voters, [1, 2, 3, 4], "server {id}");
        assert_eq!(cluster.rooms[&id].status(Duration::ZERO).snapshot_index, 4, "server {id}");
        assert_eq!(cluster.rooms[&id].catalog().snapshot(), cluster.rooms[&1].catalog().snapshot(), "server {id}");
    }
    let disk = cluster.stop(4);
    cluster.start(4, disk, vec![]);
    cluster.tick(2);
    assert_eq!(cluster.rooms[&4].status(Duration::ZERO).group.voters, [1, 2, 3, 4], "membership survives a restart");
}

#[test]
fn leadership_moves_when_asked() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.step(1, Input::TransferLeader(3));
    assert_eq!((cluster.role(1), cluster.role(3)), (Role::Follower, Role::Leader));
    cluster.step(1, Input::TransferLeader(2));
    assert_eq!(cluster.role(3), Role::Leader, "only a leader can give leadership away");
}

#[test]
fn a_stopped_room_fails_what_waits_and_takes_nothing_more() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.cut_off.insert(1);
    cluster.propose(1, 7);
    cluster.step(1, Input::ReadIndex { id: 8 });
    cluster.step_all(1, vec![Input::Stop, Input::Tick]);
    assert_eq!(
        words(&cluster.take_outputs(1)),
        ["failed 7: the server is stopping", "unread 8: the server is stopping"]
    );
    cluster.propose(1, 9);
    assert!(cluster.take_outputs(1).is_empty());
}

#[test]
fn last_contact_is_measured_from_the_last_leader_heard() {
    let mut cluster = Cluster::new(3);
    assert_eq!(cluster.rooms[&2].status(Duration::from_secs(9)).last_contact, None);
    cluster.elect(1);
    assert_eq!(cluster.rooms[&2].status(Duration::from_secs(9)).last_contact, Some(Duration::from_secs(9)));
    assert_eq!(cluster.rooms[&2].status(Duration::ZERO).leader, Some(1));
}

#[test]
fn elections_are_jittered_by_the_seed() {
    let ticks_to_candidacy = |seed| {
        let config = RoomConfig { ..RoomConfig::new(1, vec![1, 2, 3], seed) };
        let mut room = Room::open(Recording::default(), config).unwrap();
        (1..).find(|_| {
            room.step(Input::Tick, Duration::ZERO, &mut |_| {}).unwrap();
            room.status(Duration::ZERO).role == Role::Candidate
        })
    };
    let drawn: std::collections::BTreeSet<Option<u64>> = (0..200).map(ticks_to_candidacy).collect();
    assert_eq!(drawn, (10..20).map(Some).collect(), "between once and twice the election timeout, every value");
    assert_eq!(ticks_to_candidacy(5), ticks_to_candidacy(5));
}

#[test]
fn r9_a_leader_that_is_taken_out_leads_no_longer_and_the_others_go_on() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    // As if another leader had proposed it, and this one had been elected before it was applied.
    let removal = ConfChangeSingle { change_type: ConfChangeType::RemoveNode as i32, node_id: 1 };
    let change = ConfChangeV2 { changes: vec![removal], ..ConfChangeV2::default() };
    cluster.rooms.get_mut(&1).unwrap().node.propose_conf_change(Vec::new(), change).unwrap();
    cluster.tick(10);
    assert_ne!(cluster.role(1), Role::Leader, "it is no member any more");
    cluster.elect(2);
    cluster.take_outputs(2);
    cluster.propose(2, 7);
    let words = words(&cluster.take_outputs(2));
    assert!(words.iter().any(|word| word.starts_with("done")), "{words:?}");
}
