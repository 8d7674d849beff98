//! Who asks, and whether they may.

use ::catalog::{AccessorId, Catalog, RequestId, Rights, SecretHash, Token};
use http::HeaderMap;
use wire::crypto;
use wire::front_door::{TurnedAway, sent_token, single_header};

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

    /// Judges the caller anew by what the catalog says of its token now: a blocking query may wait for minutes.
    ///
    /// # Errors
    ///
    /// [`ApiError::TokenUnknown`] where the token was deleted, has expired or carries other rights than before.
    pub(crate) fn judge_again(&self, catalog: &Catalog) -> Result<(), ApiError> {
        let Some(before) = &self.token else { return Ok(()) };
        match live(catalog.token(&before.accessor)) {
            Some(now) if now.secret == before.secret && now.rights == before.rights => Ok(()),
            Some(_) | None => Err(ApiError::TokenUnknown),
        }
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
    live(catalog.token_by_secret(hash)).cloned()
}

/// Returns the token unless it has expired.
fn live(token: Option<&Token>) -> Option<&Token> {
    token.filter(|token| token.expires_at.is_none_or(|end| crypto::now() < end))
}

/// Returns the hash of the token that the headers carry; the token itself is not kept.
fn sent_hash(headers: &HeaderMap) -> Result<Option<SecretHash>, ApiError> {
    Ok(sent_token(headers)?.map(|token| crypto::secret_hash(&token)))
}

/// Returns the request id that a client sent so that its retry counts once.
pub(crate) fn request_id(headers: &HeaderMap) -> Result<Option<RequestId>, ApiError> {
    const EXPECTED: &str = "send it once, 1 to 64 of A-Z, a-z, 0-9 and `-`";
    single_header(headers, "X-Weft-Request-Id", EXPECTED)?
        .map(|text| {
            text.parse().map_err(|_| TurnedAway::Header { name: "X-Weft-Request-Id", expected: EXPECTED }.into())
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_carries_no_right() {
        assert!(Right::Public.is_held_by(None));
        assert!(!Right::AnyToken.is_held_by(None));
        assert!(!Right::Management.is_held_by(None));
    }
}
