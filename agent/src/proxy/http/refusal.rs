//! Why a request was not carried, and how its caller is told.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode, Version};

use super::application::ApplicationError;
use super::carried::Reply;
use super::head::{BadRequest, REFUSED};
use crate::metrics::Phase;
use crate::proxy::open_streams::Closing;
use crate::proxy::outbound::call_error::CallError;
use crate::proxy::refusal::Refusal;

/// Says why a request was not carried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotCarried {
    /// Its form is refused.
    #[error("not a request to carry")]
    Bad(#[from] BadRequest),
    /// The rules, or the lack of an application, refuse it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It had to close before it was answered.
    #[error("closed before it was answered ({})", .0.label())]
    Closed(Closing),
    /// The application gave no answer.
    #[error(transparent)]
    Application(#[from] ApplicationError),
    /// The call did not go through.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The answer did not begin in the time that the route gives.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Its route has requests fail on purpose.
    #[error("the route has requests fail on purpose, with status {0}")]
    Fault(u16),
    /// The service takes no more of them now.
    #[error("more requests than the service's rate_limits allow; the next one in {0:?}")]
    TooFast(Duration),
    /// The tunnel failed before the answer came.
    #[error("the tunnel failed before the answer came")]
    Tunnel(#[source] h2::Error),
}

impl NotCarried {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Bad(bad) => bad.label(),
            Self::Refused(refusal) => refusal.label(),
            Self::Closed(closing) => closing.label(),
            Self::Application(error) => error.label(),
            Self::Call(error) => error.label(),
            Self::Timeout(_) => "request_timeout",
            Self::Fault(_) => "fault",
            Self::TooFast(_) => "rate_limited",
            Self::Tunnel(_) => "tunnel_lost",
        }
    }

    /// Returns the phase in which it came about, for the metric.
    pub(crate) fn phase(&self) -> Phase {
        match self {
            Self::Bad(_) => Phase::Read,
            Self::Refused(refusal) => refusal.phase(),
            Self::Closed(_) | Self::TooFast(_) => Phase::Decide,
            Self::Fault(_) => Phase::Choose,
            Self::Application(_) => Phase::Application,
            Self::Call(error) => error.phase(),
            Self::Timeout(_) | Self::Tunnel(_) => Phase::Open,
        }
    }

    /// Returns the status that the caller is answered with.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Bad(bad) => bad.status(),
            Self::Refused(refusal) => refusal.answer(),
            Self::Closed(Closing::Refused(_)) | Self::Call(CallError::Denied { .. }) => StatusCode::FORBIDDEN,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Fault(status) => StatusCode::from_u16(*status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
            Self::TooFast(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Application(_) | Self::Tunnel(_) => StatusCode::BAD_GATEWAY,
            Self::Closed(Closing::Cut | Closing::Changed) | Self::Call(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Reports whether the caller of a request expects the answer of a gRPC server.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.and_then(|value| value.strip_prefix("application/grpc")).is_some_and(|rest| {
        // Not `application/grpc-web`, which is plain HTTP to its caller.
        matches!(rest.bytes().next(), None | Some(b'+' | b';'))
    })
}

/// Says how the caller of a request is told that it is not carried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    is_grpc: bool,
    is_head: bool,
    is_http1: bool,
}

impl Manner {
    /// Reads it from a request.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self {
            is_grpc: is_grpc(request.headers()),
            is_head: request.method() == Method::HEAD,
            is_http1: request.version() <= Version::HTTP_11,
        }
    }

    /// Makes the answer. Over HTTP/1 it is the last one after a request of a refused form: where such a request ends, its
    /// sender may see otherwise.
    pub(crate) fn refuse(self, why: &NotCarried) -> Response<Reply> {
        let mut response = answer(why.status(), why.label(), self);
        if let NotCarried::Refused(refusal) = why
            && let Some(challenge) = refusal.challenge()
        {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let NotCarried::TooFast(wait) = why {
            // In whole seconds, never too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.is_http1 && matches!(why, NotCarried::Bad(_)) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Makes the answer to a request that is not carried. A gRPC caller is told in its own words; to HEAD none has a body.
fn answer(status: StatusCode, label: &'static str, manner: Manner) -> Response<Reply> {
    let is_grpc = manner.is_grpc;
    let body = if is_grpc || manner.is_head { None } else { Some(text(label)) };
    let mut response = Response::new(Reply::own(body));
    *response.status_mut() = if is_grpc { StatusCode::OK } else { status };
    let headers = response.headers_mut();
    headers.insert(REFUSED, HeaderValue::from_static(label));
    if is_grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(grpc_status(status)));
        headers.insert("grpc-message", HeaderValue::from_static(label));
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    response
}

fn text(label: &'static str) -> Bytes {
    let mut text = String::with_capacity(label.len() + 32);
    text.push_str("weft did not carry this request: ");
    text.push_str(label);
    text.push('\n');
    Bytes::from(text)
}

/// Returns the gRPC status that stands for one of HTTP: 3 invalid, 4 too late, 7 not permitted, 8 too many, 14 unavailable, 16
/// without a token that counts.
fn grpc_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::FORBIDDEN => "7",
        StatusCode::TOO_MANY_REQUESTS => "8",
        StatusCode::UNAUTHORIZED => "16",
        StatusCode::GATEWAY_TIMEOUT => "4",
        status if status.is_client_error() => "3",
        _ => "14",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_caller_is_refused_in_its_own_words() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            assert_eq!(is_grpc(&headers), expected, "{content_type}");
        }
        let manner = |is_grpc| Manner { is_grpc, is_head: false, is_http1: false };
        let denied = answer(StatusCode::FORBIDDEN, "intention", manner(true));
        assert_eq!(
            (denied.status(), &denied.headers()["grpc-status"]),
            (StatusCode::OK, &HeaderValue::from_static("7"))
        );
        let gone = answer(StatusCode::SERVICE_UNAVAILABLE, "unreachable", manner(true));
        assert_eq!(gone.headers()["grpc-status"], "14");
        let plain = answer(StatusCode::FORBIDDEN, "intention", manner(false));
        assert_eq!(
            (plain.status(), &plain.headers()["x-weft-refused"]),
            (StatusCode::FORBIDDEN, &HeaderValue::from_static("intention"))
        );
    }
}
