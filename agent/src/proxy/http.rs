//! The HTTP engine: requests are read strictly, decided one by one, and carried, whatever brought them here.
//!
//! Inbound, a request stream on a tunnel, a CONNECT stream whose bytes are HTTP and a TLS connection of its own all end in
//! [`inbound::answer`]. Outbound, a listener whose destination speaks HTTP ends in [`outbound::answer`].

pub(crate) mod application;
pub(crate) mod body;
pub(crate) mod carried;
pub(crate) mod decide;
pub(crate) mod head;
pub(crate) mod inbound;
pub(crate) mod introduce;
pub(crate) mod mirror;
pub(crate) mod normal;
pub(crate) mod outbound;
pub(crate) mod provider;
pub(crate) mod rate;
pub(crate) mod refusal;
pub(crate) mod request_id;
pub(crate) mod route;
pub(crate) mod send;
pub(crate) mod server;
pub(crate) mod story;
mod token_place;
pub(crate) mod tokens;
pub(crate) mod tunnel_io;
pub(crate) mod upgrade;

/// The headers of one request, all together.
pub(crate) const HEADER_BYTES_MAX: u32 = catalog::http::FIELDS_BYTES_MAX as u32;

/// Requests that one HTTP/2 connection of an application, or to one, carries at once.
pub(crate) const STREAMS_MAX: u32 = 100;

/// Streams that a caller may have reset before they were taken up, beyond which its connection is closed.
pub(crate) const RESET_STREAMS_MAX: usize = 20;

/// Streams that were reset for the caller's errors, beyond which its connection is closed.
pub(crate) const ERROR_STREAMS_MAX: usize = 100;

/// What one request to or from an application may have on its way unread.
pub(crate) const STREAM_WINDOW: u32 = 64 * 1024;

/// What all of a connection's may have: readers that have stalled, however many, take nothing from the others.
pub(crate) const CONNECTION_WINDOW: u32 = STREAMS_MAX * STREAM_WINDOW;
