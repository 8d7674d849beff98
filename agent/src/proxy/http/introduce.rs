//! What an application is told of who calls, in headers that no caller can write.

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::head::{CLIENT_CERT, FORWARDED_FOR};
use crate::proxy::handshake::Connection;

/// What load balancers say of a request beside its client's address; from one that is not believed it does not go on.
const OF_THE_EDGE: [HeaderName; 5] = [
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// Is what is told to applications of a caller, written once.
#[derive(Debug)]
pub(crate) struct CallerHeaders {
    /// The caller's identity, where a certificate proved it.
    certificate: Option<HeaderValue>,
    address: HeaderValue,
}

impl CallerHeaders {
    /// Writes down who calls.
    pub(crate) fn new(connection: &Connection) -> Self {
        // Neither an identity nor an address has a character that a header may not.
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        let is_proved = connection.ingress.is_none();
        let certificate = is_proved.then(|| value(&format!("By={};URI={}", connection.own.id(), connection.peer.id)));
        Self { certificate, address: value(&connection.from.ip().to_canonical().to_string()) }
    }
}

/// Returns the client that a request of a load balancer comes from, where that is another one than its connection does.
/// To be asked before what callers say of themselves is taken off.
pub(crate) fn client(connection: &Connection, headers: &HeaderMap) -> Option<IpAddr> {
    let from = connection.from.ip().to_canonical();
    let client = connection.ingress.as_ref()?.client(from, headers);
    (client != from).then_some(client)
}

/// Tells the application who calls.
pub(crate) fn introduce(connection: &Connection, client: Option<IpAddr>, headers: &mut HeaderMap) {
    let caller = connection.headers.get_or_init(|| CallerHeaders::new(connection));
    if let Some(certificate) = &caller.certificate {
        headers.insert(CLIENT_CERT, certificate.clone());
    }
    let client = client.and_then(|client| HeaderValue::from_str(&client.to_string()).ok());
    headers.insert(FORWARDED_FOR, client.unwrap_or_else(|| caller.address.clone()));
    if let Some(ingress) = &connection.ingress
        && !ingress.believes(connection.from.ip())
    {
        for name in &OF_THE_EDGE {
            headers.remove(name);
        }
    }
}
