//! The one answer to "may this caller call that service?", which servers and agents share.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    Action, Effect, Guardrail, Intention, IntentionKey, Principal, ServiceKey, SourcePattern, SpiffeId, Timestamp,
};

/// Says who calls, as its certificate proved it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// A workload of this mesh.
    Service(ServiceKey),
    /// A workload of another trust domain; only intentions that name it to the letter match it.
    Foreign(SpiffeId),
    /// Nobody that proved to be anything. It matches no intention, not even `*`.
    Unauthenticated,
}

impl From<Principal> for Caller {
    /// Agents, servers and unknown forms are not workloads: they call nobody's service.
    fn from(principal: Principal) -> Self {
        match principal {
            Principal::Workload(service) => Self::Service(service),
            Principal::Foreign(id) => Self::Foreign(id),
            Principal::Agent { .. } | Principal::Server(_) | Principal::Unknown(_) => Self::Unauthenticated,
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Foreign(id) => id.fmt(f),
            Self::Unauthenticated => f.write_str("an unauthenticated caller"),
        }
    }
}

/// Holds all the rules that can concern one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What happens where no intention matches.
    pub default_action: Action,
    /// Denies that come first.
    pub guardrails: Vec<Guardrail>,
    /// The intentions, in the order of [`Intention::order`].
    pub intentions: Vec<Intention>,
}

impl Policy {
    /// Gathers rules into a policy; sorts the intentions.
    #[must_use]
    pub fn new(default_action: Action, guardrails: Vec<Guardrail>, mut intentions: Vec<Intention>) -> Self {
        intentions.sort_by(Intention::order);
        Self { default_action, guardrails, intentions }
    }
}

/// Says what may happen to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// It is let through.
    Allow,
    /// It is refused.
    Deny,
    /// Each request is decided by the permissions of the intention in the reason; what cannot read requests refuses it.
    PerRequest,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::PerRequest => "per-request",
        })
    }
}

/// Says which rule decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A guardrail refused it.
    Guardrail {
        /// The guardrail's name.
        name: String,
    },
    /// An intention matched.
    Intention {
        /// The intention's pair.
        key: IntentionKey,
        /// Its precedence.
        precedence: u8,
    },
    /// No intention matched, and the mesh has a default.
    Default {
        /// The default action.
        action: Action,
    },
    /// The caller proved no identity.
    Unauthenticated,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guardrail { name } => write!(f, "guardrail `{name}`"),
            Self::Intention { key, precedence } => write!(f, "intention {key}, precedence {precedence}"),
            Self::Default { action } => write!(f, "no intention matches; the default is {action}"),
            Self::Unauthenticated => f.write_str("the caller proved no identity"),
        }
    }
}

/// Is a decision with the rule behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What may happen.
    pub decision: Decision,
    /// Which rule decided.
    pub reason: Reason,
    /// Whether a denial is only to be logged and counted.
    pub audited: bool,
}

/// Reports whether `source` speaks of `caller`.
pub(crate) fn source_matches(source: &SourcePattern, caller: &Caller) -> bool {
    match (source, caller) {
        (SourcePattern::Service(pattern), Caller::Service(service)) => pattern.matches(service),
        (SourcePattern::Spiffe(wanted), Caller::Foreign(id)) => wanted == id,
        _ => false,
    }
}

/// Reports whether the intention still counts: an allow ends by itself, a deny does not.
///
/// One with permissions ends too, for what it grants must; its denies were carved out of that grant.
pub(crate) fn is_live(intention: &Intention, now: Timestamp) -> bool {
    match (intention.expires_at, &intention.effect) {
        (Some(_), Effect::Action(Action::Deny)) | (None, _) => true,
        (Some(end), _) => now < end,
    }
}

