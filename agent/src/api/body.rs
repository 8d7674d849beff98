//! Request bodies: bounded in size and in time, whatever the client announced.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::error::ApiError;

/// Largest body that the agent itself reads.
pub(super) const BODY_BYTES_MAX: usize = 512 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a whole body; nothing of it if it announces to be too large.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::BodyTooLarge { limit_bytes: BODY_BYTES_MAX };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Err(_) => Err(ApiError::BodyTooSlow { limit_s: BODY_TIMEOUT.as_secs() }),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::BodyBroken { reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a1_a_body_over_the_limit_is_refused_announced_or_not() {
        let announced = [(header::CONTENT_LENGTH, "10000000000".parse().unwrap())].into_iter().collect();
        let error = read(&announced, Body::empty()).await.unwrap_err();
        assert!(matches!(error, ApiError::BodyTooLarge { .. }), "{error}");
        let chunks = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 65536])));
        let error = read(&HeaderMap::new(), Body::from_stream(chunks)).await.unwrap_err();
        assert!(matches!(error, ApiError::BodyTooLarge { .. }), "{error}");
        let largest = Body::from(vec![b' '; BODY_BYTES_MAX]);
        assert_eq!(read(&HeaderMap::new(), largest).await.unwrap().len(), BODY_BYTES_MAX);
    }
}
