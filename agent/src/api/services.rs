//! `/v1/agent/service...`: the services beside this agent.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::Response;
use catalog::{InstanceId, Namespace, ServiceKey};
use http::Method;
use wire::consul::{AgentService, ServiceDefinition};
use wire::decode::from_value;

use super::error::ApiError;
use super::rights::Right;
use super::route::{Call, Route, done, route};
use crate::core::{Request, Status};
use crate::local::{Definition, LocalError};

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/agent/services", Right::Judged, list)
            .reads(&["filter", "hash", "wait"])
            .answers("{AgentService}"),
        route(Method::GET, "/v1/agent/service/{id}", Right::Judged, read)
            .reads(&["hash", "wait"])
            .answers("AgentService"),
        route(Method::PUT, "/v1/agent/service/register", Right::Judged, register).takes("object"),
        route(Method::PUT, "/v1/agent/service/deregister/{id}", Right::Judged, deregister),
        route(Method::PUT, "/v1/agent/service/maintenance/{id}", Right::Judged, maintain).reads(&["enable", "reason"]),
    ]
}

/// Returns a service as the API shows it.
pub(super) fn shown(status: &Status, service: &Definition) -> AgentService {
    let mut instance = service.instance.clone();
    instance.mesh_port = Some(status.mesh_port);
    AgentService::new(&instance, &status.datacenter)
}

/// Returns a service by its id.
pub(super) fn find<'a>(status: &'a Status, namespace: &Namespace, id: &InstanceId) -> Result<&'a Definition, ApiError> {
    let is_it = |service: &&Definition| service.instance.key.namespace == *namespace && service.instance.key.id == *id;
    let found = status.services.iter().find(is_it);
    found.ok_or_else(|| ApiError::Local(LocalError::UnknownService { id: id.clone() }))
}

impl Call {
    /// Reads `ns` of a list: one namespace, or none that says all of them.
    pub(super) fn namespaces(&self) -> Result<Option<Namespace>, ApiError> {
        match self.query.get("ns") {
            None | Some("" | "*") => Ok(None),
            Some(_) => self.query.namespace().map(Some),
        }
    }
}

/// Answers with the services of all namespaces, or of the one that is asked for, by id.
async fn list(call: Call) -> Result<Response, ApiError> {
    let wanted = call.namespaces()?;
    call.answer_list(|status| {
        let services = status.services.iter();
        let asked = services.filter(|it| wanted.as_ref().is_none_or(|wanted| *wanted == it.instance.key.namespace));
        let asked = asked.filter(|it| call.authority.service_read(&it.instance.service_key()));
        let shown = asked.map(|service| (AgentService::object_key(&service.instance), shown(status, service)));
        Ok(shown.collect::<BTreeMap<String, AgentService>>())
    })
    .await
}

/// Answers with one service.
async fn read(call: Call) -> Result<Response, ApiError> {
    let (namespace, id) = (call.query.namespace()?, call.path("id")?);
    call.answer_hashed(|status| {
        let service = find(status, &namespace, &id)?;
        call.need_service_read(&service.instance.service_key())?;
        Ok(shown(status, service))
    })
    .await
}

/// Registers a service, or replaces what was registered under its id.
async fn register(call: Call) -> Result<Response, ApiError> {
    let body = call.json_body()?;
    match from_value::<ServiceDefinition>(body.clone(), "") {
        Ok(wanted) => {
            call.need_service_write(&ServiceKey::new(wanted.namespace.clone(), wanted.name))?;
            // An id that serves something else now needs the right on that too.
            if find(&call.state.core.status(), &wanted.namespace, &wanted.id).is_ok() {
                call.need_write_on(&wanted.namespace, &wanted.id)?;
            }
        }
        Err(error) => call.need(call.authority.is_management(), || format!("a body that can be read ({error})"))?,
    }
    change(&call, |reply| Request::RegisterService(body, reply)).await
}

/// Removes a service that was registered over the API.
async fn deregister(call: Call) -> Result<Response, ApiError> {
    let (namespace, id) = (call.query.namespace()?, call.path("id")?);
    call.need_write_on(&namespace, &id)?;
    change(&call, |reply| Request::DeregisterService(namespace, id, reply)).await
}

/// Puts a service into maintenance, where nobody calls it, or takes it out.
async fn maintain(call: Call) -> Result<Response, ApiError> {
    let (namespace, id) = (call.query.namespace()?, call.path("id")?);
    call.need_write_on(&namespace, &id)?;
    let reason = call.maintenance("Maintenance mode is enabled for this service")?;
    change(&call, |reply| Request::Maintain { namespace, id, reason, reply }).await
}

/// Listeners of upstreams may hold up an answer for this long.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Has the core change something and answers when it is done and kept, and listeners listen.
pub(super) async fn change(
    call: &Call,
    request: impl FnOnce(tokio::sync::oneshot::Sender<Result<(), LocalError>>) -> Request,
) -> Result<Response, ApiError> {
    call.state.core.ask(request).await.ok_or(ApiError::Stopping)??;
    // A listener that is late is no failure of the registration, and readiness tells of it.
    let _ = tokio::time::timeout(SETTLE_TIMEOUT, call.state.proxy.settled()).await;
    Ok(done())
}
