//! Why a call is allowed or refused: the decision, and what became of every rule that might have decided.

use serde::{Deserialize, Serialize};

use crate::{
    Caller, Intention, Policy, Reason, ServiceKey, Timestamp, Verdict, authorize,
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
    Explanation { verdict, candidates }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Action;

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
        assert_eq!(outcomes, ["default/db OtherSource", "default/web Decided", "default/* Outranked", "*/* Expired"]);
    }
}
