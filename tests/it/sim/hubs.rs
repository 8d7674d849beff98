//! The hub of every simulated server, fed by its room, and what stands around it: sessions, writes, connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use agent::sync::WriteResult;
use bytes::Bytes;
use catalog::{Actor, AgentRecord, Catalog, Command, Outcome, RootsAck, ServerId, ServiceKey, WatchKey};
use server::Acks;
use server::hub::{self, CloseReason, Hub, SessionId};
use server::sessions::Sessions;
use wire::agent_protocol::{Capabilities, Capability, ClientFrame, GroupEpoch, ServerFrame, WriteRequest};
use wire::frame::encode_frame;

use super::checks::{Checked, check};
use super::connections::{Connection, Heard, Said, Stage};
use super::errands::Purpose;
use super::mesh::Mesh;
use super::network::Place;
use super::plan::Planted;
use super::sessions;
use super::streams::StreamEvent;
use super::views::Told;

/// The hub of a running server, and what its shell knows.
pub(crate) struct ServerHub {
    pub(super) hub: Hub,
    /// What the server has applied; the hub learns of it a little later.
    pub(super) catalog: Catalog,
    touched: BTreeSet<WatchKey>,
    is_woken: bool,
    sessions: BTreeMap<SessionId, (u64, Told)>,
    opened: u64,
    /// Where agents were told last that the servers are.
    servers: Vec<String>,
    pub(super) acks: Acks,
    pub(super) is_acknowledging: bool,
    pub(super) watch: Sessions,
    pub(super) is_reporting: bool,
}

/// Returns where a server serves agents.
pub(super) fn agent_address(id: u64) -> String {
    format!("server-{id}:8300")
}

pub(super) fn server_name(id: u64) -> ServerId {
    format!("server-{id}").parse().expect("the name is a server's")
}

impl Mesh {
    /// A server started: its hub begins with what the room read back.
    pub(super) fn hub_starts(&mut self, id: u64) -> Checked {
        let server = &self.servers[&id];
        let (Some(room), life) = (server.room(), server.life) else { return Ok(()) };
        if self.plan.agents == 0 {
            return Ok(());
        }
        let catalog = room.catalog().clone();
        self.streams.truth.starts(id, &catalog)?;
        if self.plan.has_policy {
            self.streams.committed.applied(&catalog);
        }
        let hub = Hub::new(self.streams.limits, Arc::new(catalog.clone()));
        let here = ServerHub {
            hub,
            catalog,
            touched: BTreeSet::new(),
            is_woken: false,
            sessions: BTreeMap::new(),
            opened: 0,
            servers: Vec::new(),
            acks: Acks::default(),
            is_acknowledging: false,
            watch: sessions::machine(id, self.authority.leaf_ttl),
            is_reporting: false,
        };
        self.streams.hubs.insert(id, here);
        self.plan_stream(Duration::from_secs(1), StreamEvent::HubTicks { server: id, life });
        self.sessions_start(id, life);
        Ok(())
    }

    /// A server lost its power: its sessions are gone, and so is what it tried to bring through Raft.
    pub(super) fn hub_falls(&mut self, id: u64) {
        self.streams.hubs.remove(&id);
        self.streams.given_up.forgets(id);
        self.streams.errands.retain(|_, errand| errand.origin() != Place::Server(id));
        let held = self
            .streams
            .connections
            .iter()
            .filter(|(_, connection)| connection.server == id && !matches!(connection.stage, Stage::Fresh));
        for number in held.map(|(number, _)| *number).collect::<Vec<_>>() {
            if let Some(connection) = self.streams.connections.get_mut(&number) {
                connection.stage = Stage::Ended;
            }
            // A process that ends resets its connections; a machine that does falls silent.
            let is_loud = self.random.happens(50);
            self.cut(number, is_loud);
        }
    }

