//! Log lines on their way out, on a thread of their own: where nobody takes them they are dropped and counted, and nothing
//! that writes a line ever waits.

use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;
use wire::lost_lines;

use super::log_line::{Line, TakeLine};

/// Bytes of lines that wait to be written.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// Hands out ends to write lines to; a clone writes to the same place.
#[derive(Debug, Clone)]
pub(super) struct LogWriter {
    lines: Sender<Vec<u8>>,
    waiting: Arc<Waiting>,
}

/// How many bytes wait, and who waits for there to be none.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Mutex<usize>,
    none_left: Condvar,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, usize> {
        // A number is consistent whatever happened.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self, bytes: usize) {
        let mut waiting = self.lock();
        *waiting -= bytes;
        if *waiting == 0 {
            self.none_left.notify_all();
        }
    }
}

impl LogWriter {
    /// Starts the thread that writes to `target`.
    ///
    /// # Errors
    /// As the operating system says, where there is no thread to be had.
    pub(super) fn start(target: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, receiver) = channel();
        let waiting = Arc::new(Waiting::default());
        // Counted from here on: lines may be dropped before the thread runs.
        let (shared, told) = (Arc::clone(&waiting), lost_lines::total());
        std::thread::Builder::new()
            .name("weft-log".to_owned())
            .spawn(move || write_all(&receiver, target, &shared, told))?;
        Ok(Self { lines, waiting })
    }

    /// Waits until all lines are written, for a moment at most: whoever does not take them must not keep the process.
    pub(super) fn flush(&self, patience: Duration) {
        let waiting = self.waiting.lock();
        // Whether there was time enough makes no difference to a process that ends.
        drop(self.waiting.none_left.wait_timeout_while(waiting, patience, |bytes| *bytes > 0));
    }

    fn push(&self, line: Vec<u8>) {
        let mut waiting = self.waiting.lock();
        if *waiting + line.len() > WAITING_BYTES_MAX {
            drop(waiting);
            return lost_lines::add(1);
        }
        *waiting += line.len();
        drop(waiting);
        if let Err(unsent) = self.lines.send(line) {
            lost_lines::add(1);
            self.waiting.written(unsent.0.len());
        }
    }
}

/// Writes lines as they come; whenever some were dropped it says so in between.
fn write_all(lines: &Receiver<Vec<u8>>, mut target: impl Write, waiting: &Waiting, mut told: u64) {
    for line in lines {
        if target.write_all(&line).and_then(|()| target.flush()).is_err() {
            lost_lines::add(1);
        }
        let lost = lost_lines::total();
        if lost > told {
            let note = format!("(weft dropped {} log lines, for nobody took them)\n", lost - told);
            if target.write_all(note.as_bytes()).is_ok() {
                told = lost;
            }
        }
        waiting.written(line.len());
    }
}

impl TakeLine for LogWriter {
    fn take(&mut self, line: Vec<u8>) {
        self.push(line);
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line<Self>;

    fn make_writer(&'a self) -> Line<Self> {
        Line::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, sync_channel};

    use super::*;

    /// Takes a write only once somebody asks for it.
    struct Stuck(std::sync::mpsc::SyncSender<Vec<u8>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn say(writer: &LogWriter, line: &str) {
        let mut end = writer.make_writer();
        end.write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn fault_44_lines_that_nobody_takes_are_dropped_and_nothing_waits_for_them() {
        let (sender, taken) = sync_channel(0);
        let writer = LogWriter::start(Stuck(sender)).unwrap();
        let line = format!("{}\n", "x".repeat(999));
        let before = lost_lines::total();
        // Twice what may wait: that this ends is what is tested.
        for _ in 0..2 * WAITING_BYTES_MAX / line.len() {
            say(&writer, &line);
        }
        let lost = lost_lines::total() - before;
        assert!(lost > 200, "{lost} lines were dropped");
        writer.flush(Duration::from_millis(1));
        // Once somebody reads again, what waited comes out, with a word about what did not.
        let mut text = String::new();
        loop {
            match taken.recv_timeout(Duration::from_secs(10)) {
                Ok(bytes) => text.push_str(&String::from_utf8(bytes).unwrap()),
                Err(error) => panic!("{error}: nothing says that lines were dropped"),
            }
            if text.contains("weft dropped") {
                break;
            }
        }
        assert!(text.contains(&format!("dropped {lost} log lines")), "{}", &text[text.len() - 200..]);
        let reading = std::thread::spawn(move || {
            let mut rest = String::new();
            while let Ok(bytes) = taken.recv() {
                rest.push_str(&String::from_utf8(bytes).unwrap());
            }
            assert_eq!(taken.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Disconnected));
            rest
        });
        say(&writer, "the last one\n");
        writer.flush(Duration::from_secs(10));
        drop(writer);
        assert!(reading.join().unwrap().ends_with("the last one\n"));
    }
}
