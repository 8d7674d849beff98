//! The shell around reviews: TLS, one request after the other, bounds on everything.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wire::accept::{Accepted, accept_all};

use super::review::{REVIEW_BYTES_MAX, Verdict, review};
use crate::kubernetes::inject::{Knobs, Settings};

/// Asked where the namespace grants nothing.
pub const INJECT_PATH: &str = "/inject";
/// Asked where the namespace's label lets pods lead past the mesh.
pub const INJECT_MAY_BYPASS_PATH: &str = "/inject/may-bypass";

const CONNECTIONS_MAX: usize = 128;
/// So many questions are held and answered at once; the others wait.
const REVIEWS_MAX: usize = 8;
/// An API server waits for ten seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a question may take to arrive; an API server sends it at once.
const QUESTION_MAX: Duration = Duration::from_secs(5);
const IDLE_MAX: Duration = Duration::from_secs(90);
const HEADERS_MAX: usize = 64;

/// What every connection shares.
#[derive(Debug)]
pub(super) struct Shared {
    /// What shows our certificate, once there is one.
    pub(super) tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    /// What is put into pods, once that is known.
    pub(super) settings: watch::Receiver<Option<Arc<Settings>>>,
    reviews: Semaphore,
}

impl Shared {
    pub(super) fn new(
        tls: watch::Receiver<Option<Arc<ServerConfig>>>,
        settings: watch::Receiver<Option<Arc<Settings>>>,
    ) -> Arc<Self> {
        Arc::new(Self { tls, settings, reviews: Semaphore::new(REVIEWS_MAX) })
    }
}

/// Serves until `stopping` is cancelled; what is in flight then is finished.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, stopping: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = tokio_util::task::TaskTracker::new();
    accept_all(
        "webhook",
        listener,
        room,
        stopping.cancelled(),
        || {},
        |Accepted { stream, permit, .. }| {
            connections.spawn(connection(stream, Arc::clone(&shared), stopping.clone(), permit));
        },
    )
    .await;
    connections.close();
    if tokio::time::timeout(PATIENCE, connections.wait()).await.is_err() {
        warn!("questions were cut at the end of the drain deadline");
    }
}

async fn connection(
    stream: TcpStream,
    shared: Arc<Shared>,
    stopping: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    let shown = shared.tls.borrow().clone();
    let Some(shown) = shown else { return };
    let stream = match tokio::time::timeout(PATIENCE, TlsAcceptor::from(shown).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "webhook handshake failed"),
        Err(_) => return debug!("webhook handshake took too long"),
    };
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(request, &shared).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stopping.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "webhook connection ended");
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let knobs = match request.uri().path() {
        INJECT_PATH => Knobs::Withheld,
        INJECT_MAY_BYPASS_PATH => Knobs::Granted,
        "/live" => return text(StatusCode::OK, "live"),
        "/ready" => {
            return match shared.settings.borrow().is_some() {
                true => text(StatusCode::OK, "ready"),
                false => text(StatusCode::SERVICE_UNAVAILABLE, "the settings are not complete"),
            };
        }
        _ => return text(StatusCode::NOT_FOUND, "no such path: the webhooks are at /inject and /inject/may-bypass"),
    };
    if request.method() != Method::POST {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview comes by POST");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return answer;
    }
    let is_json =
        |value: &HeaderValue| value.to_str().is_ok_and(|text| text.split(';').next() == Some("application/json"));
    if !request.headers().get(CONTENT_TYPE).is_some_and(is_json) {
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "an AdmissionReview is application/json");
    }
    let settings = shared.settings.borrow().clone();
    let Some(settings) = settings else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the injector does not know yet what to put into pods");
    };
    let body = Limited::new(request.into_body(), REVIEW_BYTES_MAX).collect();
    let body = match tokio::time::timeout(QUESTION_MAX, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "an AdmissionReview has at most 3 MiB");
        }
        Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "the question did not arrive whole"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the question did not arrive in time"),
    };
    // Taken once the question is there, so that whoever is slow to ask keeps nobody else from it.
    let Ok(_turn) = shared.reviews.acquire().await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the injector is stopping");
    };
    match review(&body, &settings, knobs) {
        Ok(reviewed) => {
            let (pod, verdict) = (reviewed.pod.as_str(), reviewed.verdict.word());
            if reviewed.verdict == Verdict::Refused {
                let why = reviewed.answer.pointer("/response/status/message").and_then(serde_json::Value::as_str);
                warn!(pod, why, "pod refused");
            } else {
                info!(pod, verdict, "pod reviewed");
            }
            let mut answer = Response::new(Full::new(Bytes::from(reviewed.answer.to_string())));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            answer
        }
        Err(error) => {
            let error = wire::one_line(&error).to_string();
            warn!(error, "question not answered");
            text(StatusCode::BAD_REQUEST, &error)
        }
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
