//! Why a call is allowed or refused: the decision, and what became of every rule that might have decided.

use serde::{Deserialize, Serialize};

use crate::{
    Caller, Guardrail, Intention, Policy, Reason, Relaxation, ServiceKey, Timestamp, Verdict, authorize,
    authorize::{is_live, source_matches},
};

/// Says what became of one intention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CandidateOutcome {
    /// It decided.
    Decided,
    /// It matches, and a more specific one or a guardrail came first.
    Outranked,
    /// It speaks of another source.
    OtherSource,
    /// It would match, and its time is over.
    Expired,
}

impl CandidateOutcome {
    /// Returns the outcome as one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decided => "decided",
            Self::Outranked => "outranked",
            Self::OtherSource => "other-source",
            Self::Expired => "expired",
        }
    }
}

/// Is an intention toward the destination, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The intention.
    pub intention: Intention,
    /// What became of it.
    pub outcome: CandidateOutcome,
}

/// Is a verdict with everything that was weighed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The decision and the rule behind it.
    pub verdict: Verdict,
    /// The intentions whose destination covers the service, in the order in which they are tried.
    pub candidates: Vec<Candidate>,
    /// The guardrails whose destination covers the service, and whether they speak of the caller.
    pub guardrails: Vec<(Guardrail, bool)>,
    /// The relaxations in force that concern the service.
    pub relaxations: Vec<Relaxation>,
}

/// Explains what [`authorize`] answers.
#[must_use]
pub fn explain(policy: &Policy, caller: &Caller, destination: &ServiceKey, now: Timestamp) -> Explanation {
    let verdict = authorize(policy, caller, destination, now);
    let decider = match &verdict.reason {
        Reason::Intention { key, .. } => Some(key.clone()),
        _ => None,
    };
    let candidates = policy
        .intentions
        .iter()
        .filter(|intention| intention.destination.matches(destination))
        .map(|intention| {
            let outcome = if !source_matches(&intention.source, caller) {
                CandidateOutcome::OtherSource
            } else if !is_live(intention, now) {
                CandidateOutcome::Expired
            } else if decider.as_ref() == Some(&intention.key()) {
                CandidateOutcome::Decided
            } else {
                CandidateOutcome::Outranked
            };
            Candidate { intention: intention.clone(), outcome }
        })
        .collect();
    let toward = |guardrail: &&Guardrail| guardrail.destination.matches(destination);
    let guardrails = policy.guardrails.iter().filter(toward);
    let relaxed = |one: &&Relaxation| one.scope.covers(destination) && one.is_live(now);
    Explanation {
        verdict,
        candidates,
        guardrails: guardrails.map(|one| (one.clone(), source_matches(&one.source, caller))).collect(),
        relaxations: policy.relaxations.iter().filter(relaxed).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Action;

    #[test]
    fn the_guardrails_and_relaxations_that_concern_the_call_are_named() {
        let guardrail = |name: &str, source: &str, destination: &str| Guardrail {
            name: name.to_owned(),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        let guardrails = vec![
            guardrail("no-dev", "dev/*", "*/*"),
            guardrail("not-web", "web", "api"),
            guardrail("elsewhere", "*/*", "db"),
        ];
        let relaxation = |scope, ends_at| Relaxation {
            scope,
            reason: "a broken rollout".to_owned(),
            by: None,
            since: Timestamp(0),
            ends_at: Timestamp(ends_at),
            modified: crate::CatalogIndex(1),
        };
        let relaxations = vec![
            relaxation(crate::RelaxedScope::Mesh, 9),
            relaxation(crate::RelaxedScope::Mesh, 5),
            relaxation(crate::RelaxedScope::Namespace("shop".parse().unwrap()), 9),
        ];
        let policy =
            Policy::new(Action::Deny, guardrails, Vec::new()).with_audit(crate::AuditMode::default(), relaxations);
        let caller = Caller::Service("web".parse().unwrap());
        let explanation = explain(&policy, &caller, &"api".parse().unwrap(), Timestamp(5));
        let named: Vec<(&str, bool)> =
            explanation.guardrails.iter().map(|(one, matches)| (one.name.as_str(), *matches)).collect();
        assert_eq!(named, [("no-dev", false), ("not-web", true)]);
        assert_eq!(explanation.verdict.reason.to_string(), "guardrail `not-web`");
        assert_eq!(explanation.verdict.audit, None, "a guardrail is not relaxed");
        assert_eq!(explanation.relaxations.len(), 1);
    }

    #[test]
    fn every_intention_toward_the_destination_gets_a_reason() {
        let rule = |source: &str, destination: &str, action| {
            Intention::new(source.parse().unwrap(), destination.parse().unwrap(), action)
        };
        let mut expired = rule("*/*", "api", Action::Allow);
        expired.expires_at = Some(Timestamp(1));
        let rules = vec![
            rule("*", "api", Action::Allow),
            rule("web", "api", Action::Deny),
            rule("db", "api", Action::Allow),
            rule("web", "db", Action::Allow),
            expired,
        ];
        let policy = Policy::new(Action::Deny, Vec::new(), rules);
        let caller = Caller::Service("web".parse().unwrap());
        let explanation = explain(&policy, &caller, &"api".parse().unwrap(), Timestamp(5));
        let outcomes: Vec<String> =
            explanation.candidates.iter().map(|c| format!("{} {:?}", c.intention.source, c.outcome)).collect();
        assert!(explanation.guardrails.is_empty() && explanation.relaxations.is_empty());
        assert_eq!(outcomes, ["default/db OtherSource", "default/web Decided", "default/* Outranked", "*/* Expired"]);
    }
}
