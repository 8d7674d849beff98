//! Errors made on purpose, as a user makes them: each is told with what to do.

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::harness::{
    Mesh, Output, Process, Service, eventually, free_port, log_of, succeed, tool, weft, write_secret,
};

const DEADLINE: Duration = Duration::from_secs(30);

/// Checks that a command failed with what went wrong and a hint.
#[track_caller]
fn told(output: &Output, error: &str, hint: &str) {
    assert_eq!(output.status, Some(2), "{output:?}");
    assert!(output.stderr.contains(error), "it says what failed ({error}): {output:?}");
    let hinted = output.stderr.lines().find_map(|line| line.strip_prefix("hint: "));
    assert!(hinted.is_some_and(|hinted| hinted.contains(hint)), "it says what to do ({hint}): {output:?}");
}

/// Starts an agent that is told so much, and in such an environment; it keeps its data below the mesh's directory.
fn agent(mesh: &Mesh, name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(["agent", "--node", name, "--bind", "127.0.0.1", "--http-port", "0", "--mesh-port", "0", "--no-dns"]);
    command.arg("--data-dir").arg(mesh.directory.path().join(name)).args(arguments);
    command.envs(environment.iter().copied());
    if !arguments.contains(&"--admin-port") {
        command.args(["--admin-port", "0"]);
    }
    Process::start(name, command, mesh.directory.path())
}

/// Writes a join token to a file and returns its path.
fn token_file(mesh: &Mesh, name: &str, token: &str) -> String {
    let path = mesh.directory.path().join(name);
    write_secret(&path, token);
    path.display().to_string()
}

/// Waits until an agent's log says what is wrong and what to do.
#[track_caller]
fn logged(mesh: &Mesh, name: &str, wanted: &[&str]) {
    eventually(&format!("{name} to say {wanted:?}, not {}", log_of(name, mesh.directory.path())), DEADLINE, || {
        says(mesh, name, wanted).then_some(())
    });
}

/// Reports whether some line of a process's log has all of this.
fn says(mesh: &Mesh, name: &str, wanted: &[&str]) -> bool {
    let log = log_of(name, mesh.directory.path());
    log.lines().any(|line| wanted.iter().all(|wanted| line.contains(wanted)))
}

#[test]
fn whoever_calls_the_api_wrongly_is_told_what_to_do() {
    let mesh = Mesh::start(1);
    let http = mesh.servers[0].http.to_string();
    let list = ["intention", "list"];
    told(&weft(&list, &[("WEFT_HTTP_ADDR", &http)]), "403", "WEFT_HTTP_TOKEN_FILE");
    let wrong = [("WEFT_HTTP_ADDR", http.as_str()), ("WEFT_HTTP_TOKEN", "0b7c8f52-1111-2222-3333-444444444444")];
    told(&weft(&list, &wrong), "403", "WEFT_HTTP_TOKEN_FILE");
    // Nobody is there, and somebody else is: the port for agents, and the one for servers.
    let nobody = format!("127.0.0.1:{}", free_port());
    told(&weft(&list, &[("WEFT_HTTP_ADDR", &nobody)]), "cannot reach", "WEFT_HTTP_ADDR");
    for other in [mesh.servers[0].agent, mesh.servers[0].raft] {
        let other = [("WEFT_HTTP_ADDR", other.to_string())];
        let other = [(other[0].0, other[0].1.as_str())];
        told(&weft(&list, &other), "gave no answer", "8500");
    }
    told(&weft(&["status", "--http-addr", "nonsense"], &[]), "`nonsense`", "host:port");
    // A key of another group proves nothing.
    let foreign = token_file(&mesh, "foreign.key", &weft(&["keygen"], &[]).stdout);
    let bootstrap = weft(&["acl", "bootstrap", "--cluster-key-file", &foreign], &[("WEFT_HTTP_ADDR", &http)]);
    assert_eq!(bootstrap.status, Some(2), "{bootstrap:?}");
    assert!(bootstrap.stderr.contains("the proof was not made with this mesh's cluster key"), "{bootstrap:?}");
}

