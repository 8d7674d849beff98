//! What agents tell of what they see: which rules decided, and who called whom over what kind of connection.
//!
//! It is soft state. An agent counts since it started and tells its server at a slow pace ([`AgentReport`], `POST
//! /v1/report` on the agents' port); a server holds the last report of each agent that has its session there, and nothing
//! of it is ever written to the log. A server of an earlier release answers that there is no such path, and is not told.

use std::collections::BTreeMap;
use std::fmt;

use catalog::{IntentionKey, KeyExchange, ServiceKey, SpiffeId, Timestamp};
use serde::{Deserialize, Serialize};

/// Rules that one agent tells of at most.
pub const RULES_MAX: usize = 1_000;
/// Pairs that one agent tells of at most.
pub const PAIRS_MAX: usize = 500;

/// Tells what one agent has seen since it started; a later one of the same agent stands for all before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    /// Since when it counts, by its own clock.
    pub since: Timestamp,
    /// The services whose callers it sees.
    #[serde(default)]
    pub watched: Vec<ServiceKey>,
    /// The rules that decided something; at most [`RULES_MAX`].
    #[serde(default)]
    pub rules: Vec<RuleUse>,
    /// Who called; at most [`PAIRS_MAX`], with those below.
    #[serde(default)]
    pub pairs: Vec<PairUse>,
    /// Which of its services called out of the mesh. A server of an earlier release passes this over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<PairUse>,
    /// How many rules and pairs there were that are not told of, for there are too many.
    #[serde(default)]
    pub left_out: u64,
}

/// Names a rule at one destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleName {
    /// An intention, or one of its permissions.
    Intention {
        /// The intention.
        key: IntentionKey,
        /// The permission's place in it, from 0; none where the intention has an action.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        permission: Option<usize>,
    },
    /// A guardrail, by its name.
    Guardrail(String),
    /// What happens where no rule decides.
    Default,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intention { key, permission: None } => write!(f, "{key}"),
            Self::Intention { key, permission: Some(place) } => write!(f, "{key} permissions[{place}]"),
            Self::Guardrail(name) => write!(f, "guardrail {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Says how often a rule decided at one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleUse {
    /// The service that was called.
    pub destination: ServiceKey,
    /// The rule.
    pub rule: RuleName,
    /// How many connections or requests it let pass.
    pub allowed: u64,
    /// How many it refused.
    pub denied: u64,
    /// When it decided last, by the agent's clock.
    pub last: Timestamp,
}

/// Says who calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairSource {
    /// A service of this mesh.
    Service(ServiceKey),
    /// An identity of another mesh, or one that is no service's.
    Identity(SpiffeId),
    /// Somebody without identity, at this address.
    Address(std::net::IpAddr),
}

impl fmt::Display for PairSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "{service}"),
            Self::Identity(id) => write!(f, "{id}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// Says what carries a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// Plaintext, to a service of the mesh.
    Plaintext,
    /// Out of the mesh, as the application wrote it: nobody proves who answers, and nothing is encrypted on the way that the
    /// application does not encrypt itself.
    Outside,
    /// Mutual TLS whose keys were agreed on by elliptic curves alone.
    Classical,
    /// Mutual TLS whose keys were agreed on by an elliptic curve and ML-KEM together.
    Hybrid,
}

impl From<KeyExchange> for Link {
    fn from(exchange: KeyExchange) -> Self {
        match exchange {
            KeyExchange::Classical => Self::Classical,
            KeyExchange::Hybrid => Self::Hybrid,
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Plaintext => "plaintext",
            Self::Outside => "outside",
            Self::Classical => "classical",
            Self::Hybrid => "hybrid",
        })
    }
}

/// Names one who calls, whom, and over what.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pair {
    /// The service that is called.
    pub destination: ServiceKey,
    /// Who calls.
    pub source: PairSource,
    /// Over what.
    pub link: Link,
}

impl Pair {
    /// Returns the service whose agent sees such calls; none where no agent can have.
    #[must_use]
    pub fn seen_by(&self) -> Option<&ServiceKey> {
        match (self.link, &self.source) {
            (Link::Plaintext | Link::Classical | Link::Hybrid, _) => Some(&self.destination),
            (Link::Outside, PairSource::Service(caller)) => Some(caller),
            (Link::Outside, PairSource::Identity(_) | PairSource::Address(_)) => None,
        }
    }
}

