//! Two policies at once: whoever passes must pass by both.
//!
//! An agent that was told a part of what changed knows that some of it forbids, and not yet what the whole of it allows.
//! Until it does, it goes by what it was told as a whole before, restrained by what it was told since.

use crate::{Decision, Intention, Policy, Verdict};

impl Policy {
    /// Adds rules that whoever passes must pass, too: what is let through is never more than without them.
    #[must_use]
    pub fn restrained_by(self, other: Self) -> Self {
        Self { restraint: Some(Box::new(other)), ..self }
    }

    /// Reports whether what a request says can matter.
    #[must_use]
    pub fn judges_requests(&self) -> bool {
        self.intentions.iter().any(Intention::judges_requests)
            || self.restraint.as_deref().is_some_and(Self::judges_requests)
    }
}

impl Verdict {
    /// Reports whether the caller gets any further, be it only to have its requests decided.
    fn passes(&self) -> bool {
        self.decision != Decision::Deny || self.audit.is_some()
    }

    /// Returns which of two verdicts lets less through; this one, where they let through the same.
    pub(crate) fn or_narrower(self, other: Self) -> Self {
        let is_narrower = match (self.passes(), other.passes()) {
            (true, true) => other.decision == Decision::PerRequest && self.decision != Decision::PerRequest,
            (true, false) => true,
            (false, _) => false,
        };
        if is_narrower { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::http::{CompiledPolicy, NoHeaders, NoTokens, NormalPath, Request};
    use crate::{Action, AuditMode, Caller, Guardrail, ServiceKey, Timestamp, authorize};

    use super::*;

    fn intention(rule: &str) -> Intention {
        let words: Vec<&str> = rule.split(' ').collect();
        Intention::new(words[1].parse().unwrap(), words[2].parse().unwrap(), words[0].parse().unwrap())
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        let rules = ["allow web api", "deny web api", "allow * api", "deny * *", "allow */* */*"];
        let rules = proptest::sample::subsequence(rules.to_vec(), 0..4);
        (any::<bool>(), any::<bool>(), any::<bool>(), rules).prop_map(|(allow, guarded, audited, rules)| {
            let guardrail =
                Guardrail { name: "g".to_owned(), source: "web".parse().unwrap(), destination: "api".parse().unwrap() };
            let default_action = if allow { Action::Allow } else { Action::Deny };
            let guardrails = guarded.then_some(guardrail).into_iter().collect();
            Policy::new(default_action, guardrails, rules.iter().map(|rule| intention(rule)).collect())
                .with_audit(AuditMode { mesh: audited, ..AuditMode::default() }, Vec::new())
        })
    }

    fn connects(policy: &Policy, caller: &Caller, destination: &ServiceKey) -> bool {
        authorize(policy, caller, destination, Timestamp(0)).passes()
    }

    fn requests(policy: &Policy, caller: &Caller, destination: &ServiceKey) -> bool {
        let compiled = CompiledPolicy::new(policy.clone(), destination.clone());
        let path = NormalPath::of("/").unwrap();
        let request = Request {
            method: "GET",
            authority: None,
            path: &path,
            query: None,
            headers: &NoHeaders,
            tokens: &NoTokens,
            source_platform: None,
            now: Timestamp(0),
        };
        compiled.authorize_request(caller, &request).passes()
    }

    proptest! {
        #[test]
        fn p5_whoever_passes_under_a_restraint_passes_by_both(one in any_policy(), other in any_policy()) {
            let both = one.clone().restrained_by(other.clone());
            for caller in ["web", "shop", "far/web"] {
                let caller = Caller::Service(caller.parse().unwrap());
                let destination: ServiceKey = "api".parse().unwrap();
                for passes in [connects, requests] {
                    let each = [&one, &other].map(|policy| passes(policy, &caller, &destination));
                    prop_assert_eq!(passes(&both, &caller, &destination), each == [true, true]);
                }
            }
        }
    }

    #[test]
    fn p5_what_is_decided_for_each_request_by_one_is_not_let_through_at_once_by_both() {
        let destination: ServiceKey = "api".parse().unwrap();
        let web = Caller::Service("web".parse().unwrap());
        let plain = Policy::new(Action::Allow, Vec::new(), Vec::new());
        let mut asking = intention("allow web api");
        asking.effect = crate::Effect::Permissions(Vec::new());
        let asking = Policy::new(Action::Deny, Vec::new(), vec![asking]);
        let of_requests = plain.judges_requests();
        assert!(!of_requests && asking.judges_requests());
        for both in [plain.clone().restrained_by(asking.clone()), asking.restrained_by(plain)] {
            assert_eq!(authorize(&both, &web, &destination, Timestamp(0)).decision, Decision::PerRequest);
            assert!(both.judges_requests() && !requests(&both, &web, &destination));
        }
    }
}
