//! The `jwt` method: an issuer's signature says who somebody is.

use std::collections::BTreeMap;

use catalog::{JwtConfig, LoginClaims, Timestamp};
use serde_json::{Map, Value};
use tokio::time::Instant;
use wire::crypto::Secret;
use wire::jwt::{Freshness, KeySource, KeysUnavailable, TokenFault, TokenRules, UnprovedToken, VerifiedToken};
use wire::login::{Credential, LoginContext, LoginError, LoginMethod, Verification, VerifiedIdentity, signed_part};
use wire::web::Reach;

/// The longest value of a claim that is taken, and the most values in a list.
const CLAIM_BYTES_MAX: usize = 1024;
const LIST_MAX: usize = 256;
/// The longest subject that is kept.
const SUBJECT_CHARS_MAX: usize = 128;

/// Checks JSON Web Tokens of one issuer.
#[derive(Debug)]
pub(super) struct JwtMethod {
    config: JwtConfig,
    rules: TokenRules,
    source: KeySource,
}

impl JwtMethod {
    /// Reads the keys, or gets ready to fetch them.
    pub(super) fn new(config: JwtConfig) -> Result<Self, LoginError> {
        Self::reaching(config, Reach::Others)
    }

    pub(super) fn reaching(config: JwtConfig, reach: Reach) -> Result<Self, LoginError> {
        let source =
            KeySource::new(&config.keys, &config.issuer, reach, Freshness::default(), None).map_err(unavailable)?;
        let rules = TokenRules {
            issuer: config.issuer.clone(),
            audiences: config.audiences.clone(),
            algorithms: config.algorithms.clone(),
            clock_skew: config.clock_skew,
        };
        Ok(Self { config, rules, source })
    }

    async fn check(&self, bearer: &Secret, now: Timestamp) -> Result<VerifiedIdentity, LoginError> {
        let token = self.rules.read(bearer.expose().trim()).map_err(rejected)?;
        let VerifiedToken { claims, ends, .. } = self.verified(&token, now).await?;
        Ok(VerifiedIdentity { claims: self.mapped(&claims)?, ends })
    }

    /// Checks the signature. A key id that nobody knows may be a new one, for which the issuer is asked once.
    async fn verified(&self, token: &UnprovedToken<'_>, now: Timestamp) -> Result<VerifiedToken, LoginError> {
        let unknown_key = || rejected(TokenFault::UnknownKey);
        let remote = match &self.source {
            KeySource::Fixed(keys) => {
                return self.rules.check(token, keys, now).map_err(rejected)?.ok_or_else(unknown_key);
            }
            KeySource::Remote(remote) => remote,
        };
        let mut newer_than: Option<Instant> = None;
        for _ in 0..2 {
            let (keys, at) = remote.get(newer_than).await.map_err(unavailable)?;
            if let Some(verified) = self.rules.check(token, &keys, now).map_err(rejected)? {
                return Ok(verified);
            }
            newer_than = Some(at);
        }
        Err(unknown_key())
    }

    /// Names the claims as the method's mappings do.
    fn mapped(&self, claims: &Map<String, Value>) -> Result<LoginClaims, LoginError> {
        let unfit = |claim: &str, what: &str| LoginError::rejected(format!("its claim `{claim}` is {what}"));
        let mut values = BTreeMap::new();
        for (claim, variable) in &self.config.claims {
            let Some(value) = find(claims, claim) else { continue };
            let text = scalar(value).ok_or_else(|| unfit(claim, "neither text, number nor boolean, or too long"))?;
            values.insert(variable.clone(), text);
        }
        let mut lists = BTreeMap::new();
        for (claim, variable) in &self.config.list_claims {
            let Some(value) = find(claims, claim) else { continue };
            let list: Option<Vec<String>> = match value {
                Value::Array(entries) if entries.len() <= LIST_MAX => entries.iter().map(scalar).collect(),
                Value::Array(_) => None,
                one => scalar(one).map(|one| vec![one]),
            };
            lists.insert(variable.clone(), list.ok_or_else(|| unfit(claim, "no list of texts, or too long"))?);
        }
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or("(no subject)");
        let subject = subject.chars().take(SUBJECT_CHARS_MAX).flat_map(char::escape_debug).collect();
        Ok(LoginClaims { subject, values, lists, ..LoginClaims::default() })
    }
}

impl LoginMethod for JwtMethod {
    fn glance(&self, credential: &Credential) -> Result<(), LoginError> {
        let token = self.rules.read(credential.bearer.expose().trim()).map_err(rejected)?;
        // Where the issuer may be asked for new keys, one that nobody knows may be among them.
        let is_possible = self.source.all_there_are(Instant::now()).is_none_or(|keys| token.may_be_of(&keys));
        if is_possible { Ok(()) } else { Err(rejected(TokenFault::UnknownKey)) }
    }

    fn verify<'a>(&'a self, credential: &'a Credential, context: LoginContext<'a>) -> Verification<'a> {
        Box::pin(self.check(&credential.bearer, context.now))
    }

    fn known_by<'a>(&self, credential: &'a Credential) -> &'a str {
        signed_part(&credential.bearer)
    }
}

fn rejected(fault: TokenFault) -> LoginError {
    LoginError::rejected(fault.to_string())
}

fn unavailable(error: KeysUnavailable) -> LoginError {
    LoginError::unavailable(error.reason)
}

/// Finds a claim by its name, or by a JSON pointer (RFC 6901).
fn find<'a>(claims: &'a Map<String, Value>, claim: &str) -> Option<&'a Value> {
    let found = match claim.strip_prefix('/') {
        Some(pointer) => {
            let (first, rest) = pointer.split_at(pointer.find('/').unwrap_or(pointer.len()));
            claims.get(&first.replace("~1", "/").replace("~0", "~")).and_then(|value| value.pointer(rest))
        }
        None => claims.get(claim),
    };
    found.filter(|value| !value.is_null())
}

fn scalar(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    (text.len() <= CLAIM_BYTES_MAX).then_some(text)
}

#[cfg(test)]
mod tests;
