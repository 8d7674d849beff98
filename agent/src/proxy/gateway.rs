//! The gateway: passes tunnels of other networks on into this one, by the server name that their TLS asks for.
//!
//! It reads the client's hello and nothing more: it has no key for what follows, and both ends verify one another through
//! it. So it needs to decide nothing but where the bytes go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use catalog::{AskedFor, Leg, ServiceKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use wire::tls::{ClientHelloError, ClientHelloReader};

use super::accept::{Accepted, accept_all};
use super::copy::{CopyError, Meter, reset, splice_plain};
use super::outbound::call_error::{CallError, ConnectError};
use super::outbound::endpoints::{Chosen, Scope, Tried};
use super::outbound::tunnel::dial;
use super::room::Room;
use crate::metrics::{Direction, Phase};

/// What is read at once of a hello.
const HELLO_READ: usize = 4096;

/// Accepts tunnels from other networks until the proxy stops.
pub(crate) async fn listen(room: Arc<Room>, listener: TcpListener) {
    let permits = Arc::clone(&room.gateway_permits);
    let stop = room.gateway.stopping.clone();
    let metrics = room.metrics.clone();
    accept_all(listener, permits, stop, metrics, |accepted| {
        room.gateway.tasks.spawn(serve(Arc::clone(&room), accepted));
    })
    .await;
}

