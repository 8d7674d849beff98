//! Sends what somebody watches of the requests to a local service, to the server that asked for it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::time::Instant;
use tracing::{debug, info};
use wire::agent_protocol::TAP_PATH;
use wire::frame::encode_frame;
use wire::tap::{TAP_MAX, TapFrame, TapOrder};

use crate::proxy::Watched;
use crate::sync::connection::Connection;

/// Is where in its frames a stream is.
enum State {
    Hello(String, Watched),
    Watching(Watched),
    Over,
}

/// Sends what is watched until its time is over, nobody reads it any more, or it is not read fast enough.
pub(crate) async fn carry(order: TapOrder, watched: Watched, tls: Arc<rustls::ClientConfig>) {
    info!(service = %order.service, server = order.server, "requests are watched");
    let deadline = Instant::now() + Duration::from_millis(order.lasts_ms).min(TAP_MAX);
    let connection = match Connection::open(&order.server, tls).await {
        Ok(connection) => connection,
        Err(error) => return debug!(error = wire::one_line(&error), "what is watched cannot be sent"),
    };
    let frames = futures_util::stream::unfold(State::Hello(order.id.clone(), watched), move |state| async move {
        let (frame, state) = match state {
            State::Hello(id, watched) => (TapFrame::Hello { id }, State::Watching(watched)),
            State::Watching(mut watched) => match tokio::time::timeout_at(deadline, watched.events.recv()).await {
                Ok(Some(event)) => (TapFrame::Event(Box::new(event)), State::Watching(watched)),
                Ok(None) => {
                    let reason = "what was seen was not read fast enough".to_owned();
                    (TapFrame::Ended { reason }, State::Over)
                }
                Err(_) => return None,
            },
            State::Over => return None,
        };
        let encoded = encode_frame(&frame)
            .map(Frame::data)
            .map_err(|error| -> Box<dyn std::error::Error + Send + Sync> { error.into() });
        Some((encoded, state))
    });
    let body = BodyExt::boxed_unsync(StreamBody::new(frames));
    // The server answers when it wants no more, or when the body is over.
    match connection.send(Method::POST, TAP_PATH, HeaderMap::new(), body, TAP_PATH).await {
        Ok(response) => debug!(status = response.status().as_u16(), "requests are watched no more"),
        Err(error) => debug!(error = wire::one_line(&error), "requests are watched no more"),
    }
}
