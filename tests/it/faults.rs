//! Servers that die: nothing that was acknowledged is lost, and writing goes on.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::harness::{Mesh, PROMISE_FACTOR, eventually, exchange};

const FAILOVER: Duration = Duration::from_secs(3);

/// Writes intentions one after the other through whatever server answers, and remembers what was acknowledged.
struct Writers {
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    latest: Arc<Mutex<Instant>>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Writers {
    fn start(count: usize, servers: Vec<SocketAddr>, token: &str) -> Self {
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let (latest, stop) = (Arc::new(Mutex::new(Instant::now())), Arc::new(AtomicBool::new(false)));
        let threads = (0..count).map(|writer| {
            let (acknowledged, latest, stop) = (acknowledged.clone(), latest.clone(), stop.clone());
            let (servers, token) = (servers.clone(), token.to_owned());
            std::thread::spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let source = format!("w{writer}-{number}");
                    let path = format!("/v1/connect/intentions/exact?source={source}&destination=api");
                    let server = servers[(writer + number) % servers.len()];
                    let answer = exchange(server, "PUT", &path, &[("x-consul-token", &token)], r#"{"Action":"allow"}"#);
                    if answer.is_ok_and(|answer| answer.status == 200) {
                        acknowledged.lock().unwrap().insert(source);
                        *latest.lock().unwrap() = Instant::now();
                    }
                }
            })
        });
        let threads = threads.collect();
        Self { acknowledged, latest, stop, threads }
    }

    /// Waits until a write that was acknowledged after `instant`; returns when that was.
    #[track_caller]
    fn acknowledged_after(&self, instant: Instant, deadline: Duration) -> Instant {
        eventually("a write to be acknowledged", deadline, || {
            let latest = *self.latest.lock().unwrap();
            (latest > instant).then_some(latest)
        })
    }

    fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let acknowledged = self.acknowledged.lock().unwrap();
        acknowledged.clone()
    }
}

/// Returns the sources of all intentions, as a linearizable read of one server tells them.
fn sources(mesh: &Mesh, at: usize) -> Option<BTreeSet<String>> {
    let answer = mesh.servers[at].request("GET", "/v1/connect/intentions?consistent", &mesh.token, "").ok()?;
    let listed = (answer.status == 200).then(|| answer.json())?;
    listed.as_array()?.iter().map(|one| Some(one["SourceName"].as_str()?.to_owned())).collect()
}

#[test]
fn fault_1_twenty_leaders_are_killed_under_writes_and_no_acknowledged_write_is_lost() {
    let mut mesh = Mesh::start(3);
    let addresses = mesh.servers.iter().map(|server| server.http).collect();
    let writers = Writers::start(3, addresses, &mesh.token);
    writers.acknowledged_after(Instant::now(), FAILOVER * PROMISE_FACTOR);
    for _ in 0..20 {
        let leader = mesh.leader();
        let killed = Instant::now();
        mesh.servers[leader].kill();
        writers.acknowledged_after(killed + Duration::from_millis(100), FAILOVER * PROMISE_FACTOR);
        mesh.start_server(leader);
        // The next kill must not take the majority away: wait until the restarted server has caught up.
        let behind = &mesh.servers[leader];
        eventually("the restarted server to answer a consistent read", FAILOVER * PROMISE_FACTOR, || {
            let answer = behind.request("GET", "/v1/catalog/nodes?consistent", &mesh.token, "").ok()?;
            (answer.status == 200).then_some(())
        });
    }
    let acknowledged = writers.stop();
    assert!(acknowledged.len() > 100, "only {} writes were acknowledged", acknowledged.len());
    for at in 0..3 {
        let found = eventually("a list of intentions", FAILOVER * PROMISE_FACTOR, || sources(&mesh, at));
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "{} lost {lost:?}", mesh.servers[at].name);
    }
}

#[test]
fn fault_3_all_servers_killed_at_once_come_back_with_the_same_state() {
    let mut mesh = Mesh::start(3);
    let addresses = mesh.servers.iter().map(|server| server.http).collect();
    let writers = Writers::start(3, addresses, &mesh.token);
    writers.acknowledged_after(Instant::now() + Duration::from_millis(500), FAILOVER * PROMISE_FACTOR);
    for server in &mut mesh.servers {
        server.kill();
    }
    let acknowledged = writers.stop();
    for at in 0..3 {
        mesh.start_server(at);
    }
    mesh.leader();
    let mut all = Vec::new();
    for at in 0..3 {
        let found = eventually("a list of intentions", FAILOVER * PROMISE_FACTOR, || sources(&mesh, at));
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "{} lost {lost:?}", mesh.servers[at].name);
        all.push(found);
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "the servers do not agree");
}

#[test]
fn fault_2_a_killed_follower_is_not_missed_and_catches_up() {
    let mut mesh = Mesh::start(3);
    let leader = mesh.leader();
    let follower = (leader + 1) % 3;
    mesh.servers[follower].kill();
    for number in 0..50 {
        mesh.done(&["intention", "create", "--allow", &format!("s{number}"), "api"]);
    }
    mesh.start_server(follower);
    let found = eventually("the follower to catch up", FAILOVER * PROMISE_FACTOR, || {
        let answer = mesh.servers[follower].request("GET", "/v1/connect/intentions?stale", &mesh.token, "").ok()?;
        let count = (answer.status == 200).then(|| answer.json().as_array().map(Vec::len))??;
        (count == 50).then_some(count)
    });
    assert_eq!(found, 50);
}

#[test]
fn fault_19_a_server_whose_disk_was_lost_is_refused_under_its_old_name() {
    let mut mesh = Mesh::start(3);
    let leader = mesh.leader();
    let lost = (leader + 1) % 3;
    mesh.servers[lost].kill();
    std::fs::remove_dir_all(&mesh.servers[lost].data).unwrap();
    mesh.start_server(lost);
    let process = mesh.servers[lost].process();
    assert_eq!(process.wait(Duration::from_secs(30)), Some(2));
    let log = process.log();
    assert!(log.contains("data directory was lost or replaced"), "{log}");
    assert!(log.contains("`weft operator raft remove-peer"), "it says what to do: {log}");
    // It has ended by itself, and is not to be asked.
    mesh.servers[lost].kill();
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
}