/// Says how often somebody called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairUse {
    /// Who, whom, and over what.
    #[serde(flatten)]
    pub pair: Pair,
    /// How many connections were opened.
    pub opened: u64,
    /// When the last one was, by the agent's clock.
    pub last: Timestamp,
}

/// Joins the reports of many agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The services whose callers are seen, each by how many agents and since when by all of them.
    pub watched: Vec<Watched>,
    /// The rules that decided something.
    pub rules: Vec<RuleUse>,
    /// Who called.
    pub pairs: Vec<PairUse>,
    /// Who called out of the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<PairUse>,
    /// How many rules and pairs are not told of, for there are too many.
    pub left_out: u64,
}

/// Says who watches the callers of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// The service.
    pub service: ServiceKey,
    /// How many agents.
    pub agents: u64,
    /// Since when all of them do: what is not told of was not seen from then on.
    pub since: Timestamp,
}

/// Joins reports, one after the other.
#[derive(Debug, Clone, Default)]
pub struct SeenBuilder {
    watched: BTreeMap<ServiceKey, (u64, Timestamp)>,
    rules: BTreeMap<(ServiceKey, RuleName), (u64, u64, Timestamp)>,
    pairs: BTreeMap<Pair, (u64, Timestamp)>,
    left_out: u64,
}

impl SeenBuilder {
    /// Adds what one agent tells.
    pub fn add(&mut self, report: &AgentReport) {
        for service in &report.watched {
            self.add_watched(service, 1, report.since);
        }
        report.rules.iter().for_each(|rule| self.add_rule(rule));
        report.pairs.iter().chain(&report.outside).for_each(|pair| self.add_pair(pair));
        self.left_out = self.left_out.saturating_add(report.left_out);
    }

    /// Adds what was joined elsewhere.
    pub fn add_seen(&mut self, seen: &Seen) {
        seen.watched.iter().for_each(|watched| self.add_watched(&watched.service, watched.agents, watched.since));
        seen.rules.iter().for_each(|rule| self.add_rule(rule));
        seen.pairs.iter().chain(&seen.outside).for_each(|pair| self.add_pair(pair));
        self.left_out = self.left_out.saturating_add(seen.left_out);
    }

    fn add_watched(&mut self, service: &ServiceKey, agents: u64, since: Timestamp) {
        let (known, latest) = self.watched.entry(service.clone()).or_default();
        *known = known.saturating_add(agents);
        *latest = since.max(*latest);
    }

    fn add_rule(&mut self, rule: &RuleUse) {
        let key = (rule.destination.clone(), rule.rule.clone());
        let (allowed, denied, last) = self.rules.entry(key).or_default();
        *allowed = allowed.saturating_add(rule.allowed);
        *denied = denied.saturating_add(rule.denied);
        *last = rule.last.max(*last);
    }

    fn add_pair(&mut self, used: &PairUse) {
        let (opened, last) = self.pairs.entry(used.pair.clone()).or_default();
        *opened = opened.saturating_add(used.opened);
        *last = used.last.max(*last);
    }

    /// Returns what was joined, in order; beyond `rows_max` rows of a kind, those that were not seen for longest are left
    /// out and counted.
    #[must_use]
    pub fn finish(self, rows_max: usize) -> Seen {
        let watched = self.watched.into_iter();
        let watched = watched.map(|(service, (agents, since))| Watched { service, agents, since }).collect();
        let rules = self.rules.into_iter();
        let rules = rules.map(|((destination, rule), (allowed, denied, last))| RuleUse {
            destination,
            rule,
            allowed,
            denied,
            last,
        });
        let pairs = self.pairs.into_iter().map(|(pair, (opened, last))| PairUse { pair, opened, last });
        let (rules, rules_left) = latest(rules.collect(), rows_max, |rule: &RuleUse| rule.last);
        let (pairs, pairs_left) = latest(pairs.collect(), rows_max, |pair: &PairUse| pair.last);
        let left_out = self.left_out.saturating_add(rules_left).saturating_add(pairs_left);
        let (outside, pairs) = pairs.into_iter().partition(|used| used.pair.link == Link::Outside);
        Seen { watched, rules, pairs, outside, left_out }
    }
}

