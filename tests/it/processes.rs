//! Three servers, two agents, a real nginx behind one and curl in front of the other: from the first refusal to the loss
//! of every server.

use std::time::Duration;

use crate::harness::{Curl, Mesh, PROMISE_FACTOR, Service, eventually, free_port, nginx, tool};

const CUT: Duration = Duration::from_secs(2);
const FAILOVER: Duration = Duration::from_secs(3);
const AGENT_RESTART: Duration = Duration::from_secs(2);

#[test]
fn a_mesh_of_processes_refuses_allows_cuts_and_outlives_its_servers() {
    let test = "a_mesh_of_processes_refuses_allows_cuts_and_outlives_its_servers";
    let (Some(nginx_program), Some(curl)) = (tool("nginx", test), tool("curl", test)) else { return };
    let mut mesh = Mesh::start(3);
    let (api_port, listener) = (free_port(), free_port());
    let _nginx = nginx(&nginx_program, mesh.directory.path(), api_port);
    let api = mesh.join("api-1", &[Service { name: "api", port: api_port, upstreams: vec![] }]);
    let web = mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] }]);
    let curl = Curl::new(curl, ([127, 0, 0, 1], listener).into());

    // Nobody said that web may call api.
    assert_eq!(curl.get("/"), None);
    assert_eq!(mesh.weft(&["intention", "check", "web", "api"]).status, Some(1));

    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    assert_eq!(mesh.weft(&["intention", "check", "web", "api"]).status, Some(0));
    let answer = eventually("the call to be allowed", CUT * PROMISE_FACTOR, || curl.get("/"));
    assert_eq!(answer, "served by nginx\n");

    // A refusal reaches what is already open.
    let mut download = curl.start_slow("/large", 1 << 20);
    download.assert_flowing();
    mesh.done(&["intention", "delete", "web", "api"]);
    let status = download.wait(CUT * PROMISE_FACTOR);
    assert!(matches!(status, Some(18 | 56)), "curl says that the transfer was cut or reset: {status:?}");
    assert_eq!(curl.get("/"), None);
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    eventually("the call to be allowed again", CUT * PROMISE_FACTOR, || curl.get("/"));

    // The leader is killed; calls go on, and the others accept writes.
    let leader = mesh.leader();
    mesh.servers[leader].kill();
    assert!(curl.get("/").is_some(), "calls need no leader");
    eventually("the others to accept a write", FAILOVER * PROMISE_FACTOR, || {
        assert!(curl.get("/").is_some(), "calls go on while the leader is gone");
        (mesh.weft(&["intention", "create", "--deny", "other", "api"]).status == Some(0)).then_some(())
    });

    // Every server is killed; what was allowed stays allowed, on new connections too, and what was not does not.
    for server in &mut mesh.servers {
        server.kill();
    }
    for _ in 0..20 {
        assert_eq!(curl.get("/").as_deref(), Some("served by nginx\n"), "calls need no servers");
    }
    // An agent that restarts now serves from what it knew.
    for at in [api, web] {
        mesh.agents[at].kill();
        mesh.agents[at].start();
        mesh.agents[at].wait_until_ready(AGENT_RESTART * PROMISE_FACTOR);
    }
    let answer =
        eventually("the call to be served by restarted agents", AGENT_RESTART * PROMISE_FACTOR, || curl.get("/"));
    assert_eq!(answer, "served by nginx\n");

    // The servers come back with what they knew, and policy changes take effect again.
    for at in 0..3 {
        mesh.start_server(at);
    }
    mesh.leader();
    let deadline = FAILOVER * PROMISE_FACTOR;
    eventually("a write after the return", deadline, || {
        (mesh.weft(&["intention", "delete", "web", "api"]).status == Some(0)).then_some(())
    });
    eventually("the deletion to take effect", deadline, || curl.get("/").is_none().then_some(()));
    assert_eq!(mesh.agents[web].process().terminate(deadline), Some(0), "an agent drains on SIGTERM");
    assert_eq!(mesh.agents[api].process().terminate(deadline), Some(0), "an agent drains on SIGTERM");
}
