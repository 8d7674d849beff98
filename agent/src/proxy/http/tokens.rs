//! The tokens of one request: each judged when a rule first asks for it, and once.

use std::cell::OnceCell;
use std::sync::Arc;

use catalog::Timestamp;
use catalog::http::{TokenState, Tokens};
use http::StatusCode;
use http::header::HeaderMap;
use tokio::time::Instant;
use wire::jwt::{TokenFault, VerifiedToken};

use super::provider::{Judged, Provider, TokenRefused};
use crate::proxy::refusal::Refusal;

/// Is a token that counted when its request was let in.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    /// Whose it is.
    pub(crate) provider: Arc<Provider>,
    /// What it says.
    pub(crate) token: Arc<VerifiedToken>,
}

/// Is a provider whose keys have to be waited for, and what they must be newer than.
pub(crate) type Wanted = (Arc<Provider>, Option<Instant>);

/// Judges the tokens of one request.
pub(crate) struct RequestTokens<'r> {
    providers: &'r [Arc<Provider>],
    headers: &'r HeaderMap,
    query: Option<&'r str>,
    now: Timestamp,
    /// Whether keys were waited for already.
    is_last: bool,
    /// What counted when the request was let in: what ended since closes nothing.
    accepted: &'r [Accepted],
    judged: Box<[OnceCell<Judged>]>,
}

impl<'r> RequestTokens<'r> {
    /// Looks at nothing yet. Without providers it costs nothing.
    pub(crate) fn new(
        providers: &'r [Arc<Provider>],
        headers: &'r HeaderMap,
        query: Option<&'r str>,
        now: Timestamp,
        is_last: bool,
    ) -> Self {
        let judged = providers.iter().map(|_| OnceCell::new()).collect();
        Self { providers, headers, query, now, is_last, accepted: &[], judged }
    }

    /// Judges a request that was let in with these tokens.
    pub(crate) fn of_open(self, accepted: &'r [Accepted]) -> Self {
        Self { accepted, ..self }
    }

    fn judge(&self, provider: &Arc<Provider>) -> Judged {
        let held = self.accepted.iter().find(|held| held.provider.trusts_as(provider));
        match held {
            Some(held) => Judged::Valid(Arc::clone(&held.token)),
            None => provider.judge(self.headers, self.query, self.now, self.is_last),
        }
    }

    fn looked_at(&self) -> impl Iterator<Item = (&Arc<Provider>, &Judged)> {
        self.providers.iter().zip(&self.judged).filter_map(|(provider, judged)| Some((provider, judged.get()?)))
    }

    /// Reports whether the request is decided again when keys have come.
    pub(crate) fn may_wait(&self) -> bool {
        !self.is_last && self.looked_at().any(|(_, judged)| matches!(judged, Judged::Wanting(_)))
    }

    /// Returns the providers whose keys would have to be had before the request can be decided.
    pub(crate) fn wanting(&self) -> Vec<Wanted> {
        let wanting = self.looked_at().filter_map(|(provider, judged)| match judged {
            Judged::Wanting(newer_than) => Some((Arc::clone(provider), *newer_than)),
            _ => None,
        });
        wanting.collect()
    }

    /// Returns the tokens that rules asked for and that count.
    pub(crate) fn accepted(&self) -> Vec<Accepted> {
        let accepted = self.looked_at().filter_map(|(provider, judged)| match judged {
            Judged::Valid(token) => Some(Accepted { provider: Arc::clone(provider), token: Arc::clone(token) }),
            _ => None,
        });
        accepted.collect()
    }

    /// Says why a rule did not find the token that it asks for.
    ///
    /// Whoever has none, or one that does not count, may come back with another (401); whoever has one that counts and does
    /// not say what is asked, or is made for somebody else, may not (403).
    pub(crate) fn refusal(&self, rule: String) -> Refusal {
        let mut lacks_claims = None;
        for (provider, judged) in self.looked_at() {
            match judged {
                Judged::Refused(refused) if !matches!(refused, TokenRefused::Fault(TokenFault::Issuer)) => {
                    let is_for_another = matches!(refused, TokenRefused::Fault(TokenFault::Audience));
                    let status = if is_for_another { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
                    return Refusal::Token {
                        label: refused.label(),
                        status,
                        is_invalid: true,
                        rule,
                        why: format!("the token for `{}` does not count: {refused}", provider.name()),
                    };
                }
                Judged::Valid(_) => lacks_claims = Some(provider),
                _ => {}
            }
        }
        if let Some(provider) = lacks_claims {
            let why = format!("the token for `{}` does not say what is asked", provider.name());
            return Refusal::Token {
                label: "token_claims",
                status: StatusCode::FORBIDDEN,
                is_invalid: false,
                rule,
                why,
            };
        }
        let is_of_another = self.looked_at().any(|(_, judged)| matches!(judged, Judged::Refused(_)));
        let (label, why) = if is_of_another {
            ("token_issuer", "the token is of an issuer that the rule does not name")
        } else {
            ("no_token", "the request carries no token")
        };
        let why = why.to_owned();
        Refusal::Token { label, status: StatusCode::UNAUTHORIZED, is_invalid: is_of_another, rule, why }
    }
}

impl Tokens for RequestTokens<'_> {
    fn of(&self, name: &str) -> TokenState<'_> {
        let known = self.providers.iter().zip(&self.judged).find(|(provider, _)| provider.name() == name);
        let Some((provider, judged)) = known else { return TokenState::Unknown };
        match judged.get_or_init(|| self.judge(provider)) {
            Judged::Valid(token) => TokenState::Valid(&token.claims),
            Judged::Missing | Judged::Refused(_) => TokenState::Missing,
            Judged::Wanting(_) | Judged::Unknown => TokenState::Unknown,
        }
    }
}
