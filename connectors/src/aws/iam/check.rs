//! The server's side: the question is asked, and AWS says who signed it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catalog::{AuthConfig, AwsIamConfig, AwsPrincipal, KeyFingerprint, LoginClaims, Origin, Timestamp};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::sync::Semaphore;
use wire::login::{Credential, LoginContext, LoginError, LoginMaker, LoginMethod, Verification, VerifiedIdentity};
use wire::web::{Reach, WebAnswer, WebClient};

use super::reply::{CallerIdentity, error_code};
use super::{
    AGE_MAX, AHEAD_MAX, CLUSTER_HEADER, CONTENT_TYPE, DATE_HEADER, KEY_HEADER, QUESTION, Signed, TOKEN_HEADER,
    endpoints, read_date,
};

/// AWS answers within this, or the login is judged another time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Questions to AWS that are under way at once.
const ASKED_AT_ONCE_MAX: usize = 64;
/// No session token is longer.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Makes the checks of methods of type `aws-iam`.
#[derive(Debug, Clone, Copy)]
pub struct AwsLogins {
    reach: Reach,
}

impl AwsLogins {
    /// Asks within `reach`. Whoever can open a port of this machine could answer in AWS's place there.
    #[must_use]
    pub fn new(reach: Reach) -> Self {
        Self { reach }
    }
}

impl LoginMaker for AwsLogins {
    fn make(&self, config: &AuthConfig) -> Option<Result<Arc<dyn LoginMethod>, LoginError>> {
        let AuthConfig::AwsIam(config) = config else { return None };
        Some(AwsIam::new(config.as_ref().clone(), self.reach).map(|method| Arc::new(method) as Arc<dyn LoginMethod>))
    }
}

/// Checks signed questions.
#[derive(Debug)]
pub(super) struct AwsIam {
    config: AwsIamConfig,
    client: WebClient,
    /// Whose turn it is to have AWS asked: a signature that is made up costs as much as a good one.
    turns: Semaphore,
}

impl AwsIam {
    pub(super) fn new(config: AwsIamConfig, reach: Reach) -> Result<Self, LoginError> {
        // On this machine only where the operator has named an endpoint there.
        let endpoint = config.sts_endpoint.as_deref().unwrap_or_default();
        let is_here = Origin::read(endpoint).is_some_and(|origin| origin.is_loopback());
        if is_here && reach == Reach::Others {
            return Err(LoginError::unavailable(format!(
                "STSEndpoint `{endpoint}` is this machine itself, where anybody could answer in AWS's place: name AWS's own, or \
                 start every server with --sts-on-loopback, for tests"
            )));
        }
        let reach = if is_here { Reach::Loopback } else { Reach::Others };
        let client = WebClient::new(None, reach, ANSWER_TIMEOUT);
        let client = client.map_err(|error| LoginError::unavailable(wire::one_line(&error)))?;
        Ok(Self { config, client, turns: Semaphore::new(ASKED_AT_ONCE_MAX) })
    }

    /// Judges everything that needs nobody else.
    fn read(&self, credential: &Credential, now: Timestamp) -> Result<(Signed, Timestamp), LoginError> {
        let rejected = LoginError::rejected;
        let text = credential.bearer.expose().trim();
        let signed: Signed =
            serde_json::from_str(text).map_err(|_| rejected("it is no signed question of an agent"))?;
        // One signature has one text: what is remembered as used is the text.
        if serde_json::to_string(&signed).ok().as_deref() != Some(text) {
            return Err(rejected("it is not written as agents write it"));
        }
        let is_known = match &self.config.sts_endpoint {
            Some(endpoint) => signed.endpoint == endpoint.trim_end_matches('/'),
            None => endpoints::is_of_aws(&signed.endpoint),
        };
        if !is_known {
            let endpoint = wire::harmless(&signed.endpoint);
            return Err(rejected(&format!(
                "it was signed for `{endpoint}`, which this auth method does not ask: name it by STSEndpoint, or set \
                 AWS_ENDPOINT_URL_STS for the agent"
            )));
        }
        let at = read_date(&signed.date).ok_or_else(|| rejected("its date is not of the form 20261121T080000Z"))?;
        if now.since(at) > AGE_MAX || at.since(now) > AHEAD_MAX {
            return Err(rejected(&format!(
                "it was signed at {at} and it is {now}: sign anew, and look at both machines' clocks"
            )));
        }
        let token = signed.security_token.as_deref().unwrap_or_default();
        if token.len() > TOKEN_BYTES_MAX || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(rejected("its session token is none"));
        }
        check_authorization(&signed)?;
        Ok((signed, at))
    }

    async fn check(&self, credential: &Credential, context: LoginContext<'_>) -> Result<VerifiedIdentity, LoginError> {
        let (signed, at) = self.read(credential, context.now)?;
        let key = context.key.ok_or_else(|| {
            LoginError::rejected("methods of type aws-iam are for agents: a signature is bound to an agent's key")
        })?;
        let headers = headers(&signed, context.cluster_id, key)
            .ok_or_else(|| LoginError::rejected("it has characters that no header has"))?;
        let Ok(_turn) = self.turns.try_acquire() else {
            return Err(LoginError::unavailable(
                "AWS is being asked about as many logins as this server has in hand at once",
            ));
        };
        let url = format!("{}/", signed.endpoint);
        let answer = self.client.exchange(Method::POST, &url, headers, Bytes::from_static(QUESTION.as_bytes())).await;
        let answer = answer.map_err(|error| LoginError::unavailable(wire::one_line(&error)))?;
        let identity = identity(&answer)?;
        let claims = self.claims(&identity)?;
        Ok(VerifiedIdentity { claims, ends: at.saturating_add(AGE_MAX) })
    }

    /// Looks whether the method takes an identity, and says what is known of it.
    fn claims(&self, identity: &CallerIdentity) -> Result<LoginClaims, LoginError> {
        let principal: AwsPrincipal =
            identity.arn.parse().map_err(|error: catalog::NameError| LoginError::rejected(error.to_string()))?;
        if principal.account != identity.account {
            return Err(LoginError::rejected("AWS named one account and an identity of another"));
        }
        if !self.config.principals.iter().any(|pattern| pattern.matches(&principal)) {
            return Err(LoginError::rejected(format!("{principal} is not among BoundIAMPrincipalARNs")));
        }
        let (entity_id, _) = identity.user_id.split_once(':').unwrap_or((&identity.user_id, ""));
        let mut facts = BTreeMap::from([
            (AwsIamConfig::ACCOUNT_ID.to_owned(), principal.account.clone()),
            (AwsIamConfig::ENTITY_ID.to_owned(), entity_id.to_owned()),
            (AwsIamConfig::ENTITY_NAME.to_owned(), principal.short_name().to_owned()),
            (AwsIamConfig::ENTITY_TYPE.to_owned(), principal.kind.name().to_owned()),
        ]);
        // Without the session, whose name is of the caller's own choice: whoever is revoked stays out under every one.
        let subject = principal.to_string();
        if let Some(session) = &principal.session {
            facts.insert(AwsIamConfig::SESSION_NAME.to_owned(), session.clone());
        }
        Ok(LoginClaims { subject, facts, ..LoginClaims::default() })
    }
}

