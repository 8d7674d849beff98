//! Auth methods and binding rules: who may log in, and as what.

use ::catalog::{AuthMethodName, BindingRuleId, Command, LoginChange, WatchKey};
use axum::response::Response;
use http::Method;
use wire::consul::{AuthMethodEntry, AuthMethodRequest, BindingRuleEntry};

use super::auth::Right;
use super::call::Call;
use super::error::ApiError;
use super::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::PUT, "/v1/acl/auth-method", Right::AclWrite, create_method)
            .takes("AuthMethodEntry")
            .answers("AuthMethodEntry"),
        route(Method::GET, "/v1/acl/auth-method/{name}", Right::AclRead, read_method).answers("AuthMethodEntry"),
        route(Method::PUT, "/v1/acl/auth-method/{name}", Right::AclWrite, update_method)
            .takes("AuthMethodEntry")
            .answers("AuthMethodEntry"),
        route(Method::DELETE, "/v1/acl/auth-method/{name}", Right::AclWrite, delete_method).answers("bool"),
        route(Method::GET, "/v1/acl/auth-methods", Right::AclRead, list_methods).answers("[AuthMethodEntry]"),
        route(Method::PUT, "/v1/acl/binding-rule", Right::AclWrite, create_rule)
            .takes("BindingRuleEntry")
            .answers("BindingRuleEntry"),
        route(Method::GET, "/v1/acl/binding-rule/{id}", Right::AclRead, read_rule).answers("BindingRuleEntry"),
        route(Method::PUT, "/v1/acl/binding-rule/{id}", Right::AclWrite, update_rule)
            .takes("BindingRuleEntry")
            .answers("BindingRuleEntry"),
        route(Method::DELETE, "/v1/acl/binding-rule/{id}", Right::AclWrite, delete_rule).answers("bool"),
        route(Method::GET, "/v1/acl/binding-rules", Right::AclRead, list_rules)
            .reads(&["authmethod"])
            .answers("[BindingRuleEntry]"),
    ]
}

async fn create_method(call: Call) -> Result<Response, ApiError> {
    write_method(call, None).await
}

async fn update_method(call: Call) -> Result<Response, ApiError> {
    let name: AuthMethodName = call.path_name("name")?;
    write_method(call, Some(name)).await
}

/// Makes a method, or changes the one that the path names, and answers with it.
async fn write_method(call: Call, name: Option<AuthMethodName>) -> Result<Response, ApiError> {
    let replace = name.is_some();
    let request: AuthMethodRequest = call.decode()?;
    // A method that names no audience gets one of this mesh: while that is born, it is waited for.
    let catalog = match call.state.consensus().catalog() {
        catalog if catalog.mesh().is_some() => catalog,
        _ => call.read_with_authority(vec![WatchKey::Mesh]).await?.catalog,
    };
    let cluster_id = catalog.mesh().map(|mesh| mesh.cluster_id.clone()).ok_or(ApiError::NoAuthority)?;
    let method = request.into_method(name, &cluster_id).map_err(|error| call.body_error(&error))?;
    call.state.logins().make(&method.config).map(drop).map_err(|error| call.body_error(&error))?;
    let name = method.name.clone();
    let shown = AuthMethodEntry::from(&method);
    call.write(login(LoginChange::WriteMethod { method: Box::new(method), replace })).await?;
    let stored = call.state.consensus().catalog().auth_method(&name).map(AuthMethodEntry::from);
    call.json(&stored.unwrap_or(shown))
}

async fn read_method(call: Call) -> Result<Response, ApiError> {
    let name: AuthMethodName = call.path_name("name")?;
    let reading = call.read(vec![WatchKey::AuthMethods]).await?;
    match reading.catalog.auth_method(&name) {
        Some(method) => call.answer(&reading, &AuthMethodEntry::from(method)),
        None => Ok(call.not_found(&reading, "auth method", &name)),
    }
}

/// Removes a method with its rules and the tokens that its logins made.
async fn delete_method(call: Call) -> Result<Response, ApiError> {
    let name: AuthMethodName = call.path_name("name")?;
    call.write(login(LoginChange::DeleteMethod { name })).await?;
    call.json(&true)
}

async fn list_methods(call: Call) -> Result<Response, ApiError> {
    let reading = call.read(vec![WatchKey::AuthMethods]).await?;
    let methods: Vec<_> = reading.catalog.auth_methods().map(AuthMethodEntry::from).collect();
    call.answer(&reading, &methods)
}

async fn create_rule(call: Call) -> Result<Response, ApiError> {
    let id: BindingRuleId = call.new_id("binding-rule");
    write_rule(call, id, false).await
}

async fn update_rule(call: Call) -> Result<Response, ApiError> {
    let id: BindingRuleId = call.path_name("id")?;
    write_rule(call, id, true).await
}

/// Makes a rule, or changes one that is there, and answers with it.
async fn write_rule(call: Call, id: BindingRuleId, replace: bool) -> Result<Response, ApiError> {
    let entry: BindingRuleEntry = call.decode()?;
    if entry.id.as_ref().is_some_and(|body| replace && *body != id) {
        return Err(call.body_error(&"ID: it is another one than the path's; a rule keeps its id"));
    }
    let rule = entry.into_rule(id.clone());
    let shown = BindingRuleEntry::from(&rule);
    call.write(login(LoginChange::WriteRule { rule: Box::new(rule), replace })).await?;
    let stored = call.state.consensus().catalog().binding_rule(&id).map(BindingRuleEntry::from);
    call.json(&stored.unwrap_or(shown))
}

async fn read_rule(call: Call) -> Result<Response, ApiError> {
    let id: BindingRuleId = call.path_name("id")?;
    let reading = call.read(vec![WatchKey::AuthMethods]).await?;
    match reading.catalog.binding_rule(&id) {
        Some(rule) => call.answer(&reading, &BindingRuleEntry::from(rule)),
        None => Ok(call.not_found(&reading, "binding rule", &id)),
    }
}

async fn delete_rule(call: Call) -> Result<Response, ApiError> {
    let id: BindingRuleId = call.path_name("id")?;
    call.write(login(LoginChange::DeleteRule { id })).await?;
    call.json(&true)
}

/// Answers with all rules, or with those of the method that `authmethod` names.
async fn list_rules(call: Call) -> Result<Response, ApiError> {
    let only = call.query.get("authmethod");
    let reading = call.read(vec![WatchKey::AuthMethods]).await?;
    let rules = reading.catalog.binding_rules();
    let rules: Vec<_> =
        rules.filter(|rule| only.is_none_or(|only| rule.method.as_str() == only)).map(BindingRuleEntry::from).collect();
    call.answer(&reading, &rules)
}

fn login(change: LoginChange) -> Command {
    Command::Login { change }
}
