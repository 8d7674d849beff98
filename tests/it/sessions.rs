//! Agents that vanish, come back and are revoked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::harness::{Mesh, PROMISE_FACTOR, Service, eventually, free_port, weft};

/// A revoked agent is refused everywhere within this time.
const REVOKED: Duration = Duration::from_secs(5);
/// The grace period that the servers of this story are told, and the time that they take to look.
const LOST: Duration = Duration::from_secs(3);

/// Agents find the survivor, and follow it, within this time.
const RECOVERED: Duration = Duration::from_secs(10);

/// Serves an echo on a port of its own until the process ends.
fn echo() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let (mut stream, mut bytes) = (stream.unwrap(), [0; 64]);
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// Opens a connection that is answered; none where the call is refused.
fn call(listener: u16) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], listener))).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    say(&mut stream)?;
    Some(stream)
}

/// Says something over a connection; nothing where nobody answers.
fn say(stream: &mut TcpStream) -> Option<()> {
    stream.write_all(b"ping").ok()?;
    stream.read_exact(&mut [0; 4]).ok()
}

/// Returns the status of the check that says how a node's agent stands; none where all is well.
fn agent_check(mesh: &Mesh, node: &str) -> Option<String> {
    let checks = mesh.servers[0].request("GET", &format!("/v1/health/node/{node}"), &mesh.token, "").unwrap().json();
    let checks = checks.as_array()?.clone();
    let check = checks.iter().find(|check| check["CheckID"] == "weft-agent")?.clone();
    Some(check["Status"].as_str()?.to_owned())
}

#[test]
fn c14_fault_26_an_agent_that_vanishes_is_critical_and_back_with_it_and_a_revoked_one_is_out_within_seconds() {
    let mut mesh = Mesh::start_with(1, &["--session-grace", "1s", "--session-reap", "1h"]);
    let (listener, of_db) = (free_port(), free_port());
    let api = mesh.join("api-1", &[Service { name: "api", port: echo(), upstreams: vec![] }]);
    mesh.join("other-1", &["api", "db"].map(|name| Service { name, port: echo(), upstreams: vec![] }));
    let web = Service { name: "web", port: free_port(), upstreams: vec![("api", listener), ("db", of_db)] };
    let web = mesh.join("web-1", &[web]);
    for destination in ["api", "db"] {
        mesh.done(&["intention", "create", "--allow", "web", destination]);
    }
    eventually("the call to be allowed", REVOKED * PROMISE_FACTOR, || call(listener));
    let mut to_db = eventually("the other call to be allowed", REVOKED * PROMISE_FACTOR, || call(of_db));

    // It is there after all, and goes on in another session.
    mesh.done(&["force-leave", "web-1"]);
    eventually("the next session", LOST * PROMISE_FACTOR, || {
        (mesh.agents[web].log().matches("session open").count() > 1).then_some(())
    });
    eventually("the node to be well", LOST * PROMISE_FACTOR, || agent_check(&mesh, "web-1").is_none().then_some(()));

    // Whoever else serves it answers, and what has nothing to do with it goes on.
    mesh.agents[api].kill();
    eventually("the other instance to answer", LOST * PROMISE_FACTOR, || call(listener));
    to_db.set_read_timeout(Some(LOST * PROMISE_FACTOR)).unwrap();
    say(&mut to_db).expect("a connection to another service goes on");
    let lost = eventually("the session to be lost", LOST * PROMISE_FACTOR, || agent_check(&mesh, "api-1"));
    assert_eq!(lost, "critical");
    eventually("the other to be well", LOST * PROMISE_FACTOR, || agent_check(&mesh, "web-1").is_none().then_some(()));
    mesh.done(&["force-leave", "--prune", "api-1"]);
    let nodes = mesh.done(&["catalog", "nodes", "--output", "json"]);
    assert!(!nodes.contains("api-1") && nodes.contains("web-1"), "{nodes}");
    mesh.agents[api].start();
    mesh.agents[api].wait_until_ready(REVOKED * PROMISE_FACTOR);
    eventually("the node to be well", LOST * PROMISE_FACTOR, || agent_check(&mesh, "api-1").is_none().then_some(()));

    let mut open = eventually("the call to be answered again", REVOKED * PROMISE_FACTOR, || call(listener));
    let revoked = mesh.done(&["revoke", "service", "web"]);
    assert!(revoked.contains("service default/web (agents: 1)"), "{revoked}");
    eventually("what is open to be cut", REVOKED * PROMISE_FACTOR, || {
        let is_cut = open.write_all(b"ping").is_err() || open.read_exact(&mut [0; 4]).is_err();
        is_cut.then_some(())
    });
    assert!(call(listener).is_none(), "and nothing is opened any more");
    let listed = mesh.done(&["revoke", "list"]);
    assert!(listed.contains("default/web"), "{listed}");

    // The agent itself goes on, until it is revoked as a whole.
    eventually("the agent to be well", LOST * PROMISE_FACTOR, || agent_check(&mesh, "web-1").is_none().then_some(()));
    mesh.done(&["revoke", "agent", "web-1"]);
    let nodes = mesh.done(&["catalog", "nodes", "--output", "json"]);
    assert!(!nodes.contains("web-1"), "{nodes}");
    assert_eq!(mesh.weft(&["revoke", "agent", "web-1"]).status, Some(2), "it is gone");
}

#[test]
fn fault_11_agents_that_know_more_than_the_survivor_of_a_lost_majority_start_over_with_it() {
    let mut mesh = Mesh::start(3);
    let listener = free_port();
    mesh.join("api-1", &[Service { name: "api", port: echo(), upstreams: vec![] }]);
    mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] }]);
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    eventually("the call to be allowed", REVOKED * PROMISE_FACTOR, || call(listener));
    eventually("the survivor to have the write", REVOKED * PROMISE_FACTOR, || {
        let answer = mesh.servers[2].request("GET", "/v1/connect/intentions?stale", &mesh.token, "").ok()?;
        answer.body.contains("web").then_some(())
    });

    // What the agents hear now, the survivor never will.
    mesh.servers[2].kill();
    for number in 0..20 {
        mesh.done(&["intention", "create", "--allow", &format!("other-{number}"), "api"]);
    }
    mesh.done(&["intention", "delete", "web", "api"]);
    eventually("the call to be refused", REVOKED * PROMISE_FACTOR, || call(listener).is_none().then_some(()));
    mesh.servers[0].kill();
    mesh.servers[1].kill();
    assert!(call(listener).is_none(), "what is held stays in force while nobody leads");

    let data = mesh.servers[2].data.display().to_string();
    let looked = weft(&["operator", "recover-quorum", "--data-dir", &data], &[]);
    let id = looked.stdout.lines().find_map(|line| line.strip_prefix("Cluster")).unwrap().trim().to_owned();
    let done = weft(&["operator", "recover-quorum", "--data-dir", &data, "--confirm", &id], &[]);
    assert_eq!(done.status, Some(0), "{}", done.stderr);
    mesh.start_server(2);
    eventually("the agents to start over", RECOVERED * PROMISE_FACTOR, || call(listener));
    assert!(!mesh.done(&["intention", "list"]).contains("other-"), "the survivor never heard of it");

    // From here on they follow it as ever, although its indexes are below those that they had seen.
    mesh.done(&["intention", "delete", "web", "api"]);
    eventually("the call to be refused again", REVOKED * PROMISE_FACTOR, || call(listener).is_none().then_some(()));
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    eventually("the call to be allowed again", REVOKED * PROMISE_FACTOR, || call(listener));
}
