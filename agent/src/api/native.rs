//! `/v1/agent/connect/...`: what an application needs that speaks mutual TLS by itself.

use axum::response::{IntoResponse, Response};
use catalog::{CatalogIndex, ServiceKey, Timestamp};
use http::{HeaderValue, Method};
use wire::consul::{AuthorizeAnswer, AuthorizeRequest, LeafCertificate};
use wire::decode::from_json;
use wire::pki::Serial;

use super::error::{ApiError, text};
use super::forward;
use super::rights::Right;
use super::route::{Call, Route, route};
use crate::core::Request;
use crate::leaf::HeldLeaf;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/v1/agent/connect/ca/leaf/{service}", Right::Judged, leaf)
            .reads(&["index", "wait"])
            .answers("LeafCertificate"),
        route(Method::POST, "/v1/agent/connect/authorize", Right::Judged, authorize)
            .takes("object")
            .answers("AuthorizeAnswer"),
    ]
}

/// Answers with the leaf of a local service and its key, which the agent made here; blocks until there is another one
/// where `index` names the one that is known, and until there is one at all.
async fn leaf(call: Call) -> Result<Response, ApiError> {
    let service = ServiceKey::new(call.query.namespace()?, call.path("service")?);
    call.need_service_write(&service)?;
    let known = call.index()?;
    let deadline = call.wait_until()?;
    let mut status = call.state.core.watch();
    loop {
        let is_local = {
            let status = status.borrow_and_update();
            status.services.iter().any(|it| it.instance.service_key() == service)
        };
        if !is_local {
            let reason = format!("no instance of `{service}` is registered with this agent; register one first");
            return Ok(text(http::StatusCode::NOT_FOUND, reason));
        }
        let leaf =
            call.state.core.ask(|reply| Request::Leaf(service.clone(), reply)).await.ok_or(ApiError::Stopping)?;
        let is_news = leaf.as_ref().is_some_and(|leaf| Some(index_of(leaf)) != known);
        let has_time = !is_news && matches!(tokio::time::timeout_at(deadline, status.changed()).await, Ok(Ok(())));
        match leaf {
            _ if has_time => {}
            Some(leaf) => return shown(&call, &service, &leaf),
            None => return Err(ApiError::NoLeaf { service }),
        }
    }
}

/// Names a leaf by when it was obtained, which is later for each.
fn index_of(leaf: &HeldLeaf) -> CatalogIndex {
    let Timestamp(obtained) = leaf.stored().obtained();
    CatalogIndex(obtained.max(1))
}

fn shown(call: &Call, service: &ServiceKey, leaf: &HeldLeaf) -> Result<Response, ApiError> {
    let (index, tls) = (index_of(leaf), leaf.tls());
    let mut response = call.json(&LeafCertificate {
        serial_number: Serial::from(tls.serial()).to_colons(),
        certificate_pem: leaf.stored().chain_pem().concat(),
        private_key_pem: leaf.stored().key_pem().clone(),
        service: service.name.clone(),
        namespace: service.namespace.clone(),
        service_uri: tls.id().to_string(),
        valid_after: tls.not_before(),
        valid_before: tls.not_after(),
        create_index: index,
        modify_index: index,
    })?;
    response.headers_mut().insert("x-consul-index", HeaderValue::from(index.0));
    response.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Answers whether the holder of a certificate may call a service: by the agent's own rules for a local service, which
/// works without servers, and by a server's for any other.
async fn authorize(call: Call) -> Result<Response, ApiError> {
    let request: AuthorizeRequest = from_json(call.body())
        .map_err(|error| ApiError::Local(crate::local::LocalError::Definition { reason: error.to_string() }))?;
    call.need_service_write(&request.target)?;
    match call.state.proxy.would_admit(&request.client, request.serial, &request.target) {
        Some(admitted) => call.json(&AuthorizeAnswer { authorized: admitted.is_allowed, reason: admitted.reason }),
        None => forward::pass_on(&call.state.core, call.as_request()?).await.map(IntoResponse::into_response),
    }
}
