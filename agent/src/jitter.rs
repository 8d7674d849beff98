//! Small seeded randomness for spreading work in time; never for secrets.

use std::time::Duration;

/// Draws evenly spread numbers from a seed (SplitMix64), so that a simulation repeats a run exactly.
#[derive(Clone, Debug)]
pub(crate) struct Jitter {
    state: u64,
}

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns a generator whose seed nobody knows in advance.
    pub(crate) fn from_entropy() -> Self {
        Self::new(u64::from_be_bytes(wire::crypto::random::<8>()))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a duration in `0..=limit`, in whole milliseconds.
    pub(crate) fn up_to(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(match limit.checked_add(1) {
            Some(choices) => self.next() % choices,
            None => self.next(),
        })
    }

    /// Returns a wait before retry number `failures`: full jitter under a doubling bound that starts at `base`.
    pub(crate) fn backoff(&mut self, failures: u32, base: Duration, limit: Duration) -> Duration {
        let bound = base.saturating_mul(1_u32 << failures.min(20)).min(limit);
        self.up_to(bound)
    }

    /// Puts `items` in an order that the seed decides.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let choices = u64::try_from(last).unwrap_or(u64::MAX).saturating_add(1);
            let chosen = usize::try_from(self.next() % choices).unwrap_or(0);
            items.swap(last, chosen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_draw_equal_numbers() {
        let (mut left, mut right) = (Jitter::new(7), Jitter::new(7));
        assert!((0..100).all(|_| left.next() == right.next()));
    }

    #[test]
    fn a_backoff_never_passes_its_limit_and_is_spread_below_it() {
        let mut jitter = Jitter::new(1);
        let limit = Duration::from_secs(8);
        let waits: Vec<_> = (0..1000).map(|_| jitter.backoff(30, Duration::from_millis(100), limit)).collect();
        assert!(waits.iter().all(|wait| *wait <= limit));
        assert!(waits.iter().any(|wait| *wait < limit / 4));
        assert!(waits.iter().any(|wait| *wait > limit * 3 / 4));
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..50).collect();
        Jitter::new(3).shuffle(&mut items);
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<u32>>());
    }
}
