//! Policy in the hands of several teams: guardrails, trials, relaxations that end, owners, and the trail of all of it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use crate::harness::{Mesh, PROMISE_FACTOR, Service, eventually, free_port, weft};

/// How long a change of policy may take to be felt.
const FELT: Duration = Duration::from_secs(2);

/// Echoes what it reads, on as many connections as come.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// Opens a connection through a listener and sees that it carries; none where it is refused.
fn call(listener: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(listener).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    say(&mut stream).then_some(stream)
}

fn say(stream: &mut TcpStream) -> bool {
    let mut heard = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut heard).is_ok() && &heard == b"hello"
}

fn audited(mesh: &Mesh, cause: &str) -> u64 {
    mesh.agents[0].metrics().sum("weft_proxy_audited_total", &[("rule", "default"), ("cause", cause)])
}

#[test]
fn h11_a_relaxation_lets_pass_what_rules_deny_and_ends_without_servers() {
    let mut mesh = Mesh::start(3);
    let listener = free_port();
    mesh.join("api-1", &[Service { name: "api", port: echo(), upstreams: vec![] }]);
    mesh.join("web-1", &[Service { name: "web", port: free_port(), upstreams: vec![("api", listener)] }]);
    let listener = SocketAddr::from(([127, 0, 0, 1], listener));
    assert!(call(listener).is_none(), "nobody said that web may call api");

    let relaxed = mesh.done(&["mesh", "relax", "--in-namespace", "default", "--for", "30m", "--reason", "a rollout"]);
    assert!(relaxed.starts_with("Relaxed: namespace default until 2"), "{relaxed}");
    let mut open = eventually("the relaxation to be felt", FELT * PROMISE_FACTOR, || call(listener));
    assert!(audited(&mesh, "relaxation") >= 1);
    let explained = mesh.done(&["intention", "explain", "web", "api"]);
    assert!(explained.contains("deny") && explained.contains("namespace default is relaxed until"), "{explained}");
    let status = mesh.done(&["mesh", "status"]);
    assert!(status.contains("a rollout"), "{status}");

    // A guardrail holds all the same, and reaches what is open.
    let entry = mesh.directory.path().join("mesh.hcl");
    std::fs::write(
        &entry,
        "kind = \"mesh\"\nguardrails = [{ name = \"no-web\", source = \"web\", destination = \"*/*\" }]\n",
    )
    .unwrap();
    let entry = entry.display().to_string();
    assert_eq!(mesh.done(&["config", "write", "--cas", "0", &entry]), "Written.\n");
    eventually("the guardrail to cut what is open", FELT * PROMISE_FACTOR, || (!say(&mut open)).then_some(()));
    assert!(call(listener).is_none());
    let explained = mesh.done(&["intention", "explain", "web", "api"]);
    assert!(explained.contains("guardrail `no-web`"), "{explained}");
    assert_eq!(mesh.weft(&["config", "write", "--cas", "1", &entry]).status, Some(1), "somebody else was first");
    mesh.done(&["config", "delete", "mesh", "mesh"]);
    eventually("the guardrail to be gone", FELT * PROMISE_FACTOR, || call(listener));

    // Ended by hand, and then by nothing but the agent's own clock.
    mesh.done(&["mesh", "relax", "--in-namespace", "default", "--end"]);
    eventually("the end to be felt", FELT * PROMISE_FACTOR, || call(listener).is_none().then_some(()));
    mesh.done(&["mesh", "relax", "--whole-mesh", "--for", "25s", "--reason", "a short one"]);
    let mut open = eventually("the relaxation to be felt", FELT * PROMISE_FACTOR, || call(listener));
    for server in &mut mesh.servers {
        server.kill();
    }
    assert!(say(&mut open), "what is open goes on without servers");
    let end = Duration::from_secs(25) + FELT * PROMISE_FACTOR;
    eventually("the relaxation to end by itself", end, || (!say(&mut open)).then_some(()));
    assert!(call(listener).is_none(), "it lets nobody in any more");
}

