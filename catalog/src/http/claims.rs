//! What a rule asks of a request's token.

use serde_json::{Map, Value};

use super::decide::Match;
use crate::{JwtRequirement, VerifyClaim, http::Undecidable};

/// Says what is known of the token that a request carries for a provider.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TokenState<'a> {
    /// The provider issued it, and this is what it says.
    Valid(&'a Map<String, Value>),
    /// The request has none, or one that is refused.
    Missing,
    /// It cannot be judged: the provider is not known here, or its keys are not.
    Unknown,
}

/// Judges the tokens of a request.
pub trait Tokens {
    /// Returns what is known of the token that the provider of this name issued.
    fn of(&self, provider: &str) -> TokenState<'_>;
}

/// Holds a request's tokens against what a rule asks: one of the providers must have issued one, and it must say all that is
/// asked of it.
pub(super) fn judge<T: Tokens + ?Sized>(requirement: &JwtRequirement, tokens: &T) -> Match {
    if requirement.providers.is_empty() {
        return Match::Unknown(Undecidable::Provider);
    }
    let mut outcome = Match::No;
    for provider in &requirement.providers {
        match tokens.of(&provider.name) {
            TokenState::Valid(claims) if provider.verify_claims.iter().all(|claim| holds(claim, claims)) => {
                return Match::Yes;
            }
            TokenState::Valid(_) | TokenState::Missing => {}
            TokenState::Unknown => outcome = Match::Unknown(Undecidable::Provider),
        }
    }
    outcome
}

/// Reports whether the claim equals the value, or is a list that holds it.
fn holds(claim: &VerifyClaim, claims: &Map<String, Value>) -> bool {
    let Some((first, rest)) = claim.path.split_first() else { return false };
    let found = rest.iter().try_fold(claims.get(first), |value, step| match value {
        Some(Value::Object(map)) => Some(map.get(step)),
        _ => None,
    });
    match found.flatten() {
        Some(Value::String(text)) => *text == claim.value,
        Some(Value::Array(list)) => list.iter().any(|one| one.as_str() == Some(&claim.value)),
        _ => false,
    }
}
