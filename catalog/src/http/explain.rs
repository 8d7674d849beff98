//! Why a request passes or does not: the verdict, and what became of every rule that might have decided.

use std::fmt;

use super::{
    CompiledPolicy, DefaultCause, Headers, Request, RequestRule, RequestVerdict, Tokens, Undecidable,
    compile::{CompiledIntention, CompiledPermission},
};
use crate::{
    Action, Caller, CandidateOutcome, Intention,
    authorize::{is_live, source_matches},
};

/// Says what a condition of a permission a request does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss<'p> {
    /// The method is another.
    Method,
    /// It does not count at this hour.
    Times,
    /// The header is not as the permission has it.
    Header {
        /// The header's name.
        name: &'p str,
    },
    /// The caller runs on something else.
    SourcePlatform,
    /// The path is another.
    Path,
}

/// Says what became of one permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PermissionOutcome<'p> {
    /// It decided.
    Decided,
    /// It was chosen, and the request does not have the token that is asked for: it got the default.
    NoToken,
    /// It was reached, and could be decided neither way.
    Undecidable(Undecidable),
    /// It does not match.
    Missed(Miss<'p>),
    /// One before it was chosen.
    NotReached,
}

impl fmt::Display for PermissionOutcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decided => f.write_str("decided"),
            Self::NoToken => f.write_str("chosen, but the request does not have the token that is asked for"),
            Self::Undecidable(why) => write!(f, "cannot be decided: {why}"),
            Self::Missed(Miss::Method) => f.write_str("the method is another"),
            Self::Missed(Miss::Times) => f.write_str("it does not count at this hour"),
            Self::Missed(Miss::Header { name }) => write!(f, "header `{name}` is not as it says"),
            Self::Missed(Miss::SourcePlatform) => f.write_str("the caller runs on something else"),
            Self::Missed(Miss::Path) => f.write_str("the path is another"),
            Self::NotReached => f.write_str("one before it was chosen"),
        }
    }
}

/// Is an intention toward the destination, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeighedIntention<'p> {
    /// The intention.
    pub intention: &'p Intention,
    /// What became of it.
    pub outcome: CandidateOutcome,
    /// What it says of the request, or would say if it were asked; none where it does not speak of the caller.
    pub says: Option<(Action, RequestRule<'p>)>,
    /// What became of its permissions, or would; empty where it has none or does not speak of the caller.
    pub permissions: Vec<PermissionOutcome<'p>>,
}

/// Is a verdict on a request with everything that was weighed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestExplanation<'p> {
    /// The decision and the rule behind it.
    pub verdict: RequestVerdict<'p>,
    /// The intentions whose destination covers the service, in the order in which they are tried.
    pub intentions: Vec<WeighedIntention<'p>>,
}

impl RequestExplanation<'_> {
    /// Returns the intention that would decide if the one that does were not there.
    #[must_use]
    pub fn runner_up(&self) -> Option<&WeighedIntention<'_>> {
        self.intentions.iter().find(|one| one.outcome == CandidateOutcome::Outranked)
    }
}

impl CompiledPolicy {
    /// Explains what [`authorize_request`](Self::authorize_request) answers.
    #[must_use]
    pub fn explain_request<H: Headers + ?Sized, T: Tokens + ?Sized>(
        &self,
        caller: &Caller,
        request: &Request<'_, H, T>,
    ) -> RequestExplanation<'_> {
        let verdict = self.authorize_request(caller, request);
        let is_barred = matches!(verdict.rule, RequestRule::Guardrail { .. } | RequestRule::Unauthenticated);
        let mut is_decided = is_barred;
        let weighed = self.intentions.iter().map(|one| {
            let intention = &one.intention;
            let outcome = if !source_matches(&intention.source, caller) {
                CandidateOutcome::OtherSource
            } else if !is_live(intention, request.now) {
                CandidateOutcome::Expired
            } else if std::mem::replace(&mut is_decided, true) {
                CandidateOutcome::Outranked
            } else {
                CandidateOutcome::Decided
            };
            let is_asked = matches!(outcome, CandidateOutcome::Decided | CandidateOutcome::Outranked);
            let says = is_asked.then(|| self.judge(one, request));
            let permissions = says.map(|(_, rule)| outcomes(one, rule, request)).unwrap_or_default();
            WeighedIntention { intention, outcome, says, permissions }
        });
        RequestExplanation { verdict, intentions: weighed.collect() }
    }
}

/// Says what became of an intention's permissions, of which the rule names the one that was chosen.
fn outcomes<'p, H: Headers + ?Sized, T: Tokens + ?Sized>(
    weighed: &'p CompiledIntention,
    rule: RequestRule<'_>,
    request: &Request<'_, H, T>,
) -> Vec<PermissionOutcome<'p>> {
    let (chosen, outcome) = match rule {
        RequestRule::Intention { permission, .. } => (permission, PermissionOutcome::Decided),
        RequestRule::Default { cause: DefaultCause::Token { permission, .. }, .. } => {
            (permission, PermissionOutcome::NoToken)
        }
        RequestRule::Undecidable { permission, why, .. } => (permission, PermissionOutcome::Undecidable(why)),
        _ => (None, PermissionOutcome::NotReached),
    };
    let tell = |(at, permission): (usize, &'p CompiledPermission)| match chosen {
        Some(chosen) if at == chosen => outcome,
        Some(chosen) if at > chosen => PermissionOutcome::NotReached,
        _ => permission.weigh(request).err().map_or(PermissionOutcome::NotReached, PermissionOutcome::Missed),
    };
    weighed.permissions.iter().enumerate().map(tell).collect()
}
