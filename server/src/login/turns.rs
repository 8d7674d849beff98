//! Whose turn it is to have a credential checked: agents, sources and all the others have shares of their own, and so has each
//! method whose checks ask somebody else.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use catalog::AuthMethodName;
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
/// What one method has others asked: at most so much do those pay whom credentials that are made up name.
const ASKED_BURST: u32 = 200;
const ASKED_PER_SECOND: u32 = 100;
/// What one source may have of that.
const ASKING_SOURCE_BURST: NonZeroU32 = NonZeroU32::new(50).unwrap();
const ASKING_SOURCE_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
/// Methods that have a pace of their own; those beyond, and those that were removed, begin anew.
const ASKING_METHODS_MAX: usize = 256;
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
    /// Those who want somebody else asked.
    sources_that_ask: Sources,
    asked: Mutex<BTreeMap<AuthMethodName, Pace>>,
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
            sources_that_ask: Sources::new(ASKING_SOURCE_BURST, ASKING_SOURCE_PER_SECOND),
            asked: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Takes a turn, or says after what time there may be one; `jitter`, from 0 to 1, spreads those who are sent away. `asked` is
    /// the method, where its check asks somebody else.
    pub(super) fn take(&self, asker: Asker, asked: Option<&AuthMethodName>, jitter: f64) -> Result<(), Duration> {
        let (source, sources, all) = match asker {
            Asker::Agent(source) => (Some(source), &self.sources_of_agents, &self.agents),
            Asker::Caller(source) => (source, &self.sources_of_callers, &self.callers),
        };
        // Whoever has used up its own share takes none of what others share.
        let own = |sources: &Sources| source.is_none_or(|source| sources.take(source));
        if !own(sources) || asked.is_some() && !own(&self.sources_that_ask) {
            return Err(Duration::from_secs_f64(1.0 + 2.0 * jitter));
        }
        let now = self.started.elapsed();
        match asked {
            // It takes no turn of those whose credentials are checked here.
            Some(method) => self.take_of_method(method, now, jitter),
            None => all.take(now, jitter),
        }
    }

    fn take_of_method(&self, method: &AuthMethodName, now: Duration, jitter: f64) -> Result<(), Duration> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= ASKING_METHODS_MAX && !asked.contains_key(method) {
            asked.clear();
        }
        let pace = asked.entry(method.clone()).or_insert_with(|| Pace::new(ASKED_BURST, ASKED_PER_SECOND));
        pace.take(now, jitter)
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
        let granted = (0..10_000).filter(|_| turns.take(from("192.0.2.1"), None, 0.5).is_ok()).count();
        assert!((50..200).contains(&granted), "{granted}");
        assert!(turns.take(from("::ffff:192.0.2.1"), None, 0.5).is_err(), "it is the same one");
        assert!(turns.take(from("192.0.2.2"), None, 0.5).is_ok());
        for host in 0..200_u32 {
            let _ = turns.take(from(&format!("2001:db8::{host:x}")), None, 0.5);
        }
        assert!(turns.take(from("2001:db8::ffff"), None, 0.5).is_err(), "one network is one source");
        let all_others = (0..1_000).filter(|_| turns.take(Asker::Caller(None), None, 0.5).is_ok()).count();
        assert!(all_others < 1_000, "the callers' share ends");
        assert!(turns.take(agent("192.0.2.1"), None, 0.5).is_ok(), "the agents' does not with it");
    }

    #[test]
    fn c13_whoever_reaches_the_agents_port_takes_its_own_share_and_no_turn_of_those_who_join() {
        let turns = Turns::new();
        let granted = (0..10_000).filter(|_| turns.take(agent("192.0.2.1"), None, 0.5).is_ok()).count();
        assert!((200..400).contains(&granted), "{granted}");
        assert!(turns.take(agent("::ffff:192.0.2.1"), None, 0.5).is_err(), "it is the same one");
        assert!(turns.take(agent("192.0.2.2"), None, 0.5).is_ok(), "a task elsewhere logs in meanwhile");
        assert!(turns.take(from("192.0.2.1"), None, 0.5).is_ok(), "a caller's share is another");
    }

    #[test]
    fn c13_only_so_many_sources_are_told_apart() {
        let turns = Turns::new();
        for number in 0..2 * SOURCES_MAX as u32 {
            let source = IpAddr::V4(number.into());
            let _ = (turns.take(Asker::Caller(Some(source)), None, 0.5), turns.take(Asker::Agent(source), None, 0.5));
        }
        for sources in [&turns.sources_of_agents, &turns.sources_of_callers] {
            assert!(sources.shares.len() <= SOURCES_MAX + 1, "{}", sources.shares.len());
        }
    }

    #[test]
    fn c13_who_has_others_asked_takes_no_turn_of_those_whose_credentials_are_checked_here() {
        let turns = Turns::new();
        let [aws, cluster] = ["aws", "cluster"].map(|name| name.parse::<AuthMethodName>().unwrap());
        let one = (0..10_000).filter(|_| turns.take(agent("192.0.2.1"), Some(&aws), 0.5).is_ok()).count();
        assert!((50..100).contains(&one), "{one}");
        let granted = |method: &AuthMethodName| {
            let from = |number: u32| Asker::Agent(IpAddr::V4((0x0a00_0000 + number).into()));
            (0..10_000).filter(|number| turns.take(from(*number), Some(method), 0.5).is_ok()).count()
        };
        let of_all = granted(&aws);
        assert!((100..400).contains(&of_all), "{of_all}");
        assert!(turns.take(agent("192.0.2.3"), Some(&cluster), 0.5).is_ok(), "another method has turns of its own");
        assert!(turns.take(agent("192.0.2.3"), None, 0.5).is_ok(), "and so have tokens that are checked here");
        for number in 0..2 * ASKING_METHODS_MAX {
            let _ = turns.take_of_method(&format!("m{number}").parse().unwrap(), Duration::ZERO, 0.5);
        }
        assert!(turns.asked.lock().unwrap().len() <= ASKING_METHODS_MAX);
    }
}
