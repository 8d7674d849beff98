//! Request bodies of the agents' port, as what they are to say.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Body;
use serde::de::DeserializeOwned;
use wire::body::{self, BodyError, Bounds};

use super::refusal::PortError;
use super::{AgentPort, Turn};

/// What is read of a caller that has shown nothing yet: a token or a credential, a request for a certificate, and some names.
pub(crate) const UNPROVEN: Bounds = Bounds { bytes_max: 64 << 10, timeout: Duration::from_secs(5) };

/// Reads a whole body as `T`, of a caller without a certificate: all of them together are read so much of, and no more.
pub(crate) async fn read_unproven<T, B>(port: &AgentPort, what: &'static str, body: B) -> Result<T, PortError>
where
    T: DeserializeOwned,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = std::pin::pin!(body);
    // By what has come, and not by what is announced: that costs nobody anything.
    let busy = || {
        let retry_after = UNPROVEN.timeout.mul_f64(1.0 + super::jitter());
        PortError::Busy { turn: Turn::Joining, retry_after }
    };
    let (mut bytes, mut held) = (Vec::new(), port.bounds.unproven.hold(0).ok_or_else(busy)?);
    let reading = async {
        while let Some(frame) = body.as_mut().frame().await {
            let frame = frame.map_err(|error| BodyError::Broken { reason: error.into().to_string() })?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > UNPROVEN.bytes_max {
                return Err(BodyError::TooLarge { limit_bytes: UNPROVEN.bytes_max }.into());
            }
            if !held.take_more(data.len()) {
                return Err(busy());
            }
            bytes.extend_from_slice(&data);
        }
        Ok::<(), PortError>(())
    };
    let too_slow = |_| BodyError::TooSlow { limit_s: UNPROVEN.timeout.as_secs() };
    tokio::time::timeout(UNPROVEN.timeout, reading).await.map_err(too_slow)??;
    parse(what, &bytes)
}

/// Reads a whole body as `T`.
pub(super) async fn read_json<T, B>(what: &'static str, body: B) -> Result<T, PortError>
where
    T: DeserializeOwned,
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // What is announced is known of the body itself here, by either version of HTTP.
    let bytes = body::read(&HeaderMap::new(), body, Bounds::default()).await?;
    parse(what, &bytes)
}

fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, PortError> {
    serde_json::from_slice(bytes).map_err(|error| PortError::Malformed { what, reason: error.to_string() })
}
