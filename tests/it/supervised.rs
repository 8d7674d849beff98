//! A server and an agent under a supervisor, as systemd is one: what they tell it, and what it hands over to them.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{PROMISE_FACTOR, Process, eventually, free_port, weft};

const DEADLINE: Duration = Duration::from_secs(10 * PROMISE_FACTOR as u64);

/// Stands in for systemd: a socket that is told, and a directory of credentials.
struct Supervisor {
    socket: UnixDatagram,
    home: PathBuf,
    name: &'static str,
}

impl Supervisor {
    fn new(name: &'static str, home: &Path) -> Self {
        let home = home.join(name);
        fs::create_dir_all(home.join("credentials")).unwrap();
        let socket = UnixDatagram::bind(home.join("notify")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, home, name }
    }

    /// Hands a secret over, as `LoadCredential=` does.
    fn hand_over(&self, name: &str, secret: &str) -> PathBuf {
        let path = self.home.join("credentials").join(name);
        fs::write(&path, format!("{}\n", secret.trim())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        path
    }

    /// Starts what a unit's ExecStart says.
    fn start(&self, arguments: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command
            .args(arguments)
            .arg("--data-dir")
            .arg(self.home.join("data"))
            .env("NOTIFY_SOCKET", self.home.join("notify"))
            .env("CREDENTIALS_DIRECTORY", self.home.join("credentials"))
            .env("WATCHDOG_USEC", "600000");
        Process::start(self.name, command, &self.home)
    }

    /// Waits until the process says every one of `wanted` in one message; returns all that it said since.
    #[track_caller]
    fn hears(&self, wanted: &[&str]) -> Vec<String> {
        let (mut heard, begun) = (Vec::new(), Instant::now());
        let mut buffer = [0; 4096];
        while begun.elapsed() < DEADLINE {
            let Ok(length) = self.socket.recv(&mut buffer) else { break };
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let is_it = wanted.iter().all(|wanted| message.lines().any(|line| line.starts_with(wanted)));
            heard.push(message);
            if is_it {
                return heard;
            }
        }
        panic!("{} did not say {wanted:?}, but {heard:#?}", self.name);
    }
}

fn signal(process: &Process, signal: Signal) {
    kill_process(Pid::from_raw(process.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_supervisor_hears_of_every_turn_and_hands_the_secrets_over() {
    let directory = tempfile::tempdir().unwrap();
    let server = Supervisor::new("server", directory.path());
    let key_file = server.hand_over("cluster-key", &weft(&["keygen"], &[]).stdout);
    let [http, agents, raft] = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let ports = ["--http-port", &http, "--agent-port", &agents, "--raft-port", &raft];
    let mut serving = server.start(&[&["server", "--node", "s1"], &ports[..]].concat());
    server.hears(&["READY=1"]);
    server.hears(&["WATCHDOG=1", "STATUS=leading 1 servers"]);

    let address = format!("127.0.0.1:{http}");
    let key_file = key_file.display().to_string();
    let token = eventually("the first token", DEADLINE, || {
        let bootstrap = ["acl", "bootstrap", "--cluster-key-file", &key_file, "--output", "json"];
        let answer = weft(&bootstrap, &[("WEFT_HTTP_ADDR", &address)]);
        let answer: serde_json::Value = serde_json::from_str(&answer.stdout).ok()?;
        Some(answer["SecretID"].as_str()?.to_owned())
    });
    let environment = [("WEFT_HTTP_ADDR", address.as_str()), ("WEFT_HTTP_TOKEN", &token)];
    let join_token = weft(&["join-token", "create", "--service", "web"], &environment);
    assert_eq!(join_token.status, Some(0), "{join_token:?}");

    an_agent_joins_reloads_and_drains(directory.path(), &format!("127.0.0.1:{agents}"), &join_token.stdout);
    whoever_is_refused_says_so_and_does_not_end_at_once(directory.path(), &join_token.stdout);

    signal(&serving, Signal::HUP);
    server.hears(&["RELOADING=1"]);
    server.hears(&["READY=1"]);
    assert_eq!(serving.terminate(DEADLINE), Some(0));
    server.hears(&["STOPPING=1"]);
}

fn an_agent_joins_reloads_and_drains(directory: &Path, at: &str, join_token: &str) {
    let agent = Supervisor::new("agent", directory);
    agent.hand_over("join-token", join_token);
    let definition = agent.home.join("web.hcl");
    fs::write(&definition, "service {\n  name = \"web\"\n  port = 8080\n}\n").unwrap();
    let definition_path = definition.display().to_string();
    let own = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let mut beside = agent.start(&[
        "agent",
        "--node",
        "vm-1",
        "--bind",
        "127.0.0.1",
        "--server",
        at,
        "--config",
        &definition_path,
        "--http-port",
        &own[0],
        "--admin-port",
        &own[1],
        "--mesh-port",
        &own[2],
        "--no-dns",
    ]);
    agent.hears(&["STATUS=joining the mesh"]);
    // What is asked for while it joins is done once it has.
    signal(&beside, Signal::HUP);
    agent.hears(&["READY=1"]);
    agent.hears(&["RELOADING=1"]);
    agent.hears(&["WATCHDOG=1", "STATUS=serving"]);

    // What cannot be read changes nothing, and the reload is over all the same.
    for content in ["service {", "service {\n  name = \"web\"\n  port = 8081\n}\n"] {
        fs::write(&definition, content).unwrap();
        signal(&beside, Signal::HUP);
        agent.hears(&["RELOADING=1", "MONOTONIC_USEC="]);
        agent.hears(&["READY=1"]);
    }
    assert_eq!(beside.terminate(DEADLINE), Some(0));
    agent.hears(&["STOPPING=1", "STATUS=draining"]);
}

/// Another machine comes with the token that is used up: it says so, and does not end at once only to be started again.
fn whoever_is_refused_says_so_and_does_not_end_at_once(directory: &Path, join_token: &str) {
    let thief = Supervisor::new("thief", directory);
    thief.hand_over("join-token", join_token);
    let mut refused = thief.start(&[
        "agent",
        "--node",
        "vm-2",
        "--http-port",
        "0",
        "--admin-port",
        "0",
        "--mesh-port",
        "0",
        "--no-dns",
    ]);
    thief.hears(&["STATUS=server 127.0.0.1"]);
    refused.assert_running();
    refused.kill();
}

#[test]
fn without_a_supervisor_secrets_must_be_named() {
    for (arguments, hint) in [
        (&["server", "--node", "s1"][..], "weft keygen"),
        (
            &[
                "agent",
                "--node",
                "vm-1",
                "--server",
                "127.0.0.1:1",
                "--http-port",
                "0",
                "--admin-port",
                "0",
                "--no-dns",
            ],
            "join-token",
        ),
    ] {
        let output = weft(arguments, &[]);
        assert_eq!(output.status, Some(2), "{output:?}");
        assert!(output.stderr.contains(hint), "{output:?}");
    }
}