    /// A room applied something: the hub hears of it soon, and of several things at once.
    pub(super) fn hub_is_told(
        &mut self,
        id: u64,
        catalog: Catalog,
        touched: BTreeSet<WatchKey>,
        restored: bool,
    ) -> Checked {
        let Some(here) = self.streams.hubs.get_mut(&id) else { return Ok(()) };
        self.streams.truth.applied(id, &catalog)?;
        self.streams.given_up.applied(id, &catalog)?;
        if self.plan.has_policy {
            self.streams.committed.applied(&catalog);
        }
        let before = std::mem::replace(&mut here.catalog, catalog);
        if restored {
            here.touched.extend(before.watch_keys().chain(here.catalog.watch_keys()).cloned());
        } else {
            here.touched.extend(touched);
        }
        if !here.touched.is_empty() && !here.is_woken {
            here.is_woken = true;
            let after = self.random.millis(0..30);
            let life = self.servers[&id].life;
            self.plan_stream(after, StreamEvent::HubWakes { server: id, life });
        }
        Ok(())
    }

    /// Returns where the servers are that a server knows of.
    fn servers_known_to(&self, id: u64) -> Vec<String> {
        let members = self.streams.hubs.get(&id).map(|here| here.catalog.membership().members.keys());
        let known: Vec<String> = members.into_iter().flatten().map(|id| agent_address(*id)).collect();
        // Before the group has a list, there are those that it was founded with.
        if known.is_empty() { self.servers.keys().map(|id| agent_address(*id)).collect() } else { known }
    }

    /// A second has passed for a hub: its agents hear of servers that came or went.
    pub(super) fn hub_ticks(&mut self, id: u64) -> Checked {
        let servers = self.servers_known_to(id);
        let here = self.streams.hubs.get_mut(&id).filter(|_| self.plan.has_membership);
        if let Some(here) = here.filter(|here| here.servers != servers) {
            here.servers.clone_from(&servers);
            self.hub_step(id, hub::Input::Servers { only: None, servers })?;
        }
        self.hub_step(id, hub::Input::Tick)
    }

    pub(super) fn hub_wakes(&mut self, id: u64) -> Checked {
        let Some(here) = self.streams.hubs.get_mut(&id) else { return Ok(()) };
        here.is_woken = false;
        let touched = std::mem::take(&mut here.touched);
        let catalog = Arc::new(here.catalog.clone());
        self.hub_step(id, hub::Input::Applied { catalog, touched })
    }

    pub(super) fn hub_step(&mut self, id: u64, input: hub::Input) -> Checked {
        let now = self.schedule.now();
        let streams = &mut self.streams;
        let Some(here) = streams.hubs.get_mut(&id) else { return Ok(()) };
        match &input {
            hub::Input::Subscribe { session, topic, from } => {
                if let Some((_, told)) = here.sessions.get_mut(session) {
                    told.subscribes(topic, *from, &streams.truth)?;
                }
            }
            hub::Input::Unsubscribe { session, topic } => {
                if let Some((_, told)) = here.sessions.get_mut(session) {
                    told.unsubscribes(topic);
                }
            }
            hub::Input::Closed { session } => drop(here.sessions.remove(session)),
            _ => {}
        }
        let mut outputs = Vec::new();
        here.hub.step(input, now, &mut |output| outputs.push(output));
        for output in outputs {
            self.hub_wants(id, output)?;
        }
        Ok(())
    }

