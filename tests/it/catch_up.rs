//! Servers that were away: what the others no longer have in their logs reaches them as a snapshot.

use std::{net::SocketAddr, path::Path, time::Duration};

use crate::harness::{Mesh, PROMISE_FACTOR, eventually, exchange};

/// How long a server that comes back may take to know what the others know.
const CAUGHT_UP: Duration = Duration::from_secs(5);
/// A snapshot every 64 entries, and 32 of them kept in the log.
const FEW_ENTRIES: [&str; 2] = ["--snapshot-entries", "64"];
const WRITERS: usize = 8;

/// Writes this many intentions, a few at a time, each with a destination of its own.
fn write(mesh: &Mesh, name: &str, count: usize) {
    let servers: Vec<SocketAddr> =
        mesh.servers.iter().filter(|server| server.is_running()).map(|one| one.http).collect();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let servers = &servers;
            scope.spawn(move || {
                for number in (writer..count).step_by(WRITERS) {
                    let path = format!("/v1/connect/intentions/exact?source=web&destination={name}-{number}");
                    let headers = [("x-consul-token", mesh.token.as_str())];
                    let server = servers[writer % servers.len()];
                    let answer = eventually(&format!("{path} to be taken"), CAUGHT_UP * PROMISE_FACTOR, || {
                        let answer = exchange(server, "PUT", &path, &headers, r#"{"Action":"allow"}"#).unwrap();
                        (!answer.asks_to_try_again()).then_some(answer)
                    });
                    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
                }
            });
        }
    });
}

/// Returns all that one server has in its own state, with the indexes under which it has it.
fn state(mesh: &Mesh, at: usize) -> Option<Vec<(String, String)>> {
    let paths =
        ["/v1/connect/intentions", "/v1/catalog/nodes", "/v1/acl/tokens", "/v1/join-tokens", "/v1/connect/ca/roots"];
    let read = |path: &str| {
        let answer = mesh.servers[at].request("GET", &format!("{path}?stale"), &mesh.token, "").ok()?;
        let index = answer.header("x-consul-index").unwrap_or_default().to_owned();
        (answer.status == 200).then_some((index, answer.body))
    };
    paths.into_iter().map(read).collect()
}

/// Waits until one server has the state of the other, and returns it.
#[track_caller]
fn caught_up(mesh: &Mesh, at: usize, with: usize) -> Vec<(String, String)> {
    eventually(&format!("{} to catch up", mesh.servers[at].name), CAUGHT_UP * PROMISE_FACTOR, || {
        let (own, other) = (state(mesh, at)?, state(mesh, with)?);
        (own == other).then_some(own)
    })
}

fn snapshots_sent(mesh: &Mesh) -> usize {
    mesh.servers.iter().map(|server| server.log().matches("raft snapshot sent").count()).sum()
}

fn term(mesh: &Mesh) -> serde_json::Value {
    let status = mesh.servers[mesh.leader()].request("GET", "/v1/status/raft", &mesh.token, "").unwrap();
    status.json()["Term"].clone()
}

fn snapshot_files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true => snapshot_files(&path),
        false => usize::from(path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snapshot-"))),
    };
    entries.map(count).sum()
}

#[test]
fn fault_2_a_follower_away_for_longer_than_the_log_reaches_gets_a_snapshot() {
    let mut mesh = Mesh::start_with(3, &FEW_ENTRIES);
    let leader = mesh.leader();
    let follower = (leader + 1) % 3;
    write(&mesh, "before", 10);
    caught_up(&mesh, follower, leader);
    mesh.servers[follower].kill();
    write(&mesh, "away", 300);
    assert_eq!(snapshots_sent(&mesh), 0);
    mesh.start_server(follower);
    let state = caught_up(&mesh, follower, leader);
    assert_eq!(state[0].1.matches("\"DestinationName\"").count(), 310);
    eventually(
        "the snapshot to be told of: what was missed is in nobody's log any more",
        CAUGHT_UP * PROMISE_FACTOR,
        || (snapshots_sent(&mesh) > 0).then_some(()),
    );
    // And it goes on from there: entries come after the snapshot, from the log.
    write(&mesh, "after", 10);
    caught_up(&mesh, follower, leader);

    // A little that was missed is still in the logs.
    let before = (snapshots_sent(&mesh), term(&mesh));
    mesh.servers[follower].kill();
    write(&mesh, "again", 20);
    mesh.start_server(follower);
    caught_up(&mesh, follower, leader);
    // A new leader's own entries would take the place of those that are kept.
    match term(&mesh) == before.1 {
        true => assert_eq!(snapshots_sent(&mesh), before.0, "the log was enough"),
        false => eprintln!("not looked at: whether the log is enough, for the leader changed meanwhile"),
    }
}

#[test]
fn fault_3_servers_come_back_from_snapshot_and_log_with_all_that_they_had() {
    let mut mesh = Mesh::start_with(3, &FEW_ENTRIES);
    mesh.done(&["join-token", "create", "--service", "web"]);
    write(&mesh, "kept", 200);
    let leader = mesh.leader();
    let before = caught_up(&mesh, (leader + 1) % 3, leader);
    eventually("one snapshot on each, the newest", CAUGHT_UP * PROMISE_FACTOR, || {
        mesh.servers.iter().all(|server| snapshot_files(&server.data) == 1).then_some(())
    });
    for server in &mut mesh.servers {
        server.kill();
    }
    for at in 0..3 {
        mesh.start_server(at);
    }
    mesh.leader();
    for at in 0..3 {
        let after = eventually("the state of before", CAUGHT_UP * PROMISE_FACTOR, || {
            state(&mesh, at).filter(|after| *after == before)
        });
        assert_eq!(after[0].1.matches("\"DestinationName\"").count(), 200);
    }
    mesh.done(&["intention", "create", "--allow", "web", "after"]);
}