/// Decides whether `caller` may open a connection to `destination` at `now`.
///
/// Guardrails first, then the live intention with the highest precedence, then the default. An intention with permissions
/// captures its source: requests that none of its permissions match get the default, never the next intention
/// (CONTRACTS of Consul's intentions). Audit turns the denial of an intention into a logged one; it never touches a
/// guardrail, nor a caller without an identity.
#[must_use]
pub fn authorize(policy: &Policy, caller: &Caller, destination: &ServiceKey, now: Timestamp) -> Verdict {
    let denied = |reason| Verdict { decision: Decision::Deny, reason, audited: false };
    if *caller == Caller::Unauthenticated {
        return denied(Reason::Unauthenticated);
    }
    let guardrail = policy
        .guardrails
        .iter()
        .find(|guardrail| guardrail.destination.matches(destination) && source_matches(&guardrail.source, caller));
    if let Some(guardrail) = guardrail {
        return denied(Reason::Guardrail { name: guardrail.name.clone() });
    }
    // The list is sorted by precedence, so that the first that matches is the one that decides.
    let winner = policy.intentions.iter().find(|intention| {
        intention.destination.matches(destination)
            && source_matches(&intention.source, caller)
            && is_live(intention, now)
    });
    let Some(winner) = winner else {
        let decision = match policy.default_action {
            Action::Allow => Decision::Allow,
            Action::Deny => Decision::Deny,
        };
        return Verdict { decision, reason: Reason::Default { action: policy.default_action }, audited: false };
    };
    let decision = match (&winner.effect, &winner.jwt) {
        (Effect::Action(Action::Deny), _) => Decision::Deny,
        (Effect::Action(Action::Allow), None) => Decision::Allow,
        (Effect::Action(Action::Allow), Some(_)) | (Effect::Permissions(_), _) => Decision::PerRequest,
    };
    let reason = Reason::Intention { key: winner.key(), precedence: winner.precedence() };
    Verdict { decision, reason, audited: winner.audit && decision != Decision::Allow }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{HttpMatch, PathMatch, Permission};

    fn intention(rule: &str) -> Intention {
        let words: Vec<&str> = rule.split(' ').collect();
        Intention::new(words[1].parse().unwrap(), words[2].parse().unwrap(), words[0].parse().unwrap())
    }

    fn service(name: &str) -> Caller {
        Caller::Service(name.parse().unwrap())
    }

    #[track_caller]
    fn check(rules: &[&str], source: &str, destination: &str, want: Decision) {
        let policy = Policy::new(Action::Deny, Vec::new(), rules.iter().map(|rule| intention(rule)).collect());
        let verdict = authorize(&policy, &service(source), &destination.parse().unwrap(), Timestamp(0));
        assert_eq!(verdict.decision, want, "{rules:?} {source} -> {destination}: {}", verdict.reason);
    }

    #[test]
    fn h11_the_most_specific_intention_decides() {
        use Decision::{Allow, Deny};
        check(&[], "web", "api", Deny);
        check(&["allow web api"], "web", "api", Allow);
        check(&["allow web api"], "api", "web", Deny);
        check(&["allow * api", "deny web api"], "web", "api", Deny);
        check(&["deny * api", "allow web api"], "web", "api", Allow);
        check(&["deny web *", "allow * api"], "web", "api", Allow);
        check(&["allow web *", "deny * api"], "web", "api", Deny);
        check(&["allow * *"], "web", "api", Allow);
        check(&["allow * *"], "shop/web", "api", Deny);
        check(&["allow */* */*"], "shop/web", "api", Allow);
        check(&["allow */* */*", "deny shop/* */*"], "shop/web", "api", Deny);
        check(&["deny */* default/*", "allow shop/web */*"], "shop/web", "api", Deny);
        check(&["allow shop/* api", "deny */* api"], "shop/web", "api", Allow);
    }

    #[test]
    fn a_guardrail_outranks_every_allow() {
        let guardrail = Guardrail {
            name: "no-prod".to_owned(),
            source: "*/*".parse().unwrap(),
            destination: "api".parse().unwrap(),
        };
        let policy = Policy::new(Action::Allow, vec![guardrail], vec![intention("allow web api")]);
        let verdict = authorize(&policy, &service("web"), &"api".parse().unwrap(), Timestamp(0));
        assert_eq!(verdict.decision, Decision::Deny);
        assert_eq!(verdict.reason.to_string(), "guardrail `no-prod`");
    }

    #[test]
    fn an_unauthenticated_caller_matches_nothing_even_under_a_default_of_allow() {
        let policy = Policy::new(Action::Allow, Vec::new(), vec![intention("allow */* */*")]);
        let verdict = authorize(&policy, &Caller::Unauthenticated, &"api".parse().unwrap(), Timestamp(0));
        assert_eq!(verdict.decision, Decision::Deny);
    }

    #[test]
    fn a_foreign_caller_is_matched_by_its_exact_identity_only() {
        let id = "spiffe://other.example/ns/a/sa/b";
        let policy = |rule: &str| Policy::new(Action::Deny, Vec::new(), vec![intention(rule)]);
        let caller = Caller::Foreign(id.parse().unwrap());
        let decide = |rule: &str| authorize(&policy(rule), &caller, &"api".parse().unwrap(), Timestamp(0)).decision;
        assert_eq!(decide("allow */* */*"), Decision::Deny);
        assert_eq!(decide(&format!("allow {id} api")), Decision::Allow);
        assert_eq!(decide("allow spiffe://other.example/ns/a/sa/c api"), Decision::Deny);
    }

    #[test]
    fn an_allow_ends_by_itself_and_a_deny_does_not() {
        let mut allow = intention("allow web api");
        allow.expires_at = Some(Timestamp(100));
        let mut deny = intention("deny web api");
        deny.expires_at = Some(Timestamp(100));
        let decide = |rule: &Intention, default, now| {
            let policy = Policy::new(default, Vec::new(), vec![rule.clone()]);
            authorize(&policy, &service("web"), &"api".parse().unwrap(), Timestamp(now)).decision
        };
        assert_eq!(decide(&allow, Action::Deny, 99), Decision::Allow);
        assert_eq!(decide(&allow, Action::Deny, 100), Decision::Deny);
        assert_eq!(decide(&deny, Action::Allow, 100), Decision::Deny);
    }

    #[test]
    fn h11_permissions_capture_their_source_and_are_left_to_what_reads_requests() {
        let permission = Permission {
            action: Action::Allow,
            http: HttpMatch { path: Some(PathMatch::Prefix("/v1".to_owned())), ..HttpMatch::default() },
            jwt: None,
        };
        let mut exact = intention("allow web api");
        exact.effect = Effect::Permissions(vec![permission]);
        let policy = Policy::new(Action::Deny, Vec::new(), vec![intention("allow * api"), exact]);
        let verdict = authorize(&policy, &service("web"), &"api".parse().unwrap(), Timestamp(0));
        assert_eq!(verdict.decision, Decision::PerRequest);
    }

    /// The rule in its plainest form: score every intention, take the best.
    fn reference(rules: &[(Action, usize, usize)], source: (usize, usize), destination: (usize, usize)) -> Action {
        let part = |code: usize, (namespace, name): (usize, usize)| match code {
            8 => Some(0),
            6 | 7 => (code - 6 == namespace).then_some(1),
            exact => (exact / 3 == namespace && exact % 3 == name).then_some(2),
        };
        let mut best = (0, Action::Deny);
        for (action, from, to) in rules {
            if let (Some(from), Some(to)) = (part(*from, source), part(*to, destination)) {
                let score = to * 3 + from + 1;
                if score > best.0 {
                    best = (score, *action);
                }
            }
        }
        best.1
    }

    fn pattern_text(code: usize) -> String {
        match code {
            8 => "*/*".to_owned(),
            6 | 7 => format!("n{}/*", code - 6),
            exact => format!("n{}/s{}", exact / 3, exact % 3),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn authorize_agrees_with_a_naive_reference(
            rules in proptest::collection::btree_map((0usize..9, 0usize..9), any::<bool>(), 0..14),
            source in (0usize..2, 0usize..3), destination in (0usize..2, 0usize..3),
        ) {
            let rules: Vec<(Action, usize, usize)> = rules.into_iter()
                .map(|((from, to), allow)| (if allow { Action::Allow } else { Action::Deny }, from, to)).collect();
            let intentions = rules.iter()
                .map(|(action, from, to)| intention(&format!("{action} {} {}", pattern_text(*from), pattern_text(*to))))
                .collect();
            let policy = Policy::new(Action::Deny, Vec::new(), intentions);
            let name = |(namespace, name): (usize, usize)| format!("n{namespace}/s{name}");
            let verdict = authorize(&policy, &service(&name(source)), &name(destination).parse().unwrap(), Timestamp(0));
            let want = match reference(&rules, source, destination) {
                Action::Allow => Decision::Allow,
                Action::Deny => Decision::Deny,
            };
            prop_assert_eq!(verdict.decision, want);
        }
    }
}
