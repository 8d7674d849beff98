//! How an instance that is called has fared: how many calls are open there, how fast it answers, whether it is put aside.
//!
//! Read for every call and of several instances, so that nothing here takes a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long an instance is put aside after it was not reached; twice as long after each further time.
const ASIDE_MIN: Duration = Duration::from_secs(1);
/// The longest that it is put aside for that.
const ASIDE_MAX: Duration = Duration::from_secs(30);
/// How fast what was measured loses its weight.
const MEMORY: Duration = Duration::from_secs(10);
/// Below this, in microseconds, one answer is as fast as another: what differs there is noise.
const FAST_US: u32 = 1_000;
/// What an instance costs of which nothing is known but that it was asked: as much as one that takes a second.
const UNKNOWN_US: u32 = 1_000_000;

/// Is how one instance has fared.
#[derive(Debug)]
pub(crate) struct Standing {
    /// From where time is counted.
    epoch: Instant,
    open: AtomicUsize,
    /// When it answered last, in milliseconds, and how long it took, in microseconds: a peak that is forgotten slowly.
    latency: AtomicU64,
    /// Until when it is put aside, in milliseconds.
    aside_until: AtomicU64,
    /// How often in a row it was not reached.
    misses: AtomicU32,
}

impl Standing {
    /// Knows nothing yet.
    pub(crate) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            open: AtomicUsize::new(0),
            latency: AtomicU64::new(0),
            aside_until: AtomicU64::new(0),
            misses: AtomicU32::new(0),
        }
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts a call as open.
    pub(crate) fn enter(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts it as over.
    pub(crate) fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns how many calls are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Reports whether the instance is put aside.
    pub(crate) fn is_aside(&self, now: Instant) -> bool {
        self.milliseconds(now) < self.aside_until.load(Ordering::Relaxed)
    }

    /// Returns how much longer it is put aside.
    pub(crate) fn aside_for(&self, now: Instant) -> Duration {
        Duration::from_millis(self.aside_until.load(Ordering::Relaxed).saturating_sub(self.milliseconds(now)))
    }

    /// Puts it aside; one that is put aside for longer stays so.
    pub(crate) fn put_aside(&self, now: Instant, length: Duration) {
        let until = self.milliseconds(now + length);
        self.aside_until.fetch_max(until, Ordering::Relaxed);
    }

    /// Records that the instance was not reached, and puts it aside for a while.
    pub(crate) fn missed(&self, now: Instant) {
        let misses = self.misses.fetch_add(1, Ordering::Relaxed);
        self.put_aside(now, ASIDE_MIN.saturating_mul(2_u32.saturating_pow(misses.min(8))).min(ASIDE_MAX));
    }

    /// Records that it was reached. One that was only missed is asked again at once; one that was ejected for what it answered is not.
    pub(crate) fn reached(&self) {
        if self.misses.swap(0, Ordering::Relaxed) > 0 {
            self.aside_until.store(0, Ordering::Relaxed);
        }
    }

    /// Records how long an answer took. A failure is never a sign of speed: it makes the instance no faster than it was.
    pub(crate) fn took(&self, now: Instant, length: Duration, is_failure: bool) {
        let sample = u32::try_from(length.as_micros()).unwrap_or(u32::MAX).max(1);
        let now = self.milliseconds(now);
        // Whoever loses a race has measured at the same moment: one of the two counts.
        let known = self.latency.load(Ordering::Relaxed);
        let average = decayed(known, now);
        let next = if is_failure || sample > average {
            sample.max(average)
        } else {
            // A moving average over as many answers as fit into the memory, at least two.
            let age = now.saturating_sub(known >> 32) as f64 / MEMORY.as_millis() as f64;
            let weight = (1.0 - (-age).exp()).clamp(0.1, 0.5);
            (f64::from(average) + (f64::from(sample) - f64::from(average)) * weight) as u32
        };
        let _raced = self.latency.compare_exchange(
            known,
            (now & u64::from(u32::MAX)) << 32 | u64::from(next.max(1)),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Returns how long it takes to answer, as far as that is known.
    #[cfg(test)]
    pub(crate) fn latency(&self, now: Instant) -> Option<Duration> {
        let known = self.latency.load(Ordering::Relaxed);
        (known != 0).then(|| Duration::from_micros(u64::from(decayed(known, self.milliseconds(now)))))
    }

    /// Returns what a further call costs here: what is open, and how long each takes.
    pub(crate) fn cost(&self, now: Instant) -> u64 {
        let open = self.open() as u64;
        let known = self.latency.load(Ordering::Relaxed);
        let each = match (known, open) {
            // Tried once, and then no more before that has answered.
            (0, 0) => FAST_US,
            (0, _) => UNKNOWN_US,
            (known, _) => decayed(known, self.milliseconds(now)).max(FAST_US),
        };
        u64::from(each).saturating_mul(open + 1)
    }
}

/// Returns what is left of a measured latency after a time without answers.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it only gets less")]
fn decayed(known: u64, now: u64) -> u32 {
    let average = known as u32;
    // Both count in 32 bits: an instance that is silent for seven weeks looks as if it had answered now.
    let age = (now as u32).wrapping_sub((known >> 32) as u32);
    if age == 0 {
        return average;
    }
    (f64::from(average) * (-f64::from(age) / MEMORY.as_millis() as f64).exp()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_put_aside_for_longer_each_time_and_at_most_for_so_long() {
        let now = Instant::now();
        let standing = Standing::new(now);
        let mut asides = Vec::new();
        for _ in 0..7 {
            standing.aside_until.store(0, Ordering::Relaxed);
            standing.missed(now);
            asides.push(standing.aside_for(now).as_secs());
        }
        assert_eq!(asides, [1, 2, 4, 8, 16, 30, 30]);
        assert!(standing.is_aside(now + Duration::from_secs(29)) && !standing.is_aside(now + Duration::from_secs(30)));
        standing.reached();
        assert!(!standing.is_aside(now));
        standing.put_aside(now, Duration::from_secs(5));
        standing.reached();
        assert!(standing.is_aside(now), "an answer does not end what an ejection began");
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let now = Instant::now();
        let standing = Standing::new(now);
        let after = |ms: u64| now + Duration::from_millis(ms);
        assert_eq!((standing.latency(now), standing.cost(now)), (None, u64::from(FAST_US)));
        standing.enter();
        assert_eq!(standing.cost(now), 2 * u64::from(UNKNOWN_US), "asked, and silent so far");
        standing.took(after(10), Duration::from_millis(10), false);
        assert_eq!(standing.cost(after(10)), 20_000);
        standing.took(after(210), Duration::from_millis(200), false);
        assert_eq!(standing.latency(after(210)), Some(Duration::from_millis(200)), "the peak at once");
        standing.took(after(220), Duration::from_millis(10), false);
        let left = standing.latency(after(220)).unwrap().as_millis();
        assert!((170..200).contains(&left), "{left}");
        standing.took(after(221), Duration::from_micros(50), true);
        assert_eq!(standing.latency(after(221)).unwrap().as_millis(), left, "a fast failure is no speed");
        let later = standing.latency(after(20_220)).unwrap().as_millis();
        assert!((20..30).contains(&later), "{later}");
        standing.leave();
        assert_eq!(standing.open(), 0);
    }
}
