//! Answers that go on for as long as they are read.

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, BodyStream};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use super::error::first_line;
use super::{ANSWER_BYTES_MAX, ApiError, Call, Limited, connect};

/// Is the body of an answer that has no end; dropping it ends the call.
#[derive(Debug)]
pub struct Streamed {
    address: String,
    body: BodyStream<Incoming>,
    connection: JoinHandle<()>,
}

impl Streamed {
    /// Waits for the next piece, however long that takes; none at the end.
    ///
    /// # Errors
    ///
    /// [`ApiError::NoAnswer`] if the connection broke.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        while let Some(piece) = self.body.next().await {
            let reason = "the connection broke".to_owned();
            let lost = |source| ApiError::NoAnswer { address: self.address.clone(), reason, source: Some(source) };
            if let Ok(bytes) = piece.map_err(lost)?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Call<'_> {
    /// Makes the call, whose time is for the answer to begin, and hands over the answer as it comes.
    ///
    /// # Errors
    ///
    /// As [`Call::send`].
    pub async fn stream(self) -> Result<Streamed, ApiError> {
        let timed_out = self.lost(format!("there was no answer within {:?}", self.timeout), None);
        tokio::time::timeout(self.timeout, self.begin()).await.unwrap_or(Err(timed_out))
    }

    async fn begin(&self) -> Result<Streamed, ApiError> {
        let stream = connect::connect(self.client).await?;
        let lost = |source: hyper::Error| self.lost("the connection broke".to_owned(), Some(source));
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // How it ended is seen in the body.
        let connection = tokio::spawn(async move { drop(connection.await) });
        let response = crate::ask_once(sender, self.request()?).await.map_err(lost)?;
        let (parts, body) = response.into_parts();
        if !parts.status.is_success() {
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let message = body.map(|body| first_line(&body.to_bytes())).unwrap_or_default();
            let (method, path) = (self.method.clone(), self.path.clone());
            return Err(ApiError::Status { method, path, status: parts.status, message });
        }
        Ok(Streamed { address: self.client.address.to_string(), body: BodyStream::new(body), connection })
    }
}