/// Keeps the rows that were seen last, in the order that they came in, and says how many were left out.
fn latest<T>(mut rows: Vec<T>, rows_max: usize, last: impl Fn(&T) -> Timestamp) -> (Vec<T>, u64) {
    let left_out = rows.len().saturating_sub(rows_max);
    if left_out > 0 {
        let mut times: Vec<Timestamp> = rows.iter().map(&last).collect();
        times.sort_unstable();
        let oldest = times.get(left_out).copied().unwrap_or_default();
        // Of those seen at the same moment some may be too many still.
        rows.retain(|row| last(row) >= oldest);
        rows.truncate(rows_max);
    }
    (rows, u64::try_from(left_out).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceKey {
        name.parse().unwrap()
    }

    fn report(since: u64, allowed: u64, last: u64) -> AgentReport {
        let pair =
            Pair { destination: service("api"), source: PairSource::Service(service("web")), link: Link::Hybrid };
        AgentReport {
            since: Timestamp(since),
            watched: vec![service("api")],
            rules: vec![RuleUse {
                destination: service("api"),
                rule: RuleName::Default,
                allowed,
                denied: 1,
                last: Timestamp(last),
            }],
            pairs: vec![PairUse { pair, opened: allowed, last: Timestamp(last) }],
            outside: Vec::new(),
            left_out: 0,
        }
    }

    #[test]
    fn calls_out_of_the_mesh_stand_apart_and_are_the_callers_to_tell() {
        let (web, legacy) = (service("web"), service("legacy"));
        let pair = |source| Pair { destination: legacy.clone(), source, link: Link::Outside };
        let from_web = pair(PairSource::Service(web.clone()));
        assert_eq!(from_web.seen_by(), Some(&web));
        assert_eq!(pair(PairSource::Address([10, 0, 0, 1].into())).seen_by(), None);
        let used = PairUse { pair: from_web, opened: 2, last: Timestamp(5) };
        let mut joined = SeenBuilder::default();
        joined.add(&AgentReport { outside: vec![used.clone()], ..report(10, 3, 100) });
        let seen = joined.finish(10);
        assert_eq!((seen.pairs.len(), &seen.outside), (1, &vec![used.clone()]));
        let mut again = SeenBuilder::default();
        again.add_seen(&seen);
        again.add_seen(&seen);
        assert_eq!(again.finish(10).outside, [PairUse { opened: 4, ..used }]);
    }

    #[test]
    fn reports_add_up_and_the_youngest_watch_says_since_when() {
        let mut joined = SeenBuilder::default();
        joined.add(&report(10, 3, 100));
        joined.add(&report(50, 4, 90));
        let seen = joined.finish(10);
        assert_eq!(seen.watched, [Watched { service: service("api"), agents: 2, since: Timestamp(50) }]);
        let [rule] = &seen.rules[..] else { panic!("{seen:?}") };
        assert_eq!((rule.allowed, rule.denied, rule.last), (7, 2, Timestamp(100)));
        assert_eq!((seen.pairs[0].opened, seen.pairs[0].last), (7, Timestamp(100)));
        // What was joined on several servers is joined in the same way.
        let mut again = SeenBuilder::default();
        again.add_seen(&seen);
        again.add(&report(60, 1, 120));
        let seen = again.finish(10);
        assert_eq!((seen.watched[0].agents, seen.watched[0].since), (3, Timestamp(60)));
        assert_eq!((seen.rules[0].allowed, seen.rules[0].last), (8, Timestamp(120)));
    }

    #[test]
    fn beyond_the_bound_what_was_seen_longest_ago_is_left_out_and_counted() {
        let mut joined = SeenBuilder::default();
        for (place, last) in [(0, 5), (1, 9), (2, 1), (3, 9)] {
            let mut one = report(0, 1, last);
            let destination = catalog::ServicePattern::Exact(service("api"));
            let source = catalog::SourcePattern::parse(&format!("s{place}"), &catalog::Namespace::default()).unwrap();
            one.rules[0].rule = RuleName::Intention { key: IntentionKey { destination, source }, permission: Some(0) };
            joined.add(&one);
        }
        let seen = joined.finish(2);
        let kept: Vec<u64> = seen.rules.iter().map(|rule| rule.last.0).collect();
        assert_eq!((kept, seen.left_out), (vec![9, 9], 2));
    }

    #[test]
    fn a_report_is_read_back_as_it_was_written_and_an_older_one_without_what_is_new() {
        let written = serde_json::to_string(&report(1, 2, 3)).unwrap();
        assert_eq!(serde_json::from_str::<AgentReport>(&written).unwrap(), report(1, 2, 3), "{written}");
        let plain: AgentReport = serde_json::from_str(r#"{"since":7}"#).unwrap();
        assert_eq!(plain, AgentReport { since: Timestamp(7), ..AgentReport::default() });
    }
}
