//! Backups, told by an operator: saved, looked into, damaged, restored into a group that goes on.

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use crate::harness::{Mesh, PROMISE_FACTOR, Service, eventually, exchange};

/// How long a write may wait while a backup is restored.
const STALL_MAX: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(2);

fn intentions(mesh: &Mesh, at: usize) -> Option<Vec<String>> {
    let answer = mesh.servers[at].request("GET", "/v1/connect/intentions?stale", &mesh.token, "").ok()?;
    let all: Vec<serde_json::Value> = serde_json::from_str(&answer.body).ok()?;
    let mut names: Vec<String> =
        all.iter().map(|one| one["DestinationName"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort();
    Some(names)
}

#[test]
fn p10_fault_34_a_backup_restores_what_operators_wrote_and_cuts_nobody_who_is_alive() {
    let mut mesh = Mesh::start(3);
    mesh.done(&["intention", "create", "--allow", "web", "api"]);
    mesh.done(&["intention", "create", "--deny", "web", "db"]);
    let file = mesh.directory.path().join("backup.weft");
    let path = file.display().to_string();
    let saved = mesh.done(&["snapshot", "save", &path]);
    assert!(saved.starts_with("Saved: "), "{saved}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let inspected: serde_json::Value =
        serde_json::from_str(&mesh.done(&["snapshot", "inspect", &path, "--output", "json"])).unwrap();
    assert_eq!(inspected["Intentions"], 2);
    assert_eq!(inspected["Tokens"], 1);
    assert!(mesh.done(&["snapshot", "inspect", &path]).contains("Trust domain"));

    // What happens after the backup: an agent joins, and somebody makes a mess.
    let web = mesh.join("vm-web", &[Service { name: "web", port: 9, upstreams: vec![] }]);
    mesh.done(&["intention", "delete", "web", "db"]);
    mesh.done(&["intention", "create", "--allow", "evil", "zoo"]);

    // Nothing but the whole file is taken.
    let bytes = std::fs::read(&file).unwrap();
    let damaged = mesh.directory.path().join("damaged.weft");
    std::fs::write(&damaged, &bytes[..bytes.len() - 1]).unwrap();
    for verb in ["inspect", "restore"] {
        let refused = mesh.weft(&["snapshot", verb, &damaged.display().to_string()]);
        assert_eq!(refused.status, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("damaged"), "{refused:?}");
    }
    let anonymous = exchange(mesh.servers[0].http, "GET", "/v1/snapshot", &[], "").unwrap();
    assert_eq!(anonymous.status, 403, "{}", anonymous.body);

    // Writes go on while it is restored; none waits long, and none is lost without a word.
    let longest = std::thread::scope(|scope| {
        let restoring = scope.spawn(|| mesh.done(&["snapshot", "restore", &path]));
        let (mut longest, mut number) = (Duration::ZERO, 0);
        while !restoring.is_finished() {
            number += 1;
            let target = format!("/v1/connect/intentions/exact?source=web&destination=burst-{number}");
            let headers = [("x-consul-token", mesh.token.as_str())];
            let before = Instant::now();
            let answer = exchange(mesh.servers[1].http, "PUT", &target, &headers, r#"{"Action":"allow"}"#).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.body);
            longest = longest.max(before.elapsed());
        }
        restoring.join().unwrap();
        longest
    });
    assert!(longest < STALL_MAX * PROMISE_FACTOR, "a write waited {longest:?}");

    for at in 0..3 {
        eventually("what was restored to be on every server", SOON * PROMISE_FACTOR, || {
            let names = intentions(&mesh, at)?;
            let settled: Vec<&String> = names.iter().filter(|name| !name.starts_with("burst-")).collect();
            (settled == ["api", "db"]).then_some(())
        });
    }
    // The agent joined after the backup was taken: it is still one of the mesh, and so is its service.
    mesh.agents[web].process().assert_running();
    mesh.agents[web].wait_until_ready(SOON * PROMISE_FACTOR);
    let nodes = mesh.done(&["catalog", "nodes"]);
    assert!(nodes.contains("vm-web"), "{nodes}");
    mesh.agents[web].kill();
    mesh.agents[web].start();
    mesh.agents[web].wait_until_ready(SOON * PROMISE_FACTOR);
    // And all of it is on the disks.
    for at in 0..3 {
        mesh.servers[at].kill();
    }
    for at in 0..3 {
        mesh.start_server(at);
    }
    mesh.leader();
    eventually("the restored state after a restart", SOON * PROMISE_FACTOR, || {
        intentions(&mesh, 0)?.contains(&"db".to_owned()).then_some(())
    });
}
