//! HTTP checks: one request on a connection of its own, no redirect followed, no proxy asked.

use ::http::header::{ACCEPT, CONNECTION, HOST, HeaderValue, USER_AGENT};
use ::http::{Request, StatusCode, Uri, uri::Scheme};
use bytes::Bytes;
use catalog::CheckStatus;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::{HttpProbe, LeadsOn, OUTPUT_BYTES_MAX, ProbeError, connect};

/// The bound on what an answer's head may take.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Returns the host and port that a check connects to.
pub(super) fn target(url: &Uri) -> Result<(String, u16), ProbeError> {
    let invalid = |reason| ProbeError::Url { url: url.to_string(), reason };
    if url.scheme() != Some(&Scheme::HTTP) {
        return Err(invalid("only `http://` URLs are checked"));
    }
    let authority = url.authority().ok_or_else(|| invalid("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(invalid("it names a user; send an `Authorization` header instead"));
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(invalid("it names no host"));
    }
    Ok((host.to_owned(), authority.port_u16().unwrap_or(80)))
}

pub(super) async fn probe(check: &HttpProbe, leads_on: &LeadsOn) -> (CheckStatus, String) {
    let result = match tokio::time::timeout(check.timeout, ask(check, leads_on)).await {
        Ok(result) => result,
        Err(_) => Err(ProbeError::Timeout { timeout: check.timeout }),
    };
    match result {
        Ok((status, body)) => {
            let output = format!("HTTP {} {}: {status} Output: {body}", check.method, check.url);
            (judged(status), output)
        }
        Err(error) => {
            (CheckStatus::Critical, format!("HTTP {} {}: {}", check.method, check.url, wire::one_line(&error)))
        }
    }
}

fn judged(status: StatusCode) -> CheckStatus {
    match status {
        StatusCode::TOO_MANY_REQUESTS => CheckStatus::Warning,
        status if status.is_success() => CheckStatus::Passing,
        _ => CheckStatus::Critical,
    }
}

/// Asks once; returns the status and the beginning of the body.
pub(super) async fn ask(check: &HttpProbe, leads_on: &LeadsOn) -> Result<(StatusCode, String), ProbeError> {
    let (host, port) = target(&check.url)?;
    let request = request(check)?;
    let stream = connect(&host, port, leads_on).await?;
    let failed = |source| ProbeError::Http { url: check.url.clone(), source };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // The connection is driven here, beside the request, so that it ends with this check whatever happens.
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        Ok((status, beginning(answer.into_body()).await))
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        _ = &mut connection => exchange.await,
    }
}

fn request(check: &HttpProbe) -> Result<Request<Full<Bytes>>, ProbeError> {
    let failed = |source: ::http::Error| ProbeError::Request { url: check.url.clone(), source };
    let path = check.url.path_and_query().map_or("/", |path| path.as_str());
    let authority = check.url.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::builder()
        .method(&check.method)
        .uri(path)
        .header(HOST, authority)
        .header(USER_AGENT, HeaderValue::from_static("weft-health-check"))
        .header(ACCEPT, HeaderValue::from_static("text/plain, text/*, */*"))
        .body(Full::new(Bytes::from(check.body.clone())))
        .map_err(failed)?;
    for name in check.headers.keys() {
        request.headers_mut().remove(name);
        for value in check.headers.get_all(name) {
            request.headers_mut().append(name.clone(), value.clone());
        }
    }
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

/// Reads as much of the body as is kept, and no more: what an application sends is not the agent's to store.
async fn beginning(mut body: Incoming) -> String {
    let mut kept = Vec::new();
    while kept.len() < OUTPUT_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Some(piece) = frame.data_ref() {
            let room = OUTPUT_BYTES_MAX - kept.len();
            kept.extend_from_slice(piece.get(..room).unwrap_or(piece));
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}
