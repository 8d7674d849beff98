//! Holds whoever asks from afar to a pace: a question costs its sender little, and the answer may go to somebody else.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// How many questions a neighbourhood of addresses has answered a second in the long run.
const PER_SECOND: f64 = 100.0;
/// How many at once after a pause.
const BURST: f64 = 200.0;
/// How many neighbourhoods are remembered.
const REMEMBERED_MAX: usize = 4096;

/// Counts the questions of each neighbourhood.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<BTreeMap<IpAddr, (f64, Instant)>>);

impl Pace {
    /// Takes one question of `from`; reports whether it is answered in full. This machine may ask at any pace.
    pub(super) fn admits(&self, from: IpAddr, now: Instant) -> bool {
        let from = from.to_canonical();
        if from.is_loopback() {
            return true;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = neighbourhood(from);
        if known.len() >= REMEMBERED_MAX && !known.contains_key(&place) {
            // Those that have been silent for long start anew anyway.
            known.retain(|_, (_, at)| now.saturating_duration_since(*at).as_secs_f64() < BURST / PER_SECOND);
            if known.len() >= REMEMBERED_MAX {
                return false;
            }
        }
        let (left, at) = known.entry(place).or_insert((BURST, now));
        let gained = now.saturating_duration_since(*at).as_secs_f64() * PER_SECOND;
        (*left, *at) = ((*left + gained).min(BURST), now);
        let is_admitted = *left >= 1.0;
        if is_admitted {
            *left -= 1.0;
        }
        is_admitted
    }
}

/// Returns the network that an address shares with its neighbours: who forges one, forges them all.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) & 0xffff_ff00).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !((1 << 72) - 1)).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn d3_a_neighbourhood_that_floods_is_held_to_a_pace_and_this_machine_is_not() {
        let (pace, start) = (Pace::default(), Instant::now());
        let ask = |from: &str, at: Instant| pace.admits(from.parse().unwrap(), at);
        let admitted = (0..1000).filter(|number| ask(&format!("10.0.0.{}", number % 250), start)).count();
        assert_eq!(admitted, 200);
        assert!(ask("10.0.1.1", start), "others are not held back");
        assert!((0..1000).all(|_| ask("127.0.0.1", start)));
        let later = start + Duration::from_millis(100);
        assert_eq!((0..100).filter(|_| ask("10.0.0.1", later)).count(), 10);
    }

    #[test]
    fn d3_ever_new_neighbourhoods_fill_nothing() {
        let (pace, start) = (Pace::default(), Instant::now());
        for number in 0u32..20_000 {
            pace.admits(IpAddr::V4((0x0b00_0000 + (number << 8)).into()), start);
        }
        assert_eq!(pace.0.lock().unwrap().len(), REMEMBERED_MAX);
        assert!(pace.admits("192.0.2.1".parse().unwrap(), start + Duration::from_secs(10)));
    }
}
