//! The admin listener of a connector: liveness, readiness and metrics.

use std::{convert::Infallible, future::Future, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use wire::accept::{Accepted, accept_all};

use crate::metrics::{Metrics, OPENMETRICS};

/// How long a client may take over the head of a request.
const HEAD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// How many connections are open at a time.
const CONNECTIONS_MAX: usize = 64;

/// Serves `/live`, `/ready` and `/metrics` until it is dropped; `missing` says what is missing before all is well.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    missing: impl Fn() -> Vec<String> + Send + Sync + 'static,
) {
    let (missing, room) = (Arc::new(missing), Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX)));
    let until_dropped = std::future::pending();
    accept_all(
        "admin",
        listener,
        room,
        until_dropped,
        || {},
        |Accepted { stream, permit, .. }| {
            let (metrics, missing) = (metrics.clone(), Arc::clone(&missing));
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(&request, &metrics, &*missing));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    tracing::debug!(error = wire::one_line(&error), "admin connection ended");
                }
                drop(permit);
            });
        },
    )
    .await;
}

fn answer(
    request: &Request<Incoming>,
    metrics: &Metrics,
    missing: &(dyn Fn() -> Vec<String> + Send + Sync),
) -> impl Future<Output = Result<Response<Full<Bytes>>, Infallible>> + use<> {
    let response = match (request.method(), request.uri().path()) {
        (&Method::GET, "/live") => text(StatusCode::OK, "text/plain", "live\n".to_owned()),
        (&Method::GET, "/ready") => {
            let missing = missing();
            if missing.is_empty() {
                text(StatusCode::OK, "text/plain", "ready\n".to_owned())
            } else {
                text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("{}\n", missing.join("\n")))
            }
        }
        (&Method::GET, "/metrics") => text(StatusCode::OK, OPENMETRICS, metrics.text()),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "there are /live, /ready and /metrics\n".to_owned()),
    };
    std::future::ready(Ok(response))
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