    fn hub_wants(&mut self, id: u64, output: hub::Output) -> Checked {
        let now = self.schedule.now();
        let streams = &mut self.streams;
        let Some(here) = streams.hubs.get_mut(&id) else { return Ok(()) };
        match output {
            hub::Output::Send { session, frame } => {
                let Some((connection, told)) = here.sessions.get_mut(&session) else {
                    check!(false, "the hub of server {id} sends to a session that it closed");
                    return Ok(());
                };
                if let ServerFrame::Event(event) = frame.content() {
                    told.is_told(event, &streams.truth)?;
                    self.trace.note(now, "event", &[id, session.0, event.index().0]);
                }
                let connection = *connection;
                self.send_down(connection, Heard::Frame { bytes: frame.encoded().clone(), session: Some(session) });
            }
            hub::Output::Close { session, reason } => {
                self.trace.note(now, "close", &[id, session.0]);
                match &reason {
                    CloseReason::Superseded => self.summary.streams.superseded += 1,
                    CloseReason::SlowReader => self.summary.streams.slow += 1,
                    CloseReason::ServerBehind { .. } => self.summary.streams.behind += 1,
                    CloseReason::GivenUp => self.summary.streams.given_up += 1,
                    CloseReason::Revoked => self.summary.streams.revoked += 1,
                    reason => check!(false, "server {id} closed the session of an honest agent: {reason}"),
                }
                let Some((connection, _)) = here.sessions.remove(&session) else { return Ok(()) };
                self.send_down(connection, plain(&ServerFrame::Goodbye { reason: reason.to_string() }));
                self.stream_ends(connection);
            }
        }
        Ok(())
    }

    fn stream_ends(&mut self, connection: u64) {
        if let Some(connection) = self.streams.connections.get_mut(&connection) {
            connection.stage = Stage::Ended;
        }
        self.send_down(connection, Heard::End);
    }

    pub(super) fn server_hears(&mut self, number: u64, said: Said) -> Checked {
        let Some(Connection { server: id, stage, taken_by, .. }) = self.streams.connections.get_mut(&number) else {
            return Ok(());
        };
        let (id, life) = (*id, self.servers.get(id).filter(|_| self.streams.hubs.contains_key(id)).map(|it| it.life));
        // Nobody is there, or a process that has not heard of this connection: it was made to one that has ended since.
        if life.is_none() || (*taken_by != life && !matches!(said, Said::Connect)) {
            *stage = Stage::Ended;
            self.cut(number, true);
            return Ok(());
        }
        match (said, stage) {
            (Said::Connect, Stage::Fresh) => {
                *taken_by = life;
                self.send_down(number, Heard::Accepted);
            }
            (Said::Frame(ClientFrame::Hello { .. }), stage @ Stage::Fresh) => {
                *stage = Stage::Opening(Vec::new());
                self.opens_session(id, number);
            }
            (Said::Frame(frame), Stage::Opening(waiting)) => waiting.push(frame),
            (Said::Frame(frame), Stage::Open(session)) => {
                let session = *session;
                return self.session_hears(id, session, frame);
            }
            (Said::Write { number: name, request }, _) => self.writes(id, number, name, *request),
            (Said::Sign { number: name, subject }, _) => self.server_is_asked_for_leaf(id, number, name, subject),
            (_, Stage::Ended) => {}
            (said, stage) => check!(false, "{said:?} came over a connection that is {stage:?}"),
        }
        Ok(())
    }

    fn session_hears(&mut self, id: u64, session: SessionId, frame: ClientFrame) -> Checked {
        match frame {
            ClientFrame::Subscribe { topic, from } => self.hub_step(id, hub::Input::Subscribe { session, topic, from }),
            ClientFrame::Acknowledge { roots, renewed } => {
                let here = self.streams.hubs.get(&id);
                let told = here.and_then(|here| Some((here, here.sessions.get(&session)?.0)));
                if let Some((here, connection)) = told
                    && let Some(connection) = self.streams.connections.get(&connection)
                {
                    here.acks.note(&connection.record, RootsAck { roots, renewed });
                }
                Ok(())
            }
            ClientFrame::Rejected { topic, error } => {
                check!(false, "an agent rejected what an honest server said of {topic}: {error}");
                Ok(())
            }
            ClientFrame::Unsubscribe { topic } => self.hub_step(id, hub::Input::Unsubscribe { session, topic }),
            ClientFrame::Hello { .. } => {
                check!(false, "an agent said hello twice");
                Ok(())
            }
        }
    }

