//! The access log: one line of JSON for each request, written by a thread that no request waits for.

mod fields;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use prometheus_client::metrics::counter::Counter;

pub(crate) use fields::Field;
pub use fields::{Fields, UnknownField};

/// Into how many parts a request is divided to draw a share of all.
const SHARE: f64 = 1_000_000.0;
/// Lines that wait to be written; further ones are dropped and counted, for nobody waits for a slow disk.
const LINES_MAX: usize = 8192;

/// Says where lines about requests go, and what they tell.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogSettings {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// What a line tells.
    pub fields: Fields,
    /// Of how many requests there is a line, from 0 to 1. Of what failed or was denied there always is one.
    pub sample: f64,
}

impl From<PathBuf> for AccessLogSettings {
    fn from(path: PathBuf) -> Self {
        Self { path, fields: Fields::default(), sample: 1.0 }
    }
}

/// Is where lines about requests go.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    lines: SyncSender<Vec<u8>>,
    dropped: Counter,
    fields: Fields,
    sample: f64,
    told: Arc<AtomicU64>,
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
    /// Opens a log that is appended to. Lines that nobody can take are counted as dropped.
    pub(crate) fn open(settings: &AccessLogSettings, dropped: Counter) -> Result<Self, AccessLogError> {
        let path = settings.path.as_path();
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
        Ok(Self { lines, dropped, fields: settings.fields, sample: settings.sample, told: Arc::default() })
    }

    /// Returns what a line tells.
    pub(crate) fn fields(&self) -> Fields {
        self.fields
    }

    /// Draws whether there is a line of a request of which there need not be one: evenly spread, and as many as asked for.
    pub(crate) fn draws(&self) -> bool {
        if self.sample >= 1.0 {
            return true;
        }
        // Each step adds the share that is told of; whenever a whole one is full, a line is.
        let step = (self.sample.max(0.0) * SHARE).round() as u64;
        let before = self.told.fetch_add(step, Ordering::Relaxed);
        before / SHARE as u64 != before.wrapping_add(step) / SHARE as u64
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
        let log = AccessLog::open(&path.into(), dropped.clone()).unwrap();
        let started = Instant::now();
        for _ in 0..LINES_MAX + 2000 {
            log.write(vec![b'x'; 1024]);
        }
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(dropped.get() > 0);
        drop(reader);
    }

    #[test]
    fn as_many_lines_are_drawn_as_are_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        for (sample, want) in [(0.0, 0), (0.1, 100), (0.25, 250), (1.0, 1000), (7.0, 1000)] {
            let path = directory.path().join("access.log");
            let settings = AccessLogSettings { sample, ..path.into() };
            let log = AccessLog::open(&settings, Counter::default()).unwrap();
            assert_eq!((0..1000).filter(|_| log.draws()).count(), want, "{sample}");
        }
    }

    #[test]
    fn lines_are_appended_to_a_file_of_the_owners_own() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, "before\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let log = AccessLog::open(&path.clone().into(), Counter::default()).unwrap();
        log.write(b"one".to_vec());
        log.write(b"two".to_vec());
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::read_to_string(&path).unwrap() != "before\none\ntwo\n" {
            assert!(Instant::now() < deadline, "not written");
            std::thread::yield_now();
        }
        let missing = directory.path().join("missing").join("access.log");
        let error = AccessLog::open(&missing.into(), Counter::default()).unwrap_err();
        assert!(error.to_string().starts_with("cannot write the access log to"), "{error}");
    }
}
