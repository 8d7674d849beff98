//! What makes a token count: its form, its signature by a key of its issuer, its times, issuer and audience.

use std::time::Duration;

use catalog::{JwtAlgorithm, Timestamp};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::errors::{Error as JwtError, ErrorKind};
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::keys::KeySet;

/// The longest token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The last second of the year 9999: later is no date.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Says which tokens count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// The one issuer, compared letter by letter.
    pub issuer: String,
    /// The audiences of which a token must name one; empty where any counts, and none.
    pub audiences: Vec<String>,
    /// The algorithms that a signature may have.
    pub algorithms: Vec<JwtAlgorithm>,
    /// How far the issuer's clock may be away.
    pub clock_skew: Duration,
}

/// Says why a token does not count. No text repeats any of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It is longer than anything that is read.
    #[error("it has {bytes} bytes, and at most {TOKEN_BYTES_MAX} are read")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// It is no token.
    #[error("{0}")]
    Malformed(&'static str),
    /// Its header would bring keys or rules of its own.
    #[error("its header carries `{0}`, which is not taken")]
    Carries(&'static str),
    /// It is signed in a way that is not asked for.
    #[error("it is signed by {found:?}; this method takes {taken}")]
    Algorithm {
        /// How it says that it is signed.
        found: Algorithm,
        /// What is taken.
        taken: String,
    },
    /// No key of the issuer's made its signature.
    #[error("none of the issuer's keys made its signature")]
    UnknownKey,
    /// The key that it names did not make its signature.
    #[error("its signature is not of the key that it names")]
    Signature,
    /// Somebody else issued it.
    #[error("it is of another issuer")]
    Issuer,
    /// It is made for somebody else.
    #[error("it is made for another audience")]
    Audience,
    /// It has ended.
    #[error("it has expired: get a new one from the platform")]
    Expired,
    /// It does not count yet.
    #[error("its time has not come (`{0}`): compare this machine's clock with the issuer's")]
    NotYet(&'static str),
    /// A claim is missing, or of another type.
    #[error("its `{claim}` is {problem}")]
    Claim {
        /// Which.
        claim: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl TokenFault {
    /// Returns the word that metrics, logs and answers use.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "token_too_long",
            Self::Malformed(_) | Self::Carries(_) | Self::Claim { .. } => "token_malformed",
            Self::Algorithm { .. } => "token_algorithm",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Expired => "token_expired",
            Self::NotYet(_) => "token_not_yet",
        }
    }
}

/// Is a token that counts.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedToken {
    /// What it says.
    pub claims: Map<String, Value>,
    /// The same as it stands in the token: Base64 for addresses, without padding.
    pub payload: String,
    /// From when on it counts, the skew given away; the epoch where it does not say.
    pub begins: Timestamp,
    /// Until when it counts, the skew given away.
    pub ends: Timestamp,
}

/// Is a token whose header was read and believed in nothing.
#[derive(Debug, Clone)]
pub struct UnprovedToken<'t> {
    text: &'t str,
    key_id: Option<String>,
    algorithm: JwtAlgorithm,
}

