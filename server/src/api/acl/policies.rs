//! `/v1/acl/policy...`: the named sets of rules.

use ::catalog::{AclChange, AclName, AclPolicy, CatalogIndex, Command, Namespace, PolicyId, WatchKey};
use axum::response::Response;
use http::Method;
use wire::acl::{PolicyRequest, PolicyView, parse_rules};

use crate::api::auth::Right;
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::route::{Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::PUT, "/v1/acl/policy", Right::Judged, create).takes("PolicyRequest").answers("PolicyView"),
        route(Method::GET, "/v1/acl/policy/{id}", Right::Judged, read).answers("PolicyView"),
        route(Method::PUT, "/v1/acl/policy/{id}", Right::Judged, update).takes("PolicyRequest").answers("PolicyView"),
        route(Method::DELETE, "/v1/acl/policy/{id}", Right::Judged, delete).answers("bool"),
        route(Method::GET, "/v1/acl/policy/name/{name}", Right::Judged, read_by_name).answers("PolicyView"),
        route(Method::GET, "/v1/acl/policies", Right::Judged, list).answers("[PolicyView]"),
    ]
}

/// Makes a policy.
async fn create(call: Call) -> Result<Response, ApiError> {
    let request: PolicyRequest = call.decode()?;
    let namespace = call.body_namespace(request.namespace.clone())?;
    let id: PolicyId = call.new_id("policy");
    let policy = policy(&call, id, namespace, request)?;
    call.store(AclChange::CreatePolicy { policy: Box::new(policy.clone()) }, &policy.id).await
}

/// Changes a policy; its id and namespace stay.
async fn update(call: Call) -> Result<Response, ApiError> {
    let request: PolicyRequest = call.decode()?;
    let id: PolicyId = call.path_name("id")?;
    let policy = policy(&call, id, Namespace::default_namespace(), request)?;
    call.store(AclChange::UpdatePolicy { policy: Box::new(policy.clone()) }, &policy.id).await
}

fn policy(call: &Call, id: PolicyId, namespace: Namespace, request: PolicyRequest) -> Result<AclPolicy, ApiError> {
    call.check_datacenters(&request.datacenters)?;
    let rules = parse_rules(&request.rules).map_err(|error| call.body_error(&format_args!("`Rules`: {error}")))?;
    Ok(AclPolicy {
        id,
        name: request.name,
        description: request.description,
        namespace,
        text: request.rules,
        rules,
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    })
}

impl Call {
    /// Writes a policy and answers with it as it is stored.
    async fn store(&self, change: AclChange, id: &PolicyId) -> Result<Response, ApiError> {
        self.write(Command::Acl { change }).await?;
        match self.state.consensus().catalog().policy(id) {
            Some(policy) => self.json(&PolicyView::new(&policy)),
            None => Err(ApiError::NotFound { what: "policy", name: id.to_string() }),
        }
    }
}

/// Answers with a policy.
async fn read(call: Call) -> Result<Response, ApiError> {
    let id: PolicyId = call.path_name("id")?;
    let reading = call.read(vec![WatchKey::AclPolicies]).await?;
    let policy = reading.catalog.policy(&id);
    call.may_read_acl(&reading, policy.as_ref().map(|policy| &policy.namespace))?;
    match policy {
        Some(policy) => call.answer(&reading, &PolicyView::new(&policy)),
        None => Ok(call.not_found(&reading, "policy", &id)),
    }
}

/// Answers with the policy of a name within a namespace.
async fn read_by_name(call: Call) -> Result<Response, ApiError> {
    let name: AclName = call.path_name("name")?;
    let namespace = call.namespace()?;
    let reading = call.read(vec![WatchKey::AclPolicies]).await?;
    call.may_read_acl(&reading, Some(&namespace))?;
    match reading.catalog.policy_by_name(&namespace, &name) {
        Some(policy) => call.answer(&reading, &PolicyView::new(&policy)),
        None => Ok(call.not_found(&reading, "policy", &name)),
    }
}

/// Removes a policy; what is linked to it loses what it granted.
async fn delete(call: Call) -> Result<Response, ApiError> {
    let id: PolicyId = call.path_name("id")?;
    call.write(Command::Acl { change: AclChange::DeletePolicy { id } }).await?;
    call.json(&true)
}

/// Answers with the policies that the caller may see, without their rules.
async fn list(call: Call) -> Result<Response, ApiError> {
    let namespace = call.listed_namespace()?;
    let reading = call.read(vec![WatchKey::AclPolicies]).await?;
    let policies: Vec<_> = reading
        .catalog
        .policies()
        .iter()
        .filter(|policy| namespace.as_ref().is_none_or(|wanted| policy.namespace == *wanted))
        .filter(|policy| reading.keeps(reading.authority.acl_read(&policy.namespace)))
        .map(|policy| PolicyView::listed(policy))
        .collect();
    call.answer(&reading, &policies)
}
