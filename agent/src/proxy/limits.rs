//! The bounds of the data plane.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use wire::web::Reach;

/// Files that the rest of the process may need: the API, checks, the stream to a server, logs.
const FILES_KEPT_BACK: u64 = 128;

/// Bounds what the proxy holds at once and how long it waits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of each direction; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Inbound streams; further ones are refused.
    pub streams_max: usize,
    /// Requests over one connection that its caller may give up at once, and a fifth of that in each second, before their
    /// answers are whole; who gives up more loses the connection.
    pub given_up_max: u32,
    /// The time for a TLS handshake, from accept to the end.
    pub handshake_timeout: Duration,
    /// The time for the first request on a connection of an HTTP service, and between two of them.
    pub request_timeout: Duration,
    /// The time for a connection to an application, and for a tunnel to another agent.
    pub connect_timeout: Duration,
    /// The time for an answer to a CONNECT; longer than another agent gives its application to take a connection.
    pub answer_timeout: Duration,
    /// How many endpoints are tried for one connection, each at most once.
    pub attempts_max: usize,
    /// How long a tunnel without streams is kept.
    pub tunnel_idle_max: Duration,
    /// How long a connection that is closed in one direction may be silent in the other.
    pub half_closed_silence_max: Duration,
    /// How far away the keys of providers of tokens are fetched from.
    pub keys_reach: Reach,
}

impl Default for Limits {
    /// Returns bounds that fit the process's limit of open files.
    fn default() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(FILES_KEPT_BACK);
        // Each direction's connections and the connections to local applications take one each.
        let share = usize::try_from(files / 3).unwrap_or(usize::MAX).max(16);
        Self {
            connections_max: share.min(50_000),
            streams_max: share.min(50_000),
            given_up_max: 1000,
            handshake_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(8),
            attempts_max: 3,
            tunnel_idle_max: Duration::from_secs(90),
            half_closed_silence_max: Duration::from_secs(3600),
            keys_reach: Reach::Others,
        }
    }
}
