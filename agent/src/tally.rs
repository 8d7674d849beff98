//! What the proxy sees, counted: which rules decide, and who calls whom over what kind of connection.
//!
//! The numbers are what `/metrics` shows of rules, and what servers are told at a slow pace. Looking a number up takes a
//! lock and is done once for each set of rules or connection; counting takes none.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::{IntentionKey, Policy, ServiceKey, Timestamp};
use wire::report::{AgentReport, Link, PAIRS_MAX, Pair, PairSource, PairUse, RULES_MAX, RuleName, RuleUse};

/// The numbers of one rule at one destination.
#[derive(Debug, Default)]
pub(crate) struct RuleCount {
    allowed: AtomicU64,
    denied: AtomicU64,
    last: AtomicU64,
}

impl RuleCount {
    /// Counts one decision.
    pub(crate) fn decided(&self, is_allowed: bool, now: Timestamp) {
        let count = if is_allowed { &self.allowed } else { &self.denied };
        count.fetch_add(1, Ordering::Relaxed);
        self.last.fetch_max(now.0, Ordering::Relaxed);
    }

    /// Returns how many it let pass, how many it refused, and when it decided last.
    fn read(&self) -> (u64, u64, Timestamp) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.allowed), load(&self.denied), Timestamp(load(&self.last)))
    }

    fn is_idle(&self) -> bool {
        let (allowed, denied, _) = self.read();
        allowed == 0 && denied == 0
    }
}

#[derive(Debug, Default)]
struct PairCount {
    opened: u64,
    last: Timestamp,
}

/// Counts what the proxy sees.
#[derive(Default)]
pub(crate) struct Tally {
    rules: Mutex<BTreeMap<(ServiceKey, RuleName), Arc<RuleCount>>>,
    /// What the rules are counted with that there is no room for.
    other: Arc<RuleCount>,
    pairs: Mutex<BTreeMap<Pair, PairCount>>,
    pairs_left_out: AtomicU64,
}

impl fmt::Debug for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tally")
    }
}

impl Tally {
    /// Returns the numbers of a rule. Rules beyond a bound are counted together; those that are in force no longer and
    /// never decided anything make room.
    fn rule(&self, destination: &ServiceKey, rule: RuleName) -> Arc<RuleCount> {
        let mut rules = self.rules();
        let name = (destination.clone(), rule);
        if let Some(known) = rules.get(&name) {
            return Arc::clone(known);
        }
        if rules.len() >= RULES_MAX {
            rules.retain(|_, count| Arc::strong_count(count) > 1 || !count.is_idle());
        }
        if rules.len() >= RULES_MAX {
            return Arc::clone(&self.other);
        }
        Arc::clone(rules.entry(name).or_default())
    }

    /// Counts a connection that was opened. Where there is no room, another makes some: one of the same network's addresses,
    /// else of any address, else any; of these the one that was not seen for longest.
    pub(crate) fn opened(&self, pair: Pair, now: Timestamp) {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        if pairs.len() >= PAIRS_MAX && !pairs.contains_key(&pair) {
            let network = network_of(&pair.source);
            let worth = |known: &Pair, count: &PairCount| {
                let known = network_of(&known.source);
                (known.is_none() || known != network, known.is_none(), count.last)
            };
            let least = pairs.iter().min_by_key(|(known, count)| worth(known, count)).map(|(known, _)| known.clone());
            let evicted = least.and_then(|least| pairs.remove(&least));
            self.pairs_left_out.fetch_add(evicted.map_or(0, |evicted| evicted.opened), Ordering::Relaxed);
        }
        let count = pairs.entry(pair).or_default();
        count.opened += 1;
        count.last = now.max(count.last);
    }

