//! Request bodies: bounded in size and in time, whatever the client announced.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::error::ApiError;

/// Largest body of a request to most routes.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How large a body may be, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) bytes_max: usize,
    pub(crate) timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes_max: BODY_BYTES_MAX, timeout: BODY_TIMEOUT }
    }
}

/// Reads a whole body.
///
/// # Errors
///
/// [`ApiError::BodyTooLarge`] before anything is read where the length is announced, and as soon as the limit is passed
/// where it is not.
pub(crate) async fn read(headers: &HeaderMap, body: Body, bounds: Bounds) -> Result<Bytes, ApiError> {
    let Bounds { bytes_max, timeout: limit } = bounds;
    let too_large = || ApiError::BodyTooLarge { limit_bytes: bytes_max };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(limit, Limited::new(body, bytes_max).collect())
        .await
        .map_err(|_| ApiError::BodyTooSlow { limit_s: limit.as_secs() })?;
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(ApiError::BodyBroken { reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::stream;

    use super::*;

    /// Gives out 64 KiB chunks for ever, and counts them.
    fn endless(chunks: Arc<AtomicUsize>) -> Body {
        Body::from_stream(stream::repeat_with(move || {
            chunks.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(Bytes::from_static(&[b' '; 64 * 1024]))
        }))
    }

    #[tokio::test]
    async fn a1_an_endless_body_is_read_no_further_than_the_limit() {
        let chunks = Arc::new(AtomicUsize::new(0));
        let error = read(&HeaderMap::new(), endless(Arc::clone(&chunks)), Bounds::default()).await.unwrap_err();
        assert!(matches!(error, ApiError::BodyTooLarge { .. }), "{error}");
        assert_eq!(chunks.load(Ordering::Relaxed), BODY_BYTES_MAX / (64 * 1024) + 1);
    }

    #[tokio::test]
    async fn a1_an_announced_giant_is_not_read_at_all() {
        let chunks = Arc::new(AtomicUsize::new(0));
        let headers = [(header::CONTENT_LENGTH, "10000000000".parse().unwrap())].into_iter().collect();
        let error = read(&headers, endless(Arc::clone(&chunks)), Bounds::default()).await.unwrap_err();
        assert!(matches!(error, ApiError::BodyTooLarge { .. }), "{error}");
        assert_eq!(chunks.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a1_the_limit_itself_is_allowed() {
        let body = Body::from(vec![b' '; BODY_BYTES_MAX]);
        assert_eq!(read(&HeaderMap::new(), body, Bounds::default()).await.unwrap().len(), BODY_BYTES_MAX);
    }

    #[tokio::test]
    async fn a5_a_body_that_never_arrives_is_given_up() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let error = read(&HeaderMap::new(), body, Bounds { timeout: Duration::from_millis(1), ..Bounds::default() })
            .await
            .unwrap_err();
        assert!(matches!(error, ApiError::BodyTooSlow { .. }), "{error}");
    }
}
