//! The one answer to "may this request pass?".

use std::fmt;

use super::{CompiledPolicy, Headers, Request, Tokens, claims, compile::CompiledIntention};
use crate::{Action, AuditCause, Caller, Effect, IntentionKey, Timestamp, authorize::is_live};

/// Says what a condition has to say of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    No,
    Yes,
    Unknown(Undecidable),
}

impl From<bool> for Match {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

impl Match {
    /// Holds if both do; fails if one surely does.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Unknown(why), _) | (_, Self::Unknown(why)) => Self::Unknown(why),
            (Self::Yes, Self::Yes) => Self::Yes,
        }
    }
}

/// Says why a rule can be decided neither way, so that the request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Undecidable {
    /// The intention has permissions, and they are none.
    NoPermissions,
    /// A part of the permission cannot be carried out.
    Permission,
    /// The path has parameters, which applications read differently.
    PathParameters,
    /// The caller's certificate does not say what it runs on.
    SourcePlatform,
    /// The provider of the token is not known here, or its keys are not.
    Provider,
    /// A token is asked for while the default is allow, so that a request without one would pass all the same.
    JwtUnderDefaultAllow,
}

impl Undecidable {
    /// Returns the word that metrics and logs use.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NoPermissions => "no-permissions",
            Self::Permission => "broken-permission",
            Self::PathParameters => "path-parameters",
            Self::SourcePlatform => "unknown-platform",
            Self::Provider => "unknown-provider",
            Self::JwtUnderDefaultAllow => "jwt-under-default-allow",
        }
    }
}

impl fmt::Display for Undecidable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPermissions => "it has no permissions and no action",
            Self::Permission => "a part of the permission cannot be carried out",
            Self::PathParameters => "the path has parameters (`;`)",
            Self::SourcePlatform => "the caller's certificate does not say what it runs on",
            Self::Provider => "the provider of the token or its keys are not known here",
            Self::JwtUnderDefaultAllow => "it asks for a token while the default is allow",
        })
    }
}

/// Says why a request gets the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultCause<'p> {
    /// No intention speaks of the caller.
    NoIntention,
    /// The intention that does has no permission for the request. The next intention is never asked.
    NoPermission {
        /// The intention.
        key: &'p IntentionKey,
    },
    /// The rule that does asks for a token that the request does not have.
    Token {
        /// The intention.
        key: &'p IntentionKey,
        /// The permission's place in it, from 0; none where the intention has an action.
        permission: Option<usize>,
    },
}

/// Names the rule that decided a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestRule<'p> {
    /// The caller proved no identity.
    Unauthenticated,
    /// A guardrail refused it.
    Guardrail {
        /// The guardrail's name.
        name: &'p str,
    },
    /// An intention decided.
    Intention {
        /// The intention.
        key: &'p IntentionKey,
        /// The permission's place in it, from 0; none where the intention has an action.
        permission: Option<usize>,
    },
    /// The default did.
    Default {
        /// The default.
        action: Action,
        /// Why no rule did.
        cause: DefaultCause<'p>,
    },
    /// A rule that can be decided neither way was reached.
    Undecidable {
        /// The intention.
        key: &'p IntentionKey,
        /// The permission's place in it, from 0; none where the intention as a whole cannot be decided.
        permission: Option<usize>,
        /// Why not.
        why: Undecidable,
    },
}

impl fmt::Display for RequestRule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |f: &mut fmt::Formatter<'_>, key: &IntentionKey, permission: &Option<usize>| {
            write!(f, "intention {key}, precedence {}", key.precedence())?;
            permission.map_or(Ok(()), |at| write!(f, ", permissions[{at}]"))
        };
        match self {
            Self::Unauthenticated => f.write_str("the caller proved no identity"),
            Self::Guardrail { name } => write!(f, "guardrail `{name}`"),
            Self::Intention { key, permission } => place(f, key, permission),
            Self::Default { action, cause: DefaultCause::NoIntention } => {
                write!(f, "no intention matches; the default is {action}")
            }
            Self::Default { action, cause: DefaultCause::NoPermission { key } } => {
                write!(f, "no permission of intention {key} matches; the default is {action}")
            }
            Self::Default { action, cause: DefaultCause::Token { key, permission } } => {
                place(f, key, permission)?;
                write!(f, " asks for a token that the request does not have; the default is {action}")
            }
            Self::Undecidable { key, permission, why } => {
                place(f, key, permission)?;
                write!(f, " cannot be decided: {why}")
            }
        }
    }
}

/// Is what may happen to a request, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestVerdict<'p> {
    /// Whether it is allowed.
    pub decision: Action,
    /// Which rule decided.
    pub rule: RequestRule<'p>,
    /// Why a denial is only to be logged and counted; none where it is to be carried out.
    pub audit: Option<&'p AuditCause>,
}

impl RequestVerdict<'_> {
    /// Reports whether the request goes on to the application.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.decision == Action::Allow || self.audit.is_some()
    }
}

