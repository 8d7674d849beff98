//! One request over a connection of its own.

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::SendRequest;

/// Asks over a connection that was opened for this one request, and waits for the head of the answer.
///
/// # Errors
///
/// What the HTTP library says of a connection that gave no answer.
pub async fn ask_once<B: Body + 'static>(
    mut sender: SendRequest<B>,
    request: Request<B>,
) -> hyper::Result<Response<Incoming>> {
    let asked = sender.send_request(request);
    // A request that is put in its queue just as the connection ends comes back only when the queue goes.
    drop(sender);
    asked.await
}
