//! Judges by how long syncs take whether a disk is too slow to lead with.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back syncs count.
const WINDOW: Duration = Duration::from_secs(5);
/// Fewer say nothing.
const SYNCS_MIN: usize = 3;
/// Syncs that are remembered; a disk that does more than these in the window is not slow.
const SYNCS_MAX: usize = 512;
/// A disk is slow where nine of ten syncs take longer.
const SLOW: Duration = Duration::from_millis(300);
/// Between two attempts to hand over: where all disks are slow, somebody has to lead.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(30);

/// Remembers how long the last syncs took.
#[derive(Debug, Default)]
pub(super) struct SlowDisk {
    /// When each ended, and how long it took; oldest first.
    syncs: VecDeque<(Duration, Duration)>,
    handed_over: Option<Duration>,
}

impl SlowDisk {
    /// Notes a sync that has just ended.
    pub(super) fn took(&mut self, now: Duration, sync: Duration) {
        if self.syncs.len() == SYNCS_MAX {
            self.syncs.pop_front();
        }
        self.syncs.push_back((now, sync));
    }

    /// Tells whether the disk is slow now.
    pub(super) fn is_slow(&mut self, now: Duration) -> bool {
        while self.syncs.front().is_some_and(|(ended, _)| now.saturating_sub(*ended) > WINDOW) {
            self.syncs.pop_front();
        }
        let mut durations: Vec<Duration> = self.syncs.iter().map(|(_, duration)| *duration).collect();
        durations.sort_unstable();
        // Nine of ten take longer: the tenth from below is slow already.
        durations.len() >= SYNCS_MIN && durations[durations.len() / 10] > SLOW
    }

    /// Tells whether a leader whose disk is slow should hand over now, and notes that it does.
    pub(super) fn should_hand_over(&mut self, now: Duration) -> bool {
        let is_soon = self.handed_over.is_some_and(|before| now.saturating_sub(before) < HAND_OVER_PAUSE);
        if is_soon || !self.is_slow(now) {
            return false;
        }
        self.handed_over = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Syncs one after the other, each as long as said; returns when leadership was handed over.
    fn run(syncs: impl IntoIterator<Item = Duration>) -> Vec<Duration> {
        let (mut disk, mut now, mut handed_over) = (SlowDisk::default(), Duration::ZERO, Vec::new());
        for sync in syncs {
            now += sync + ms(10);
            disk.took(now, sync);
            if disk.should_hand_over(now) {
                handed_over.push(now);
            }
        }
        handed_over
    }

    #[test]
    fn fault_12_a_disk_that_stays_slow_is_handed_over_within_ten_seconds() {
        for sync in [ms(400), ms(1000), ms(1600)] {
            let handed_over = run(std::iter::repeat_n(sync, 6));
            assert!(handed_over.first().is_some_and(|at| *at <= Duration::from_secs(10)), "{sync:?}: {handed_over:?}");
        }
    }

    #[test]
    fn fault_12_a_fast_disk_and_one_that_stutters_lead_on() {
        assert!(run(std::iter::repeat_n(ms(5), 2000)).is_empty());
        assert!(run(std::iter::repeat_n(ms(120), 200)).is_empty());
        let stuttering = (0..400).map(|number| if number % 5 == 0 { ms(900) } else { ms(4) });
        assert!(run(stuttering).is_empty());
    }

    #[test]
    fn fault_12_where_all_disks_are_slow_leadership_does_not_flap() {
        let handed_over = run(std::iter::repeat_n(ms(500), 240));
        assert!((3..=5).contains(&handed_over.len()), "in two minutes: {handed_over:?}");
    }
}
