//! What the proxy sees, counted: which rules decide, and who calls whom over what kind of connection.
//!
//! The numbers are what `/metrics` shows of rules, and what servers are told at a slow pace. Looking a number up takes a
//! lock and is done once for each set of rules or connection; counting takes none.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::{IntentionKey, Policy, ServiceKey, Timestamp};
use wire::report::{AgentReport, Link, PAIRS_MAX, Pair, PairUse, RULES_MAX, RuleName, RuleUse};

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

    /// Counts a connection that was opened.
    pub(crate) fn opened(&self, pair: Pair, now: Timestamp) {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        if pairs.len() >= PAIRS_MAX && !pairs.contains_key(&pair) {
            self.pairs_left_out.fetch_add(1, Ordering::Relaxed);
            return;
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
