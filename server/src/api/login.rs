//! Logging in for a token, and out again.

use std::collections::BTreeSet;

use ::catalog::{
    AclName, AclPolicy, AclRole, Actor, AuthMethod, Catalog, Command, LoginChange, Namespace, PolicyId, Refusal,
    Rights, Token,
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
use crate::agent_port::UNPROVEN;
use crate::login::{LoginFailed, Verified};

/// A login whose rules change in the middle is judged again, and not for ever.
const ATTEMPTS_MAX: usize = 3;
/// What callers may note about a token.
const META_MAX: usize = 16;
const META_BYTES_MAX: usize = 256;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::POST, "/v1/acl/login", Right::Public, log_in)
            .with_body(UNPROVEN.bytes_max, UNPROVEN.timeout)
            .takes("TokenLogin")
            .answers("TokenView"),
        route(Method::POST, "/v1/acl/logout", Right::AnyToken, log_out).answers("bool"),
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
    let (token, secret) = result.inspect_err(|error| {
        if let ApiError::Login(failed) = error {
            call.state.logins().note(&request.auth_method, call.source, failed);
        }
    })?;
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
        let verified = logins.verify_caller(&catalog, &request.auth_method, &request.bearer_token, source).await;
        let verified = verified.map_err(ApiError::Login)?;
        let (token, secret) = token(&catalog, &verified, note).map_err(ApiError::Login)?;
        let change = LoginChange::GrantToken {
            token: Box::new(token.clone()),
            method: verified.method.clone(),
            judged_at: verified.bound.judged_at,
        };
        match call.write_as(Actor::Login(verified.method), Command::Login { change }).await {
            Err(ApiError::Refused(Refusal::LoginRulesChanged { .. })) => {}
            Err(ApiError::Refused(refusal)) => return Err(ApiError::Login(LoginFailed::Refused(refusal))),
            result => return result.map(|_| (token, secret)),
        }
    }
    Err(ApiError::Login(LoginFailed::Refused(Refusal::LoginRulesChanged { method: request.auth_method.clone() })))
}

/// Draws a token that is linked to what the binding rules say.
fn token(catalog: &Catalog, verified: &Verified, note: &str) -> Result<(Token, Secret), LoginFailed> {
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
        _ => return Err(LoginFailed::Ambiguous { method: verified.method.clone() }),
    };
    let place = Place { method, namespace: &namespace };
    let policies: BTreeSet<PolicyId> = place
        .linked("policy", &bound.policies, |within, name| Some(catalog.policy_by_name(within, name)?.id.clone()))?
        .into_iter()
        .collect();
    let mut roles: Vec<&AclRole> =
        place.linked("role", &bound.roles, |within, name| catalog.role_by_name(within, name))?;
    roles.sort_by(|a, b| a.id.cmp(&b.id));
    if policies.iter().chain(roles.iter().flat_map(|role| &role.links.policies)).any(AclPolicy::is_global_management) {
        return Err(LoginFailed::Management { method: verified.method.clone() });
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

/// Where a login's token belongs.
struct Place<'a> {
    method: &'a AuthMethod,
    namespace: &'a Namespace,
}

impl Place<'_> {
    /// Finds what rules name in the token's own namespace.
    ///
    /// As in Consul, what is not there grants nothing. What is there in another namespace would grant nothing either, and is
    /// a mistake of whoever wrote the rule: such a login is denied as a whole.
    fn linked<T>(
        &self,
        what: &'static str,
        names: &BTreeSet<String>,
        find: impl Fn(&Namespace, &AclName) -> Option<T>,
    ) -> Result<Vec<T>, LoginFailed> {
        let mut found = Vec::new();
        for name in names.iter().filter_map(|name| name.parse::<AclName>().ok()) {
            if let Some(here) = find(self.namespace, &name) {
                found.push(here);
                continue;
            }
            let others = [self.method.namespace.clone(), Namespace::default_namespace()];
            if let Some(elsewhere) = others.into_iter().find(|other| find(other, &name).is_some()) {
                let (method, wanted) = (self.method.name.clone(), self.namespace.clone());
                return Err(LoginFailed::LinkElsewhere { method, what, name, found: elsewhere, wanted });
            }
        }
        Ok(found)
    }
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
