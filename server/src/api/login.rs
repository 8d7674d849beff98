//! Logging in for a token, and out again.

use std::collections::BTreeSet;

use ::catalog::{
    AclName, AclPolicy, AclRole, Actor, Catalog, Command, LoginChange, Namespace, PolicyId, Refusal, Rights, Token,
};
use axum::response::Response;
use http::Method;
use wire::acl::TokenView;
use wire::consul::TokenLogin;
use wire::crypto::{self, Secret};

use super::acl::{SECRET_BYTES, new_accessor};
use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};
use crate::login::{LoginFailed, Verified};

/// A login whose rules change in the middle is judged again, and not for ever.
const ATTEMPTS_MAX: usize = 3;
/// What callers may note about a token.
const META_MAX: usize = 16;
const META_BYTES_MAX: usize = 256;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::POST, "/v1/acl/login", Right::Public, log_in),
        route(Method::POST, "/v1/acl/logout", Right::AnyToken, log_out),
    ]
}

/// Makes a token for somebody whom an auth method vouches for; its secret is in this answer and nowhere else.
async fn log_in(call: Call) -> Result<Response, ApiError> {
    let request: TokenLogin = call.decode()?;
    let note = note(&request).map_err(|problem| call.body_error(&problem))?;
    let result = attempt(&call, &request, &note).await;
    call.state.metrics().login(match &result {
        Ok(_) => "granted",
        Err(error) if error.status().is_server_error() => "unavailable",
        Err(_) => "refused",
    });
    let (token, secret) = result?;
    let stored = call.handed_out(|catalog| catalog.token_by_secret(&token.secret).cloned()).await?.unwrap_or(token);
    let shown = TokenView::with_names(&stored, &call.state.consensus().catalog());
    call.json(&TokenView { secret: Some(secret), ..shown })
}

async fn attempt(call: &Call, request: &TokenLogin, note: &str) -> Result<(Token, Secret), ApiError> {
    for _ in 0..ATTEMPTS_MAX {
        // The rules are asked as they are after everything that was committed before now.
        call.state.consensus().read_index().await?;
        let catalog = call.state.consensus().catalog();
        let logins = call.state.logins();
        let source = call.source.map(|source| source.ip());
        let verified = logins.verify_caller(&catalog, &request.auth_method, &request.bearer_token, source).await?;
        let (token, secret) = token(&catalog, &verified, note)?;
        let change = LoginChange::GrantToken {
            token: Box::new(token.clone()),
            method: verified.method.clone(),
            judged_at: verified.bound.judged_at,
        };
        match call.write_as(Actor::Login(verified.method), Command::Login { change }).await {
            Err(ApiError::Refused(Refusal::LoginRulesChanged { .. })) => {}
            result => return result.map(|_| (token, secret)),
        }
    }
    Err(Refusal::LoginRulesChanged { method: request.auth_method.clone() }.into())
}

/// Draws a token that is linked to what the binding rules say.
fn token(catalog: &Catalog, verified: &Verified, note: &str) -> Result<(Token, Secret), ApiError> {
    let missing = || {
        LoginFailed::Refused(Refusal::NotFound { what: "auth method".to_owned(), name: verified.method.to_string() })
    };
    let method = catalog.auth_method(&verified.method).ok_or_else(missing)?;
    let bound = &verified.bound;
    let namespaces: BTreeSet<&Namespace> = bound.services.iter().map(|service| &service.namespace).collect();
    let namespace = match namespaces.len() {
        0 => method.namespace.clone(),
        1 => namespaces.into_iter().next().cloned().unwrap_or_default(),
        // A token belongs to one namespace, and stands for services of that one only.
        _ => return Err(ApiError::LoginAmbiguous { method: verified.method.clone() }),
    };
    // As in Consul, what a rule names and is not there grants nothing.
    let within = [&method.namespace, &Namespace::default_namespace()];
    let policies: BTreeSet<PolicyId> = bound
        .policies
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter_map(|name: AclName| within.iter().find_map(|namespace| catalog.policy_by_name(namespace, &name)))
        .map(|policy| policy.id.clone())
        .collect();
    let mut roles: Vec<&AclRole> = bound
        .roles
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter_map(|name: AclName| within.iter().find_map(|namespace| catalog.role_by_name(namespace, &name)))
        .collect();
    roles.sort_by(|a, b| a.id.cmp(&b.id));
    roles.dedup_by(|a, b| a.id == b.id);
    if policies.iter().chain(roles.iter().flat_map(|role| &role.links.policies)).any(AclPolicy::is_global_management) {
        return Err(ApiError::LoginManagement { method: verified.method.clone() });
    }
    let secret = Secret::new(crypto::random_hex(SECRET_BYTES));
    let now = crypto::now();
    let token = Token {
        description: format!("token created via login{note}"),
        policies: policies.into_iter().collect(),
        roles: roles.iter().map(|role| role.id.clone()).collect(),
        service_identities: bound.services.iter().map(|service| service.name.clone()).collect(),
        node_identities: bound.nodes.iter().cloned().collect(),
        namespace,
        local: true,
        auth_method: Some(verified.method.to_string()),
        login_subject: Some(verified.claims.subject.clone()),
        expires_at: Some(now.saturating_add(method.token_ttl)),
        ..Token::new(new_accessor(), crypto::secret_hash(&secret), Rights::Rules, now)
    };
    Ok((token, secret))
}

/// Writes what the caller notes about the token, as Consul does.
fn note(request: &TokenLogin) -> Result<String, &'static str> {
    let is_long = |(key, value): (&String, &String)| key.len() + value.len() > META_BYTES_MAX;
    if request.meta.len() > META_MAX || request.meta.iter().any(is_long) {
        return Err("Meta: at most 16 pairs of 256 bytes each are noted; send less");
    }
    if request.meta.is_empty() {
        return Ok(String::new());
    }
    let json = serde_json::to_string(&request.meta).map_err(|_| "Meta: it cannot be written as JSON; send text")?;
    Ok(format!(": {}", json.chars().take(400).collect::<String>()))
}

/// Ends the token that the call is made with, if it is one of a login.
async fn log_out(call: Call) -> Result<Response, ApiError> {
    call.check_no_body()?;
    let accessor = call.caller.accessor().cloned().ok_or(ApiError::TokenUnknown)?;
    let catalog = call.state.consensus().catalog();
    let token = catalog.token(&accessor).ok_or(ApiError::TokenUnknown)?;
    if token.auth_method.is_none() {
        return Err(ApiError::NotLoggedIn);
    }
    // Whoever holds a token may end it, whatever else it lets them do.
    call.write_as(Actor::Token(accessor.clone()), Command::DeleteToken { accessor }).await?;
    call.json(&true)
}