    /// Returns the record that the agent showed at the handshake, or whether to look again later.
    pub(super) fn record(&self, id: u64, connection: u64) -> Result<AgentRecord, bool> {
        let record = &self.streams.connections[&connection].record;
        let Some(here) = self.streams.hubs.get(&id) else { return Err(true) };
        here.catalog.agent_record(record).cloned().ok_or(here.catalog.number_at(here.catalog.index()) < record.index())
    }

    fn opens_session(&mut self, id: u64, connection: u64) {
        let record = match self.record(id, connection) {
            Ok(record) => record,
            Err(is_early) => {
                if self.plan.logs_in && !is_early {
                    self.send_down(connection, Heard::Unknown);
                }
                return self.stream_ends(connection);
            }
        };
        let command = Command::OpenSession { agent: record.id.clone(), server: server_name(id) };
        let purpose = Purpose::Open { connection, services: record.services };
        self.run_errand(Place::Server(id), format!("open-{connection}"), Actor::Agent(record.id), command, purpose);
    }

    /// The session's opening is in the log, or did not get there in time.
    pub(super) fn session_opens(
        &mut self,
        number: u64,
        services: Vec<ServiceKey>,
        outcome: Option<Outcome>,
    ) -> Checked {
        let Some(id) = self.streams.connections.get(&number).map(|connection| connection.server) else { return Ok(()) };
        let servers = self.servers_known_to(id);
        let Some(connection) = self.streams.connections.get_mut(&number) else { return Ok(()) };
        let Stage::Opening(waiting) = &mut connection.stage else { return Ok(()) };
        let waiting = std::mem::take(waiting);
        let agent = connection.record.clone();
        let Some(Outcome::SessionOpened { incarnation }) = outcome else {
            self.stream_ends(number);
            return Ok(());
        };
        let Some(here) = self.streams.hubs.get_mut(&id) else { return Ok(()) };
        here.opened += 1;
        let session = SessionId(here.opened);
        connection.stage = Stage::Open(session);
        here.sessions.insert(session, (number, Told::default()));
        let group = GroupEpoch::of(&here.catalog);
        let is_known = |it: &Capability| *it != Capability::Settled || self.plan.planted != Planted::SettlesNothing;
        let knows: Capabilities = Capability::ALL.into_iter().filter(is_known).collect();
        let welcome =
            ServerFrame::Welcome { incarnation, server: server_name(id), servers, group, knows: knows.clone() };
        self.send_down(number, plain(&welcome));
        let gateway = None;
        self.hub_step(id, hub::Input::Connected { session, agent, incarnation, services, gateway, knows })?;
        for frame in waiting {
            self.session_hears(id, session, frame)?;
        }
        Ok(())
    }

    fn writes(&mut self, id: u64, connection: u64, number: u64, request: WriteRequest) {
        let WriteRequest { request_id, command } = request;
        match self.record(id, connection) {
            Ok(record) => {
                let name = format!("{}-{}", record.id, request_id.as_str());
                let purpose = Purpose::Write { connection, number, request_id };
                let actor = Actor::Agent(record.id);
                self.run_errand(Place::Server(id), name, actor, command.into_command(), purpose);
            }
            Err(is_early) => {
                let result = if is_early {
                    WriteResult::Unavailable { retry_after: Some(Duration::from_secs(1)) }
                } else {
                    WriteResult::Rejected { error: "the record is gone".to_owned() }
                };
                self.send_down(connection, Heard::Written { number, request_id, result });
            }
        }
    }

    pub(super) fn server_notices(&mut self, number: u64) -> Checked {
        let Some(connection) = self.streams.connections.get_mut(&number) else { return Ok(()) };
        let id = connection.server;
        let stage = std::mem::replace(&mut connection.stage, Stage::Ended);
        self.end_knows(number);
        match stage {
            Stage::Open(session) => self.hub_step(id, hub::Input::Closed { session }),
            _ => Ok(()),
        }
    }
}

/// Returns a frame that no session's hub counts.
fn plain(frame: &ServerFrame) -> Heard {
    Heard::Frame { bytes: encode_frame(frame).unwrap_or_else(|_| Bytes::new()), session: None }
}