#[test]
fn an_agent_that_cannot_join_says_why_and_what_to_do() {
    let mesh = Mesh::start(1);
    let servers = &mesh.servers[0];
    let at = servers.agent.to_string();
    let create = |more: &[&str]| {
        let arguments = [&["join-token", "create", "--service", "web"], more].concat();
        mesh.done(&arguments).trim().to_owned()
    };

    // The wrong kind of token, and one that was cut short.
    for (name, text) in [("kind", mesh.token.as_str()), ("short", &create(&[])[..40])] {
        let file = token_file(&mesh, name, text);
        let mut process = agent(&mesh, name, &["--server", &at, "--join-token-file", &file], &[]);
        assert_eq!(process.wait(DEADLINE), Some(2));
        logged(&mesh, name, &["not a join token", "weft join-token create"]);
    }

    // One that has expired.
    let file = token_file(&mesh, "expired.token", &create(&["--ttl", "1s"]));
    let listed: Value = serde_json::from_str(&mesh.done(&["join-token", "list", "--output", "json"])).unwrap();
    let ends = listed.as_array().unwrap().iter().map(|token| token["ExpirationTime"].as_str().unwrap());
    let end = ends.map(|end| wire::rfc3339::parse(end).unwrap()).min().unwrap();
    eventually("the token to expire", DEADLINE, || (wire::crypto::now() > end).then_some(()));
    let mut process = agent(&mesh, "expired", &["--server", &at, "--join-token-file", &file], &[]);
    assert_eq!(process.wait(DEADLINE), Some(2));
    logged(&mesh, "expired", &["expired"]);
    logged(&mesh, "expired", &["hint: ", "weft join-token create"]);

    // No server where one is named, and another port of one.
    let good = token_file(&mesh, "good.token", &create(&[]));
    for (name, address, wanted) in [
        ("nobody", format!("127.0.0.1:{}", free_port()), "is a server up there"),
        ("api-port", servers.http.to_string(), "is that its port for agents"),
        ("raft-port", servers.raft.to_string(), "port for agents"),
    ] {
        let _process = agent(&mesh, name, &["--server", &address, "--join-token-file", &good], &[]);
        logged(&mesh, name, &["cannot join yet", wanted, &address]);
    }

    // A token of another mesh: its root is not this one's.
    let other = Mesh::start(1);
    let foreign = other.done(&["join-token", "create", "--service", "web"]);
    let foreign = token_file(&mesh, "foreign.token", &foreign);
    let _process = agent(&mesh, "foreign", &["--server", &at, "--join-token-file", &foreign], &[]);
    logged(&mesh, "foreign", &["cannot join yet", "another mesh", "join token"]);
}

