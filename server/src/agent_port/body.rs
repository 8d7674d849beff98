//! Request bodies: bounded in size and in time, whatever the peer announced.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use serde::de::DeserializeOwned;

use super::refusal::PortError;

/// Largest body of any request but a stream.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a whole body as `T`.
pub(crate) async fn read_json<T, B>(what: &'static str, body: B) -> Result<T, PortError>
where
    T: DeserializeOwned,
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes = read(body, BODY_TIMEOUT).await?;
    serde_json::from_slice(&bytes).map_err(|error| PortError::Malformed { what, reason: error.to_string() })
}

async fn read<B>(body: B, limit: Duration) -> Result<Bytes, PortError>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let too_large = || PortError::BodyTooLarge { limit_bytes: BODY_BYTES_MAX };
    // What is announced is the lower bound: a giant is refused before any of it is read.
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(limit, Limited::new(body, BODY_BYTES_MAX).collect())
        .await
        .map_err(|_| PortError::BodyTooSlow { limit_s: limit.as_secs() })?;
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(PortError::BodyBroken { reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Body;
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a1_an_endless_body_is_read_no_further_than_the_limit() {
        let chunks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&chunks);
        let endless = Body::from_stream(stream::repeat_with(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(Bytes::from_static(&[b' '; 64 * 1024]))
        }));
        let error = read(endless, BODY_TIMEOUT).await.unwrap_err();
        assert!(matches!(error, PortError::BodyTooLarge { .. }), "{error}");
        assert_eq!(chunks.load(Ordering::Relaxed), BODY_BYTES_MAX / (64 * 1024) + 1);
    }

    #[tokio::test]
    async fn a1_an_announced_giant_is_not_read_and_the_limit_itself_is() {
        let giant = Body::from(vec![b' '; BODY_BYTES_MAX + 1]);
        assert!(matches!(read(giant, BODY_TIMEOUT).await, Err(PortError::BodyTooLarge { .. })));
        let largest = Body::from(vec![b' '; BODY_BYTES_MAX]);
        assert_eq!(read(largest, BODY_TIMEOUT).await.unwrap().len(), BODY_BYTES_MAX);
    }

    #[tokio::test]
    async fn a5_a_body_that_never_arrives_is_given_up() {
        let silent = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert!(matches!(read(silent, Duration::from_millis(1)).await, Err(PortError::BodyTooSlow { .. })));
    }
}
