//! Join tokens: what a new agent is admitted with, once.

use ::catalog::{AccessorId, Catalog, Command, JoinToken, WatchKey};
use axum::response::Response;
use http::Method;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use wire::api_types::{JoinTokenRequest, JoinTokenView};
use wire::crypto;
use wire::join_token::JoinSecret;

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::PUT, "/v1/join-token", Right::Judged, create).takes("JoinTokenRequest").answers("JoinTokenView"),
        route(Method::DELETE, "/v1/join-token/{accessor}", Right::Judged, delete).answers("bool"),
        route(Method::GET, "/v1/join-tokens", Right::Judged, list).answers("[JoinTokenView]"),
    ]
}

/// Makes a join token; its text is in this answer and nowhere else.
async fn create(call: Call) -> Result<Response, ApiError> {
    let request: JoinTokenRequest = call.decode()?;
    let expires_at = request.expires_at(crypto::now()).map_err(|error| call.body_error(&error))?;
    // The text pins the root: it is read as freshly as the token is written.
    let catalog = call.read_with_authority(vec![WatchKey::Roots]).await?.catalog;
    let servers = call.state.consensus().agent_addresses();
    let secret = JoinSecret::generate(active_root(&catalog)?).with_servers(servers.iter().map(String::as_str));
    let token = JoinToken {
        gateway: request.gateway.then_some(request.network),
        node: request.node,
        platform: request.platform,
        replace_node: request.replace_node,
        maker: call.caller.accessor().filter(|_| request.replace_node).cloned(),
        ..JoinToken::new(call.new_id("join-token"), secret.secret_hash(), request.services, expires_at)
    };
    let was_made = |catalog: &Catalog| catalog.join_tokens().any(|held| held.accessor == token.accessor);
    call.write_secret(Command::CreateJoinToken { token: token.clone() }, was_made).await?;
    let stored = |catalog: &Catalog| catalog.join_token_by_secret(&token.secret).cloned();
    let stored = call.handed_out(stored).await?.unwrap_or(token);
    call.json(&JoinTokenView::new(&stored, Some(secret.to_text())))
}

/// Returns the SHA-256 of the root that the CA signs with.
fn active_root(catalog: &Catalog) -> Result<[u8; 32], ApiError> {
    let root = catalog.active_root().ok_or(ApiError::NoAuthority)?;
    let certificate = CertificateDer::from_pem_slice(root.certificate_pem.as_bytes()).map_err(|_| {
        ApiError::Internal { reason: "the active root in the catalog is not a PEM certificate".to_owned() }
    })?;
    Ok(crypto::sha256(&certificate))
}

/// Ends a join token.
async fn delete(call: Call) -> Result<Response, ApiError> {
    let accessor: AccessorId = call.path_name("accessor")?;
    call.write(Command::DeleteJoinToken { accessor }).await?;
    call.json(&true)
}

/// Answers with the join tokens for services that the caller may see, without their secrets.
async fn list(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::JoinTokens]).await?;
    let is_visible = |token: &&JoinToken| match token.services.as_slice() {
        [] => reading.shows_operators(),
        services => services.iter().all(|service| reading.shows_service(service)),
    };
    let tokens: Vec<_> =
        reading.catalog.join_tokens().filter(is_visible).map(|token| JoinTokenView::new(token, None)).collect();
    call.answer(&reading, &tokens)
}
