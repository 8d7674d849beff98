//! The `jwt` method: an issuer's signature says who somebody is.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalog::{JwtAlgorithm, JwtConfig, JwtKeys, LoginClaims, Timestamp};
use jsonwebtoken::errors::{Error as JwtError, ErrorKind};
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde_json::Value;
use tokio::time::Instant;
use wire::crypto::Secret;
use wire::login::{Credential, LoginContext, LoginError, LoginMethod, Verification, VerifiedIdentity};

use super::keys::KeySet;
use super::reach::Reach;
use super::remote::RemoteKeys;

/// The longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The longest value of a claim that is taken, and the most values in a list.
const CLAIM_BYTES_MAX: usize = 1024;
const LIST_MAX: usize = 256;
/// The longest subject that is kept.
const SUBJECT_CHARS_MAX: usize = 128;
/// The last second of the year 9999: later is no date.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Checks JSON Web Tokens of one issuer.
#[derive(Debug)]
pub(super) struct JwtMethod {
    config: JwtConfig,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Fixed(Arc<KeySet>),
    Remote(RemoteKeys),
}

impl JwtMethod {
    /// Reads the keys, or gets ready to fetch them.
    pub(super) fn new(config: JwtConfig) -> Result<Self, LoginError> {
        Self::reaching(config, Reach::Others)
    }

    pub(super) fn reaching(config: JwtConfig, reach: Reach) -> Result<Self, LoginError> {
        let unusable = |error: super::keys::KeysError| LoginError::unavailable(error.to_string());
        let source = match &config.keys {
            JwtKeys::Pem(texts) => Source::Fixed(Arc::new(KeySet::from_pem(texts).map_err(unusable)?)),
            JwtKeys::Set(text) => Source::Fixed(Arc::new(KeySet::from_jwks(text.as_bytes()).map_err(unusable)?)),
            keys @ (JwtKeys::Url { .. } | JwtKeys::Discovery { .. }) => {
                let remote = RemoteKeys::new(keys, &config.issuer, reach)?;
                Source::Remote(remote.ok_or_else(|| LoginError::unavailable("the method has no keys"))?)
            }
        };
        Ok(Self { config, source })
    }

    async fn check(&self, bearer: &Secret, now: Timestamp) -> Result<VerifiedIdentity, LoginError> {
        let token = bearer.expose().trim();
        let header = read_header(token)?;
        let algorithm = self.algorithm(&header)?;
        let claims = self.claims(token, &header, algorithm).await?;
        let ends = self.judge_times(&claims, now)?;
        if claims.get("iss").and_then(Value::as_str) != Some(self.config.issuer.as_str()) {
            return Err(LoginError::rejected("it is of another issuer"));
        }
        Ok(VerifiedIdentity { claims: self.mapped(&claims)?, ends })
    }

    /// The header says which key; which algorithms count, it does not say.
    fn algorithm(&self, header: &Header) -> Result<JwtAlgorithm, LoginError> {
        let allowed = self.config.algorithms.iter().copied().find(|algorithm| library(*algorithm) == header.alg);
        allowed.ok_or_else(|| {
            let names: Vec<&str> = self.config.algorithms.iter().map(|algorithm| algorithm.name()).collect();
            LoginError::rejected(format!("it is signed by {:?}; this method takes {}", header.alg, names.join(", ")))
        })
    }

    /// Checks the signature. A key id that nobody knows may be a new one, for which the issuer is asked once.
    async fn claims(&self, token: &str, header: &Header, algorithm: JwtAlgorithm) -> Result<Value, LoginError> {
        let remote = match &self.source {
            Source::Fixed(keys) => return self.checked(token, header, algorithm, keys)?.ok_or_else(unknown_key),
            Source::Remote(remote) => remote,
        };
        let mut newer_than: Option<Instant> = None;
        for _ in 0..2 {
            let (keys, at) = remote.get(newer_than).await?;
            if let Some(claims) = self.checked(token, header, algorithm, &keys)? {
                return Ok(claims);
            }
            newer_than = Some(at);
        }
        Err(unknown_key())
    }