#[test]
fn two_teams_share_a_destination_and_the_trail_tells_who_did_what() {
    let mesh = Mesh::start(3);
    mesh.done(&["intention", "create", "--allow", "--owner", "team-web", "web", "api"]);
    mesh.done(&["intention", "create", "--allow", "--owner", "team-billing", "billing", "api"]);
    let conflict = mesh.weft(&["intention", "create", "--deny", "--replace", "--owner", "team-billing", "web", "api"]);
    assert_eq!(conflict.status, Some(2), "{conflict:?}");
    assert!(conflict.stderr.contains("default/web => default/api belongs to `team-web`"), "{conflict:?}");
    assert_eq!(mesh.weft(&["intention", "delete", "web", "api"]).status, Some(2));
    let listed = mesh.done(&["intention", "list"]);
    assert!(listed.contains("team-web") && listed.contains("team-billing"), "{listed}");

    let path = mesh.directory.path().join("api.hcl");
    let text = "kind = \"service-intentions\"\nname = \"api\"\nowner = \"team-api\"\nsources = [{ name = \"*\", action = \"deny\" }]\n";
    std::fs::write(&path, text).unwrap();
    mesh.done(&["config", "write", &path.display().to_string()]);
    let entry: serde_json::Value =
        serde_json::from_str(&mesh.done(&["config", "read", "service-intentions", "api"])).unwrap();
    assert_eq!(entry["Sources"].as_array().unwrap().len(), 3, "{entry}");
    mesh.done(&["config", "delete", "--owner", "team-api", "service-intentions", "api"]);
    mesh.done(&["intention", "create", "--deny", "--take-over", "--owner", "team-x", "web", "api"]);

    // Every server holds the same trail, byte for byte.
    eventually("all servers to have the same trail, with the last write", FELT * PROMISE_FACTOR, || {
        let trail = |server: &crate::harness::Server| {
            server.request("GET", "/v1/audit?format=lines&stale", &mesh.token, "").ok().map(|answer| answer.body)
        };
        let trails: Vec<String> = mesh.servers.iter().filter_map(trail).collect();
        // What servers write by themselves may come after it.
        let has_last = |trail: &String| trail.lines().any(|line| line.contains("team-x"));
        let (whole, equal) = (trails.len() == 3, trails.windows(2).all(|pair| pair[0] == pair[1]));
        (whole && equal && trails.iter().all(has_last)).then_some(())
    });

    // Exported, it goes on where it ended, and nothing in it can be changed unseen.
    let file = mesh.directory.path().join("audit.jsonl").display().to_string();
    mesh.done(&["audit", "export", &file]);
    mesh.done(&["intention", "delete", "--owner", "team-billing", "billing", "api"]);
    let exported = mesh.done(&["audit", "export", &file]);
    let head = exported.trim().strip_prefix("Head: ").unwrap().to_owned();
    let text = std::fs::read_to_string(&file).unwrap();
    for told in ["take-over-intention", "write-service-intentions", "\"Refusal\":\"intention-owned\"", "bootstrap-acl"]
    {
        assert!(text.contains(told), "{told} is missing: {text}");
    }
    assert!(!text.contains(&mesh.token));
    let verify = |file: &str| weft(&["audit", "verify", "--head", &head, file], &[]);
    let verified = verify(&file);
    assert_eq!(verified.status, Some(0), "{verified:?}");
    assert!(verified.stdout.contains("are as they were written"), "{verified:?}");
    let lines: Vec<&str> = text.lines().collect();
    let tampered = [
        text.replacen("team-x", "team-y", 1),
        lines[1..].iter().map(|line| format!("{line}\n")).collect::<String>().replacen("\"done\"", "\"none\"", 1),
        lines[..lines.len() - 1].iter().map(|line| format!("{line}\n")).collect(),
        text.trim_end().to_owned(),
    ];
    for (number, changed) in tampered.iter().enumerate() {
        let other = mesh.directory.path().join(format!("tampered-{number}")).display().to_string();
        std::fs::write(&other, changed).unwrap();
        let found = verify(&other);
        assert_eq!(found.status, Some(1), "{number}: {found:?}");
    }
    let listed = mesh.done(&["audit", "list"]);
    assert!(listed.contains("refused: intention-owned"), "{listed}");
}
