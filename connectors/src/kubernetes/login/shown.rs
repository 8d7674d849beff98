//! What a service account's token says of itself, before anybody has said that it counts.

use ::catalog::Timestamp;
use serde::Deserialize;
use wire::crypto::Secret;
use wire::login::LoginError;

/// No token of a service account is longer.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Is a token's own word. It sends away what cannot count, before anybody is asked, and is held against the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShownToken {
    pub(super) namespace: String,
    pub(super) account: String,
    pub(super) account_uid: String,
    pub(super) pod: String,
    pub(super) pod_uid: String,
    pub(super) ends: Timestamp,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Audience,
    exp: Option<u64>,
    #[serde(rename = "kubernetes.io")]
    own: Option<Own>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Deserialize)]
struct Own {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    uid: String,
}

impl ShownToken {
    /// Reads a token that may be one of a pod's service account for one of `audiences`.
    ///
    /// # Errors
    /// [`LoginError::Rejected`] for what no API server would call such a token.
    pub(super) fn read(bearer: &Secret, audiences: &[String], now: Timestamp) -> Result<Self, LoginError> {
        let no = |reason: &str| LoginError::rejected(reason);
        let text = bearer.expose();
        if text.len() > TOKEN_BYTES_MAX {
            return Err(no("it is longer than any token of a service account"));
        }
        let parts: Vec<&str> = text.split('.').collect();
        // To the last bit: a token has one spelling, whatever others make of another one.
        let decoded: Result<Vec<_>, _> =
            parts.iter().map(|part| data_encoding::BASE64URL_NOPAD.decode(part.as_bytes())).collect();
        let [_, payload, _] =
            <[Vec<u8>; 3]>::try_from(decoded.unwrap_or_default()).map_err(|_| no("it is no JSON Web Token"))?;
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| no("it is no token of a service account"))?;
        let own = claims.own.ok_or_else(|| {
            no("it is a token out of a Secret, which never ends: mount a projected one, with an audience of the method")
        })?;
        let named: &[String] = match &claims.aud {
            Audience::One(one) => std::slice::from_ref(one),
            Audience::Many(many) => many,
        };
        if !named.iter().any(|audience| audiences.contains(audience)) {
            return Err(no("it is for another audience: have the pod's projected token name one of the method"));
        }
        let ends = claims.exp.ok_or_else(|| no("it never ends: mount a projected token"))?;
        let ends = Timestamp(ends.saturating_mul(1000));
        if ends <= now {
            return Err(no("it has ended"));
        }
        let pod = own.pod.ok_or_else(|| no("it is bound to no pod: mount a projected token, and make none by hand"))?;
        let shown = Self {
            namespace: own.namespace,
            account: own.serviceaccount.name,
            account_uid: own.serviceaccount.uid,
            pod: pod.name,
            pod_uid: pod.uid,
            ends,
        };
        let is_named = [&shown.namespace, &shown.account, &shown.pod].iter().all(|name| is_object_name(name));
        if is_named { Ok(shown) } else { Err(no("its account or pod has a name that none can have")) }
    }
}

/// Reports whether an object of Kubernetes may have this name (RFC 1123 subdomains).
pub(super) fn is_object_name(text: &str) -> bool {
    let is_end = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(|b| is_end(*b))
                && bytes.last().is_some_and(|b| is_end(*b))
                && bytes.iter().all(|b| is_end(*b) || *b == b'-')
        })
}