    /// Returns what was counted since `since` of the services that `watched` names.
    pub(crate) fn report(&self, since: Timestamp, watched: Vec<ServiceKey>) -> AgentReport {
        let is_watched = |service: &ServiceKey| watched.contains(service);
        let rules = self.rule_uses().into_iter().filter(|used| is_watched(&used.destination)).collect();
        let pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let told = pairs.iter().filter(|(pair, _)| pair.seen_by().is_some_and(is_watched));
        let told = told.map(|(pair, count)| PairUse { pair: pair.clone(), opened: count.opened, last: count.last });
        let (outside, pairs): (Vec<PairUse>, _) = told.partition(|used| used.pair.link == Link::Outside);
        let (allowed, denied, _) = self.other.read();
        let left_out = self.pairs_left_out.load(Ordering::Relaxed) + allowed + denied;
        AgentReport { since, watched, rules, pairs, outside, left_out }
    }

    /// Lists the rules that decided something.
    pub(crate) fn rule_uses(&self) -> Vec<RuleUse> {
        let rules = self.rules();
        let used = rules.iter().filter(|(_, count)| !count.is_idle());
        used.map(|((destination, rule), count)| {
            let (allowed, denied, last) = count.read();
            RuleUse { destination: destination.clone(), rule: rule.clone(), allowed, denied, last }
        })
        .collect()
    }

    /// Returns how many decisions there were of rules beyond the bound.
    pub(crate) fn other(&self) -> (u64, u64) {
        let (allowed, denied, _) = self.other.read();
        (allowed, denied)
    }

    fn rules(&self) -> MutexGuard<'_, BTreeMap<(ServiceKey, RuleName), Arc<RuleCount>>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the network of a caller that is known by its address alone: of IPv6, whoever has one address there has all.
fn network_of(source: &PairSource) -> Option<IpAddr> {
    match source {
        PairSource::Address(IpAddr::V6(address)) => {
            let network = u128::from(*address) >> 64 << 64;
            Some(Ipv6Addr::from(network).into())
        }
        PairSource::Address(address) => Some(*address),
        PairSource::Service(_) | PairSource::Identity(_) => None,
    }
}

/// The numbers of the rules for one destination, looked up once.
#[derive(Debug)]
pub(crate) struct RuleCounts {
    intentions: BTreeMap<IntentionKey, IntentionCounts>,
    guardrails: BTreeMap<String, Arc<RuleCount>>,
    default: Arc<RuleCount>,
}

#[derive(Debug)]
struct IntentionCounts {
    whole: Arc<RuleCount>,
    permissions: Vec<Arc<RuleCount>>,
}

impl RuleCounts {
    /// Looks up the numbers of all rules of a policy.
    pub(crate) fn of(tally: &Tally, destination: &ServiceKey, policy: &Policy) -> Self {
        let intentions = policy.intentions.iter().map(|intention| {
            let key = intention.key();
            let name = |permission| RuleName::Intention { key: key.clone(), permission };
            let permissions = match &intention.effect {
                catalog::Effect::Permissions(permissions) => permissions.len(),
                catalog::Effect::Action(_) => 0,
            };
            let counts = IntentionCounts {
                whole: tally.rule(destination, name(None)),
                permissions: (0..permissions).map(|place| tally.rule(destination, name(Some(place)))).collect(),
            };
            (key.clone(), counts)
        });
        let guardrails = policy.guardrails.iter().map(|guardrail| {
            (guardrail.name.clone(), tally.rule(destination, RuleName::Guardrail(guardrail.name.clone())))
        });
        Self {
            intentions: intentions.collect(),
            guardrails: guardrails.collect(),
            default: tally.rule(destination, RuleName::Default),
        }
    }

    /// Returns the numbers of an intention, or of one of its permissions; those of the default for one that is not there.
    pub(crate) fn intention(&self, key: &IntentionKey, permission: Option<usize>) -> &RuleCount {
        let Some(counts) = self.intentions.get(key) else { return &self.default };
        permission.map_or(&counts.whole, |place| counts.permissions.get(place).unwrap_or(&counts.whole))
    }