/// Says why a connection is not passed on.
#[derive(Debug, thiserror::Error)]
enum NotPassed {
    /// Nothing is known of the mesh yet.
    #[error("this gateway has no configuration of the mesh yet")]
    NotReady,
    /// The client was too slow.
    #[error("no hello within {0:?}")]
    Slow(Duration),
    /// The client went away.
    #[error("the client went away before its hello was complete")]
    Gone,
    /// Nothing says whom the client asks for.
    #[error("no server name")]
    Hello(#[source] ClientHelloError),
    /// The name is of no service of this mesh.
    #[error("`{}` is no service of this mesh", .0.escape_debug())]
    OtherMesh(String),
    /// No instance here can take it.
    #[error("no instance of `{service}` to pass it to")]
    NoInstance {
        service: ServiceKey,
        #[source]
        source: CallError,
    },
    /// The instance's agent says nothing.
    #[error("{address} does not answer within {deadline:?}")]
    Silent { address: SocketAddr, deadline: Duration },
    /// The connection to the instance's agent broke.
    #[error("the connection to {address} broke")]
    Broken {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// The agent is stopping.
    #[error("this gateway is stopping")]
    Stopping,
}

impl NotPassed {
    fn phase(&self) -> Phase {
        match self {
            Self::NotReady | Self::Slow(_) | Self::Gone | Self::Hello(_) | Self::Stopping => Phase::Hello,
            Self::OtherMesh(_) => Phase::Identify,
            Self::NoInstance { source, .. } => source.phase(),
            Self::Silent { .. } | Self::Broken { .. } => Phase::Open,
        }
    }

    fn label(&self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::Slow(_) => "timeout",
            Self::Gone => "gone",
            Self::Hello(ClientHelloError::NotTls(_)) => "not_tls",
            Self::Hello(ClientHelloError::TooLong) => "hello_too_long",
            Self::Hello(ClientHelloError::NoServerName) => "no_server_name",
            Self::OtherMesh(_) => "unknown_server_name",
            Self::NoInstance { source, .. } => source.label(),
            Self::Silent { .. } => "no_answer",
            Self::Broken { .. } => "connection_failed",
            Self::Stopping => "stopping",
        }
    }
}

/// Is a connection to an instance that has taken the hello and begun to answer.
struct Passed {
    service: ServiceKey,
    endpoint: Chosen,
    agent: TcpStream,
    address: SocketAddr,
}

/// Passes one connection on, from accept to close.
async fn serve(room: Arc<Room>, accepted: Accepted) {
    let Accepted { stream: mut client, from, permit: _permit } = accepted;
    let started = Instant::now();
    let passed = tokio::select! {
        biased;
        () = room.gateway.cut.cancelled() => Err(NotPassed::Stopping),
        passed = open(&room, &mut client) => passed,
    };
    let Passed { service, endpoint, agent, address } = match passed {
        Ok(passed) => passed,
        Err(why) => return refuse(&room, &client, from, &why),
    };
    let _open = room.metrics.carried(Direction::Gateway);
    let meter = Meter::new(Direction::Gateway, room.metrics.clone());
    let outcome = tokio::select! {
        biased;
        () = room.gateway.cut.cancelled() => None,
        copied = splice_plain(client, agent, &meter, room.limits.half_closed_silence_max) => Some(copied),
    };
    let reason = match &outcome {
        Some(Ok(())) => "done",
        Some(Err(error)) => error.label(),
        None => "cut",
    };
    room.metrics.closed(Direction::Gateway, reason);
    tracing::info!(
        direction = "gateway",
        service = %service,
        instance = %endpoint.key,
        src.addr = %from,
        dst.addr = %address,
        bytes_sent = meter.sent(),
        bytes_recv = meter.received(),
        duration_s = started.elapsed().as_secs_f64(),
        reason,
        error = outcome.and_then(Result::err).map(|error: CopyError| wire::one_line(&error)),
        "connection closed"
    );
}

/// Reads whom the client asks for, and hands its hello to an instance that answers.
async fn open(room: &Arc<Room>, client: &mut TcpStream) -> Result<Passed, NotPassed> {
    let deadline = room.limits.handshake_timeout;
    let (name, hello) =
        tokio::time::timeout(deadline, hello_of(client)).await.unwrap_or(Err(NotPassed::Slow(deadline)))?;
    let current = room.current.load_full().ok_or(NotPassed::NotReady)?;
    let snapshot = &current.snapshot;
    let AskedFor { service, instance } = snapshot.scheme.asked_by_sni(&name).ok_or(NotPassed::OtherMesh(name))?;
    let targets = room.endpoints.targets(snapshot, &Leg::plain(service.clone()), Scope::OwnNetwork(instance));
    let mut tried = Tried::default();
    let mut failed: Option<CallError> = None;
    while tried.len() < room.limits.attempts_max {
        let endpoint = match room.endpoints.choose(&targets, None, &tried, Instant::now()) {
            Ok(endpoint) => endpoint,
            // The last failure says more than that nobody is left.
            Err(none) => return Err(NotPassed::NoInstance { service, source: failed.unwrap_or(none) }),
        };
        match connect(room, &endpoint.mesh_address).await {
            Ok((agent, address)) => {
                endpoint.succeeded();
                let agent = hand_over(agent, address, &hello, deadline).await?;
                return Ok(Passed { service, endpoint, agent, address });
            }
            Err(source) => {
                endpoint.failed(Instant::now());
                room.metrics.endpoint_unreachable();
                tried.add(&endpoint);
                failed =
                    Some(CallError::Connect { address: endpoint.mesh_address.to_string(), source: Arc::new(source) });
            }
        }
    }
    let none = CallError::NoHealthyEndpoint { destination: service.clone(), known: tried.len() };
    Err(NotPassed::NoInstance { service, source: failed.unwrap_or(none) })
}

/// Reads a hello to its end; returns the server name in it and all that was read.
async fn hello_of(client: &mut TcpStream) -> Result<(String, Vec<u8>), NotPassed> {
    let mut reader = ClientHelloReader::default();
    let mut buffer = [0; HELLO_READ];
    loop {
        let read = client.read(&mut buffer).await.map_err(|_| NotPassed::Gone)?;
        let arrived = buffer.get(..read).filter(|arrived| !arrived.is_empty()).ok_or(NotPassed::Gone)?;
        if let Some(name) = reader.take(arrived).map_err(NotPassed::Hello)? {
            return Ok((name, reader.into_bytes()));
        }
    }
}

async fn connect(room: &Room, address: &str) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let deadline = room.limits.connect_timeout;
    let agent =
        tokio::time::timeout(deadline, dial(room, address)).await.unwrap_or(Err(ConnectError::Timeout(deadline)))?;
    let address = agent.peer_addr().map_err(ConnectError::Tcp)?;
    Ok((agent, address))
}

/// Hands the hello to the instance's agent and waits for the first byte of its answer: whatever listens there and says
/// nothing, a gateway that the way leads back to included, holds nobody for longer than a handshake may take.
async fn hand_over(
    mut agent: TcpStream,
    address: SocketAddr,
    hello: &[u8],
    deadline: Duration,
) -> Result<TcpStream, NotPassed> {
    let answered = async {
        agent.write_all(hello).await?;
        agent.peek(&mut [0]).await
    };
    match tokio::time::timeout(deadline, answered).await {
        Ok(Ok(_)) => Ok(agent),
        Ok(Err(source)) => Err(NotPassed::Broken { address, source }),
        Err(_) => Err(NotPassed::Silent { address, deadline }),
    }
}

fn refuse(room: &Room, client: &TcpStream, from: SocketAddr, why: &NotPassed) {
    room.metrics.refused(Direction::Gateway, why.phase(), why.label());
    tracing::info!(
        direction = "gateway", src.addr = %from, reason = why.label(), error = %wire::one_line(why),
        "connection refused"
    );
    reset(client);
}
