//! How many streams a connection carries that many share, and since when it carries none.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Counts the streams that are open on one connection.
#[derive(Debug)]
pub(crate) struct StreamCount {
    open: AtomicUsize,
    since: Instant,
    /// When the last stream ended, in milliseconds since the count began.
    quiet_since_ms: AtomicU64,
}

impl StreamCount {
    /// Begins with none, at this time.
    pub(crate) fn new(since: Instant) -> Self {
        Self { open: AtomicUsize::new(0), since, quiet_since_ms: AtomicU64::new(0) }
    }

    /// Counts one more, unless there are so many.
    pub(crate) fn take(&self, max: usize) -> bool {
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < max).then_some(open + 1)).is_ok()
    }

    /// Counts one that has ended.
    pub(crate) fn give_back(&self) {
        let now_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.quiet_since_ms.store(now_ms, Ordering::Release);
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// Reports whether there have been none for so long.
    pub(crate) fn is_idle(&self, idle_max: Duration) -> bool {
        // The count first: whoever lets go says since when before that.
        if self.open.load(Ordering::Acquire) > 0 {
            return false;
        }
        let quiet_since = self.since + Duration::from_millis(self.quiet_since_ms.load(Ordering::Acquire));
        quiet_since.elapsed() >= idle_max
    }
}
