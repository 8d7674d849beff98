//! Tokens, policies and roles: the first token by proof of the cluster key, everything else by a token.

mod links;
mod policies;
mod roles;
mod templates;
mod tokens;

use std::time::Instant;

use ::catalog::{AccessorId, Actor, Catalog, Command, Rights, Token};
use axum::response::Response;
use http::Method;
use wire::acl::TokenView;
use wire::api_types::{BootstrapChallenge, BootstrapProof};
use wire::crypto::{self, Secret};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};
use crate::agent_port::UNPROVEN;

/// Random bytes in a token's secret.
pub(super) const SECRET_BYTES: usize = 32;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/acl/bootstrap", Right::Public, challenge).answers("BootstrapChallenge"),
        route(Method::PUT, "/v1/acl/bootstrap", Right::Public, bootstrap)
            .with_body(UNPROVEN.bytes_max, UNPROVEN.timeout)
            .takes("BootstrapProof")
            .answers("TokenView"),
    ]
    .into_iter()
    .chain(tokens::routes())
    .chain(policies::routes())
    .chain(roles::routes())
    .chain(templates::routes())
    .collect()
}

/// Answers with a challenge, to which whoever holds the cluster key knows the answer.
async fn challenge(call: Call) -> Result<Response, ApiError> {
    let challenge = call.state.challenges().issue(Instant::now());
    call.json(&BootstrapChallenge::new(&challenge, call.state.consensus().catalog().is_acl_bootstrapped()))
}

/// Makes the first management token for a caller that proves to hold the cluster key; works once in a mesh's life.
async fn bootstrap(call: Call) -> Result<Response, ApiError> {
    let request: BootstrapProof = call.decode()?;
    let reason = "the challenge is unknown, used or older than a minute; ask this server for a new one";
    if !call.state.challenges().is_out(&request.challenge, Instant::now()) {
        return Err(ApiError::BootstrapRefused { reason });
    }
    if !call.state.cluster_keys().verify_acl_bootstrap_mac(&request.challenge, &request.proof) {
        let reason = "the proof was not made with this mesh's cluster key; check --cluster-key-file";
        return Err(ApiError::BootstrapRefused { reason });
    }
    // Remembered only now: whoever has no key cannot fill what is remembered.
    if !call.state.challenges().redeem(&request.challenge, Instant::now()) {
        return Err(ApiError::BootstrapRefused { reason });
    }
    let (token, secret) = match request.bootstrap_secret {
        Some(secret) => (token_of(&secret, Rights::Management), secret),
        None => new_token(Rights::Management),
    };
    let token = Token { description: "bootstrap token".to_owned(), ..token };
    call.write_as(Actor::ClusterKey, Command::BootstrapAcl { token: token.clone() }).await?;
    call.hand_out(token, secret).await
}

/// Draws a token that is linked to nothing yet, with its secret.
fn new_token(rights: Rights) -> (Token, Secret) {
    let secret = Secret::new(crypto::random_hex(SECRET_BYTES));
    (token_of(&secret, rights), secret)
}

/// Makes a token with a secret; it is linked to nothing yet.
fn token_of(secret: &Secret, rights: Rights) -> Token {
    Token::new(new_accessor(), crypto::secret_hash(secret), rights, crypto::now())
}

/// Draws a public name for a token.
pub(super) fn new_accessor() -> AccessorId {
    crypto::uuid_v4().parse().expect("a random UUID has an accessor's form")
}

impl Call {
    /// Answers with a token and, this once, its secret.
    async fn hand_out(&self, token: Token, secret: Secret) -> Result<Response, ApiError> {
        let stored = self.handed_out(|catalog| catalog.token_by_secret(&token.secret).cloned()).await?.unwrap_or(token);
        let shown = TokenView::with_names(&stored, &self.state.consensus().catalog());
        self.json(&TokenView { secret: Some(secret), ..shown })
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