impl TokenRules {
    /// Reads the header of a token: what costs nothing to look at.
    ///
    /// # Errors
    ///
    /// [`TokenFault`] if it cannot count, whatever the keys. What would name keys or rules of its own is refused, used or not.
    pub fn read<'t>(&self, text: &'t str) -> Result<UnprovedToken<'t>, TokenFault> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::TooLong { bytes: text.len() });
        }
        if text.split('.').count() != 3 {
            return Err(TokenFault::Malformed("it is no JSON Web Token: that has three parts"));
        }
        let unread = "its header cannot be read, or names an algorithm that nobody may use";
        let header = decode_header(text).map_err(|_| TokenFault::Malformed(unread))?;
        if let Some(name) = carried(&header) {
            return Err(TokenFault::Carries(name));
        }
        let algorithm = self.algorithms.iter().copied().find(|algorithm| library(*algorithm) == header.alg);
        let algorithm = algorithm.ok_or_else(|| {
            let names: Vec<&str> = self.algorithms.iter().map(|algorithm| algorithm.name()).collect();
            TokenFault::Algorithm { found: header.alg, taken: names.join(", ") }
        })?;
        Ok(UnprovedToken { text, key_id: header.kid, algorithm })
    }

    /// Checks a token with the keys that are known; none if there is no key for it, and a newer set may have one.
    ///
    /// # Errors
    ///
    /// [`TokenFault`] if it does not count.
    pub fn check(
        &self,
        token: &UnprovedToken<'_>,
        keys: &KeySet,
        now: Timestamp,
    ) -> Result<Option<VerifiedToken>, TokenFault> {
        let mut validation = Validation::new(library(token.algorithm));
        let required: &[&str] = if self.audiences.is_empty() { &["exp", "iss"] } else { &["exp", "iss", "aud"] };
        validation.set_required_spec_claims(required);
        validation.set_issuer(&[&self.issuer]);
        validation.validate_aud = !self.audiences.is_empty();
        validation.set_audience(&self.audiences);
        // Times are judged below, by the clock that the caller gives, and strictly.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let mut was_tried = false;
        for key in keys.candidates(token.key_id.as_deref(), token.algorithm) {
            match decode::<Map<String, Value>>(token.text, &key.key, &validation) {
                Ok(data) => return self.judge(data.claims, token.payload(), now).map(Some),
                Err(error) if is_of_another_key(&error) => was_tried = true,
                Err(error) => return Err(fault(&error)),
            }
        }
        // Without a key id, all keys were tried: there is none to look for.
        if was_tried && token.key_id.is_some() { Err(TokenFault::Signature) } else { Ok(None) }
    }

    /// Judges the times strictly, as whole seconds, as numbers, of this age of the world; and the issuer once more.
    fn judge(&self, claims: Map<String, Value>, payload: &str, now: Timestamp) -> Result<VerifiedToken, TokenFault> {
        let seconds = |claim: &'static str| match claims.get(claim) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|seconds| *seconds <= SECONDS_MAX) {
                Some(seconds) => Ok(Some(Timestamp(seconds * 1000))),
                None => Err(TokenFault::Claim { claim: claim.to_owned(), problem: "no number of seconds" }),
            },
        };
        let missing = || TokenFault::Claim { claim: "exp".to_owned(), problem: "missing" };
        let ends = seconds("exp")?.ok_or_else(missing)?.saturating_add(self.clock_skew);
        if now >= ends {
            return Err(TokenFault::Expired);
        }
        let mut begins = Timestamp::default();
        for claim in ["nbf", "iat"] {
            let begin = seconds(claim)?.unwrap_or_default();
            if now.saturating_add(self.clock_skew) < begin {
                return Err(TokenFault::NotYet(claim));
            }
            begins = begins.max(begin.saturating_sub(self.clock_skew));
        }
        if claims.get("iss").and_then(Value::as_str) != Some(self.issuer.as_str()) {
            return Err(TokenFault::Issuer);
        }
        Ok(VerifiedToken { claims, payload: payload.to_owned(), begins, ends })
    }
}

impl UnprovedToken<'_> {
    fn payload(&self) -> &str {
        self.text.split('.').nth(1).unwrap_or_default()
    }

    /// Returns the issuer that the token names, if it does so in a text; nothing vouches for that yet.
    #[must_use]
    pub fn issuer(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Named {
            iss: Option<Value>,
        }
        let payload = BASE64URL_NOPAD.decode(self.payload().as_bytes()).ok()?;
        match serde_json::from_slice::<Named>(&payload).ok()?.iss {
            Some(Value::String(issuer)) => Some(issuer),
            _ => None,
        }
    }

    /// Reports whether one of the keys may have made its signature.
    #[must_use]
    pub fn may_be_of(&self, keys: &KeySet) -> bool {
        keys.candidates(self.key_id.as_deref(), self.algorithm).next().is_some()
    }
}

/// Returns what a header brings along that nobody takes from a token.
fn carried(header: &Header) -> Option<&'static str> {
    let carried = [
        ("jku", header.jku.is_some()),
        ("jwk", header.jwk.is_some()),
        ("x5u", header.x5u.is_some()),
        ("x5c", header.x5c.is_some()),
        ("crit", header.crit.is_some()),
        ("enc", header.enc.is_some()),
        ("zip", header.zip.is_some()),
    ];
    carried.iter().find(|(_, is_there)| *is_there).map(|(name, _)| *name)
}

fn is_of_another_key(error: &JwtError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidSignature
            | ErrorKind::InvalidAlgorithm
            | ErrorKind::InvalidKeyFormat
            | ErrorKind::InvalidEcdsaKey
    )
}

/// Says what is wrong in our own words: the library's may repeat the token.
fn fault(error: &JwtError) -> TokenFault {
    let claim = |claim: &str, problem| TokenFault::Claim { claim: claim.to_owned(), problem };
    match error.kind() {
        ErrorKind::InvalidIssuer => TokenFault::Issuer,
        ErrorKind::InvalidAudience => TokenFault::Audience,
        ErrorKind::MissingRequiredClaim(name) => claim(name, "missing, or of another type"),
        ErrorKind::InvalidClaimFormat(name) => claim(name, "of another type"),
        _ => TokenFault::Malformed("it cannot be read"),
    }
}

fn library(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::RS256 => Algorithm::RS256,
        JwtAlgorithm::RS384 => Algorithm::RS384,
        JwtAlgorithm::RS512 => Algorithm::RS512,
        JwtAlgorithm::PS256 => Algorithm::PS256,
        JwtAlgorithm::PS384 => Algorithm::PS384,
        JwtAlgorithm::PS512 => Algorithm::PS512,
        JwtAlgorithm::ES256 => Algorithm::ES256,
        JwtAlgorithm::ES384 => Algorithm::ES384,
        JwtAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}
