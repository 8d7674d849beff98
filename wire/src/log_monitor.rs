//! Log lines for whoever listens to this process over the API. Where nobody does, no line is made for it, and a listener that
//! does not keep up loses lines: nothing that writes a line ever waits.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tracing::Level;
use tracing::level_filters::LevelFilter;

/// How many may listen at once.
pub const LISTENERS_MAX: usize = 16;
/// Lines that wait for one listener.
const WAITING_LINES_MAX: usize = 512;
/// The bytes of a line that a listener gets; nothing that weft logs is longer.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Is the form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineForm {
    /// For people.
    Text,
    /// For programs: one object a line.
    Json,
}

/// What a listener asked for is no level of the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not `trace`, `debug`, `info`, `warn` or `error`")]
pub struct UnknownLevel;

/// Too many listen already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{LISTENERS_MAX} listen to the log of this process already: end one of them first")]
pub struct TooManyListeners;

/// Reads a level as Consul's clients write it; `info` where nothing is written.
///
/// # Errors
///
/// [`UnknownLevel`]
pub fn level_named(name: Option<&str>) -> Result<Level, UnknownLevel> {
    match name.unwrap_or_default().to_ascii_lowercase().as_str() {
        "trace" => Ok(Level::TRACE),
        "debug" => Ok(Level::DEBUG),
        "" | "info" => Ok(Level::INFO),
        "warn" => Ok(Level::WARN),
        "err" | "error" => Ok(Level::ERROR),
        _ => Err(UnknownLevel),
    }
}

struct Listener {
    id: u64,
    form: LineForm,
    level: Level,
    lines: mpsc::Sender<Bytes>,
    lost: Arc<AtomicU64>,
}

static LISTENERS: Mutex<Vec<Listener>> = Mutex::new(Vec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(0);
/// The most verbose level that anybody listens at, by form; 0 where nobody does.
static TEXT_LEVEL: AtomicU8 = AtomicU8::new(0);
static JSON_LEVEL: AtomicU8 = AtomicU8::new(0);

fn listeners() -> MutexGuard<'static, Vec<Listener>> {
    // A list of senders is consistent whatever happened.
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wanted_of(form: LineForm) -> &'static AtomicU8 {
    match form {
        LineForm::Text => &TEXT_LEVEL,
        LineForm::Json => &JSON_LEVEL,
    }
}

