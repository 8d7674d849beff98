//! Judges by how long syncs take whether a disk is too slow to lead with.

use std::collections::VecDeque;
use std::time::Duration;

use wire::mesh_status::DiskStatus;

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

    /// Tells how the disk does now.
    pub(super) fn status(&mut self, now: Duration) -> DiskStatus {
        let durations = self.durations(now);
        let half = durations.get(durations.len() / 2).copied();
        let in_ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        DiskStatus { slow: is_slow(&durations), typical_ms: half.map(in_ms), limit_ms: in_ms(SLOW) }
    }

    /// Returns how long the syncs took that count by now, the shortest first.
    fn durations(&mut self, now: Duration) -> Vec<Duration> {
        while self.syncs.front().is_some_and(|(ended, _)| now.saturating_sub(*ended) > WINDOW) {
            self.syncs.pop_front();
        }
        let mut durations: Vec<Duration> = self.syncs.iter().map(|(_, duration)| *duration).collect();
        durations.sort_unstable();
        durations
    }

    /// Tells whether a leader whose disk is slow should hand over now, and notes that it does.
    pub(super) fn should_hand_over(&mut self, now: Duration) -> bool {
        let is_soon = self.handed_over.is_some_and(|before| now.saturating_sub(before) < HAND_OVER_PAUSE);
        if is_soon || !is_slow(&self.durations(now)) {
            return false;
        }
        self.handed_over = Some(now);
        true
    }
}

/// Tells whether a disk is slow whose syncs took as long, the shortest first.
fn is_slow(durations: &[Duration]) -> bool {
    // Nine of ten take longer: the tenth from below is slow already.
    durations.len() >= SYNCS_MIN && durations.get(durations.len() / 10).is_some_and(|tenth| *tenth > SLOW)
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

    #[test]
    fn fault_12_how_a_disk_does_is_told_by_the_last_seconds_alone() {
        let (mut disk, mut now) = (SlowDisk::default(), Duration::ZERO);
        assert_eq!(disk.status(now), DiskStatus { slow: false, typical_ms: None, limit_ms: 300 });
        for sync in std::iter::repeat_n(ms(260), 20).chain(std::iter::repeat_n(ms(4), 300)) {
            now += sync + ms(10);
            disk.took(now, sync);
        }
        let status = disk.status(now);
        assert!(!status.slow && status.typical_ms == Some(4), "it was slower, and within the limit: {status:?}");
        for _ in 0..20 {
            now += ms(410);
            disk.took(now, ms(400));
        }
        let status = disk.status(now);
        assert!(status.slow && status.typical_ms == Some(400), "however many were quick before: {status:?}");
        assert_eq!(disk.status(now + WINDOW + ms(1)).typical_ms, None);
    }
}
