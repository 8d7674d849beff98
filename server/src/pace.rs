//! How often a server does something in a while, so that a herd of agents does not starve everything else.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use catalog::AgentId;

/// Nobody is sent away for longer than about this, however many were: agents wait no longer than half a minute.
const QUEUE_MAX: Duration = Duration::from_secs(23);

/// From so many agents on, those that have all of their turns are forgotten.
const REMEMBERED_MAX: usize = 16 * 1024;

/// A token bucket: a burst at once, then a steady rate. Whoever is sent away is told when a turn of its own is likely, as if
/// all who were sent away stood in a queue, so that a herd comes back spread over the time that it takes to serve it.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Rate,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: f64,
    per_second: f64,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    /// Turns that those who were sent away are likely to come back for.
    awaited: f64,
    at: Duration,
}

impl Rate {
    fn new(burst: u32, per_second: f64) -> Rate {
        Rate { burst: f64::from(burst), per_second }
    }

    fn begins(self, at: Duration) -> State {
        State { tokens: self.burst, awaited: 0.0, at }
    }
}

impl State {
    fn take(&mut self, rate: Rate, now: Duration, jitter: f64) -> Result<(), Duration> {
        let served = now.saturating_sub(self.at).as_secs_f64() * rate.per_second;
        self.at = self.at.max(now);
        self.tokens = (self.tokens + served).min(rate.burst);
        self.awaited = (self.awaited - served).max(0.0);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        self.awaited = (self.awaited + 1.0).min(QUEUE_MAX.as_secs_f64() * rate.per_second);
        let queue_s = (self.awaited / rate.per_second).max(1.0);
        Err(Duration::from_secs_f64(1.0 + queue_s * (0.75 + 0.5 * jitter)))
    }
}

impl Pace {
    /// Returns a pace that allows `burst` at once and `per_second` from then on.
    pub(crate) fn new(burst: u32, per_second: u32) -> Pace {
        let rate = Rate::new(burst, f64::from(per_second));
        Pace { rate, state: Mutex::new(rate.begins(Duration::ZERO)) }
    }

    /// Takes one turn, or says after what time there may be one.
    ///
    /// `now` is the time since any fixed start. `jitter`, from 0 to 1, spreads those who are sent away.
    pub(crate) fn take(&self, now: Duration, jitter: f64) -> Result<(), Duration> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).take(self.rate, now, jitter)
    }
}

/// A pace of its own for each agent, so that one that asks again and again does not take the turns of all.
#[derive(Debug)]
pub(crate) struct Shares {
    rate: Rate,
    states: Mutex<HashMap<AgentId, (Rate, State)>>,
}

impl Shares {
    /// Returns shares of `burst` at once and `per_second` from then on.
    pub(crate) fn new(burst: u32, per_second: f64) -> Shares {
        Shares { rate: Rate::new(burst, per_second), states: Mutex::default() }
    }

    /// Takes one turn of an agent's own, or says after what time there may be one.
    pub(crate) fn take(&self, agent: &AgentId, now: Duration, jitter: f64) -> Result<(), Duration> {
        self.take_at(self.rate, agent, now, jitter)
    }

    /// Takes one turn of an agent's own, of which this agent has `burst` at once.
    pub(crate) fn take_of(&self, burst: u32, agent: &AgentId, now: Duration, jitter: f64) -> Result<(), Duration> {
        self.take_at(Rate::new(burst, self.rate.per_second), agent, now, jitter)
    }

    fn take_at(&self, rate: Rate, agent: &AgentId, now: Duration, jitter: f64) -> Result<(), Duration> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if states.len() >= REMEMBERED_MAX && !states.contains_key(agent) {
            // Whose turns have all come back is as good as one who never asked.
            let full = |(rate, state): &(Rate, State)| {
                state.tokens + now.saturating_sub(state.at).as_secs_f64() * rate.per_second >= rate.burst
            };
            states.retain(|_, held| !full(held));
        }
        let (held_rate, state) = states.entry(agent.clone()).or_insert_with(|| (rate, rate.begins(now)));
        // What the agent may have at once changes with its record.
        *held_rate = rate;
        state.take(rate, now, jitter)
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
    fn c13_a_herd_that_comes_back_when_it_was_told_to_is_served_in_little_more_time_than_it_takes() {
        let pace = Pace::new(500, 250);
        let mut random = 7_u64;
        let mut jitter = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            f64::from(u32::try_from(random >> 32).unwrap()) / f64::from(u32::MAX)
        };
        // Ten thousand come at once; each comes back when it was told to.
        let mut coming = std::collections::BTreeMap::from([(Duration::ZERO, 10_000_u32)]);
        let (mut asked, mut served, mut last) = (0, 0, Duration::ZERO);
        while let Some((at, crowd)) = coming.pop_first() {
            for _ in 0..crowd {
                asked += 1;
                match pace.take(at, jitter()) {
                    Ok(()) => (served, last) = (served + 1, at),
                    Err(wait) => {
                        assert!(wait >= Duration::from_secs(1) && wait <= Duration::from_secs(30), "{wait:?}");
                        *coming.entry(at + wait).or_default() += 1;
                    }
                }
            }
        }
        assert_eq!(served, 10_000);
        assert!(last < Duration::from_secs(60), "the last one was served after {last:?}");
        assert!(asked < 40_000, "{asked} questions for 10000 turns");
    }

    #[test]
    fn c13_an_agent_that_asks_again_and_again_takes_its_own_turns_only() {
        let shares = Shares::new(3, 0.5);
        let agent = |number| AgentId::enrolled_at(catalog::CatalogIndex(number));
        let at = Duration::from_secs(100);
        assert_eq!((0..50).filter(|_| shares.take(&agent(1), at, 0.5).is_ok()).count(), 3);
        assert!(shares.take(&agent(2), at, 0.5).is_ok());
        assert!(shares.take(&agent(1), at + Duration::from_secs(2), 0.5).is_ok());
        assert!(shares.take(&agent(1), at + Duration::from_secs(2), 0.5).is_err());
        // They are forgotten once they have all of their turns again, however many there were.
        let later = at + Duration::from_secs(3600);
        for number in 0..REMEMBERED_MAX as u64 {
            shares.take(&agent(number), at, 0.5).ok();
        }
        assert!(shares.take(&agent(1 << 32), later, 0.5).is_ok());
        assert_eq!(shares.states.lock().unwrap().len(), 1);
    }

    #[test]
    fn c13_an_agent_of_many_services_has_more_turns_at_once_and_comes_by_them_as_slowly() {
        let shares = Shares::new(3, 1.0);
        let agent = |number| AgentId::enrolled_at(catalog::CatalogIndex(number));
        let at = Duration::from_secs(100);
        let granted =
            |burst, number, at| (0..50).filter(|_| shares.take_of(burst, &agent(number), at, 0.5).is_ok()).count();
        assert_eq!((granted(10, 1, at), granted(3, 2, at)), (10, 3));
        let later = at + Duration::from_secs(5);
        assert_eq!((granted(10, 1, later), granted(3, 2, later)), (5, 3));
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
