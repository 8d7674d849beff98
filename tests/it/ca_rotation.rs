//! The certificate authority is rotated under traffic, and the leader is killed at every step of it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;

use crate::harness::{BY_CERTIFICATES, Mesh, PROMISE_FACTOR, Service, eventually, free_port};

/// A step takes a failover, and the quarter of a leaf's life within which leaves are renewed.
const STEP: Duration = Duration::from_secs(16);
const CUT: Duration = Duration::from_secs(2);

/// Answers every byte with the same byte.
fn echo(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
}

fn say(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

fn call(at: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(at)?;
    say(&mut stream)?;
    Ok(stream)
}

/// Calls again and again on new connections until it is stopped.
struct Caller {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<String>>,
}

impl Caller {
    fn start(at: SocketAddr) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&calls));
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !until.load(Ordering::Relaxed) {
                match call(at) {
                    Ok(_) => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => failures.push(error.to_string()),
                }
                // A pace, not a wait: what is counted is that none of many fails.
                std::thread::park_timeout(Duration::from_millis(10));
            }
            failures
        });
        Self { stop, calls, thread }
    }

    fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.thread.join().unwrap();
        (self.calls.load(Ordering::Relaxed), failures)
    }
}

fn plan(mesh: &Mesh) -> Option<Value> {
    // It ends with status 1 while one is under way.
    serde_json::from_str(&mesh.weft(&["ca", "rotate", "--plan", "--output", "json"]).stdout).ok()
}

#[track_caller]
fn wait_for(mesh: &Mesh, what: &str, is_there: impl Fn(&Value) -> bool) -> Value {
    eventually(what, STEP * PROMISE_FACTOR, || plan(mesh).filter(&is_there))
}

/// Kills the leader, waits for another one and starts the old one again.
#[track_caller]
fn replace_leader(mesh: &mut Mesh) {
    let leader = mesh.leader();
    mesh.servers[leader].kill();
    mesh.leader();
    mesh.start_server(leader);
}

#[test]
fn p6_fault_23_a_rotation_under_traffic_survives_its_leaders_and_a_distrusted_root_is_cut() {
    let mut mesh = Mesh::start_with(3, &["--leaf-ttl", "40s"]);
    let (api_port, listener) = (free_port(), free_port());
    echo(api_port);
    let api = mesh.join("api-1", &[Service { name: "api", port: api_port, upstreams: vec![] }]);
    let web = mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] }]);
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, listener));
    let mut held = eventually("the call to be allowed", CUT * PROMISE_FACTOR, || call(at).ok());

    // A rotation under traffic: the leader is killed while the new root is distributed, and again while leaves are renewed.
    let before = wait_for(&mesh, "a plan", |plan| plan["Safe"] == true);
    let caller = Caller::start(at);
    mesh.done(&["ca", "rotate"]);
    replace_leader(&mut mesh);
    let begun = wait_for(&mesh, "the new root to sign", |plan| plan["ActiveRootID"] != before["ActiveRootID"]);
    replace_leader(&mut mesh);
    wait_for(&mesh, "the rotation to end", |plan| plan.get("Rotation").is_none());
    let (calls, failures) = caller.stop();
    assert!(failures.is_empty(), "{} of {calls} calls failed: {failures:?}", failures.len());
    assert!(calls > 20, "only {calls} calls were made");
    say(&mut held).unwrap();
    for at in [api, web] {
        let metrics = mesh.agents[at].metrics();
        let of = |reason| metrics.sum("weft_proxy_refused_total", &[("phase", "handshake"), ("reason", reason)]);
        assert_eq!(
            BY_CERTIFICATES.map(of),
            [0; 6],
            "handshakes were refused during the rotation:\n{}",
            mesh.agents[at].log()
        );
    }
    let roots: Value = serde_json::from_str(&mesh.done(&["ca", "roots", "--output", "json"])).unwrap();
    assert_eq!(roots["ActiveRootID"], begun["ActiveRootID"]);

    // A root that is distrusted on purpose is replaced first, and then cuts what was opened under it.
    let mut held = call(at).unwrap();
    mesh.done(&["ca", "rotate", "--distrust-old"]);
    wait_for(&mesh, "the old root to be distrusted", |plan| {
        plan.get("Rotation").is_none() && plan["ActiveRootID"] != begun["ActiveRootID"]
    });
    eventually("what lived under the distrusted root to be cut", CUT * PROMISE_FACTOR, || say(&mut held).err());
    eventually("calls under the new root", CUT * PROMISE_FACTOR, || call(at).ok());
}
