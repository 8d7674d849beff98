//! Challenges that a holder of the cluster key answers, to prove the key without sending it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wire::crypto;

const CHALLENGE_BYTES: usize = 32;
const TIME_BYTES: usize = 8;
/// When it was made, and what sets it apart from others.
const CONTENT_BYTES: usize = 16;
const LIFETIME: Duration = Duration::from_secs(60);

/// The challenges of this process: good once, and for a minute. A challenge says itself when it was made and that it was made
/// here, so that somebody who asks for many fills no memory and locks nobody out; only those that were answered are remembered.
#[derive(Debug)]
pub(crate) struct Challenges {
    key: [u8; 32],
    begun: Instant,
    redeemed: Mutex<Vec<(Vec<u8>, Instant)>>,
}

impl Default for Challenges {
    fn default() -> Self {
        Self { key: crypto::random(), begun: Instant::now(), redeemed: Mutex::default() }
    }
}

impl Challenges {
    /// Draws a challenge.
    pub(crate) fn issue(&self, now: Instant) -> [u8; CHALLENGE_BYTES] {
        let age_ms = now.saturating_duration_since(self.begun).as_millis();
        let mut challenge = [0; CHALLENGE_BYTES];
        challenge[..TIME_BYTES].copy_from_slice(&u64::try_from(age_ms).unwrap_or(u64::MAX).to_be_bytes());
        challenge[TIME_BYTES..CONTENT_BYTES].copy_from_slice(&crypto::random::<{ CONTENT_BYTES - TIME_BYTES }>());
        let seal = self.seal(&challenge[..CONTENT_BYTES]);
        challenge[CONTENT_BYTES..].copy_from_slice(&seal);
        challenge
    }

    /// Reports whether `challenge` was made here within the last minute, and was not redeemed.
    pub(crate) fn is_out(&self, challenge: &[u8], now: Instant) -> bool {
        self.is_recent(challenge, now)
            && !self.redeemed(now, |redeemed| redeemed.iter().any(|(one, _)| one == challenge))
    }

    /// Takes a challenge that was answered; false where that is not out, or no longer.
    pub(crate) fn redeem(&self, challenge: &[u8], now: Instant) -> bool {
        self.is_recent(challenge, now)
            && self.redeemed(now, |redeemed| {
                let is_new = redeemed.iter().all(|(one, _)| one != challenge);
                if is_new {
                    redeemed.push((challenge.to_vec(), now));
                }
                is_new
            })
    }

    fn is_recent(&self, challenge: &[u8], now: Instant) -> bool {
        let Some((content, seal)) = challenge.split_at_checked(CONTENT_BYTES) else { return false };
        let Some(time) = content.first_chunk::<TIME_BYTES>() else { return false };
        let made = Duration::from_millis(u64::from_be_bytes(*time));
        let age = now.saturating_duration_since(self.begun).saturating_sub(made);
        crypto::constant_time_eq(&self.seal(content), seal) && age < LIFETIME
    }

    fn seal(&self, content: &[u8]) -> [u8; CHALLENGE_BYTES - CONTENT_BYTES] {
        let mut seal = [0; CHALLENGE_BYTES - CONTENT_BYTES];
        seal.copy_from_slice(&crypto::hmac_sha256(&self.key, content)[..CHALLENGE_BYTES - CONTENT_BYTES]);
        seal
    }

    /// Shows those that were redeemed, without the ones that are too old to be redeemed again.
    fn redeemed<T>(&self, now: Instant, look: impl FnOnce(&mut Vec<(Vec<u8>, Instant)>) -> T) -> T {
        // The list is consistent after every step, so a panic elsewhere while it was held does not spoil it.
        let mut redeemed = self.redeemed.lock().unwrap_or_else(PoisonError::into_inner);
        redeemed.retain(|(_, at)| now.saturating_duration_since(*at) < LIFETIME);
        look(&mut redeemed)
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
        assert!(!challenges.redeem(&[0; CHALLENGE_BYTES], now) && !challenges.redeem(&challenge[1..], now));
        assert!(!Challenges::default().is_out(&challenge, now), "of another process");
        assert!(challenges.is_out(&challenge, now) && challenges.redeem(&challenge, now));
        assert!(!challenges.is_out(&challenge, now) && !challenges.redeem(&challenge, now));
        let late = challenges.issue(now);
        assert!(challenges.is_out(&late, now + LIFETIME / 2));
        assert!(!challenges.is_out(&late, now + LIFETIME) && !challenges.redeem(&late, now + LIFETIME));
        assert_eq!(challenges.redeemed(now + LIFETIME, |redeemed| redeemed.len()), 0);
    }

    #[test]
    fn whoever_asks_for_many_pushes_nobodys_challenge_out() {
        let challenges = Challenges::default();
        let now = Instant::now();
        let first = challenges.issue(now);
        let others: std::collections::BTreeSet<_> = (0..10_000).map(|_| challenges.issue(now)).collect();
        assert_eq!((others.len(), others.contains(&first)), (10_000, false));
        assert!(challenges.redeem(&first, now));
    }
}