    /// Returns the claims if one of the keys made the signature; none if there is no key for it.
    fn checked(
        &self,
        token: &str,
        header: &Header,
        algorithm: JwtAlgorithm,
        keys: &KeySet,
    ) -> Result<Option<Value>, LoginError> {
        let mut validation = Validation::new(library(algorithm));
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&self.config.audiences);
        validation.validate_nbf = true;
        validation.leeway = self.config.clock_skew.as_secs();
        let mut was_tried = false;
        for key in keys.candidates(header.kid.as_deref(), algorithm) {
            match decode::<Value>(token, &key.key, &validation) {
                Ok(data) => return Ok(Some(data.claims)),
                Err(error) if is_of_another_key(&error) => was_tried = true,
                Err(error) => return Err(LoginError::rejected(reason(&error))),
            }
        }
        // Without a key id, all keys were tried: there is none to look for.
        if was_tried && header.kid.is_some() {
            return Err(LoginError::rejected("its signature is not of the key that it names"));
        }
        Ok(None)
    }

    /// Judges the times once more and strictly: whole seconds, as numbers, of this age of the world.
    fn judge_times(&self, claims: &Value, now: Timestamp) -> Result<Timestamp, LoginError> {
        let seconds = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|seconds| *seconds <= SECONDS_MAX) {
                Some(seconds) => Ok(Some(Timestamp(seconds * 1000))),
                None => Err(LoginError::rejected(format!("its `{name}` is no number of seconds"))),
            },
        };
        let skew = self.config.clock_skew;
        let ends = seconds("exp")?.ok_or_else(|| LoginError::rejected("it has no `exp`"))?;
        if now >= ends.saturating_add(skew) {
            return Err(LoginError::rejected("it has expired: get a new one from the platform"));
        }
        for name in ["nbf", "iat"] {
            if seconds(name)?.is_some_and(|begin| now.saturating_add(skew) < begin) {
                return Err(LoginError::rejected(format!("its `{name}` is in the future: set this server's clock")));
            }
        }
        Ok(ends.saturating_add(skew))
    }

    /// Names the claims as the method's mappings do.
    fn mapped(&self, claims: &Value) -> Result<LoginClaims, LoginError> {
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
        Ok(LoginClaims { subject, values, lists })
    }
}

impl LoginMethod for JwtMethod {
    fn glance(&self, credential: &Credential) -> Result<(), LoginError> {
        let header = read_header(credential.bearer.expose().trim())?;
        let algorithm = self.algorithm(&header)?;
        let has_key = |keys: &KeySet| keys.candidates(header.kid.as_deref(), algorithm).next().is_some();
        let is_possible = match &self.source {
            Source::Fixed(keys) => has_key(keys),
            // Where the issuer may be asked for new keys, one that nobody knows may be among them.
            Source::Remote(remote) => remote.all_there_are(Instant::now()).is_none_or(|keys| has_key(&keys)),
        };
        if is_possible { Ok(()) } else { Err(unknown_key()) }
    }

    fn verify<'a>(&'a self, credential: &'a Credential, context: LoginContext<'a>) -> Verification<'a> {
        Box::pin(self.check(&credential.bearer, context.now))
    }
}

/// Reads the header without believing it. What would name keys or rules of its own is refused, used or not.
fn read_header(token: &str) -> Result<Header, LoginError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(LoginError::rejected(format!(
            "it has {} bytes, and at most {TOKEN_BYTES_MAX} are read",
            token.len()
        )));
    }
    if token.split('.').count() != 3 {
        return Err(LoginError::rejected("it is no JSON Web Token: that has three parts"));
    }
    let header = decode_header(token)
        .map_err(|_| LoginError::rejected("its header cannot be read, or names an algorithm that nobody may use"))?;
    let carried = [
        ("jku", header.jku.is_some()),
        ("jwk", header.jwk.is_some()),
        ("x5u", header.x5u.is_some()),
        ("x5c", header.x5c.is_some()),
        ("crit", header.crit.is_some()),
        ("enc", header.enc.is_some()),
        ("zip", header.zip.is_some()),
    ];
    match carried.iter().find(|(_, is_there)| *is_there) {
        Some((name, _)) => Err(LoginError::rejected(format!("its header carries `{name}`, which is not taken"))),
        None => Ok(header),
    }
}

fn unknown_key() -> LoginError {
    LoginError::rejected("none of the issuer's keys made its signature")
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
fn reason(error: &JwtError) -> String {
    match error.kind() {
        ErrorKind::ExpiredSignature => "it has expired: get a new one from the platform".to_owned(),
        ErrorKind::ImmatureSignature => "its time has not come: set this server's clock".to_owned(),
        ErrorKind::InvalidIssuer => "it is of another issuer".to_owned(),
        ErrorKind::InvalidAudience => "it is made for another audience".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("it has no `{claim}`, or one of another type"),
        ErrorKind::InvalidClaimFormat(claim) => format!("its `{claim}` is of another type"),
        _ => "it cannot be read".to_owned(),
    }
}

/// Finds a claim by its name, or by a JSON pointer (RFC 6901).
fn find<'a>(claims: &'a Value, claim: &str) -> Option<&'a Value> {
    let found = if claim.starts_with('/') { claims.pointer(claim) } else { claims.get(claim) };
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

#[cfg(test)]
mod tests;
