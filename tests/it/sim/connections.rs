//! Connections between agents and servers: ordered while they live, cut at any moment, and each end learns of it when it
//! does.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use catalog::{AgentId, RequestId};
use server::hub::SessionId;
use wire::agent_protocol::{ClientFrame, Subject, WriteRequest};

use agent::sync::WriteResult;

use super::leaves::SimLeaf;
use super::mesh::{Event, Mesh};
use super::network::Place;
use super::streams::StreamEvent;

/// Which way something goes, and so who receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the server.
    Up,
    /// To the agent.
    Down,
}

/// What an agent says.
#[derive(Debug)]
pub(crate) enum Said {
    Connect,
    Frame(ClientFrame),
    Write { number: u64, request: Box<WriteRequest> },
    Sign { number: u64, subject: Subject },
}

/// What a server says.
#[derive(Debug)]
pub(crate) enum Heard {
    Accepted,
    /// The server knows no record of the agent, and would have heard of it.
    Unknown,
    /// A frame as it goes over the wire; what a session's hub sent counts as waiting until it is read.
    Frame {
        bytes: Bytes,
        session: Option<SessionId>,
    },
    Written {
        number: u64,
        request_id: RequestId,
        result: WriteResult,
    },
    Signed {
        number: u64,
        leaf: Option<Box<SimLeaf>>,
    },
    End,
}

/// What is on its way in one direction.
#[derive(Debug)]
struct Pipe<T> {
    /// With when each arrives; a receiver that is stopped finds it waiting.
    queue: VecDeque<(Duration, T)>,
    last: Duration,
    /// Nothing arrives after this: the connection is cut.
    until: Duration,
}

impl<T> Pipe<T> {
    fn new() -> Pipe<T> {
        Pipe { queue: VecDeque::new(), last: Duration::ZERO, until: Duration::MAX }
    }

    /// Sends something behind all that was sent before; returns after how long it arrives.
    fn push(&mut self, what: T, now: Duration, delay: Duration) -> Duration {
        self.last = self.last.max(now + delay);
        self.queue.push_back((self.last, what));
        self.last - now
    }

    /// Takes what arrived next, unless it was cut off.
    fn pop(&mut self) -> Option<T> {
        let (at, what) = self.queue.pop_front()?;
        (at <= self.until).then_some(what)
    }
}

/// How far a server is with a connection's session.
#[derive(Debug)]
pub(crate) enum Stage {
    /// The agent has not asked for a session.
    Fresh,
    /// It has, and what it said since waits.
    Opening(Vec<ClientFrame>),
    Open(SessionId),
    Ended,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) agent: u64,
    /// The record that its certificate names.
    pub(crate) record: AgentId,
    /// The agent's life that opened it.
    pub(crate) life: u64,
    /// The number that the agent's machine knows it by.
    pub(crate) attempt: u64,
    pub(crate) server: u64,
    /// The server's life that accepted it.
    pub(crate) taken_by: Option<u64>,
    pub(crate) stage: Stage,
    up: Pipe<Said>,
    down: Pipe<Heard>,
    is_cut: bool,
    /// How many ends know that it is over.
    noticed: u64,
}

impl Mesh {
    /// Starts to make a connection; returns its number.
    pub(super) fn connect(&mut self, agent: u64, record: AgentId, life: u64, attempt: u64, server: u64) -> u64 {
        let number = self.streams.number();
        let connection = Connection {
            agent,
            record,
            life,
            attempt,
            server,
            taken_by: None,
            stage: Stage::Fresh,
            up: Pipe::new(),
            down: Pipe::new(),
            is_cut: false,
            noticed: 0,
        };
        self.streams.connections.insert(number, connection);
        self.send_up(number, Said::Connect);
        number
    }

    pub(super) fn send_up(&mut self, number: u64, said: Said) {
        let Some(connection) = self.streams.connections.get(&number).filter(|connection| !connection.is_cut) else {
            return;
        };
        let ends = (Place::Agent(connection.agent), Place::Server(connection.server));
        let Some(delay) = self.network.carry(ends.0, ends.1, &mut self.random) else { return self.cut(number, false) };
        let now = self.schedule.now();
        if let Some(Connection { up, .. }) = self.streams.connections.get_mut(&number) {
            let after = up.push(said, now, delay);
            self.plan_stream(after, StreamEvent::Arrives { connection: number, way: Way::Up });
        }
    }

    pub(super) fn send_down(&mut self, number: u64, heard: Heard) {
        let Some(connection) = self.streams.connections.get(&number).filter(|connection| !connection.is_cut) else {
            return;
        };
        let ends = (Place::Server(connection.server), Place::Agent(connection.agent));
        let Some(delay) = self.network.carry(ends.0, ends.1, &mut self.random) else { return self.cut(number, false) };
        let now = self.schedule.now();
        if let Some(Connection { down, .. }) = self.streams.connections.get_mut(&number) {
            let after = down.push(heard, now, delay);
            self.plan_stream(after, StreamEvent::Arrives { connection: number, way: Way::Down });
        }
    }

    /// Cuts a connection. What is on its way arrives in part, and each end learns of it at once or much later.
    pub(super) fn cut(&mut self, number: u64, is_loud: bool) {
        let now = self.schedule.now();
        let Some(connection) = self.streams.connections.get_mut(&number).filter(|connection| !connection.is_cut) else {
            return;
        };
        connection.is_cut = true;
        for way in [Way::Up, Way::Down] {
            let rest = now + self.random.millis(0..300);
            let notices = self.random.millis(if is_loud { 1..50 } else { 100..12_000 });
            match way {
                Way::Up => connection.up.until = rest,
                Way::Down => connection.down.until = rest,
            }
            self.schedule.plan(notices, Event::Stream(StreamEvent::Notices { connection: number, end: way }));
        }
    }

    pub(super) fn take_up(&mut self, number: u64) -> Option<Said> {
        self.streams.connections.get_mut(&number)?.up.pop()
    }

    pub(super) fn take_down(&mut self, number: u64) -> Option<Heard> {
        self.streams.connections.get_mut(&number)?.down.pop()
    }

    /// Notes that one end knows the connection to be over; when both do, it is gone.
    pub(super) fn end_knows(&mut self, number: u64) {
        if let Some(connection) = self.streams.connections.get_mut(&number) {
            connection.noticed += 1;
            if connection.noticed == 2 {
                self.streams.connections.remove(&number);
            }
        }
    }
}
