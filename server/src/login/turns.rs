//! Whose turn it is to have a credential checked: agents, sources and all the others have shares of their own.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::pace::Pace;

/// Credentials of agents checked at once and per second, and as many of all others: each costs the check of a signature.
const CHECKED_BURST: u32 = 400;
const CHECKED_PER_SECOND: u32 = 200;
/// What one source may have of that.
const SOURCE_BURST: NonZeroU32 = NonZeroU32::new(50).unwrap();
const SOURCE_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// What one source of agents may have: many may stand behind one address.
const AGENTS_SOURCE_BURST: NonZeroU32 = NonZeroU32::new(200).unwrap();
const AGENTS_SOURCE_PER_SECOND: NonZeroU32 = NonZeroU32::new(50).unwrap();
/// Sources that are told apart at once; more share one turn.
const SOURCES_MAX: usize = 16_384;
/// Sources that had nothing checked for a while are forgotten no more often than this.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);

/// Says who wants a credential checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Somebody at the agents' port, who has shown nothing yet but an address.
    Agent(IpAddr),
    /// Somebody at the API, from an address where there is one.
    Caller(Option<IpAddr>),
}

/// Gives out the turns.
pub(super) struct Turns {
    agents: Pace,
    callers: Pace,
    sources_of_agents: Sources,
    sources_of_callers: Sources,
    started: Instant,
}

/// A share for each source.
struct Sources {
    shares: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>,
    forgotten: Mutex<Instant>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            agents: Pace::new(CHECKED_BURST, CHECKED_PER_SECOND),
            callers: Pace::new(CHECKED_BURST, CHECKED_PER_SECOND),
            sources_of_agents: Sources::new(AGENTS_SOURCE_BURST, AGENTS_SOURCE_PER_SECOND),
            sources_of_callers: Sources::new(SOURCE_BURST, SOURCE_PER_SECOND),
            started: Instant::now(),
        }
    }

    /// Takes a turn, or says after what time there may be one; `jitter`, from 0 to 1, spreads those who are sent away.
    pub(super) fn take(&self, asker: Asker, jitter: f64) -> Result<(), Duration> {
        let (source, sources, all) = match asker {
            Asker::Agent(source) => (Some(source), &self.sources_of_agents, &self.agents),
            Asker::Caller(source) => (source, &self.sources_of_callers, &self.callers),
        };
        // Whoever has used up its own share takes none of what others share.
        if source.is_some_and(|source| !sources.take(source)) {
            return Err(Duration::from_secs_f64(1.0 + 2.0 * jitter));
        }
        all.take(self.started.elapsed(), jitter)
    }
}

impl Sources {
    fn new(burst: NonZeroU32, per_second: NonZeroU32) -> Self {
        let shares = RateLimiter::hashmap(Quota::per_second(per_second).allow_burst(burst));
        Self { shares, forgotten: Mutex::new(Instant::now()) }
    }

    fn take(&self, source: IpAddr) -> bool {
        self.shares.check_key(&self.key(source)).is_ok()
    }

    /// Returns what a source is told apart by: of IPv6, whoever has one address has the network of 64 bits that it is in.
    fn key(&self, source: IpAddr) -> IpAddr {
        if self.shares.len() >= SOURCES_MAX {
            let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
            if forgotten.elapsed() >= FORGET_INTERVAL {
                *forgotten = Instant::now();
                self.shares.retain_recent();
            }
            if self.shares.len() >= SOURCES_MAX {
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

    fn agent(text: &str) -> Asker {
        Asker::Agent(text.parse().unwrap())
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
        assert!(turns.take(agent("192.0.2.1"), 0.5).is_ok(), "the agents' does not with it");
    }

    #[test]
    fn c13_whoever_reaches_the_agents_port_takes_its_own_share_and_no_turn_of_those_who_join() {
        let turns = Turns::new();
        let granted = (0..10_000).filter(|_| turns.take(agent("192.0.2.1"), 0.5).is_ok()).count();
        assert!((200..400).contains(&granted), "{granted}");
        assert!(turns.take(agent("::ffff:192.0.2.1"), 0.5).is_err(), "it is the same one");
        assert!(turns.take(agent("192.0.2.2"), 0.5).is_ok(), "a task elsewhere logs in meanwhile");
        assert!(turns.take(from("192.0.2.1"), 0.5).is_ok(), "a caller's share is another");
    }

    #[test]
    fn c13_only_so_many_sources_are_told_apart() {
        let turns = Turns::new();
        for number in 0..2 * SOURCES_MAX as u32 {
            let source = IpAddr::V4(number.into());
            let _ = (turns.take(Asker::Caller(Some(source)), 0.5), turns.take(Asker::Agent(source), 0.5));
        }
        for sources in [&turns.sources_of_agents, &turns.sources_of_callers] {
            assert!(sources.shares.len() <= SOURCES_MAX + 1, "{}", sources.shares.len());
        }
    }
}