impl LoginMethod for AwsIam {
    fn is_of_one_key(&self) -> bool {
        true
    }

    fn asks_others(&self) -> bool {
        true
    }

    fn glance(&self, credential: &Credential) -> Result<(), LoginError> {
        self.read(credential, wire::crypto::now()).map(drop)
    }

    fn verify<'a>(&'a self, credential: &'a Credential, context: LoginContext<'a>) -> Verification<'a> {
        Box::pin(self.check(credential, context))
    }
}

/// Looks whether a signature covers exactly what it must, for the right service and day. What it is worth, AWS says.
fn check_authorization(signed: &Signed) -> Result<(), LoginError> {
    let parts = || {
        let rest = signed.authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=")?;
        let (scope, rest) = rest.split_once(", SignedHeaders=")?;
        let (headers, signature) = rest.split_once(", Signature=")?;
        let mut scope = scope.split('/');
        let scope =
            [scope.next()?, scope.next()?, scope.next()?, scope.next()?, scope.next()?, scope.next().unwrap_or("")];
        Some((scope, headers, signature))
    };
    let malformed = || LoginError::rejected("its signature is none of the form that AWS calls version 4");
    let ([key, day, region, service, end, more], headers, signature) = parts().ok_or_else(malformed)?;
    let is_key = (16..=128).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let is_region =
        !region.is_empty() && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let is_signature =
        signature.len() == 64 && signature.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !is_key || !is_region || !is_signature || end != "aws4_request" || !more.is_empty() {
        return Err(malformed());
    }
    if service != "sts" || Some(day) != signed.date.get(..8) {
        return Err(LoginError::rejected("it was signed for another service or day"));
    }
    if headers != signed.signed_headers() {
        return Err(LoginError::rejected(format!(
            "its signature covers `{}`: it must cover the mesh, the agent's key and nothing more: `{}`",
            wire::harmless(headers),
            signed.signed_headers()
        )));
    }
    Ok(())
}

/// Builds the headers. Those that bind a login are this server's own knowledge, not the caller's word.
fn headers(signed: &Signed, cluster_id: &str, key: &KeyFingerprint) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, value: &str, is_secret: bool| {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(is_secret);
        headers.insert(HeaderName::from_static(name), value);
        Some(())
    };
    put("content-type", CONTENT_TYPE, false)?;
    put(DATE_HEADER, &signed.date, false)?;
    if let Some(token) = &signed.security_token {
        put(TOKEN_HEADER, token, true)?;
    }
    put(CLUSTER_HEADER, cluster_id, false)?;
    put(KEY_HEADER, &key.0, false)?;
    put("authorization", &signed.authorization, true)?;
    headers.insert(header::ACCEPT, HeaderValue::from_static("text/xml"));
    Some(headers)
}

/// Reads an answer: only one with status 200 and of the expected form says who signed.
fn identity(answer: &WebAnswer) -> Result<CallerIdentity, LoginError> {
    if answer.status == StatusCode::OK {
        return CallerIdentity::read(&answer.body)
            .ok_or_else(|| LoginError::unavailable("AWS's answer is not of the form that weft knows"));
    }
    let code = error_code(&answer.body).unwrap_or_else(|| "without a code".to_owned());
    let status = answer.status.as_u16();
    if ["SignatureDoesNotMatch", "InvalidClientTokenId", "IncompleteSignature"].contains(&code.as_str()) {
        return Err(LoginError::rejected(format!(
            "AWS refused the signature ({status}, {code}): it is of other credentials, another mesh or another key"
        )));
    }
    // Whoever signs anew may be let in, so that these are no final word.
    let advice = match code.as_str() {
        "ExpiredToken" | "RequestExpired" => ": sign anew, and look at the clock",
        "AccessDenied" => ": look at the policies of the endpoint and of the account",
        _ => "",
    };
    Err(LoginError::unavailable(format!("AWS answered with status {status} ({code}){advice}")))
}

#[cfg(test)]
mod tests;