    /// Returns the numbers of a guardrail.
    pub(crate) fn guardrail(&self, name: &str) -> &RuleCount {
        self.guardrails.get(name).unwrap_or(&self.default)
    }

    /// Returns the numbers of what no rule decided.
    pub(crate) fn default(&self) -> &RuleCount {
        &self.default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guardrail(number: usize) -> RuleName {
        RuleName::Guardrail(format!("rule-{number}"))
    }

    #[test]
    fn rules_beyond_the_bound_are_counted_together_and_those_that_never_decided_make_room() {
        let (tally, api) = (Tally::default(), "default/api".parse::<ServiceKey>().unwrap());
        let in_force: Vec<Arc<RuleCount>> = (0..RULES_MAX).map(|number| tally.rule(&api, guardrail(number))).collect();
        in_force.iter().skip(1).for_each(|count| count.decided(true, Timestamp(1)));
        tally.rule(&api, guardrail(RULES_MAX)).decided(false, Timestamp(2));
        tally.rule(&api, guardrail(RULES_MAX + 1)).decided(true, Timestamp(2));
        assert_eq!(tally.other(), (1, 1), "no room for either");
        assert_eq!(tally.rule_uses().len(), RULES_MAX - 1);
        let report = tally.report(Timestamp(0), vec![api.clone()]);
        assert_eq!(
            (report.rules.len(), report.left_out),
            (RULES_MAX - 1, 2),
            "servers are told that something is left out"
        );

        tally.rule(&api, guardrail(5)).decided(true, Timestamp(3));
        assert!(
            tally.rule_uses().iter().any(|used| (used.allowed, used.last) == (2, Timestamp(3))),
            "a known one is found"
        );

        // Out of force, the one that never decided is forgotten; the others stay, for what they decided is to be told.
        drop(in_force);
        tally.rule(&api, guardrail(RULES_MAX)).decided(false, Timestamp(4));
        tally.rule(&api, guardrail(RULES_MAX + 1)).decided(true, Timestamp(4));
        assert_eq!((tally.rule_uses().len(), tally.other()), (RULES_MAX, (2, 1)), "one took the room of the idle one");
    }

    fn pair(source: PairSource, link: Link) -> Pair {
        Pair { destination: "api".parse().unwrap(), source, link }
    }

    #[test]
    fn p11_strangers_push_nobody_out_of_the_list_of_callers_but_one_another() {
        let tally = Tally::default();
        let stranger = |address: Ipv6Addr| pair(PairSource::Address(address.into()), Link::Plaintext);
        let honest = stranger("2001:db8:1::7".parse().unwrap());
        let web = pair(PairSource::Service("web".parse().unwrap()), Link::Hybrid);
        tally.opened(honest.clone(), Timestamp(1));
        tally.opened(web.clone(), Timestamp(1));
        for number in 0..3 * PAIRS_MAX as u128 {
            tally.opened(stranger(Ipv6Addr::from(0x2001_0db8_0002 << 80 | number)), Timestamp(2));
        }
        let db = pair(PairSource::Service("db".parse().unwrap()), Link::Hybrid);
        tally.opened(db.clone(), Timestamp(3));
        let report = tally.report(Timestamp(0), vec!["api".parse().unwrap()]);
        assert_eq!(report.pairs.len(), PAIRS_MAX);
        for known in [&web, &db] {
            assert!(report.pairs.iter().any(|used| used.pair == *known), "{known:?}");
        }
        assert_eq!(report.left_out, 2 * PAIRS_MAX as u64 + 3);
        // One that comes from elsewhere makes room by whoever was not seen for longest, and is there.
        let late = stranger("2001:db8:3::1".parse().unwrap());
        tally.opened(late.clone(), Timestamp(4));
        let report = tally.report(Timestamp(0), vec!["api".parse().unwrap()]);
        assert!(report.pairs.iter().any(|used| used.pair == late));
        assert!(report.pairs.iter().any(|used| used.pair == web));
    }
}
