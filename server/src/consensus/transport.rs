//! Connections between servers on the Raft port: mutual TLS under the cluster key's authority, ALPN `weft-raft/1`.
//!
//! A server dials every other member once for Raft's messages, which flow one way; snapshots and forwarded writes have
//! connections of their own, so that neither delays a heartbeat. Either side proves its name by its certificate, presents
//! itself in a greeting, and is judged against the list of members before anything else is read from it.

pub(crate) mod dial;
pub(crate) mod frame;
pub(crate) mod hello;
pub(crate) mod incoming;
pub(crate) mod links;
pub(crate) mod pieces;
mod snapshots;

use std::sync::Arc;
use std::time::Duration;

use catalog::ServerId;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use wire::crypto;
use wire::tls::RaftIdentity;

use super::join::Joiner;
use super::{Consensus, Shared};
use frame::{Frame, FrameError};

/// From the connection to the answered greeting.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A side that has nothing to say says so this often.
pub(super) const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// A side that is not heard for this long is gone, or unreachable in a way that TCP would not notice for minutes.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Is what every connection needs to know.
pub(crate) struct Context {
    pub(crate) consensus: Consensus,
    pub(crate) joiner: Arc<Joiner>,
    pub(crate) identity: Arc<RaftIdentity>,
    /// Where connections are carried: nothing that the API or the agents' port do delays them.
    pub(crate) runtime: Handle,
    pub(crate) stop: CancellationToken,
}

impl Context {
    /// Returns what this server tells others about itself now.
    pub(crate) fn about(&self) -> hello::About {
        let about = self.joiner.about();
        let raft_id = self.shared().members.own_raft_id();
        let epoch = self.consensus.catalog().membership().epoch.max(about.epoch);
        hello::About { raft_id, epoch, ..hello::About::clone(&about) }
    }

    fn shared(&self) -> &Shared {
        &self.consensus.shared
    }

    /// Counts and logs a peer that was refused, or that misbehaved.
    fn refused(&self, label: &'static str, peer: &dyn std::fmt::Display, error: &dyn std::fmt::Display) {
        self.shared().metrics.raft_peer_refused(label);
        tracing::warn!(reason = label, peer = %peer, error = %error, "raft peer refused");
    }
}

/// Returns the name that is asked for in TLS; verification goes by SPIFFE ID and does not look at it.
fn tls_name() -> ServerName<'static> {
    ServerName::try_from(wire::cluster_key::RAFT_TRUST_DOMAIN).expect("the trust domain is a DNS name")
}

/// Spreads a pause by a quarter either way, so that servers that failed together do not try together.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let share = f64::from(u32::from_be_bytes(crypto::random())) / f64::from(u32::MAX);
    pause.mul_f64(0.75 + share / 2.0)
}

/// Reads one frame from a peer that must not be silent for long.
pub(super) async fn read_alive<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(Frame, usize), FrameError> {
    match tokio::time::timeout(SILENCE_MAX, frame::read(reader)).await {
        Ok(read) => read,
        Err(_) => Err(FrameError::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Writes one frame to a peer that must take it soon.
pub(super) async fn write_alive<W: AsyncWrite + Unpin>(writer: &mut W, frame: &Frame) -> Result<(), FrameError> {
    match tokio::time::timeout(SILENCE_MAX, frame::write(writer, frame)).await {
        Ok(written) => written,
        Err(_) => Err(FrameError::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Reads until the peer goes silent, for a connection on which it only says that it is there.
async fn read_only_alive<R: AsyncRead + Unpin>(reader: &mut R) -> FrameError {
    loop {
        match read_alive(reader).await {
            Ok((Frame::Alive, _)) => {}
            Ok((other, _)) => return other.unexpected(),
            Err(error) => return error,
        }
    }
}

/// Says for ever that this side is there.
async fn write_only_alive<W: AsyncWrite + Unpin>(writer: &mut W) -> FrameError {
    let mut ticks = tokio::time::interval(ALIVE_INTERVAL);
    loop {
        ticks.tick().await;
        if let Err(error) = write_alive(writer, &Frame::Alive).await {
            return error;
        }
    }
}

/// Reports whether `server` may be spoken to about Raft now, which takes both sides being members.
fn raft_id_of(context: &Context, server: &ServerId) -> Option<u64> {
    let members = &context.shared().members;
    members.own_raft_id().and_then(|_| members.raft_id(server))
}
