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
const FAST_US: u32 = 5_000;
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
    /// How often in a row it failed, reached or not.
    failures: AtomicU32,
    /// How often it was ejected for that, those forgotten that are long past.
    ejections: AtomicU32,
    /// Until when it is ejected, in milliseconds.
    ejected_until: AtomicU64,
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
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
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
        self.milliseconds(now) < self.back_at()
    }

    /// Returns how much longer it is put aside.
    pub(crate) fn aside_for(&self, now: Instant) -> Duration {
        Duration::from_millis(self.back_at().saturating_sub(self.milliseconds(now)))
    }

    fn back_at(&self) -> u64 {
        self.aside_until.load(Ordering::Relaxed).max(self.ejected_until.load(Ordering::Relaxed))
    }

    /// Records that it did well.
    pub(crate) fn did_well(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Records a failure; says whether there were so many in a row that it should be ejected, and begins anew then.
    pub(crate) fn did_badly(&self, failures_max: u32) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures < failures_max {
            return false;
        }
        // Of several that count at the same moment one begins anew.
        self.failures.compare_exchange(failures, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Ejects it for as long as `length` says of how often it was ejected before, one time less for each interval since.
    pub(crate) fn eject(&self, now: Instant, interval: Duration, length: impl FnOnce(u32) -> Duration) {
        let (at, until) = (self.milliseconds(now), self.ejected_until.load(Ordering::Relaxed));
        let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        let forgotten = u32::try_from(at.saturating_sub(until) / interval).unwrap_or(u32::MAX);
        let before = self.ejections.load(Ordering::Relaxed).saturating_sub(forgotten);
        self.ejections.store(before.saturating_add(1), Ordering::Relaxed);
        self.ejected_until.fetch_max(self.milliseconds(now + length(before)), Ordering::Relaxed);
    }

    /// Puts it aside; one that is put aside for longer stays so.
    fn put_aside(&self, now: Instant, length: Duration) {
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
        let next = if known == 0 {
            // The first answer waits for what only the first one has to do.
            sample.min(FAST_US)
        } else if is_failure || sample > average {
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
    pub(crate) fn latency(&self, now: Instant) -> Option<Duration> {
        let known = self.latency.load(Ordering::Relaxed);
        (known != 0).then(|| Duration::from_micros(u64::from(decayed(known, self.milliseconds(now)))))
    }

    /// Returns what one call costs here, by how long an answer takes: in microseconds.
    fn each(&self, open: usize, now: Instant) -> u32 {
        match (self.latency.load(Ordering::Relaxed), open) {
            // Tried once, and then no more before that has answered.
            (0, 0) => FAST_US,
            (0, _) => UNKNOWN_US,
            (known, _) => decayed(known, self.milliseconds(now)).max(FAST_US),
        }
    }

    /// Reports whether a further call costs less here than with another, each for its weight: by what is open, and where
    /// one is more than twice as slow, by how long that takes.
    pub(crate) fn is_cheaper(&self, weight: u32, other: &Self, other_weight: u32, now: Instant) -> bool {
        let (open, other_open) = (self.open(), other.open());
        let (each, other_each) = (self.each(open, now), other.each(other_open, now));
        let are_alike = each / 2 <= other_each && other_each / 2 <= each;
        let (each, other_each) = if are_alike { (1, 1) } else { (each, other_each) };
        // Cost for weight, compared without a division.
        let burden = |open: usize, each: u32, rival: u32| (open as u128 + 1) * u128::from(each) * u128::from(rival);
        burden(open, each, other_weight) < burden(other_open, other_each, weight)
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
    }

    #[test]
    fn an_ejection_lasts_longer_each_time_and_is_forgotten_with_time() {
        let now = Instant::now();
        let standing = Standing::new(now);
        let badly = |times: u32| (0..times).filter(|_| standing.did_badly(3)).count();
        assert_eq!((badly(2), badly(1), badly(2)), (0, 1, 0), "three in a row");
        standing.did_well();
        assert_eq!((badly(2), badly(1)), (0, 1));
        let seconds = |seconds: u64| Duration::from_secs(seconds);
        let eject = |at: u64| {
            standing.eject(now + seconds(at), seconds(10), |before| seconds(u64::from(before) + 1));
            standing.aside_for(now + seconds(at)).as_secs()
        };
        assert_eq!((eject(0), eject(1), eject(3)), (1, 2, 3));
        standing.missed(now + seconds(3));
        standing.reached();
        assert!(standing.is_aside(now + seconds(5)), "to be reached ends no ejection");
        assert_eq!(eject(6 + 20), 2, "two intervals, two times less");
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let now = Instant::now();
        let standing = Standing::new(now);
        let after = |ms: u64| now + Duration::from_millis(ms);
        assert_eq!((standing.latency(now), standing.each(0, now)), (None, FAST_US));
        standing.enter();
        assert_eq!(standing.each(1, now), UNKNOWN_US, "asked, and silent so far");
        standing.took(after(10), Duration::from_millis(90), false);
        assert_eq!(standing.latency(after(10)), Some(Duration::from_millis(5)), "the first one has more to do");
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

    #[test]
    fn what_is_open_decides_among_those_that_are_about_as_fast() {
        let now = Instant::now();
        let of = |open: usize, answers: &[u64]| {
            let standing = Standing::new(now);
            (0..open).for_each(|_| standing.enter());
            answers.iter().for_each(|ms| standing.took(now, Duration::from_millis(*ms), false));
            standing
        };
        let is_cheaper = |one: &Standing, other: &Standing| one.is_cheaper(1, other, 1, now);
        assert!(is_cheaper(&of(19, &[1, 40]), &of(20, &[1, 30])) && !is_cheaper(&of(20, &[1, 30]), &of(20, &[1, 40])));
        assert!(is_cheaper(&of(9, &[1, 10]), &of(2, &[1, 40])), "ten calls of 10 ms before three of 40");
        assert!(!is_cheaper(&of(0, &[1, 4]), &of(0, &[1, 1])), "noise");
        assert!(of(5, &[]).is_cheaper(3, &of(2, &[]), 1, now), "six for three before three for one");
    }
}
