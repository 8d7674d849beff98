//! What happened, as one number.

use std::time::Duration;

/// Condenses everything that happens into one number, and prints it where one seed is replayed.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) hash: u64,
    is_printed: bool,
}

impl Trace {
    pub(crate) fn new(seed: u64) -> Trace {
        Trace { hash: seed, is_printed: std::env::var_os("SEED").is_some() }
    }

    #[expect(clippy::print_stdout, reason = "who replays a seed wants to see it")]
    pub(crate) fn note(&mut self, now: Duration, what: &str, numbers: &[u64]) {
        let time = [now.as_micros() as u64, what.len() as u64];
        for number in time.iter().chain(numbers) {
            self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
        }
        if self.is_printed {
            println!("{:>12.6} {what} {numbers:?}", now.as_secs_f64());
        }
    }

    /// Says in words what a number cannot, where one seed is replayed; nothing depends on it.
    #[expect(clippy::print_stdout, reason = "who replays a seed wants to see it")]
    pub(crate) fn say(&self, now: Duration, what: impl FnOnce() -> String) {
        if self.is_printed {
            println!("{:>12.6} {}", now.as_secs_f64(), what());
        }
    }
}
