//! Dialling another server, up to the point where both know who the other is.

use std::io;

use catalog::ServerId;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::info;
use wire::tls::{ALPN_RAFT, PeerRejected, raft_client_config, raft_meeting_config, raft_peer, speaks};

use super::frame::{self, Frame, FrameError};
use super::hello::{About, Hello, HelloAnswer, PROTOCOL_VERSION, Purpose, Refusal, Verdict, judge};
use super::{Context, HANDSHAKE_TIMEOUT, tls_name};
use crate::consensus::bootstrap::Commitment;
use crate::consensus::inbox::Request;

/// Is an open connection to a server that is known and willing.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) peer: ServerId,
    pub(crate) about: About,
    /// What this server was bound to when it presented itself.
    pub(crate) asked_with: Commitment,
}

/// Explains why another server could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The address leads nowhere.
    #[error("cannot connect to `{address}`")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    /// What answers is no server that holds the cluster key, or not the one that was meant.
    #[error("the server at `{address}` does not prove to be {expected}: its cluster key may differ from this server's")]
    Tls {
        address: String,
        expected: String,
        #[source]
        source: io::Error,
    },
    /// It holds the cluster key and speaks something else.
    #[error("the server at `{address}` does not speak `weft-raft/1`")]
    Protocol { address: String },
    /// It took too long.
    #[error("the server at `{address}` did not answer within {HANDSHAKE_TIMEOUT:?}")]
    Timeout { address: String },
    /// The connection broke during the greeting.
    #[error("the greeting with the server at `{address}` failed")]
    Greeting {
        address: String,
        #[source]
        source: FrameError,
    },
    /// One of the two does not want the other.
    #[error("server `{peer}` at `{address}` is not for this one")]
    Refused {
        address: String,
        peer: ServerId,
        #[source]
        refusal: Refusal,
        /// Whether it is this server that is not wanted.
        by_peer: bool,
    },
    /// The address is this server's own.
    #[error("`{address}` is this server's own address")]
    ThisServer { address: String },
}

impl Context {
    /// Dials a server for `purpose`; any that holds the cluster key is taken where none is expected.
    ///
    /// What it says about itself is entered in the address book.
    ///
    /// # Errors
    /// [`DialError`]. Where this server turns out to be one that can never be of use, its end is set off, too.
    pub(crate) async fn dial(
        &self,
        address: &str,
        expected: Option<&ServerId>,
        purpose: Purpose,
    ) -> Result<Dialled, DialError> {
        let dialling = self.dial_without_timeout(address, expected, purpose);
        let dialled = match tokio::time::timeout(HANDSHAKE_TIMEOUT, dialling).await {
            Ok(dialled) => dialled,
            Err(_) => return Err(DialError::Timeout { address: address.to_owned() }),
        };
        if let Err(DialError::Refused { refusal, by_peer, peer, .. }) = &dialled {
            if let Some(label) = refusal.label() {
                self.shared().metrics.raft_peer_refused(label);
            }
            if *by_peer && refusal.is_final() {
                self.joiner.end(peer, refusal);
            }
        }
        dialled
    }

    async fn dial_without_timeout(
        &self,
        address: &str,
        expected: Option<&ServerId>,
        purpose: Purpose,
    ) -> Result<Dialled, DialError> {
        let (mut stream, peer) = self.connect(address, expected).await?;
        let own = self.about();
        let asked_with = own.commitment.clone();
        let greeting = |source| DialError::Greeting { address: address.to_owned(), source };
        let hello = Hello { version: PROTOCOL_VERSION, purpose, about: own.clone() };
        frame::write(&mut stream, &Frame::Hello(Box::new(hello))).await.map_err(greeting)?;
        let refused =
            |refusal, by_peer| DialError::Refused { address: address.to_owned(), peer: peer.clone(), refusal, by_peer };
        let about = match frame::read(&mut stream).await.map_err(greeting)?.0 {
            Frame::HelloAnswer(answer) => match *answer {
                HelloAnswer::Welcome(about) => *about,
                HelloAnswer::Refused(refusal) => return Err(refused(refusal, true)),
            },
            other => return Err(greeting(other.unexpected())),
        };
        match judge(&own, &about, &peer, self.consensus.catalog().membership()) {
            Verdict::Welcome => {}
            Verdict::ThisServer => return Err(DialError::ThisServer { address: address.to_owned() }),
            Verdict::Refuse(refusal) => return Err(refused(refusal, false)),
            Verdict::OwnFault(refusal) => return Err(refused(refusal, true)),
        }
        self.learn(&about);
        Ok(Dialled { stream, peer, about, asked_with })
    }

    /// Connects and proves both sides' names.
    async fn connect(
        &self,
        address: &str,
        expected: Option<&ServerId>,
    ) -> Result<(TlsStream<TcpStream>, ServerId), DialError> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|source| DialError::Connect { address: address.to_owned(), source })?;
        // Heartbeats must not wait for the peer's delayed acknowledgement; without it they only come later.
        let _ = stream.set_nodelay(true);
        let config = match expected {
            Some(server) => raft_client_config(&self.identity, server),
            None => raft_meeting_config(&self.identity),
        };
        let tls = |source: io::Error| {
            if let Some(rejected) = PeerRejected::of(&source) {
                self.shared().metrics.raft_peer_refused(rejected.label());
            }
            let expected =
                expected.map_or("a server of this cluster".to_owned(), |server| format!("server `{server}`"));
            DialError::Tls { address: address.to_owned(), expected, source }
        };
        let stream = TlsConnector::from(config).connect(tls_name(), stream).await.map_err(tls)?;
        let connection = stream.get_ref().1;
        if !speaks(connection, ALPN_RAFT) {
            return Err(DialError::Protocol { address: address.to_owned() });
        }
        let peer = raft_peer(connection).map_err(|rejected| tls(io::Error::other(rejected)))?;
        Ok((stream, peer))
    }

    /// Enters in the address book what a server says about itself, once it was judged.
    pub(super) fn learn(&self, about: &About) {
        let candidate = &about.candidate;
        if self.shared().members.learn(about) {
            self.shared().inbox.tell(Request::Follow);
            info!(server = %candidate.server, address = candidate.raft_address, "raft peer has a new address");
        }
    }
}
