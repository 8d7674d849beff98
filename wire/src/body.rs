//! Bodies of requests: bounded in size and in time, whatever the peer announced.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;

/// Says how large a body may be, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most bytes.
    pub bytes_max: usize,
    /// The longest time, from its first byte to its last.
    pub timeout: Duration,
}

impl Default for Bounds {
    /// Returns what is enough for most requests.
    fn default() -> Self {
        Self { bytes_max: 1024 * 1024, timeout: Duration::from_secs(30) }
    }
}

/// Why a body, or a part of it that was waited for, was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is larger than any request needs.
    #[error("the body is larger than {limit_bytes} bytes; send less in one request")]
    TooLarge {
        /// The bound.
        limit_bytes: usize,
    },
    /// It did not arrive in time.
    #[error("the body did not arrive within {limit_s} s; send it faster")]
    TooSlow {
        /// The bound.
        limit_s: u64,
    },
    /// The connection broke meanwhile.
    #[error("the body cannot be read: {reason}")]
    Broken {
        /// What happened.
        reason: String,
    },
}

impl BodyError {
    /// Returns the status to answer with. The rest of the request may be unread, so the connection cannot be used again.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Broken { .. } => StatusCode::BAD_REQUEST,
        }
    }

    /// Returns the metric label of the reason, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "body_too_large",
            Self::TooSlow { .. } => "body_too_slow",
            Self::Broken { .. } => "body_broken",
        }
    }
}

/// Reads the whole body of a request with these headers.
///
/// # Errors
///
/// [`BodyError::TooLarge`] before anything is read where the length is announced, and as soon as the limit is passed where it is
/// not; the others if it does not come, or not to its end.
pub async fn read<B>(headers: &HeaderMap, body: B, bounds: Bounds) -> Result<Bytes, BodyError>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Bounds { bytes_max, timeout } = bounds;
    let too_large = || BodyError::TooLarge { limit_bytes: bytes_max };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.unwrap_or(0).max(body.size_hint().lower()) > bytes_max as u64 {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(timeout, Limited::new(body, bytes_max).collect())
        .await
        .map_err(|_| BodyError::TooSlow { limit_s: timeout.as_secs() })?;
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(BodyError::Broken { reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::{StreamExt, stream};
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    const BYTES_MAX: usize = 1024 * 1024;

    /// Gives out 64 KiB chunks for ever, and counts them.
    fn endless(chunks: &Arc<AtomicUsize>) -> impl Body<Data = Bytes, Error = Infallible> + use<> {
        let chunks = Arc::clone(chunks);
        StreamBody::new(stream::repeat_with(move || {
            chunks.fetch_add(1, Ordering::Relaxed);
            Ok(Frame::data(Bytes::from_static(&[b' '; 64 * 1024])))
        }))
    }

    #[tokio::test]
    async fn a1_an_endless_body_is_read_no_further_than_the_limit() {
        let chunks = Arc::default();
        let error = read(&HeaderMap::new(), endless(&chunks), Bounds::default()).await.unwrap_err();
        assert_eq!(error, BodyError::TooLarge { limit_bytes: BYTES_MAX });
        assert_eq!(chunks.load(Ordering::Relaxed), BYTES_MAX / (64 * 1024) + 1);
    }

    #[tokio::test]
    async fn a1_an_announced_giant_is_not_read_at_all() {
        let chunks = Arc::default();
        let headers = [(header::CONTENT_LENGTH, "10000000000".parse().unwrap())].into_iter().collect();
        let error = read(&headers, endless(&chunks), Bounds::default()).await.unwrap_err();
        assert_eq!(error, BodyError::TooLarge { limit_bytes: BYTES_MAX });
        assert_eq!(chunks.load(Ordering::Relaxed), 0);
        let giant = Full::new(Bytes::from(vec![b' '; BYTES_MAX + 1]));
        let error = read(&HeaderMap::new(), giant, Bounds::default()).await.unwrap_err();
        assert_eq!((error.status(), error.label()), (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
    }

    #[tokio::test]
    async fn a1_the_limit_itself_is_allowed() {
        let body = Full::new(Bytes::from(vec![b' '; BYTES_MAX]));
        assert_eq!(read(&HeaderMap::new(), body, Bounds::default()).await.unwrap().len(), BYTES_MAX);
    }

    #[tokio::test]
    async fn a5_a_body_that_never_arrives_is_given_up() {
        let silent = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let bounds = Bounds { timeout: Duration::from_millis(1), ..Bounds::default() };
        let error = read(&HeaderMap::new(), silent, bounds).await.unwrap_err();
        assert_eq!((error.status(), error.label()), (StatusCode::REQUEST_TIMEOUT, "body_too_slow"));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_says_so() {
        let part = stream::iter([Ok(Frame::data(Bytes::from_static(b"half")))]);
        let broken = StreamBody::new(part.chain(stream::iter([Err(std::io::Error::other("the line is cut"))])));
        let error = read(&HeaderMap::new(), broken, Bounds::default()).await.unwrap_err();
        assert_eq!(error, BodyError::Broken { reason: "the line is cut".to_owned() });
        assert_eq!((error.status(), error.label()), (StatusCode::BAD_REQUEST, "body_broken"));
    }
}
