//! The processes of the demo: this same binary, started with other words.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context;
use tokio::process::{Child, Command};

/// How long a process may drain before it is killed.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Is one running process, with its log in a file.
pub(super) struct Process {
    pub(super) name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(super) fn start(name: &str, arguments: &[String], directory: &Path) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("creating `{}`", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("opening `{}` twice", log.display()))?;
        let child = command()?
            .args(arguments)
            .env("WEFT_STOP_WITH_PARENT", "1")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C goes to the whole group of the terminal; the demo stops its processes itself, in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Reports why the process is no longer running, with the end of its log; nothing while it runs.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        Some(format!("{} ended with {status}:\n{}", self.name, lines[lines.len().saturating_sub(8)..].join("\n")))
    }

    /// Ends the process as a crash would: nothing is flushed, nobody is told.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    /// Asks the process to drain and end.
    pub(super) fn terminate(&self) {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            // It may have ended by itself in between; then there is nobody to ask.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Waits until the process has ended, and kills it if it does not.
    pub(super) async fn wait(&mut self) {
        if tokio::time::timeout(DRAIN_DEADLINE, self.child.wait()).await.is_err() {
            let _ended = self.child.kill().await;
        }
    }
}

fn command() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program's own file")?);
    // The story speaks to its own mesh, whatever mesh the one who watches it works with.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEFT_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Runs one `weft` command to its end, as somebody at a terminal would.
///
/// # Errors
/// If it cannot be started, or ends with anything but 0; the error has what it wrote.
pub(super) async fn weft(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<String> {
    let output = command()?
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("running `weft {}`", arguments.join(" ")))?;
    let errors = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    anyhow::ensure!(output.status.success(), "`weft {}` ended with {}: {errors}", arguments.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
