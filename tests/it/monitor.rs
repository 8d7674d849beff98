//! The log of a process that runs, read over its API.

use std::{net::SocketAddr, time::Duration};

use crate::harness::{Mesh, PROMISE_FACTOR, Process, Service, eventually, exchange, free_port, weft_command};

/// A line is there within this time.
const SEEN: Duration = Duration::from_secs(5);

/// Starts `weft monitor` on a server or an agent, and waits until it shows a line that the process's own log leaves out.
#[track_caller]
fn monitor(mesh: &Mesh, name: &str, at: SocketAddr, arguments: &[&str], path: &str, shows: &str) -> Process {
    let all = [&["monitor", "--log-level", "debug"], arguments].concat();
    let environment = [("WEFT_HTTP_ADDR", &*at.to_string()), ("WEFT_HTTP_TOKEN", &mesh.token)];
    let directory = mesh.servers[0].data.parent().unwrap();
    let shown = Process::start(name, weft_command(&all, &environment), directory);
    eventually(&format!("{name} to show {shows}"), SEEN * PROMISE_FACTOR, || {
        exchange(at, "GET", path, &[("x-consul-token", &mesh.token)], "").unwrap();
        shown.log().contains(shows).then_some(())
    });
    shown
}

#[test]
fn the_log_of_a_server_and_of_an_agent_is_shown_as_it_is_written() {
    let mut mesh = Mesh::start(1);
    let web = mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![] }]);
    let (server, agent) = (mesh.servers[0].http, mesh.agents[web].http);
    let text = monitor(&mesh, "monitor-1", server, &[], "/v1/status/raft", "API request answered");
    let json = monitor(&mesh, "monitor-2", server, &["--log-json"], "/v1/status/raft", "\"API request answered\"");
    // The last line may be half there.
    let log = json.log();
    let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
    assert!(whole.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
    assert!(!text.log().contains(&mesh.token) && !mesh.servers[0].log().contains("API request answered"));

    // What an agent says: here, that somebody has it read its definitions again.
    let all = ["monitor"];
    let environment = [("WEFT_HTTP_ADDR", &*agent.to_string()), ("WEFT_HTTP_TOKEN", &mesh.token)];
    let directory = mesh.servers[0].data.parent().unwrap().to_owned();
    let shown = Process::start("monitor-3", weft_command(&all, &environment), &directory);
    eventually("the agent's log", SEEN * PROMISE_FACTOR, || {
        let answer = exchange(agent, "PUT", "/v1/agent/reload", &[("x-consul-token", &mesh.token)], "").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        shown.log().contains("service definitions read again").then_some(())
    });

    for (path, status) in [("/v1/agent/monitor?loglevel=loud", 400), ("/v1/agent/monitor", 403)] {
        for at in [server, agent] {
            let token = if status == 403 { "guessed" } else { mesh.token.as_str() };
            let answer = exchange(at, "GET", path, &[("x-consul-token", token)], "").unwrap();
            assert_eq!(answer.status, status, "{path}: {answer:?}");
        }
    }
}
