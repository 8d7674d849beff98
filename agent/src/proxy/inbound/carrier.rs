//! The ways in which a stream can arrive. They differ in how bytes go and how a refusal is told, in nothing else.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use catalog::ServiceKey;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::proxy::copy::{CopyError, Meter, TunnelStream, reset, splice_plain, splice_tunnel};
use crate::proxy::decide::{target_of_authority, target_of_plain};
use crate::proxy::refusal::Refusal;
use crate::proxy::snapshot::Snapshot;

/// Is a stream that has arrived and has not been answered.
#[derive(Debug)]
pub(super) enum Carrier {
    /// A request on a tunnel.
    Tunnel { method: Method, authority: Option<Authority>, receive: RecvStream, respond: SendResponse<Bytes> },
    /// A TLS connection of its own: the bytes are the stream.
    Plain(Box<TlsStream<TcpStream>>),
    /// A connection of a load balancer that speaks no TLS.
    Bare(TcpStream),
}

impl Carrier {
    /// Takes of a request what counts. Its headers do not: whatever they say of the caller, the handshake proved more.
    pub(super) fn tunnel(request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Self {
        let (head, receive) = request.into_parts();
        Self::Tunnel { method: head.method, authority: head.uri.into_parts().authority, receive, respond }
    }

    /// Finds the application that the stream asks for.
    pub(super) fn target(
        &self,
        snapshot: &Snapshot,
        destination: &ServiceKey,
        turn: usize,
    ) -> Result<SocketAddr, Refusal> {
        match self {
            Self::Plain(_) | Self::Bare(_) => target_of_plain(snapshot, destination, turn),
            Self::Tunnel { method, .. } if method != Method::CONNECT => {
                Err(Refusal::NotConnect { method: method.clone() })
            }
            Self::Tunnel { authority: Some(authority), .. } => {
                target_of_authority(snapshot, destination, authority, turn)
            }
            Self::Tunnel { authority: None, .. } => {
                Err(Refusal::ForeignAuthority { authority: String::new(), destination: destination.clone() })
            }
        }
    }

    /// Returns what a CONNECT asks for.
    pub(super) fn authority(&self) -> Option<Authority> {
        match self {
            Self::Tunnel { authority, .. } => authority.clone(),
            Self::Plain(_) | Self::Bare(_) => None,
        }
    }

    /// Tells the caller that the stream is refused.
    pub(super) fn refuse(self, status: StatusCode) {
        match self {
            Self::Tunnel { mut respond, .. } => {
                // An error only says that the caller has not waited for the answer.
                let _ = respond.send_response(answer(status), true);
            }
            // It spoke TLS to the end of the handshake; a reset says what a protocol that is not ours cannot.
            Self::Plain(stream) => reset(stream.get_ref().0),
            Self::Bare(stream) => reset(&stream),
        }
    }

    /// Tells the caller of a CONNECT that the stream is open; a connection of its own has no need to be told.
    pub(super) fn grant(self) -> Result<Option<TunnelStream>, h2::Error> {
        let Self::Tunnel { receive, mut respond, .. } = self else { return Ok(None) };
        let send = respond.send_response(answer(StatusCode::OK), false)?;
        Ok(Some(TunnelStream { send, receive }))
    }

    /// Tells the caller that the stream is open and carries it until it ends.
    pub(super) async fn splice(
        self,
        application: TcpStream,
        meter: &Meter,
        silence_max: Duration,
    ) -> Result<(), CopyError> {
        match self {
            Self::Tunnel { receive, mut respond, .. } => match respond.send_response(answer(StatusCode::OK), false) {
                Ok(send) => {
                    let stream = TunnelStream { send, receive };
                    splice_tunnel(application, stream, meter, silence_max).await
                }
                Err(error) => {
                    reset(&application);
                    respond.send_reset(Reason::CANCEL);
                    Err(CopyError::Ungranted(error))
                }
            },
            Self::Plain(stream) => splice_plain(*stream, application, meter, silence_max).await,
            Self::Bare(stream) => splice_plain(stream, application, meter, silence_max).await,
        }
    }
}

fn answer(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}
