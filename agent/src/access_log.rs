//! The access log: one line of JSON for each request, written by a thread that no request waits for.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use prometheus_client::metrics::counter::Counter;

/// Lines that wait to be written; further ones are dropped and counted, for nobody waits for a slow disk.
const LINES_MAX: usize = 8192;

/// Is where lines about requests go.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    lines: SyncSender<Vec<u8>>,
    dropped: Counter,
}

/// Says why there is no access log.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the access log to `{}`", path.display())]
pub struct AccessLogError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl AccessLog {
    /// Opens a log that is appended to; `-` is standard output. Lines that nobody can take are counted as dropped.
    pub(crate) fn open(path: &Path, dropped: Counter) -> Result<Self, AccessLogError> {
        let failed = |source| AccessLogError { path: path.to_owned(), source };
        let sink = if path == Path::new("-") {
            Sink::Stdout
        } else {
            Sink::File(OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?)
        };
        let (lines, arriving) = sync_channel(LINES_MAX);
        let counted = dropped.clone();
        let writing = move || match sink {
            Sink::Stdout => write_all(BufWriter::new(io::stdout()), &arriving, &counted),
            Sink::File(file) => write_all(BufWriter::new(file), &arriving, &counted),
        };
        std::thread::Builder::new().name("weft-access-log".to_owned()).spawn(writing).map_err(failed)?;
        Ok(Self { lines, dropped })
    }

    /// Hands over one line, without its end. Never waits.
    pub(crate) fn write(&self, line: Vec<u8>) {
        if self.lines.try_send(line).is_err() {
            self.dropped.inc();
        }
    }
}

enum Sink {
    Stdout,
    File(File),
}

/// Writes lines as they come, and all that has come before it waits again.
fn write_all(mut to: impl Write, lines: &Receiver<Vec<u8>>, dropped: &Counter) {
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        while let Some(mut line) = next {
            line.push(b'\n');
            if to.write_all(&line).is_err() {
                dropped.inc();
            }
            next = lines.try_recv().ok();
        }
        // What could not be written was kept; there is nobody to tell but the next line.
        let _ = to.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn fault_44_a_log_that_nobody_reads_holds_nobody_up() {
        // A pipe whose reader never reads: the writing thread is stuck after a few pages.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let dropped = Counter::default();
        let log = AccessLog::open(&path, dropped.clone()).unwrap();
        let started = Instant::now();
        for _ in 0..LINES_MAX + 2000 {
            log.write(vec![b'x'; 1024]);
        }
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(dropped.get() > 0);
        drop(reader);
    }

    #[test]
    fn lines_are_appended_to_a_file_of_the_owners_own() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, "before\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let log = AccessLog::open(&path, Counter::default()).unwrap();
        log.write(b"one".to_vec());
        log.write(b"two".to_vec());
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::read_to_string(&path).unwrap() != "before\none\ntwo\n" {
            assert!(Instant::now() < deadline, "not written");
            std::thread::yield_now();
        }
        let missing = directory.path().join("missing").join("access.log");
        let error = AccessLog::open(&missing, Counter::default()).unwrap_err();
        assert!(error.to_string().starts_with("cannot write the access log to"), "{error}");
    }
}
