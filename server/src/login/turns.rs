//! Whose turn it is to have a credential checked: agents, sources and all the others have shares of their own.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::ca::Pace;

/// Credentials of agents checked at once and per second, and as many of all others: each costs the check of a signature.
const CHECKED_BURST: u32 = 200;
const CHECKED_PER_SECOND: u32 = 200;
/// What one source may have of that.
const SOURCE_BURST: NonZeroU32 = NonZeroU32::new(50).unwrap();
const SOURCE_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// Sources that are told apart at once; more share one turn.
const SOURCES_MAX: usize = 16_384;
/// Sources that had nothing checked for a while are forgotten no more often than this.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// Says who wants a credential checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Somebody at the agents' port.
    Agent,
    /// Somebody at the API, from an address where there is one.
    Caller(Option<IpAddr>),
}

/// Gives out the turns.
pub(super) struct Turns {
    agents: Pace,
    callers: Pace,
    sources: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>,
    forgotten: Mutex<Instant>,
    started: Instant,
}

impl Turns {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            agents: Pace::new(CHECKED_BURST, CHECKED_PER_SECOND),
            callers: Pace::new(CHECKED_BURST, CHECKED_PER_SECOND),
            sources: RateLimiter::hashmap(Quota::per_second(SOURCE_PER_SECOND).allow_burst(SOURCE_BURST)),
            forgotten: Mutex::new(now),
            started: now,
        }
    }

    /// Takes a turn, or says after what time there may be one; `jitter`, from 0 to 1, spreads those who are sent away.
    pub(super) fn take(&self, asker: Asker, jitter: f64) -> Result<(), Duration> {
        let elapsed = self.started.elapsed();
        match asker {
            Asker::Agent => self.agents.take(elapsed, jitter),
            Asker::Caller(source) => {
                // Whoever has used up its own share takes none of what others share.
                if source.is_some_and(|source| self.sources.check_key(&self.key(source)).is_err()) {
                    return Err(Duration::from_secs_f64(1.0 + 2.0 * jitter));
                }
                self.callers.take(elapsed, jitter)
            }
        }
    }

    /// Returns what a source is told apart by: of IPv6, whoever has one address has the network of 64 bits that it is in.
    fn key(&self, source: IpAddr) -> IpAddr {
        if self.sources.len() >= SOURCES_MAX {
            let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
            if forgotten.elapsed() >= FORGET_INTERVAL {
                *forgotten = Instant::now();
                self.sources.retain_recent();
            }
            if self.sources.len() >= SOURCES_MAX {
                return IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        match source.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
            address @ IpAddr::V4(_) => address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Asker {
        Asker::Caller(Some(text.parse().unwrap()))
    }

    #[test]
    fn c13_one_source_takes_its_own_share_and_no_turn_of_agents_or_others() {
        let turns = Turns::new();
        let granted = (0..10_000).filter(|_| turns.take(from("192.0.2.1"), 0.5).is_ok()).count();
        assert!((50..200).contains(&granted), "{granted}");
        assert!(turns.take(from("::ffff:192.0.2.1"), 0.5).is_err(), "it is the same one");
        assert!(turns.take(from("192.0.2.2"), 0.5).is_ok());
        for host in 0..200_u32 {
            let _ = turns.take(from(&format!("2001:db8::{host:x}")), 0.5);
        }
        assert!(turns.take(from("2001:db8::ffff"), 0.5).is_err(), "one network is one source");
        let all_others = (0..1_000).filter(|_| turns.take(Asker::Caller(None), 0.5).is_ok()).count();
        assert!(all_others < 1_000, "the callers' share ends");
        assert!(turns.take(Asker::Agent, 0.5).is_ok(), "the agents' does not with it");
    }

    #[test]
    fn c13_only_so_many_sources_are_told_apart() {
        let turns = Turns::new();
        for number in 0..2 * SOURCES_MAX as u32 {
            let _ = turns.take(Asker::Caller(Some(IpAddr::V4(number.into()))), 0.5);
        }
        assert!(turns.sources.len() <= SOURCES_MAX + 1, "{}", turns.sources.len());
    }
}
