//! The one answer to "may this caller call that service?", which servers and agents share.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    Action, AuditCause, AuditMode, Effect, Guardrail, Intention, IntentionKey, Principal, Relaxation, ServiceKey,
    ServicePattern, SourcePattern, SpiffeId, Timestamp,
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
    /// Where denials are only logged and counted.
    #[serde(default)]
    pub audit: AuditMode,
    /// Where they are for a time.
    #[serde(default)]
    pub relaxations: Vec<Relaxation>,
    /// Rules that whoever passes must pass, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restraint: Option<Box<Policy>>,
}

impl Policy {
    /// Gathers rules into a policy; sorts the intentions.
    #[must_use]
    pub fn new(default_action: Action, guardrails: Vec<Guardrail>, mut intentions: Vec<Intention>) -> Self {
        intentions.sort_by(Intention::order);
        let (audit, relaxations) = (AuditMode::default(), Vec::new());
        Self { default_action, guardrails, intentions, audit, relaxations, restraint: None }
    }

    /// Returns the rule that refuses a caller of whom nothing is known, where a destination takes such callers: it matches no
    /// intention, but a guardrail on the destination or a deny of everybody cannot rule it out.
    #[must_use]
    pub fn refuses_unknown(&self, destination: &ServiceKey) -> Option<Reason> {
        if let Some(guardrail) = self.guardrails.iter().find(|rule| rule.destination.matches(destination)) {
            return Some(Reason::Guardrail { name: guardrail.name.clone() });
        }
        let everybody = SourcePattern::Service(ServicePattern::Any);
        let denies_everybody = |intention: &&Intention| {
            intention.source == everybody
                && intention.destination.matches(destination)
                && matches!(intention.effect, Effect::Action(Action::Deny))
        };
        if let Some(deny) = self.intentions.iter().find(denies_everybody) {
            return Some(Reason::Intention { key: deny.key(), precedence: deny.precedence() });
        }
        self.restraint.as_ref()?.refuses_unknown(destination)
    }

    /// Adds where denials are only logged and counted.
    #[must_use]
    pub fn with_audit(self, audit: AuditMode, relaxations: Vec<Relaxation>) -> Self {
        Self { audit, relaxations, ..self }
    }

    /// Reports whether some of it ends by itself, so that what was let through must be decided again as time goes by.
    #[must_use]
    pub fn ends_in_part(&self) -> bool {
        let ends = !self.relaxations.is_empty() || self.intentions.iter().any(Intention::ends_in_part);
        ends || self.restraint.as_deref().is_some_and(Self::ends_in_part)
    }

    /// Returns why denials toward `destination` are only logged and counted, whichever rule denies.
    fn audit_of(&self, destination: &ServiceKey, now: Timestamp) -> Option<AuditCause> {
        if self.audit.mesh {
            return Some(AuditCause::Mesh);
        }
        if self.audit.namespaces.contains(&destination.namespace) {
            return Some(AuditCause::Namespace);
        }
        let live = self.relaxations.iter().filter(|one| one.scope.covers(destination) && one.is_live(now));
        live.max_by_key(|one| one.ends_at)
            .map(|one| AuditCause::Relaxation { scope: one.scope.clone(), ends_at: one.ends_at })
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

impl Decision {
    /// Returns the decision as users write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::PerRequest => "per-request",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
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
    /// Why a denial is only to be logged and counted; none where it is to be carried out.
    pub audit: Option<AuditCause>,
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
/// (as Consul's intentions have it). Audit turns the denial of an intention into a logged one; it never touches a
/// guardrail, nor a caller that is not of this mesh.
#[must_use]
pub fn authorize(policy: &Policy, caller: &Caller, destination: &ServiceKey, now: Timestamp) -> Verdict {
    let verdict = unrestrained(policy, caller, destination, now);
    match &policy.restraint {
        Some(restraint) => verdict.or_narrower(authorize(restraint, caller, destination, now)),
        None => verdict,
    }
}

/// Decides by the policy's own rules.
fn unrestrained(policy: &Policy, caller: &Caller, destination: &ServiceKey, now: Timestamp) -> Verdict {
    let denied = |reason| Verdict { decision: Decision::Deny, reason, audit: None };
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
        let audit = audit_cause(policy, caller, destination, now, decision, None);
        return Verdict { decision, reason: Reason::Default { action: policy.default_action }, audit };
    };
    let decision = match (&winner.effect, &winner.jwt) {
        (Effect::Action(Action::Deny), _) => Decision::Deny,
        (Effect::Action(Action::Allow), None) => Decision::Allow,
        (Effect::Action(Action::Allow), Some(_)) | (Effect::Permissions(_), _) => Decision::PerRequest,
    };
    let reason = Reason::Intention { key: winner.key(), precedence: winner.precedence() };
    let audit = audit_cause(policy, caller, destination, now, decision, Some(winner));
    Verdict { decision, reason, audit }
}

/// Says why what is not allowed is only to be logged and counted. Whoever is not of this mesh is never let through on trial.
fn audit_cause(
    policy: &Policy,
    caller: &Caller,
    destination: &ServiceKey,
    now: Timestamp,
    decision: Decision,
    winner: Option<&Intention>,
) -> Option<AuditCause> {
    if decision == Decision::Allow || !matches!(caller, Caller::Service(_)) {
        return None;
    }
    if winner.is_some_and(|winner| winner.audit) {
        return Some(AuditCause::Intention);
    }
    policy.audit_of(destination, now)
}

#[cfg(test)]
mod tests;
