//! `/v1/acl/token...`: tokens, made, read, changed and ended by whoever has the right in their namespace.

use ::catalog::{AccessorId, AclChange, Catalog, Command, Token, WatchKey};
use axum::response::Response;
use http::Method;
use wire::acl::{CloneRequest, OwnRights, TokenRequest, TokenView};
use wire::crypto::Secret;

use super::new_token;
use crate::api::auth::Right;
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::route::{Route, route};

/// What every answer about tokens reads: tokens, and the names of what they are linked to.
const READS: [WatchKey; 3] = [WatchKey::Tokens, WatchKey::AclPolicies, WatchKey::AclRoles];

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::PUT, "/v1/acl/token", Right::Judged, create).takes("TokenRequest").answers("TokenView"),
        route(Method::GET, "/v1/acl/token/self", Right::AnyToken, own).answers("TokenView"),
        route(Method::GET, "/v1/acl/token/self/rights", Right::AnyToken, own_rights).answers("OwnRights"),
        route(Method::GET, "/v1/acl/token/{accessor}", Right::Judged, read).answers("TokenView"),
        route(Method::PUT, "/v1/acl/token/{accessor}", Right::Judged, update)
            .takes("TokenRequest")
            .answers("TokenView"),
        route(Method::PUT, "/v1/acl/token/{accessor}/clone", Right::Judged, duplicate)
            .takes("CloneRequest")
            .answers("TokenView"),
        route(Method::DELETE, "/v1/acl/token/{accessor}", Right::Judged, delete).answers("bool"),
        route(Method::GET, "/v1/acl/tokens", Right::Judged, list)
            .reads(&["policy", "role", "servicename", "authmethod"])
            .answers("[TokenView]"),
    ]
}

/// Makes a token; its secret is in this answer and nowhere else.
async fn create(call: Call) -> Result<Response, ApiError> {
    let request: TokenRequest = call.decode()?;
    if request.has_secret {
        let reason = "`SecretID`: weft draws the secret and shows it once; leave it out";
        return Err(call.body_error(&reason));
    }
    call.check_datacenters(&request.datacenters)?;
    let namespace = call.body_namespace(request.namespace.clone())?;
    let reading = call.read(READS.to_vec()).await?;
    let (rights, links) = call.resolve(&reading.catalog, &request.links, &namespace)?;
    let (token, secret) = new_token(rights);
    let expires_at = request.expires_at(token.created_at).map_err(|error| call.body_error(&error))?;
    let token = Token {
        accessor: request.accessor.unwrap_or_else(|| call.new_id("token")),
        description: request.description,
        namespace,
        local: request.local,
        expires_at,
        ..token
    };
    call.make(token.with_links(links), secret).await
}

/// Makes a token with the same rights as another one.
async fn duplicate(call: Call) -> Result<Response, ApiError> {
    let request: CloneRequest = call.decode()?;
    let accessor: AccessorId = call.path_name("accessor")?;
    let reading = call.read(READS.to_vec()).await?;
    let original = reading.catalog.token(&accessor);
    call.may_read_acl(&reading, original.map(|token| &token.namespace))?;
    let Some(original) = original else { return Ok(call.not_found(&reading, "token", &accessor)) };
    if original.auth_method.is_some() {
        return Err(call.body_error(&"the token was made by a login and ends with it; log in again for another one"));
    }
    let (fresh, secret) = new_token(original.rights.clone());
    let noted = if request.description.is_empty() { original.description.clone() } else { request.description };
    let token = Token {
        accessor: call.new_id("token"),
        secret: fresh.secret,
        created_at: fresh.created_at,
        description: noted,
        ..original.clone()
    };
    call.make(token, secret).await
}

/// Gives a token another description and other links. Its secret, end and namespace stay.
async fn update(call: Call) -> Result<Response, ApiError> {
    let request: TokenRequest = call.decode()?;
    let accessor: AccessorId = call.path_name("accessor")?;
    if request.accessor.as_ref().is_some_and(|named| *named != accessor) {
        return Err(call.body_error(&"`AccessorID`: it is another one than in the path; leave it out"));
    }
    call.check_datacenters(&request.datacenters)?;
    let reading = call.read(READS.to_vec()).await?;
    let namespace = reading.catalog.token(&accessor).map(|token| token.namespace.clone()).unwrap_or_default();
    call.may(format_args!("`acl = \"write\"` in the namespace {namespace}"), |may| may.acl_write(&namespace))?;
    let (rights, links) = call.resolve(&reading.catalog, &request.links, &namespace)?;
    let description = request.description;
    let change = AclChange::UpdateToken { accessor: accessor.clone(), description, rights, links };
    call.write(Command::Acl { change }).await?;
    let catalog = call.state.consensus().catalog();
    match catalog.token(&accessor) {
        Some(token) => call.json(&TokenView::with_names(token, &catalog)),
        None => Err(ApiError::NotFound { what: "token", name: accessor.to_string() }),
    }
}

