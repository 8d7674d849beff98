//! Seeded randomness: the same seed gives the same run.

use std::ops::Range;
use std::time::Duration;

use wire::random::Seeded;

/// Draws what a simulation needs from a seed.
#[derive(Debug)]
pub(crate) struct Random(Seeded);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(Seeded::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5bf0_3635))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next()
    }

    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    pub(crate) fn millis(&mut self, range: Range<u64>) -> Duration {
        // Microseconds, so that few events share an instant.
        Duration::from_micros(self.within(range.start * 1000..range.end * 1000))
    }

    /// Returns true in `percent` of a hundred cases.
    pub(crate) fn happens(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    pub(crate) fn choose<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.within(0..among.len() as u64) as usize]
    }
}
