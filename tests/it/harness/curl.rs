//! A real curl, in front of an agent.

use std::{
    io::Read,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

/// Calls through the local listener of an upstream.
pub(crate) struct Curl {
    program: PathBuf,
    url: String,
}

impl Curl {
    pub(crate) fn new(program: PathBuf, listener: SocketAddr) -> Self {
        Self { program, url: format!("http://{listener}") }
    }

    /// Fetches a path on a new connection; nothing unless the answer is a whole 200.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let output = Command::new(&self.program)
            .args(["--silent", "--fail", "--max-time", "10", "--noproxy", "*"])
            .arg(format!("{}{path}", self.url))
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts fetching a path at a slow rate, for an answer that is still coming while the test goes on.
    pub(crate) fn start_slow(&self, path: &str, bytes_per_second: u32) -> Download {
        let mut child = Command::new(&self.program)
            .args(["--silent", "--no-buffer", "--noproxy", "*", "--limit-rate", &bytes_per_second.to_string()])
            .arg(format!("{}{path}", self.url))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        let (sender, received) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 16384];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if sender.send(count).is_err() {
                    break;
                }
            }
        });
        Download { child, received }
    }
}

/// Is an answer that is still coming.
pub(crate) struct Download {
    child: Child,
    received: Receiver<usize>,
}

impl Download {
    /// Waits for the next bytes of the answer.
    #[track_caller]
    pub(crate) fn assert_flowing(&self) {
        self.received.recv_timeout(Duration::from_secs(20)).expect("the answer goes on");
    }

    /// Waits for the transfer to end; returns curl's status: 0 for a whole answer, 18 or 56 for one that was cut.
    #[track_caller]
    pub(crate) fn wait(&mut self, deadline: Duration) -> Option<i32> {
        super::eventually("curl to end", deadline, || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _reaped = self.child.wait();
    }
}
