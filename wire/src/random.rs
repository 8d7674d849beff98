//! Small seeded randomness, for spreading work in time and over places; never for secrets.
//!
//! The same seed draws the same numbers, so that a simulation repeats a run exactly.

use std::time::Duration;

/// The step between two states of SplitMix64: odd, and near the golden part of 2⁶⁴.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Draws evenly spread numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// Begins with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Begins with a seed that nobody knows in advance.
    #[must_use]
    pub fn from_entropy() -> Self {
        Self::new(u64::from_be_bytes(crate::crypto::random::<8>()))
    }

    /// Draws a number.
    #[expect(clippy::should_implement_trait, reason = "what never ends is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mixed(self.0)
    }

    /// Draws a number below `bound`, or 0 where that is 0. The slight bias does not matter here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Draws a duration in `0..=limit`, in whole milliseconds.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(match limit.checked_add(1) {
            Some(choices) => self.next() % choices,
            None => self.next(),
        })
    }

    /// Draws a wait before retry number `failures`: full jitter under a doubling bound that starts at `base`.
    pub fn backoff(&mut self, failures: u32, base: Duration, limit: Duration) -> Duration {
        let bound = base.saturating_mul(1_u32 << failures.min(20)).min(limit);
        self.up_to(bound)
    }

    /// Puts `items` in an order that the seed decides.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let choices = u64::try_from(last).unwrap_or(u64::MAX).saturating_add(1);
            let chosen = usize::try_from(self.next() % choices).unwrap_or(0);
            items.swap(last, chosen);
        }
    }
}

/// Returns the number that a seed draws at a place, counted from 0: for those who share a counter, and no lock.
#[must_use]
pub fn drawn(seed: u64, place: u64) -> u64 {
    mixed(seed.wrapping_add(place.wrapping_mul(STEP)))
}

fn mixed(state: u64) -> u64 {
    let mut bits = state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_draw_equal_numbers_one_after_the_other_or_by_their_place() {
        let (mut left, mut right) = (Seeded::new(7), Seeded::new(7));
        assert!((1..100).all(|place| {
            let number = left.next();
            number == right.next() && number == drawn(7, place)
        }));
        // The reference implementation's first numbers from 1234567.
        let mut known = Seeded::new(1_234_567);
        assert_eq!([known.next(), known.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn a_backoff_never_passes_its_limit_and_is_spread_below_it() {
        let mut jitter = Seeded::new(1);
        let limit = Duration::from_secs(8);
        let waits: Vec<_> = (0..1000).map(|_| jitter.backoff(30, Duration::from_millis(100), limit)).collect();
        assert!(waits.iter().all(|wait| *wait <= limit));
        assert!(waits.iter().any(|wait| *wait < limit / 4));
        assert!(waits.iter().any(|wait| *wait > limit * 3 / 4));
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..50).collect();
        Seeded::new(3).shuffle(&mut items);
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<u32>>());
    }
}