/// Answers with the caller's own token, without its secret.
async fn own(call: Call) -> Result<Response, ApiError> {
    let accessor = call.caller.accessor().cloned().ok_or(ApiError::TokenUnknown)?;
    let reading = call.read(READS.to_vec()).await?;
    let token = reading.catalog.token(&accessor).ok_or(ApiError::TokenUnknown)?;
    call.answer(&reading, &TokenView::with_names(token, &reading.catalog))
}

/// Answers with what the caller may do, merged from all that its token is linked to: agents judge by it.
async fn own_rights(call: Call) -> Result<Response, ApiError> {
    let accessor = call.caller.accessor().cloned().ok_or(ApiError::TokenUnknown)?;
    let reading = call.read(READS.to_vec()).await?;
    let expires_at = reading.catalog.token(&accessor).ok_or(ApiError::TokenUnknown)?.expires_at;
    call.answer(&reading, &OwnRights { authority: reading.authority.clone(), expires_at })
}

/// Answers with a token, without its secret.
async fn read(call: Call) -> Result<Response, ApiError> {
    let accessor: AccessorId = call.path_name("accessor")?;
    let reading = call.read(READS.to_vec()).await?;
    let token = reading.catalog.token(&accessor);
    call.may_read_acl(&reading, token.map(|token| &token.namespace))?;
    match token {
        Some(token) => call.answer(&reading, &TokenView::with_names(token, &reading.catalog)),
        None => Ok(call.not_found(&reading, "token", &accessor)),
    }
}

/// Ends a token.
async fn delete(call: Call) -> Result<Response, ApiError> {
    let accessor: AccessorId = call.path_name("accessor")?;
    call.write(Command::DeleteToken { accessor }).await?;
    call.json(&true)
}

/// Answers with the tokens that the caller may see, without their secrets.
///
/// `policy`, `role`, `servicename` and `authmethod` ask for those that are linked to one.
async fn list(call: Call) -> Result<Response, ApiError> {
    let namespace = call.listed_namespace()?;
    let reading = call.read(READS.to_vec()).await?;
    let catalog = &reading.catalog;
    let tokens: Vec<_> = catalog
        .tokens()
        .filter(|token| namespace.as_ref().is_none_or(|wanted| token.namespace == *wanted))
        .filter(|token| call.asks_for(token, catalog))
        .filter(|token| reading.keeps(reading.authority.acl_read(&token.namespace)))
        .map(|token| TokenView::with_names(token, catalog))
        .collect();
    call.answer(&reading, &tokens)
}

impl Call {
    /// Stores a token, and answers with it and its secret.
    async fn make(&self, token: Token, secret: Secret) -> Result<Response, ApiError> {
        let command = Command::Acl { change: AclChange::CreateToken { token: Box::new(token.clone()) } };
        let is_named_by_request = token.accessor == self.new_id::<AccessorId>("token");
        let was_made = |catalog: &Catalog| is_named_by_request && catalog.token(&token.accessor).is_some();
        self.write_secret(command, was_made).await?;
        self.hand_out(token, secret).await
    }

    /// Reports whether the query asks for a token by what it is linked to.
    fn asks_for(&self, token: &Token, catalog: &Catalog) -> bool {
        let shown = || TokenView::with_names(token, catalog).links;
        let linked = |name: &'static str, is_linked: &dyn Fn(&str) -> bool| self.query.get(name).is_none_or(is_linked);
        linked("policy", &|id| shown().policies.iter().any(|link| link.id == id))
            && linked("role", &|id| shown().roles.iter().any(|link| link.id == id))
            && linked("servicename", &|name| token.service_identities.iter().any(|held| held.as_str() == name))
            && linked("authmethod", &|name| token.auth_method.as_deref() == Some(name))
    }
}