/// Returns the most verbose level that anybody listens at.
pub fn wanted(form: LineForm) -> LevelFilter {
    match wanted_of(form).load(Ordering::Relaxed) {
        0 => LevelFilter::OFF,
        1 => LevelFilter::ERROR,
        2 => LevelFilter::WARN,
        3 => LevelFilter::INFO,
        4 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

fn rank(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// Changes who listens, and has the log look again at what it makes lines of.
fn change(how: impl FnOnce(&mut Vec<Listener>)) {
    let mut all = listeners();
    how(&mut all);
    for form in [LineForm::Text, LineForm::Json] {
        let levels = all.iter().filter(|listener| listener.form == form).map(|listener| rank(listener.level));
        wanted_of(form).store(levels.max().unwrap_or(0), Ordering::Relaxed);
    }
    drop(all);
    tracing::callsite::rebuild_interest_cache();
}

/// Listens to this process's log, from `level` up, from now on.
///
/// # Errors
///
/// [`TooManyListeners`]
pub fn listen(form: LineForm, level: Level) -> Result<LogLines, TooManyListeners> {
    let (sender, lines) = mpsc::channel(WAITING_LINES_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let mut is_full = false;
    change(|all| {
        is_full = all.len() >= LISTENERS_MAX;
        if !is_full {
            all.push(Listener { id, form, level, lines: sender, lost: Arc::clone(&lost) });
        }
    });
    if is_full { Err(TooManyListeners) } else { Ok(LogLines { id, lines, lost, told: 0 }) }
}

/// Hands a line to those who listen in this form at this level. Never waits.
pub fn hand_out(form: LineForm, level: Level, line: &[u8]) {
    let line = Bytes::copy_from_slice(line.get(..LINE_BYTES_MAX).unwrap_or(line));
    for listener in listeners().iter().filter(|listener| listener.form == form && level <= listener.level) {
        if listener.lines.try_send(line.clone()).is_err() {
            listener.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Receives the lines; dropping it ends the listening.
#[derive(Debug)]
pub struct LogLines {
    id: u64,
    lines: mpsc::Receiver<Bytes>,
    lost: Arc<AtomicU64>,
    told: u64,
}

impl LogLines {
    /// Waits for the next line, with its line break; now and then it says how many were lost.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > self.told {
            let note = format!("(weft dropped {} log lines here, for they were not read in time)\n", lost - self.told);
            self.told = lost;
            return Some(note.into());
        }
        self.lines.recv().await
    }

    /// Returns the lines as the body of an answer, for as long as `may_go_on` says before each of them.
    pub fn while_allowed<Asked>(
        self,
        may_go_on: impl Fn() -> Asked + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + Send
    where
        Asked: Future<Output = bool> + Send,
    {
        futures_util::stream::unfold((self, may_go_on), async |(mut lines, may_go_on)| {
            let line = lines.next().await?;
            may_go_on().await.then_some((Ok(line), (lines, may_go_on)))
        })
    }
}

impl Drop for LogLines {
    fn drop(&mut self) {
        change(|all| all.retain(|listener| listener.id != self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The listeners are of the whole process, so that what is told of them is told in one test.
    #[tokio::test]
    async fn lines_reach_those_who_listen_at_their_level_and_nobody_waits_for_them() {
        assert_eq!((wanted(LineForm::Text), wanted(LineForm::Json)), (LevelFilter::OFF, LevelFilter::OFF));
        let mut warnings = listen(LineForm::Text, Level::WARN).unwrap();
        let mut all = listen(LineForm::Text, Level::DEBUG).unwrap();
        let json = listen(LineForm::Json, Level::INFO).unwrap();
        assert_eq!((wanted(LineForm::Text), wanted(LineForm::Json)), (LevelFilter::DEBUG, LevelFilter::INFO));
        hand_out(LineForm::Text, Level::INFO, b"fine\n");
        hand_out(LineForm::Text, Level::WARN, b"careful\n");
        hand_out(LineForm::Text, Level::TRACE, b"tick\n");
        assert_eq!(warnings.next().await.unwrap(), "careful\n");
        assert_eq!(all.next().await.unwrap(), "fine\n");
        assert_eq!(all.next().await.unwrap(), "careful\n");
        drop((all, json));
        assert_eq!((wanted(LineForm::Text), wanted(LineForm::Json)), (LevelFilter::WARN, LevelFilter::OFF));

        // Twice what may wait: that this ends is what is tested.
        for _ in 0..2 * WAITING_LINES_MAX {
            hand_out(LineForm::Text, Level::ERROR, b"again\n");
        }
        let note = warnings.next().await.unwrap();
        assert!(String::from_utf8_lossy(&note).contains(&format!("dropped {WAITING_LINES_MAX} log lines")), "{note:?}");
        assert_eq!(warnings.next().await.unwrap(), "again\n");
        hand_out(LineForm::Text, Level::ERROR, &[b'x'; LINE_BYTES_MAX + 1]);
        for _ in 1..WAITING_LINES_MAX {
            warnings.next().await.unwrap();
        }
        assert_eq!(warnings.next().await.unwrap().len(), LINE_BYTES_MAX);

        let held: Vec<LogLines> = (1..LISTENERS_MAX).map(|_| listen(LineForm::Json, Level::INFO).unwrap()).collect();
        assert_eq!(listen(LineForm::Text, Level::INFO).err(), Some(TooManyListeners));
        drop((held, warnings));
        drop(listen(LineForm::Text, Level::INFO).unwrap());
        assert_eq!((wanted(LineForm::Text), wanted(LineForm::Json)), (LevelFilter::OFF, LevelFilter::OFF));
    }

    #[test]
    fn levels_are_named_as_consul_names_them() {
        for (name, level) in [(None, Level::INFO), (Some("err"), Level::ERROR), (Some("DEBUG"), Level::DEBUG)] {
            assert_eq!(level_named(name), Ok(level));
        }
        assert_eq!(level_named(Some("loud")), Err(UnknownLevel));
    }
}