static INTENTION_AUDITED: AuditCause = AuditCause::Intention;

impl CompiledPolicy {
    /// Decides whether a request of `caller` may pass. Copies nothing and allocates nothing.
    ///
    /// Guardrails first, then the live intention with the highest precedence, as for a connection. Its first permission that
    /// matches the request decides, tokens apart: where the token that it asks for is not there, or where no permission
    /// matches, the request gets the default, never the next intention. What cannot be decided is refused, audited or not.
    #[must_use]
    pub fn authorize_request<H: Headers + ?Sized, T: Tokens + ?Sized>(
        &self,
        caller: &Caller,
        request: &Request<'_, H, T>,
    ) -> RequestVerdict<'_> {
        let verdict = self.unrestrained(caller, request);
        match &self.restraint {
            Some(restraint) if verdict.passes() => {
                let other = restraint.authorize_request(caller, request);
                if other.passes() { verdict } else { other }
            }
            _ => verdict,
        }
    }

    /// Decides by the policy's own rules.
    fn unrestrained<H: Headers + ?Sized, T: Tokens + ?Sized>(
        &self,
        caller: &Caller,
        request: &Request<'_, H, T>,
    ) -> RequestVerdict<'_> {
        let refused = |rule| RequestVerdict { decision: Action::Deny, rule, audit: None };
        if *caller == Caller::Unauthenticated {
            return refused(RequestRule::Unauthenticated);
        }
        if let Some(at) = self.guardrail_sources.first(caller, |_| true) {
            return refused(RequestRule::Guardrail { name: &self.guardrails[at].name });
        }
        let winner = self
            .intention_sources
            .first(caller, |at| is_live(&self.intentions[at].intention, request.now))
            .map(|at| &self.intentions[at]);
        let (decision, rule) = match winner {
            Some(winner) => self.judge(winner, request),
            None => self.default_for(DefaultCause::NoIntention),
        };
        if decision == Action::Allow || matches!(rule, RequestRule::Undecidable { .. }) {
            return RequestVerdict { decision, rule, audit: None };
        }
        RequestVerdict { decision, rule, audit: self.audit_cause(caller, winner, request.now) }
    }

    fn default_for<'p>(&'p self, cause: DefaultCause<'p>) -> (Action, RequestRule<'p>) {
        (self.default_action, RequestRule::Default { action: self.default_action, cause })
    }

    /// Decides by the intention that captured the caller.
    pub(super) fn judge<'p, H: Headers + ?Sized, T: Tokens + ?Sized>(
        &'p self,
        winner: &'p CompiledIntention,
        request: &Request<'_, H, T>,
    ) -> (Action, RequestRule<'p>) {
        let key = &winner.key;
        let undecidable = |permission, why| (Action::Deny, RequestRule::Undecidable { key, permission, why });
        let (place, action, jwt) = match &winner.intention.effect {
            Effect::Action(action) => (None, *action, None),
            Effect::Permissions(_) if winner.permissions.is_empty() => {
                return undecidable(None, Undecidable::NoPermissions);
            }
            Effect::Permissions(_) => {
                let judged = winner.permissions.iter().map(|permission| permission.judge(request)).enumerate();
                match judged.into_iter().find(|(_, outcome)| *outcome != Match::No) {
                    None => return self.default_for(DefaultCause::NoPermission { key }),
                    Some((at, Match::Unknown(why))) => return undecidable(Some(at), why),
                    Some((at, _)) => {
                        let chosen = &winner.permissions[at];
                        (Some(at), chosen.action, chosen.jwt.as_ref())
                    }
                }
            }
        };
        let decided = (action, RequestRule::Intention { key, permission: place });
        let asked = [winner.intention.jwt.as_ref(), jwt];
        if action == Action::Deny || asked == [None, None] {
            return decided;
        }
        if self.default_action == Action::Allow {
            return undecidable(place, Undecidable::JwtUnderDefaultAllow);
        }
        let tokens = asked.into_iter().flatten().map(|requirement| claims::judge(requirement, request.tokens));
        match tokens.fold(Match::Yes, Match::and) {
            Match::Yes => decided,
            Match::No => self.default_for(DefaultCause::Token { key, permission: place }),
            Match::Unknown(why) => undecidable(place, why),
        }
    }

    /// Says why a denial is only to be logged and counted. Whoever is not of this mesh is never let through on trial.
    fn audit_cause(&self, caller: &Caller, winner: Option<&CompiledIntention>, now: Timestamp) -> Option<&AuditCause> {
        if !matches!(caller, Caller::Service(_)) {
            return None;
        }
        if winner.is_some_and(|winner| winner.intention.audit) {
            return Some(&INTENTION_AUDITED);
        }
        let relaxed = || self.relaxations.iter().find(|(one, _)| one.is_live(now)).map(|(_, cause)| cause);
        self.audited.as_ref().or_else(relaxed)
    }
}
