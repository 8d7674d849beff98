//! How often a caller may give up what it began: a request that nobody waits for costs its caller next to nothing, and the
//! application a connection.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The time in which what was given up at once is forgotten. So two hundred a second may go on for ever where a thousand may
/// be given up at once: a hundred callers that share a tunnel and wait for half a second each are no attack.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);

/// Counts what a connection's caller gives up before its answer was whole. The library bounds only what is given up before
/// it was taken up, and what it resets itself.
#[derive(Debug)]
pub(crate) struct Patience {
    /// How long one that was given up is remembered.
    cost: Duration,
    /// When all that was used of the credit is forgotten; none while nothing was.
    used_until: Mutex<Option<Instant>>,
    spent: CancellationToken,
}

impl Patience {
    /// Allows so many to be given up at once.
    pub(crate) fn new(max: u32) -> Self {
        Self { cost: FORGOTTEN_AFTER / max.max(1), used_until: Mutex::default(), spent: CancellationToken::new() }
    }

    /// Counts a request that was given up.
    pub(crate) fn given_up(&self) {
        if !self.charge(Instant::now()) {
            self.spent.cancel();
        }
    }

    /// Waits until more was given up than one may.
    pub(crate) async fn spent(&self) {
        self.spent.cancelled().await;
    }

    /// Charges one, and reports whether the credit allows it.
    fn charge(&self, now: Instant) -> bool {
        let mut used_until = self.used_until.lock().unwrap_or_else(PoisonError::into_inner);
        let until = used_until.map_or(now, |until| until.max(now)) + self.cost;
        *used_until = Some(until);
        until - now <= FORGOTTEN_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h8_a_thousand_at_once_and_two_hundred_a_second_are_borne_and_no_more() {
        let patience = Patience::new(1000);
        let cost = Duration::from_millis(5);
        let start = Instant::now();
        assert!((0..1000).all(|_| patience.charge(start)));
        assert!(!patience.charge(start));
        // What is given up steadily is borne for as long as it goes on.
        let patience = Patience::new(1000);
        assert!((0..10_000).all(|count| patience.charge(start + cost * count)));
        let later = start + cost * 10_000 + FORGOTTEN_AFTER;
        assert!((0..1000).all(|_| patience.charge(later)) && !patience.charge(later));
    }
}
