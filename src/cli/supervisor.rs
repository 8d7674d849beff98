//! What the long-running commands tell whoever supervises them, and what it gives them: systemd's notifications and credentials.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sd_notify::NotifyState;

use super::daemon::stop_signal;

/// How long a process that was refused waits before it ends.
const PAUSE: Duration = Duration::from_secs(10);
/// How often the status line is said anew where no watchdog asks for signs of life.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Says that the process serves.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says what the process is doing, in one line.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Says that the process reads its files again, until [`ready`] says that it has.
pub(super) fn reloading() {
    // From release 253 on systemd wants to know when, to tell this reload from an earlier one.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("reading its files again")]),
        Err(_) => tell(&[NotifyState::Status("reading its files again")]),
    }
}

/// Says that the process is about to end.
pub(super) fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Goes on saying how the process does, and gives the signs of life that a watchdog wants; never ends.
///
/// Each sign goes through the runtime that everything else runs on: where it is stuck, none comes any more.
pub(super) async fn keep_telling(status: impl Fn() -> String) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return std::future::pending().await;
    }
    let every = sd_notify::watchdog_enabled().map_or(STATUS_EVERY, |patience| patience / 3);
    let mut tick = tokio::time::interval(every.max(Duration::from_millis(10)));
    loop {
        tick.tick().await;
        if tokio::spawn(async {}).await.is_ok() {
            tell(&[NotifyState::Watchdog, NotifyState::Status(&status())]);
        }
    }
}

/// Keeps a process for a while that was refused and is about to end, where a supervisor would start it again at once: whoever
/// refused it is not to be asked ten times a second.
pub(super) async fn pause(status: &str) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tell(&[NotifyState::Status(status)]);
    tokio::select! {
        () = tokio::time::sleep(PAUSE) => {}
        _ = stop_signal() => {}
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the supervisor was not told");
    }
}

/// Finds a secret that the supervisor hands over under this name, such as by `LoadCredential=`.
pub(super) fn credential(name: &str) -> Option<PathBuf> {
    let path = Path::new(&std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name);
    path.is_file().then_some(path)
}
