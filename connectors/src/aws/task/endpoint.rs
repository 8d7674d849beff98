//! Asking the metadata endpoint: on the task's own link, by plain HTTP, as the platform has it.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use wire::surroundings::ObserveError;

/// It answers within this, or is asked again later.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A task has a few containers; what is larger is no answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Asks for what is below the endpoint's own path.
pub(super) async fn get(endpoint: &Uri, below: &str) -> Result<Bytes, ObserveError> {
    match tokio::time::timeout(TIMEOUT, ask(endpoint, below)).await {
        Ok(answer) => answer.map_err(|reason| wrong(endpoint, &reason)),
        Err(_) => Err(wrong(endpoint, &format!("no answer within {TIMEOUT:?}"))),
    }
}

fn wrong(endpoint: &Uri, reason: &str) -> ObserveError {
    ObserveError { reason: format!("the task's metadata endpoint {endpoint} cannot be used: {reason}") }
}

async fn ask(endpoint: &Uri, below: &str) -> Result<Bytes, String> {
    let authority = endpoint.authority().ok_or("it names no host")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let failed = |error: &dyn std::error::Error| wire::one_line(&error);
    let stream =
        TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await.map_err(|error| failed(&error))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // How it ended is told to whoever waits for the answer.
    let _driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let request = Request::get(format!("{}{below}", endpoint.path()))
        .header(header::HOST, authority.as_str())
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = wire::ask_once(sender, request).await.map_err(|error| failed(&error))?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answered {}", response.status()));
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| failed(&*error))?;
    Ok(body.to_bytes())
}