#[test]
fn a_denied_call_and_a_dead_server_are_explained() {
    let mut mesh = Mesh::start(1);
    let (closed, upstream) = (TcpListener::bind(("127.0.0.1", 0)).unwrap(), free_port());
    let port = closed.local_addr().unwrap().port();
    mesh.join("api-1", &[Service { name: "api", port, upstreams: vec![] }]);
    let web = mesh.join("web-1", &[Service { name: "web", port, upstreams: vec![("api", upstream)] }]);
    let admin = mesh.agents[web].admin.port().to_string();
    let data = mesh.agents[web].data.display().to_string();
    let settings = mesh.directory.path().join("web-1/conf").display().to_string();
    let doctor =
        ["doctor", "--as", "agent", "--config", &settings, "--data-dir", &data, "--admin-port", &admin, "--no-dns"];

    // Nobody said that web may call api: the caller is cut, and both the log and the command line say why and what to do.
    let explained = mesh.done(&["intention", "explain", "web", "api"]);
    assert!(explained.contains("to allow it: weft intention create --allow default/web default/api"), "{explained}");
    eventually("api-1 to say why it refused web", DEADLINE, || {
        let mut call = TcpStream::connect(("127.0.0.1", upstream)).unwrap();
        let _cut = call.write_all(b"GET / HTTP/1.1\r\n\r\n");
        says(&mesh, "api-1", &["connection refused", "default_deny", "/sa/web", "no intention matches"]).then_some(())
    });
    mesh.done(&["intention", "create", "--deny", "web", "api"]);
    let explained = mesh.done(&["intention", "explain", "web", "api"]);
    assert!(explained.contains("to allow it: weft intention delete default/web default/api && weft"), "{explained}");

    // Asked at the agent, as one is who logs in to the machine.
    let address = mesh.agents[web].http.to_string();
    let here = [("WEFT_HTTP_ADDR", address.as_str()), ("WEFT_HTTP_TOKEN", &mesh.token)];
    let well = weft(&doctor, &here);
    assert_eq!(well.status, Some(0), "{well:?}");
    for fine in
        ["fine     files", "fine     disk", "fine     ports", "fine     agent", "fine     clock", "fine     releases"]
    {
        assert!(well.stdout.contains(fine), "{fine}: {}", well.stdout);
    }
    assert!(well.stdout.contains("warning  quorum        there is one server"), "{}", well.stdout);
    let unread = weft(&doctor, &here[..1]);
    assert_eq!(unread.status, Some(0), "{unread:?}");
    assert!(unread.stdout.contains("operator = \"read\""), "{}", unread.stdout);

    // The application ends, the data directory is opened to others, and the last server dies.
    drop(closed);
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    mesh.servers[0].kill();
    let told_of = eventually("the loss of the server to be felt", DEADLINE, || {
        let unwell = weft(&[&doctor[..], &["--quiet", "--output", "json"]].concat(), &here);
        assert_eq!(unwell.status, Some(1), "{unwell:?}");
        unwell.stdout.contains("\"servers\"").then_some(unwell.stdout)
    });
    let findings: serde_json::Value = serde_json::from_str(&told_of).unwrap();
    let mut checks = Vec::new();
    for finding in findings.as_array().unwrap() {
        assert!(!finding["Advice"].as_str().unwrap().is_empty(), "{finding}");
        if finding["Verdict"] == "problem" {
            checks.push(finding["Check"].as_str().unwrap());
        }
    }
    checks.dedup();
    assert_eq!(checks, ["files", "ports", "servers"], "{told_of}");
    let status = weft(&["status"], &here);
    assert_eq!(status.status, Some(2), "{status:?}");
    assert!(status.stderr.contains("no server is reachable"), "{status:?}");

    // And the agent: then the command line says that nobody is there.
    mesh.agents[web].kill();
    let gone = weft(&doctor, &here);
    assert_eq!(gone.status, Some(1));
    assert!(gone.stdout.contains("systemctl start weft-agent"), "{}", gone.stdout);
}

/// Has a program see another wall clock than everybody else.
const OTHER_CLOCK: &str = r#"
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = syscall(SYS_clock_gettime, clock, time);
    if (!failed && clock == CLOCK_REALTIME) time->tv_sec += atol(getenv("CLOCK_AHEAD_S"));
    return failed;
}
"#;

#[test]
fn a_clock_that_is_off_is_named() {
    let Some(compiler) = tool("cc", "a_clock_that_is_off_is_named") else { return };
    let mesh = Mesh::start(1);
    let library = mesh.directory.path().join("clock.so");
    std::fs::write(mesh.directory.path().join("clock.c"), OTHER_CLOCK).unwrap();
    let source = mesh.directory.path().join("clock.c");
    succeed(Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source));
    let library = library.display().to_string();

    let (at, http) = (mesh.servers[0].agent.to_string(), mesh.servers[0].http.to_string());
    let token = token_file(&mesh, "join-token", &mesh.done(&["join-token", "create", "--service", "web"]));
    for (name, seconds, side) in [("ahead", "172800", "ahead of"), ("behind", "-172800", "behind")] {
        let clock = [("LD_PRELOAD", library.as_str()), ("CLOCK_AHEAD_S", seconds)];
        let _process = agent(&mesh, name, &["--server", &at, "--join-token-file", &token], &clock);
        logged(&mesh, name, &["cannot join yet", "compare this machine's clock with the servers'"]);
        let asked = [&clock[..], &[("WEFT_HTTP_ADDR", &http), ("WEFT_HTTP_TOKEN", &mesh.token)]].concat();
        let doctor = weft(&["doctor", "--as", "neither"], &asked);
        assert_eq!(doctor.status, Some(1), "{doctor:?}");
        let told = doctor.stdout.lines().find(|line| line.starts_with("problem  clock"));
        assert!(told.is_some_and(|told| told.contains(side)), "{doctor:?}");
        assert!(doctor.stdout.contains("set by NTP"), "{doctor:?}");
    }
}
