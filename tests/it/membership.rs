//! Servers that come and go while clients call: rolling restarts, newcomers, a lost disk, and a majority lost for good.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{Mesh, PROMISE_FACTOR, eventually, exchange, weft};

/// How long a change of the servers may take.
const CHANGED: Duration = Duration::from_secs(10);
/// A server looks for a leader for about so long in a caller's place: on a machine as busy as that, the next one is asked. Whoever
/// gives up sooner has failed.
const WAITED: Duration = Duration::from_secs(9);

/// Writes one intention after the other. It knows all servers, and asks the next one where one does not answer.
struct Caller {
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(BTreeSet<String>, Vec<String>)>,
}

impl Caller {
    fn start(mesh: &Mesh) -> Self {
        let servers = Arc::new(Mutex::new(mesh.servers.iter().map(|server| server.http).collect::<Vec<_>>()));
        let stop = Arc::new(AtomicBool::new(false));
        let (known, stopping, token) = (servers.clone(), stop.clone(), mesh.token.clone());
        let thread = std::thread::spawn(move || {
            let (mut done, mut failed) = (BTreeSet::new(), Vec::new());
            for number in 0.. {
                if stopping.load(Ordering::Relaxed) {
                    break;
                }
                let source = format!("c{number}");
                let servers = known.lock().unwrap().clone();
                match call(&servers, number, &source, &token) {
                    Ok(()) => drop(done.insert(source)),
                    Err(error) => failed.push(error),
                }
            }
            (done, failed)
        });
        Self { servers, stop, thread }
    }

    fn knows(&self, mesh: &Mesh) {
        *self.servers.lock().unwrap() = mesh.servers.iter().map(|server| server.http).collect();
    }

    /// Stops, checks that no call failed, and returns what was acknowledged.
    #[track_caller]
    fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        let (done, failed) = self.thread.join().unwrap();
        assert!(
            failed.is_empty(),
            "{} of {} calls failed: {:?}",
            failed.len(),
            done.len(),
            &failed[..failed.len().min(3)]
        );
        done
    }
}

/// Makes one call: whichever server answers must answer well.
fn call(servers: &[SocketAddr], first: usize, source: &str, token: &str) -> Result<(), String> {
    let path = format!("/v1/connect/intentions/exact?source={source}&destination=api");
    let headers = [("x-consul-token", token)];
    let mut unanswered = Vec::new();
    for at in 0..servers.len() {
        let server = servers[(first + at) % servers.len()];
        let asked = Instant::now();
        match exchange(server, "PUT", &path, &headers, r#"{"Action":"allow"}"#) {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) if answer.asks_to_try_again() && asked.elapsed() >= WAITED => {
                unanswered.push(format!("{server}: {}", answer.body));
            }
            Ok(answer) => return Err(format!("{server} answered {}: {}", answer.status, answer.body)),
            Err(error) => unanswered.push(format!("{server}: {error}")),
        }
    }
    Err(format!("no server answered: {unanswered:?}"))
}

/// Waits until this many servers vote and all are healthy.
#[track_caller]
fn settled(mesh: &Mesh, voters: usize) {
    eventually(&format!("{voters} healthy voters"), CHANGED * PROMISE_FACTOR, || {
        let state = mesh.weft(&["operator", "autopilot", "state", "--output", "json"]);
        let state = (state.status == Some(0)).then_some(state.stdout)?;
        let state: serde_json::Value = serde_json::from_str(&state).ok()?;
        (state["Voters"].as_array()?.len() == voters).then_some(())
    });
}

#[track_caller]
fn ends_with(mesh: &mut Mesh, at: usize, status: i32) {
    let process = mesh.servers[at].process();
    assert_eq!(process.wait(CHANGED * PROMISE_FACTOR), Some(status), "{}", process.log());
    // It has ended by itself, and is not to be asked.
    mesh.servers[at].kill();
}

