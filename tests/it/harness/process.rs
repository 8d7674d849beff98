//! Processes that end with the test, and what they wrote.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::eventually;

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
    let output = weft_command(arguments, environment).output().unwrap();
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
