//! Processes that end with the test, and what they wrote.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use super::{eventually, within};

/// How long a command may take that has no reason to take long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Is a running process with its log in a file.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it writes goes to `<directory>/<name>.log`, after what an earlier one of that name wrote.
    #[track_caller]
    pub(crate) fn start(name: &str, mut command: Command, directory: &Path) -> Self {
        let log = log_file(name, directory);
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .env("WEFT_STOP_WITH_PARENT", "1")
            .stdin(Stdio::null())
            .stderr(output.try_clone().unwrap())
            .stdout(output)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {name}: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Returns the process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns all that the process wrote so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Fails the test if the process has ended.
    #[track_caller]
    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended with {status}:\n{}", self.name, self.log());
        }
    }

    /// Ends the process as a crash would: nothing is flushed, nobody is told.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the process to drain and end, and returns the status that it ended with.
    #[track_caller]
    pub(crate) fn terminate(&mut self, deadline: Duration) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.wait(deadline)
    }

    /// Waits for the process to end by itself; returns its status.
    #[track_caller]
    pub(crate) fn wait(&mut self, deadline: Duration) -> Option<i32> {
        let what = format!("{} to end", self.name);
        eventually(&what, deadline, || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- end of the log of {}:\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

fn log_file(name: &str, directory: &Path) -> PathBuf {
    directory.join(format!("{name}.log"))
}

/// Returns what processes of this name wrote, whether one runs now or not.
pub(crate) fn log_of(name: &str, directory: &Path) -> String {
    std::fs::read_to_string(log_file(name, directory)).unwrap_or_default()
}

/// Runs a command to its end, with nothing to read, and returns what it wrote. One that is not over within the limit is killed, and
/// fails the test with what it had written by then.
#[track_caller]
pub(crate) fn output_within(command: &mut Command, limit: Duration) -> std::process::Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("running {command:?}: {error}"));
    ended_within(child, &format!("{command:?}"), limit)
}

/// Waits so for a command that runs already, `what` it is; returns what it wrote into pipes.
#[track_caller]
pub(crate) fn ended_within(mut child: Child, what: &str, limit: Duration) -> std::process::Output {
    let began = Instant::now();
    let (reading, read) = channel();
    let stdout = child.stdout.take().map(|pipe| collect(pipe, reading.clone())).unwrap_or_default();
    let stderr = child.stderr.take().map(|pipe| collect(pipe, reading)).unwrap_or_default();
    // A pipe is at its end when whoever the command started has closed it, too.
    let has_said_all = read.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected);
    let left = limit.saturating_sub(began.elapsed());
    let status = has_said_all.then(|| within(left, || child.try_wait().unwrap())).flatten();
    let [stdout, stderr] = [stdout, stderr].map(|written| std::mem::take(&mut *written.lock().unwrap()));
    let Some(status) = status else {
        let _ended_before = child.kill();
        let _reaped = child.wait();
        let [stdout, stderr] = [&stdout, &stderr].map(|text| String::from_utf8_lossy(text));
        panic!("{what} was not over after {limit:?}; it had written:\n{stdout}\n{stderr}");
    };
    std::process::Output { status, stdout, stderr }
}

/// Collects what comes through a pipe, in a thread of its own that keeps `reading` until the end.
fn collect(mut pipe: impl Read + Send + 'static, reading: Sender<()>) -> Arc<Mutex<Vec<u8>>> {
    let collected = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&collected);
    std::thread::spawn(move || {
        let mut bytes = [0; 16384];
        while let Ok(count @ 1..) = pipe.read(&mut bytes) {
            shared.lock().unwrap().extend_from_slice(&bytes[..count]);
        }
        drop(reading);
    });
    collected
}

/// Is what one `weft` command did.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs one `weft` command to its end, without this test's own `WEFT_` environment.
#[track_caller]
pub(crate) fn weft(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    weft_within(arguments, environment, PATIENCE)
}

/// Does so with a command that may take longer, or less long.
#[track_caller]
pub(crate) fn weft_within(arguments: &[&str], environment: &[(&str, &str)], limit: Duration) -> Output {
    let output = output_within(&mut weft_command(arguments, environment), limit);
    Output {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Prepares a `weft` command, for tests that want its ends elsewhere.
pub(crate) fn weft_command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    for name in ["WEFT_HTTP_ADDR", "WEFT_HTTP_TOKEN", "WEFT_HTTP_TOKEN_FILE", "WEFT_CACERT", "WEFT_NAMESPACE"] {
        command.env_remove(name);
    }
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
    command
}

#[test]
#[should_panic(expected = "had written:\n42\n")]
fn a_command_that_does_not_end_fails_its_test_with_what_it_wrote() {
    let mut hangs = Command::new("sh");
    hangs.args(["-c", "echo $((40 + 2)); exec sleep 600"]);
    output_within(&mut hangs, Duration::from_secs(3));
}
