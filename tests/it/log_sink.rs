//! A server whose log nobody reads.

use std::{
    io::Read,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::harness::{PROMISE_FACTOR, eventually, exchange, free_port, weft, write_secret};

/// How long an answer may take, log or no log.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Enough for their lines to fill whatever holds them.
const REQUESTS: usize = 4000;

#[test]
fn fault_44_a_server_whose_log_is_not_read_answers_on_and_says_what_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("cluster.key");
    write_secret(&key, &weft(&["keygen"], &[]).stdout);
    let [port, agents, raft] = [free_port(), free_port(), free_port()];
    let http = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(["server", "--node", "s1", "--log", "trace", "--bind", "127.0.0.1"])
        .args(["--agent-port", &agents.to_string(), "--raft-port", &raft.to_string()])
        .args(["--http-port", &port.to_string(), "--cluster-key-file", &key.display().to_string()])
        .args(["--data-dir", &directory.path().join("data").display().to_string()])
        .env("WEFT_STOP_WITH_PARENT", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // Nobody reads this end: once the pipe is full, whoever writes to it waits for ever.
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the server to answer", Duration::from_secs(60), || {
        exchange(http, "GET", "/v1/status/leader", &[], "").ok().filter(|answer| answer.body.len() > 3)
    });
    let mut longest = Duration::ZERO;
    for _ in 0..REQUESTS {
        let asked = Instant::now();
        let answer = exchange(http, "GET", "/v1/status/leader", &[], "").unwrap();
        longest = longest.max(asked.elapsed());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    assert!(longest < ANSWER_MAX * PROMISE_FACTOR, "an answer took {longest:?}");
    let mut stderr = child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = eventually("the server to end", Duration::from_secs(30), || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let log = reading.join().unwrap().unwrap();
    assert!(log.contains("log lines, for nobody took them"), "{} bytes of log say nothing of lost lines", log.len());
    assert!(log.contains("server stopped"), "what was said last is written");
}
