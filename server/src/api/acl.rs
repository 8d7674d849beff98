//! Tokens: the first one by proof of the cluster key, the others by a token.

use std::time::Instant;

use ::catalog::{AccessorId, Actor, Catalog, Command, Rights, Timestamp, Token, WatchKey};
use axum::response::Response;
use http::Method;
use wire::api_types::{BootstrapChallenge, BootstrapProof, TokenRequest, TokenView};
use wire::crypto::{self, Secret};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

/// Random bytes in a token's secret.
pub(super) const SECRET_BYTES: usize = 32;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/acl/bootstrap", Right::Public, challenge),
        route(Method::PUT, "/v1/acl/bootstrap", Right::Public, bootstrap),
        route(Method::PUT, "/v1/acl/token", Right::AclWrite, create),
        route(Method::GET, "/v1/acl/token/self", Right::AnyToken, own),
        route(Method::GET, "/v1/acl/token/{accessor}", Right::AclRead, read),
        route(Method::DELETE, "/v1/acl/token/{accessor}", Right::AclWrite, delete),
        route(Method::GET, "/v1/acl/tokens", Right::AclRead, list),
    ]
}

/// Answers with a challenge, to which whoever holds the cluster key knows the answer.
async fn challenge(call: Call) -> Result<Response, ApiError> {
    let challenge = call.state.challenges().issue(Instant::now());
    call.json(&BootstrapChallenge::new(&challenge))
}

/// Makes the first management token for a caller that proves to hold the cluster key; works once in a mesh's life.
async fn bootstrap(call: Call) -> Result<Response, ApiError> {
    let request: BootstrapProof = call.decode()?;
    if !call.state.challenges().redeem(&request.challenge, Instant::now()) {
        let reason = "the challenge is unknown, used or older than a minute; ask this server for a new one";
        return Err(ApiError::BootstrapRefused { reason });
    }
    if !call.state.cluster_keys().verify_acl_bootstrap_mac(&request.challenge, &request.proof) {
        let reason = "the proof was not made with this mesh's cluster key; check --cluster-key-file";
        return Err(ApiError::BootstrapRefused { reason });
    }
    let (token, secret) = new_token("bootstrap token".to_owned(), None);
    call.write_as(Actor::ClusterKey, Command::BootstrapAcl { token: token.clone() }).await?;
    call.hand_out(token, secret).await
}

/// Makes a token; its secret is in this answer and nowhere else.
async fn create(call: Call) -> Result<Response, ApiError> {
    let request: TokenRequest = call.decode()?;
    let expires_at = request.expires_at(crypto::now()).map_err(|error| call.body_error(&error))?;
    let (token, secret) = new_token(request.description, expires_at);
    call.write(Command::WriteToken { token: token.clone() }).await?;
    call.hand_out(token, secret).await
}

/// Answers with the caller's own token, without its secret.
async fn own(call: Call) -> Result<Response, ApiError> {
    let token = call.caller.token().ok_or(ApiError::TokenUnknown)?;
    call.json(&TokenView::new(token, None))
}

/// Answers with a token, without its secret.
async fn read(call: Call) -> Result<Response, ApiError> {
    let accessor: AccessorId = call.path_name("accessor")?;
    let reading = call.read(vec![WatchKey::Tokens]).await?;
    match reading.catalog.token(&accessor) {
        Some(token) => call.answer(&reading, &TokenView::new(token, None)),
        None => Ok(call.not_found(&reading, "token", &accessor)),
    }
}

/// Ends a token.
async fn delete(call: Call) -> Result<Response, ApiError> {
    let accessor: AccessorId = call.path_name("accessor")?;
    call.write(Command::DeleteToken { accessor }).await?;
    call.json(&true)
}

/// Answers with all tokens, without their secrets.
async fn list(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::Tokens]).await?;
    let tokens: Vec<_> = reading.catalog.tokens().map(|token| TokenView::new(token, None)).collect();
    call.answer(&reading, &tokens)
}

fn new_token(description: String, expires_at: Option<Timestamp>) -> (Token, Secret) {
    let secret = Secret::new(crypto::random_hex(SECRET_BYTES));
    let token = Token {
        description,
        expires_at,
        ..Token::new(new_accessor(), crypto::secret_hash(&secret), Rights::Management, crypto::now())
    };
    (token, secret)
}

/// Draws a public name for a token.
pub(super) fn new_accessor() -> AccessorId {
    crypto::uuid_v4().parse().expect("a random UUID has an accessor's form")
}

impl Call {
    /// Answers with a token and, this once, its secret.
    async fn hand_out(&self, token: Token, secret: Secret) -> Result<Response, ApiError> {
        let stored = self.handed_out(|catalog| catalog.token_by_secret(&token.secret).cloned()).await?.unwrap_or(token);
        self.json(&TokenView::new(&stored, Some(secret)))
    }

    /// Returns what was stored under a secret that is about to be handed out; none where it is not applied here yet.
    ///
    /// # Errors
    ///
    /// [`ApiError::SecretGone`] where the write that succeeded was an earlier one with the same request id: what it
    /// stored has another secret, which this request does not know.
    pub(super) async fn handed_out<T>(&self, find: impl Fn(&Catalog) -> Option<T>) -> Result<Option<T>, ApiError> {
        let stored = find(&self.state.consensus().catalog());
        if stored.is_some() || self.request_id.is_none() {
            return Ok(stored);
        }
        self.state.consensus().read_index().await?;
        find(&self.state.consensus().catalog()).map(Some).ok_or(ApiError::SecretGone)
    }
}
