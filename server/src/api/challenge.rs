//! Challenges that a holder of the cluster key answers, to prove the key without sending it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wire::crypto;

const CHALLENGE_BYTES: usize = 32;
/// Challenges remembered; the oldest makes room, so that somebody who asks for many does not lock others out.
const CHALLENGES_MAX: usize = 64;
const LIFETIME: Duration = Duration::from_secs(60);

/// The challenges that are out: random, good for one try, forgotten after a minute.
#[derive(Debug, Default)]
pub(crate) struct Challenges {
    issued: Mutex<VecDeque<([u8; CHALLENGE_BYTES], Instant)>>,
}

impl Challenges {
    /// Draws a challenge and remembers it.
    pub(crate) fn issue(&self, now: Instant) -> [u8; CHALLENGE_BYTES] {
        let challenge = crypto::random();
        let mut issued = self.live(now);
        if issued.len() == CHALLENGES_MAX {
            issued.pop_front();
        }
        issued.push_back((challenge, now));
        challenge
    }

    /// Reports whether `challenge` is out, and forgets it.
    pub(crate) fn redeem(&self, challenge: &[u8], now: Instant) -> bool {
        let mut issued = self.live(now);
        let position = issued.iter().position(|(known, _)| crypto::constant_time_eq(known, challenge));
        position.and_then(|position| issued.remove(position)).is_some()
    }

    fn live(&self, now: Instant) -> MutexGuard<'_, VecDeque<([u8; CHALLENGE_BYTES], Instant)>> {
        // The list is consistent after every step, so a panic elsewhere while it was held does not spoil it.
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|(_, at)| now.saturating_duration_since(*at) < LIFETIME);
        issued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_good_once_and_for_a_minute() {
        let challenges = Challenges::default();
        let now = Instant::now();
        let challenge = challenges.issue(now);
        assert!(!challenges.redeem(&[0; CHALLENGE_BYTES], now));
        assert!(challenges.redeem(&challenge, now));
        assert!(!challenges.redeem(&challenge, now));
        let late = challenges.issue(now);
        assert!(!challenges.redeem(&late, now + LIFETIME));
    }

    #[test]
    fn the_oldest_makes_room() {
        let challenges = Challenges::default();
        let now = Instant::now();
        let first = challenges.issue(now);
        let second = challenges.issue(now);
        for _ in 1..CHALLENGES_MAX {
            challenges.issue(now);
        }
        assert!(!challenges.redeem(&first, now));
        assert!(challenges.redeem(&second, now));
    }
}
