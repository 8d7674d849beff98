//! Who asks, and whether they may.

use ::catalog::{AccessorId, Authority, Catalog, Namespace, RequestId, SecretHash, Token};
use http::HeaderMap;
use wire::crypto;
use wire::front_door::{TurnedAway, sent_token, single_header};

use super::ApiState;
use super::error::ApiError;

/// The right that a route needs; declared beside its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "the words of the rule language are one set, whichever of them routes use")]
pub(crate) enum Right {
    /// Nothing: liveness, and what has its own proof. The written allow-list in the tests names each such route.
    Public,
    /// Any token that is valid.
    AnyToken,
    /// A management token.
    Management,
    /// `acl = "read"` in the whole mesh.
    AclRead,
    /// `acl = "write"` in the whole mesh.
    AclWrite,
    /// `operator = "read"`.
    OperatorRead,
    /// `operator = "write"`.
    OperatorWrite,
    /// `mesh = "read"`.
    MeshRead,
    /// `mesh = "write"`.
    MeshWrite,
    /// Any token that is valid; the handler asks for the rest with [`Call::may`](super::call::Call::may), or shows only
    /// what [`Reading::authority`](super::reads::Reading::authority) lets the caller see.
    Judged,
}

impl Right {
    /// Returns what a caller has to have, as an error text says it.
    pub(crate) fn needs(self) -> &'static str {
        match self {
            Self::Public => "no token",
            Self::AnyToken => "a valid token",
            Self::Management => "a management token",
            Self::AclRead => "a token with `acl = \"read\"`",
            Self::AclWrite => "a token with `acl = \"write\"`",
            Self::OperatorRead => "a token with `operator = \"read\"`",
            Self::OperatorWrite => "a token with `operator = \"write\"`",
            Self::MeshRead => "a token with `mesh = \"read\"`",
            Self::MeshWrite => "a token with `mesh = \"write\"`",
            Self::Judged => "a token with the right to do so",
        }
    }

    /// Reports whether whoever holds a token with `authority`, or no token, has the right.
    pub(super) fn is_held_by(self, authority: Option<&Authority>) -> bool {
        let Some(authority) = authority else { return self == Self::Public };
        let everywhere = Namespace::default_namespace();
        match self {
            Self::Public | Self::AnyToken | Self::Judged => true,
            Self::Management => authority.is_management(),
            Self::AclRead => authority.acl_read(&everywhere),
            Self::AclWrite => authority.acl_write(&everywhere),
            Self::OperatorRead => authority.operator_read(),
            Self::OperatorWrite => authority.operator_write(),
            Self::MeshRead => authority.mesh_read(),
            Self::MeshWrite => authority.mesh_write(),
        }
    }
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    token: Option<Token>,
    right: Right,
}

impl Caller {
    /// Judges the caller anew by what the catalog says of its token, and returns what it may do by that catalog.
    ///
    /// A blocking query may wait for minutes, and what this server knew when the request came may have been old.
    ///
    /// # Errors
    ///
    /// [`ApiError::TokenUnknown`] where the token was deleted or has expired.
    pub(crate) fn judge_again(&self, catalog: &Catalog) -> Result<Authority, ApiError> {
        let Some(before) = &self.token else { return Ok(Authority::default()) };
        let now = live(catalog.token(&before.accessor)).filter(|now| now.secret == before.secret);
        Ok(catalog.authority(now.ok_or(ApiError::TokenUnknown)?))
    }

    /// Returns the right that the route needs.
    pub(crate) fn right(&self) -> Right {
        self.right
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
        return Ok(Some(Caller { token: None, right }));
    }
    let token = match sent_hash(headers)? {
        None => None,
        Some(hash) => Some(find(state, &hash, is_stale).await?.ok_or(ApiError::TokenUnknown)?),
    };
    let authority = token.as_ref().map(|token| state.consensus().catalog().authority(token));
    Ok(right.is_held_by(authority.as_ref()).then_some(Caller { token, right }))
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
        assert!(!Right::Judged.is_held_by(None));
    }

    #[test]
    fn a_token_without_rules_has_only_the_rights_that_every_token_has() {
        let nothing = Authority::default();
        for right in [Right::Public, Right::AnyToken, Right::Judged] {
            assert!(right.is_held_by(Some(&nothing)), "{right:?}");
        }
        for right in [
            Right::Management,
            Right::AclRead,
            Right::AclWrite,
            Right::OperatorRead,
            Right::OperatorWrite,
            Right::MeshRead,
            Right::MeshWrite,
        ] {
            assert!(!right.is_held_by(Some(&nothing)), "{right:?}");
            assert!(right.is_held_by(Some(&Authority::management())), "{right:?}");
        }
    }
}
