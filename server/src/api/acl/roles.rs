//! `/v1/acl/role...`: the named sets of links that tokens share.

use ::catalog::{AclChange, AclName, AclPolicy, AclRole, CatalogIndex, Command, Namespace, Rights, RoleId, WatchKey};
use axum::response::Response;
use http::Method;
use wire::acl::{RoleRequest, RoleView};

use crate::api::auth::Right;
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::reads::Reading;
use crate::api::route::{Route, route};

/// What every answer about roles reads: roles, and the names of the policies that they are linked to.
const READS: [WatchKey; 2] = [WatchKey::AclRoles, WatchKey::AclPolicies];

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::PUT, "/v1/acl/role", Right::Judged, create).takes("RoleRequest").answers("RoleView"),
        route(Method::GET, "/v1/acl/role/{id}", Right::Judged, read).answers("RoleView"),
        route(Method::PUT, "/v1/acl/role/{id}", Right::Judged, update).takes("RoleRequest").answers("RoleView"),
        route(Method::DELETE, "/v1/acl/role/{id}", Right::Judged, delete).answers("bool"),
        route(Method::GET, "/v1/acl/role/name/{name}", Right::Judged, read_by_name).answers("RoleView"),
        route(Method::GET, "/v1/acl/roles", Right::Judged, list).reads(&["policy"]).answers("[RoleView]"),
    ]
}

/// Makes a role.
async fn create(call: Call) -> Result<Response, ApiError> {
    let request: RoleRequest = call.decode()?;
    let namespace = call.body_namespace(request.namespace.clone())?;
    let reading = call.read(READS.to_vec()).await?;
    let id: RoleId = call.new_id("role");
    let role = role(&call, &reading, id, namespace, request)?;
    call.keep(AclChange::CreateRole { role: Box::new(role.clone()) }, &role.id).await
}

/// Changes a role; its id and namespace stay.
async fn update(call: Call) -> Result<Response, ApiError> {
    let request: RoleRequest = call.decode()?;
    let id: RoleId = call.path_name("id")?;
    let reading = call.read(READS.to_vec()).await?;
    let namespace = reading.catalog.role(&id).map(|role| role.namespace.clone()).unwrap_or_default();
    let role = role(&call, &reading, id, namespace, request)?;
    call.keep(AclChange::UpdateRole { role: Box::new(role.clone()) }, &role.id).await
}

/// Makes a role of a request. The right comes first: whether a policy that it names is there is nobody else's business.
fn role(
    call: &Call,
    reading: &Reading,
    id: RoleId,
    namespace: Namespace,
    request: RoleRequest,
) -> Result<AclRole, ApiError> {
    call.may(format_args!("`acl = \"write\"` in the namespace {namespace}"), |may| may.acl_write(&namespace))?;
    call.check_datacenters(&request.datacenters)?;
    let (rights, mut links) = call.resolve(&reading.catalog, &request.links, &namespace)?;
    if rights == Rights::Management {
        let [management, _] = AclPolicy::builtin();
        links.policies.push(management.id);
    }
    Ok(AclRole {
        id,
        name: request.name,
        description: request.description,
        namespace,
        links: links.sorted(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    })
}

impl Call {
    /// Writes a role and answers with it as it is stored.
    async fn keep(&self, change: AclChange, id: &RoleId) -> Result<Response, ApiError> {
        self.write(Command::Acl { change }).await?;
        let catalog = self.state.consensus().catalog();
        match catalog.role(id) {
            Some(role) => self.json(&RoleView::new(role, &catalog)),
            None => Err(ApiError::NotFound { what: "role", name: id.to_string() }),
        }
    }
}

/// Answers with a role.
async fn read(call: Call) -> Result<Response, ApiError> {
    let id: RoleId = call.path_name("id")?;
    let reading = call.read(READS.to_vec()).await?;
    let role = reading.catalog.role(&id);
    call.may_read_acl(&reading, role.map(|role| &role.namespace))?;
    match role {
        Some(role) => call.answer(&reading, &RoleView::new(role, &reading.catalog)),
        None => Ok(call.not_found(&reading, "role", &id)),
    }
}

/// Answers with the role of a name within a namespace.
async fn read_by_name(call: Call) -> Result<Response, ApiError> {
    let name: AclName = call.path_name("name")?;
    let namespace = call.namespace()?;
    let reading = call.read(READS.to_vec()).await?;
    call.may_read_acl(&reading, Some(&namespace))?;
    match reading.catalog.role_by_name(&namespace, &name) {
        Some(role) => call.answer(&reading, &RoleView::new(role, &reading.catalog)),
        None => Ok(call.not_found(&reading, "role", &name)),
    }
}

/// Removes a role; what is linked to it loses what it granted.
async fn delete(call: Call) -> Result<Response, ApiError> {
    let id: RoleId = call.path_name("id")?;
    call.write(Command::Acl { change: AclChange::DeleteRole { id } }).await?;
    call.json(&true)
}

/// Answers with the roles that the caller may see; `policy` asks for those that are linked to one.
async fn list(call: Call) -> Result<Response, ApiError> {
    let namespace = call.listed_namespace()?;
    let reading = call.read(READS.to_vec()).await?;
    let linked = |role: &AclRole| {
        let is_it = |id: &str| role.links.policies.iter().any(|held| held.as_str() == id);
        call.query.get("policy").is_none_or(is_it)
    };
    let roles: Vec<_> = reading
        .catalog
        .roles()
        .filter(|role| namespace.as_ref().is_none_or(|wanted| role.namespace == *wanted) && linked(role))
        .filter(|role| reading.keeps(reading.authority.acl_read(&role.namespace)))
        .map(|role| RoleView::new(role, &reading.catalog))
        .collect();
    call.answer(&reading, &roles)
}
