//! `POST /v1/tap`: what an agent sees of requests that somebody watches.

use std::time::Duration;

use axum::body::Body;
use http::{Response, StatusCode};
use wire::body::BodyError;
use wire::frame::FrameReader;
use wire::tap::{TapFrame, TapLine};

use super::refusal::PortError;
use super::route::{Call, json};

/// Time for the first frame to arrive.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Passes on what the agent sends, until it ends or nobody waits for it any more.
pub(super) async fn tap(call: Call) -> Result<Response<Body>, PortError> {
    let record = call.agent()?.clone();
    let Call { port, request, .. } = call;
    let mut frames = FrameReader::new(request.into_body());
    let malformed = |reason: String| PortError::Malformed { what: "tap", reason };
    let hello = tokio::time::timeout(HELLO_TIMEOUT, frames.next::<TapFrame>())
        .await
        .map_err(|_| BodyError::TooSlow { limit_s: HELLO_TIMEOUT.as_secs() })?
        .map_err(|error| malformed(error.to_string()))?;
    let Some(TapFrame::Hello { id }) = hello else {
        return Err(malformed("it does not start with a hello".to_owned()));
    };
    let lines = port.consensus.taps().lines(&id, |service| record.entitles(service));
    let done = || Ok(json(StatusCode::OK, &serde_json::json!({})));
    let Some(lines) = lines else { return done() };
    loop {
        let frame = tokio::select! {
            () = lines.closed() => return done(),
            frame = frames.next::<TapFrame>() => frame,
        };
        let line = match frame {
            Ok(Some(TapFrame::Event(event))) => TapLine::Event(event),
            Ok(Some(TapFrame::Ended { reason })) => {
                TapLine::Notice { notice: format!("node {}: {}", record.node, wire::harmless(&reason)) }
            }
            Ok(Some(TapFrame::Hello { .. })) => return Err(malformed("it says hello twice".to_owned())),
            // An agent that goes away is nothing to tell of.
            Ok(None) | Err(_) => return done(),
        };
        // While it is not read the agent waits, and cuts what it cannot send.
        if lines.send(line).await.is_err() {
            return done();
        }
    }
}
