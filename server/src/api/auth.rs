//! Who asks, and whether they may.

use ::catalog::{AccessorId, Catalog, RequestId, Rights, SecretHash, Token};
use http::HeaderMap;
use wire::crypto::{self, Secret};

use super::ApiState;
use super::error::ApiError;

/// The right that a route needs; declared beside its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Nothing: liveness, and what has its own proof. The written allow-list in the tests names each such route.
    Public,
    /// Any token that is valid.
    AnyToken,
    /// A management token.
    Management,
}

impl Right {
    /// Returns what a caller has to have, as an error text says it.
    pub(crate) fn needs(self) -> &'static str {
        match self {
            Self::Public => "no token",
            Self::AnyToken => "a valid token",
            Self::Management => "a management token",
        }
    }

    /// Reports whether `token` carries the right.
    fn is_held_by(self, token: Option<&Token>) -> bool {
        match (self, token.map(|token| &token.rights)) {
            (Self::Public, _) | (Self::AnyToken, Some(_)) | (Self::Management, Some(Rights::Management)) => true,
            (Self::AnyToken | Self::Management, None) => false,
        }
    }
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    token: Option<Token>,
}

impl Caller {
    /// Returns the caller's token; none on public routes only.
    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Returns the public name of the caller's token.
    pub(crate) fn accessor(&self) -> Option<&AccessorId> {
        self.token.as_ref().map(|token| &token.accessor)
    }
}

/// Judges the request's token against `right`; none says that the caller lacks it.
///
/// A public route does not look at tokens, so that liveness does not depend on the state.
///
/// # Errors
///
/// [`ApiError::TokenUnknown`] for a token that is in no catalog or has expired, [`ApiError::Read`] where that cannot be
/// found out, or a malformed header.
pub(crate) async fn authorize(
    state: &ApiState,
    headers: &HeaderMap,
    is_stale: bool,
    right: Right,
) -> Result<Option<Caller>, ApiError> {
    if right == Right::Public {
        return Ok(Some(Caller { token: None }));
    }
    let token = match sent_hash(headers)? {
        None => None,
        Some(hash) => Some(find(state, &hash, is_stale).await?.ok_or(ApiError::TokenUnknown)?),
    };
    Ok(right.is_held_by(token.as_ref()).then_some(Caller { token }))
}

/// Looks a token up by the hash of its secret: the same work for every secret.
///
/// One that this server does not know may have been made a moment ago through another: it asks once more, behind a
/// round through the leader, which all requests waiting for one share.
///
/// # Errors
///
/// [`ApiError::Read`] where there is no leader to ask. It refuses the request too, but does not tell the holder of a
/// good token that it is bad because this server has just started.
async fn find(state: &ApiState, hash: &SecretHash, is_stale: bool) -> Result<Option<Token>, ApiError> {
    let known = lookup(&state.consensus().catalog(), hash);
    if known.is_some() || is_stale {
        return Ok(known);
    }
    state.consensus().read_index().await?;
    Ok(lookup(&state.consensus().catalog(), hash))
}

fn lookup(catalog: &Catalog, hash: &SecretHash) -> Option<Token> {
    let token = catalog.token_by_secret(hash)?;
    let is_live = token.expires_at.is_none_or(|end| crypto::now() < end);
    is_live.then(|| token.clone())
}

/// Returns the hash of the token that the headers carry; the token itself is not kept.
fn sent_hash(headers: &HeaderMap) -> Result<Option<SecretHash>, ApiError> {
    let own = single(headers, "X-Consul-Token", "send it once, as plain text")?;
    let bearer = single(headers, "Authorization", "send it once, as `Bearer <token>`")?;
    let bearer = match bearer {
        None | Some("") => None,
        Some(value) => match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim()),
            _ => return Err(ApiError::Header { name: "Authorization", expected: "send `Bearer <token>`" }),
        },
    };
    // Consul's clients send an empty header where no token is configured.
    let own = own.map(str::trim).filter(|token| !token.is_empty());
    let bearer = bearer.filter(|token| !token.is_empty());
    let token = match (own, bearer) {
        (Some(own), Some(bearer)) if !crypto::constant_time_eq(own.as_bytes(), bearer.as_bytes()) => {
            return Err(ApiError::TwoTokens);
        }
        (own, bearer) => own.or(bearer),
    };
    Ok(token.map(|token| crypto::secret_hash(&Secret::new(token))))
}

/// Returns the request id that a client sent so that its retry counts once.
pub(crate) fn request_id(headers: &HeaderMap) -> Result<Option<RequestId>, ApiError> {
    const EXPECTED: &str = "send it once, 1 to 64 of A-Z, a-z, 0-9 and `-`";
    single(headers, "X-Weft-Request-Id", EXPECTED)?
        .map(|text| text.parse().map_err(|_| ApiError::Header { name: "X-Weft-Request-Id", expected: EXPECTED }))
        .transpose()
}

fn single<'a>(headers: &'a HeaderMap, name: &'static str, expected: &'static str) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(ApiError::Header { name, expected });
    }
    value.map(|value| value.to_str().map_err(|_| ApiError::Header { name, expected })).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(headers: &[(&'static str, &'static str)]) -> Result<Option<SecretHash>, ApiError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        sent_hash(&map)
    }

    fn hash(token: &str) -> Option<SecretHash> {
        Some(crypto::secret_hash(&Secret::new(token)))
    }

    #[test]
    fn a_token_comes_in_either_header_or_in_both_alike() {
        assert_eq!(hash_of(&[]).unwrap(), None);
        assert_eq!(hash_of(&[("x-consul-token", "")]).unwrap(), None);
        assert_eq!(hash_of(&[("x-consul-token", "abc")]).unwrap(), hash("abc"));
        assert_eq!(hash_of(&[("authorization", "Bearer abc")]).unwrap(), hash("abc"));
        assert_eq!(hash_of(&[("authorization", "bearer  abc")]).unwrap(), hash("abc"));
        assert_eq!(hash_of(&[("x-consul-token", "abc"), ("authorization", "Bearer abc")]).unwrap(), hash("abc"));
    }

    #[test]
    fn a6_a_malformed_credential_is_refused_without_repeating_it() {
        let refused: [&[(&str, &str)]; 4] = [
            &[("x-consul-token", "s3cret"), ("authorization", "Bearer other-s3cret")],
            &[("authorization", "Basic s3cret")],
            &[("authorization", "s3cret")],
            &[("x-consul-token", "s3cret"), ("x-consul-token", "s3cret2")],
        ];
        for headers in refused {
            let error = hash_of(headers).unwrap_err();
            assert_eq!(error.status(), http::StatusCode::BAD_REQUEST);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn no_token_carries_no_right() {
        assert!(Right::Public.is_held_by(None));
        assert!(!Right::AnyToken.is_held_by(None));
        assert!(!Right::Management.is_held_by(None));
    }
}