#[test]
fn r9_fault_19_fault_21_servers_are_restarted_added_replaced_and_removed_without_a_failed_call() {
    let mut mesh = Mesh::start(3);
    mesh.done(&["operator", "autopilot", "set-config", "--server-stabilization-time", "200ms"]);
    settled(&mesh, 3);
    let caller = Caller::start(&mesh);

    // A rolling restart, each server once, the leader when its turn comes.
    for at in 0..3 {
        assert_eq!(mesh.servers[at].process().terminate(CHANGED * PROMISE_FACTOR), Some(0));
        mesh.servers[at].kill();
        mesh.start_server(at);
        // The leader's view is a second old: until then it may take the one that was stopped for well.
        let restarted = &mesh.servers[at];
        eventually("the restarted server to answer a consistent read", CHANGED * PROMISE_FACTOR, || {
            let answer = restarted.request("GET", "/v1/catalog/nodes?consistent", &mesh.token, "").ok()?;
            (answer.status == 200).then_some(())
        });
        settled(&mesh, 3);
    }

    // A newcomer listens first, then votes.
    mesh.add_server("s4");
    caller.knows(&mesh);
    settled(&mesh, 4);
    let peers = mesh.done(&["operator", "raft", "list-peers"]);
    assert!(peers.contains("s4") && peers.matches("yes").count() == 4, "{peers}");

    // A disk is lost: refused under the old name, replaced under a new one.
    let lost = (mesh.leader() + 1) % 3;
    mesh.servers[lost].kill();
    std::fs::remove_dir_all(&mesh.servers[lost].data).unwrap();
    mesh.start_server(lost);
    ends_with(&mut mesh, lost, 2);
    assert!(mesh.servers[lost].log().contains("`weft operator raft remove-peer"), "it says what to do");
    mesh.add_server("s5");
    caller.knows(&mesh);
    let name = mesh.servers[lost].name.clone();
    mesh.done(&["operator", "raft", "remove-peer", &name]);
    settled(&mesh, 4);

    // The leader is taken out: it hands over, and ends in peace.
    let leader = mesh.leader();
    let leaving = mesh.servers[leader].name.clone();
    let address = mesh.servers[leader].http.to_string();
    let answer = weft(&["leave"], &[("WEFT_HTTP_ADDR", &address), ("WEFT_HTTP_TOKEN", &mesh.token)]);
    assert_eq!(answer.status, Some(0), "{}", answer.stderr);
    ends_with(&mut mesh, leader, 0);
    settled(&mesh, 3);
    let peers = mesh.done(&["operator", "raft", "list-peers"]);
    assert!(!peers.contains(&leaving), "{peers}");
    eventually("a leader that hands over", CHANGED * PROMISE_FACTOR, || {
        (mesh.weft(&["operator", "raft", "transfer-leader"]).status == Some(0)).then_some(())
    });

    let acknowledged = caller.stop();
    assert!(acknowledged.len() > 50, "only {} calls were made", acknowledged.len());
    let list = mesh.servers.iter().find(|server| server.is_running()).unwrap();
    let found = eventually("a list of intentions", CHANGED * PROMISE_FACTOR, || {
        let answer = list.request("GET", "/v1/connect/intentions?consistent", &mesh.token, "").ok()?;
        (answer.status == 200).then(|| answer.json())
    });
    let found: BTreeSet<String> =
        found.as_array().unwrap().iter().map(|one| one["SourceName"].as_str().unwrap().to_owned()).collect();
    let gone: Vec<&String> = acknowledged.difference(&found).collect();
    assert!(gone.is_empty(), "acknowledged and lost: {gone:?}");
}

#[test]
fn fault_11_a_majority_that_is_lost_for_good_is_recovered_from_one_survivor() {
    let mut mesh = Mesh::start(3);
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    eventually("the survivor to have the write", CHANGED * PROMISE_FACTOR, || {
        let answer = mesh.servers[2].request("GET", "/v1/connect/intentions?stale", &mesh.token, "").ok()?;
        answer.body.contains("web").then_some(())
    });
    let data = mesh.servers[2].data.display().to_string();
    let busy = weft(&["operator", "recover-quorum", "--data-dir", &data], &[]);
    assert_eq!(busy.status, Some(2), "a server that runs is left alone: {}", busy.stdout);
    mesh.servers.iter_mut().for_each(|server| server.kill());
    std::fs::remove_dir_all(&mesh.servers[0].data).unwrap();

    let looked = weft(&["operator", "recover-quorum", "--data-dir", &data], &[]);
    assert_eq!(looked.status, Some(1), "{}", looked.stderr);
    let id = looked.stdout.lines().find_map(|line| line.strip_prefix("Cluster")).unwrap();
    let id = id.trim();
    let wrong = weft(&["operator", "recover-quorum", "--data-dir", &data, "--confirm", "another"], &[]);
    assert_eq!(wrong.status, Some(2), "{}", wrong.stdout);
    let done = weft(&["operator", "recover-quorum", "--data-dir", &data, "--confirm", id], &[]);
    assert_eq!(done.status, Some(0), "{}", done.stderr);

    mesh.start_server(2);
    settled(&mesh, 1);
    assert!(mesh.done(&["intention", "list"]).contains("web"));
    mesh.done(&["intention", "create", "--deny", "web", "db"]);

    // A member from before is refused, and a newcomer is not.
    mesh.start_server(1);
    ends_with(&mut mesh, 1, 2);
    assert!(mesh.servers[1].log().contains("before it was recovered"), "{}", mesh.servers[1].log());
    mesh.done(&["operator", "autopilot", "set-config", "--server-stabilization-time", "200ms"]);
    mesh.add_server("s4");
    settled(&mesh, 2);
}
