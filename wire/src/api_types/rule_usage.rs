//! How often each rule decided something, by what agents have seen.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{Action, Effect, Intention, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::report::{RuleName, Seen};
use crate::rfc3339;

/// Answers which rules decide anything: soft state, which is as old as the agents that tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RuleUsageView {
    /// The rules, in the order in which they are tried; of an intention with permissions, each of these.
    pub rules: Vec<RuleUsage>,
    /// How many rules decided something and are not told of one by one, for there are too many.
    pub left_out: u64,
    /// The servers that did not answer: what their agents have seen is missing.
    #[schema(value_type = Vec<String>)]
    pub silent_servers: Vec<ServerId>,
}

/// Says how often a rule decided something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct RuleUsage {
    /// Who calls, as it is written.
    pub source: String,
    /// Who is called, as it is written.
    pub destination: String,
    /// The permission's place in the intention, from 0; none where the intention has an action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<usize>,
    /// What the rule says.
    #[schema(value_type = String)]
    pub action: Action,
    /// How many connections or requests it let pass.
    pub allowed: u64,
    /// How many it refused.
    pub denied: u64,
    /// When it decided last; nothing where nobody saw it do so.
    #[serde(with = "rfc3339::optional_text")]
    #[schema(value_type = Option<String>)]
    pub last: Option<Timestamp>,
    /// How many agents watch destinations of the rule.
    pub agents: u64,
    /// Since when all of them do; nothing where none does. An agent counts anew when it starts.
    #[serde(with = "rfc3339::optional_text")]
    #[schema(value_type = Option<String>)]
    pub watched_since: Option<Timestamp>,
}

impl RuleUsageView {
    /// Joins what rules there are and what agents saw of them.
    pub fn new<'i>(
        intentions: impl IntoIterator<Item = &'i Intention>,
        seen: &Seen,
        silent_servers: Vec<ServerId>,
    ) -> Self {
        // A rule that is written toward many services decides at each of them.
        let mut uses: BTreeMap<&RuleName, (u64, u64, Timestamp)> = BTreeMap::new();
        for used in &seen.rules {
            let (allowed, denied, last) = uses.entry(&used.rule).or_default();
            *allowed = allowed.saturating_add(used.allowed);
            *denied = denied.saturating_add(used.denied);
            *last = used.last.max(*last);
        }
        let rows = intentions.into_iter().flat_map(|intention| {
            let watched = seen.watched.iter().filter(|watched| intention.destination.matches(&watched.service));
            let (agents, since) = watched.fold((0_u64, None), |(agents, since), watched| {
                (agents.saturating_add(watched.agents), since.max(Some(watched.since)))
            });
            let places: Vec<(Option<usize>, Action)> = match &intention.effect {
                Effect::Action(action) => vec![(None, *action)],
                Effect::Permissions(permissions) => {
                    permissions.iter().enumerate().map(|(place, one)| (Some(place), one.action)).collect()
                }
            };
            let uses = &uses;
            places.into_iter().map(move |(permission, action)| {
                let found = uses.get(&RuleName::Intention { key: intention.key(), permission });
                RuleUsage {
                    source: intention.source.to_string(),
                    destination: intention.destination.to_string(),
                    permission,
                    action,
                    allowed: found.map_or(0, |found| found.0),
                    denied: found.map_or(0, |found| found.1),
                    last: found.map(|found| found.2),
                    agents,
                    watched_since: since,
                }
            })
        });
        Self { rules: rows.collect(), left_out: seen.left_out, silent_servers }
    }
}

impl RuleUsage {
    /// Reports whether the rule decided nothing within a time, or since it is watched; nothing where that is not known: no
    /// agent watches, or not for so long.
    #[must_use]
    pub fn is_unused(&self, now: Timestamp, within: Option<Duration>) -> Option<bool> {
        let begin = within.map_or(Timestamp::default(), |within| now.saturating_sub(within));
        if self.last.is_some_and(|last| last >= begin) {
            return Some(false);
        }
        let since = self.watched_since?;
        (within.is_none() || since <= begin).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use catalog::{HttpMatch, Permission};

    use super::*;
    use crate::report::{RuleUse, Watched};

    fn used(destination: &str, intention: &Intention, permission: Option<usize>, last: u64) -> RuleUse {
        let rule = RuleName::Intention { key: intention.key(), permission };
        RuleUse { destination: destination.parse().unwrap(), rule, allowed: 2, denied: 1, last: Timestamp(last) }
    }

    #[test]
    fn each_rule_is_told_with_what_it_decided_anywhere_and_since_when_that_is_known() {
        let wide = Intention::new("web".parse().unwrap(), "*".parse().unwrap(), Action::Deny);
        let mut exact = Intention::new("web".parse().unwrap(), "api".parse().unwrap(), Action::Allow);
        let http = HttpMatch { methods: vec!["GET".to_owned()], ..HttpMatch::default() };
        exact.effect = Effect::Permissions(vec![
            Permission::new(Action::Allow, http.clone()),
            Permission::new(Action::Deny, http),
        ]);
        let elsewhere = Intention::new("web".parse().unwrap(), "shop/cart".parse().unwrap(), Action::Allow);
        let watched = |service: &str, agents, since| Watched {
            service: service.parse().unwrap(),
            agents,
            since: Timestamp(since),
        };
        let seen = Seen {
            watched: vec![watched("api", 2, 50), watched("db", 1, 70)],
            rules: vec![used("api", &wide, None, 80), used("db", &wide, None, 90), used("api", &exact, Some(1), 60)],
            ..Seen::default()
        };
        let view = RuleUsageView::new([&exact, &wide, &elsewhere], &seen, Vec::new());
        let told: Vec<_> = view
            .rules
            .iter()
            .map(|rule| {
                (
                    rule.permission,
                    rule.allowed,
                    rule.last.map(|last| last.0),
                    rule.agents,
                    rule.watched_since.map(|at| at.0),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (Some(0), 0, None, 2, Some(50)),
                (Some(1), 2, Some(60), 2, Some(50)),
                (None, 4, Some(90), 3, Some(70)),
                (None, 0, None, 0, None)
            ]
        );
        let unused = |at: usize, within: Option<u64>| {
            view.rules[at].is_unused(Timestamp(100), within.map(Duration::from_millis))
        };
        assert_eq!((unused(0, None), unused(0, Some(50)), unused(0, Some(51))), (Some(true), Some(true), None));
        assert_eq!((unused(1, None), unused(1, Some(40)), unused(1, Some(39))), (Some(false), Some(false), Some(true)));
        assert_eq!((unused(3, None), unused(3, Some(1))), (None, None), "nobody watches");
    }
}
