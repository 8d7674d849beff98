//! How many certificates a server signs in a while, so that a herd of agents does not starve everything else.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A token bucket: a burst at once, then a steady rate.
#[derive(Debug)]
pub(crate) struct Pace {
    burst: f64,
    per_second: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    at: Duration,
}

impl Pace {
    /// Returns a pace that allows `burst` at once and `per_second` from then on.
    pub(crate) fn new(burst: u32, per_second: u32) -> Pace {
        let burst = f64::from(burst);
        Pace {
            burst,
            per_second: f64::from(per_second),
            state: Mutex::new(State { tokens: burst, at: Duration::ZERO }),
        }
    }

    /// Takes one turn, or says after what time there may be one.
    ///
    /// `now` is the time since any fixed start. `jitter`, from 0 to 1, spreads those who are sent away.
    pub(crate) fn take(&self, now: Duration, jitter: f64) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_sub(state.at);
        state.at = state.at.max(now);
        state.tokens = (state.tokens + elapsed.as_secs_f64() * self.per_second).min(self.burst);
        if state.tokens >= 1.0 {
            state.tokens -= 1.0;
            return Ok(());
        }
        // A whole burst may be waiting: they come back over the time that it takes to serve one.
        Err(Duration::from_secs_f64(1.0 + jitter * (self.burst / self.per_second).max(1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c13_a_herd_is_served_at_the_pace_and_the_rest_is_sent_away_for_different_times() {
        let pace = Pace::new(10, 5);
        let at = Duration::from_secs(100);
        assert_eq!((0..20).filter(|_| pace.take(at, 0.0).is_ok()).count(), 10);
        let (first, last) = (pace.take(at, 0.0).unwrap_err(), pace.take(at, 1.0).unwrap_err());
        assert!(first >= Duration::from_secs(1) && first < last, "{first:?} {last:?}");
        let later = at + Duration::from_secs(1);
        assert_eq!((0..20).filter(|_| pace.take(later, 0.0).is_ok()).count(), 5);
        let much_later = later + Duration::from_secs(3600);
        assert_eq!((0..20).filter(|_| pace.take(much_later, 0.0).is_ok()).count(), 10);
    }

    #[test]
    fn a_clock_that_stands_or_steps_back_gives_nothing_away() {
        let pace = Pace::new(1, 1);
        assert!(pace.take(Duration::from_secs(5), 0.0).is_ok());
        assert!(pace.take(Duration::from_secs(5), 0.0).is_err());
        assert!(pace.take(Duration::from_secs(4), 0.0).is_err());
        assert!(pace.take(Duration::from_secs(5), 0.0).is_err());
    }
}
