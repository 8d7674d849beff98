//! Agents and their streams: a hub on every simulated server, fed by its room, and the connections that agents hold.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{Catalog, Topic};
use server::hub::{self, SessionId};

use super::agents::Agent;
use super::checks::Checked;
use super::connections::{Connection, Way};
use super::errands::Errand;
use super::hubs::ServerHub;
use super::mesh::{Event, Mesh};
use super::network::Place;
use super::operator::Operator;
use super::plan::Plan;
use super::policy::Committed;
use super::random::Random;
use super::sessions::GivenUp;
use super::views::Truth;

/// Something about agents and their streams that is going to happen.
#[derive(Debug)]
pub(crate) enum StreamEvent {
    /// A hub looks at what its server applied.
    HubWakes {
        server: u64,
        life: u64,
    },
    HubTicks {
        server: u64,
        life: u64,
    },
    /// An agent read what its session was sent.
    Read {
        server: u64,
        life: u64,
        session: SessionId,
        bytes: usize,
    },
    Arrives {
        connection: u64,
        way: Way,
    },
    /// An end learns that the connection is over: the server's is `Up`.
    Notices {
        connection: u64,
        end: Way,
    },
    Errand {
        number: u64,
        attempt: u64,
    },
    Operator,
    AgentStarts {
        agent: u64,
        life: u64,
    },
    AgentTicks {
        agent: u64,
        life: u64,
    },
    AgentSaves {
        agent: u64,
        life: u64,
    },
    /// An agent loses patience with a write.
    Unanswered {
        agent: u64,
        life: u64,
        number: u64,
    },
    /// What should be registered or followed becomes something else.
    AgentActs {
        agent: u64,
    },
    /// A server looks whether the authority needs something.
    AuthorityLooks {
        server: u64,
        life: u64,
    },
    /// A server looks at its sessions.
    SessionsLook {
        server: u64,
        life: u64,
    },
    /// A server looks what its agents said of roots.
    AcksGather {
        server: u64,
        life: u64,
    },
    LeaderDies {
        server: u64,
        life: u64,
    },
    /// An agent puts what it was told into force.
    AgentEnforces {
        agent: u64,
        life: u64,
    },
    AgentNeedsLeaf {
        agent: u64,
        life: u64,
    },
    AgentHasNoLeaf {
        agent: u64,
        life: u64,
        number: u64,
    },
    /// Two agents call each other.
    Handshake,
    Fault,
}

/// Everything about agents and their streams.
pub(crate) struct Streams {
    pub(super) hubs: BTreeMap<u64, ServerHub>,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) agents: BTreeMap<u64, Agent>,
    pub(super) errands: BTreeMap<u64, Errand>,
    pub(super) operator: Operator,
    pub(super) truth: Truth,
    pub(super) given_up: GivenUp,
    pub(super) committed: Committed,
    /// Whose event of which topic the network swallowed.
    pub(super) lost: Option<(u64, Topic)>,
    pub(super) limits: hub::Limits,
    numbers: u64,
}

impl Streams {
    pub(crate) fn new(plan: Plan, random: &mut Random) -> Streams {
        let mut limits = hub::Limits::default();
        if plan.agents > 0 {
            // What agents are sent at first always fits.
            limits.waiting_bytes_max = random.within(32_000..100_000) as usize;
            limits.ping_interval = random.millis(2_000..10_000);
            limits.stall_max = random.millis(3_000..15_000);
            limits.behind_max = random.millis(1_000..10_000);
        }
        Streams {
            hubs: BTreeMap::new(),
            connections: BTreeMap::new(),
            agents: (1..=plan.agents).map(|id| (id, Agent::new(id))).collect(),
            errands: BTreeMap::new(),
            operator: Operator::new(plan.servers, plan.agents, plan.logs_in),
            truth: Truth::default(),
            given_up: GivenUp::default(),
            committed: Committed::default(),
            lost: None,
            limits,
            numbers: 0,
        }
    }

    /// Returns a number that nothing else has.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Returns the newest catalog of any running server.
    pub(super) fn newest(&self) -> Option<&Catalog> {
        self.hubs.values().map(|here| &here.catalog).max_by_key(|catalog| catalog.index())
    }
}

impl Mesh {
    pub(super) fn plan_stream(&mut self, after: Duration, event: StreamEvent) {
        self.schedule.plan(after, Event::Stream(event));
    }

    pub(super) fn stream_happens(&mut self, event: StreamEvent) -> Checked {
        let pause = self.pause_before(&event);
        if !pause.is_zero() {
            self.plan_stream(pause, event);
            return Ok(());
        }
        match event {
            StreamEvent::HubWakes { server, life } if self.lives(server, life) => self.hub_wakes(server),
            StreamEvent::HubTicks { server, life } if self.lives(server, life) => {
                self.plan_stream(Duration::from_secs(1), StreamEvent::HubTicks { server, life });
                self.hub_ticks(server)
            }
            StreamEvent::Read { server, life, session, bytes } if self.lives(server, life) => {
                self.hub_step(server, hub::Input::Written { session, bytes })
            }
            StreamEvent::AuthorityLooks { server, life } if self.lives(server, life) => {
                self.authority_looks(server, life);
                Ok(())
            }
            StreamEvent::SessionsLook { server, life } if self.lives(server, life) => {
                self.sessions_look(server, life);
                Ok(())
            }
            StreamEvent::AcksGather { server, life } if self.lives(server, life) => {
                self.acks_gather(server, life);
                Ok(())
            }
            StreamEvent::LeaderDies { server, life } if self.lives(server, life) => {
                self.leader_dies(server);
                Ok(())
            }
            StreamEvent::HubWakes { .. }
            | StreamEvent::HubTicks { .. }
            | StreamEvent::Read { .. }
            | StreamEvent::AuthorityLooks { .. }
            | StreamEvent::SessionsLook { .. }
            | StreamEvent::AcksGather { .. }
            | StreamEvent::LeaderDies { .. } => Ok(()),
            StreamEvent::AgentEnforces { agent, life } => self.agent_enforces(agent, life),
            StreamEvent::AgentNeedsLeaf { agent, life } => {
                self.agent_needs_leaf(agent, life);
                Ok(())
            }
            StreamEvent::AgentHasNoLeaf { agent, life, number } => {
                if self.agent(agent).life == life {
                    self.agent_is_signed(agent, number, None);
                }
                Ok(())
            }
            StreamEvent::Handshake => self.shake_hands(),
            StreamEvent::Arrives { connection, way: Way::Up } => match self.take_up(connection) {
                Some(said) => self.server_hears(connection, said),
                None => Ok(()),
            },
            StreamEvent::Arrives { connection, way: Way::Down } => match self.take_down(connection) {
                Some(heard) => self.agent_hears(connection, heard),
                None => Ok(()),
            },
            StreamEvent::Notices { connection, end: Way::Up } => self.server_notices(connection),
            StreamEvent::Notices { connection, end: Way::Down } => self.agent_notices(connection),
            StreamEvent::Errand { number, attempt } => self.errand_acts(number, attempt),
            StreamEvent::Operator => {
                self.operator_acts();
                Ok(())
            }
            StreamEvent::AgentStarts { agent, life } => self.agent_starts(agent, life),
            StreamEvent::AgentTicks { agent, life } => self.agent_ticks(agent, life),
            StreamEvent::AgentSaves { agent, life } => self.agent_saves(agent, life),
            StreamEvent::Unanswered { agent, life, number } => self.agent_gives_up(agent, life, number),
            StreamEvent::AgentActs { agent } => self.agent_acts(agent),
            StreamEvent::Fault => self.stream_fault(),
        }
    }

    /// Returns for how long whoever an event happens to does not run.
    fn pause_before(&self, event: &StreamEvent) -> Duration {
        let now = self.schedule.now();
        // A server that was taken out for good, and what was yet to happen to it.
        let server = |id: &u64| self.servers.get(id).map_or(Duration::ZERO, |it| it.paused_until.saturating_sub(now));
        let agent = |id: &u64| self.streams.agents[id].paused_until.saturating_sub(now);
        match event {
            StreamEvent::HubWakes { server: id, .. }
            | StreamEvent::HubTicks { server: id, .. }
            | StreamEvent::AuthorityLooks { server: id, .. }
            | StreamEvent::SessionsLook { server: id, .. }
            | StreamEvent::AcksGather { server: id, .. }
            | StreamEvent::Read { server: id, .. } => server(id),
            StreamEvent::Arrives { connection, way: end } | StreamEvent::Notices { connection, end } => {
                match (self.streams.connections.get(connection), end) {
                    (Some(Connection { server: id, .. }), Way::Up) => server(id),
                    (Some(Connection { agent: id, .. }), Way::Down) => agent(id),
                    (None, _) => Duration::ZERO,
                }
            }
            StreamEvent::Errand { number, .. } => match self.streams.errands.get(number).map(Errand::origin) {
                Some(Place::Server(id)) => server(&id),
                _ => Duration::ZERO,
            },
            StreamEvent::AgentTicks { agent: id, .. } | StreamEvent::AgentSaves { agent: id, .. } => agent(id),
            StreamEvent::Unanswered { agent: id, .. }
            | StreamEvent::AgentEnforces { agent: id, .. }
            | StreamEvent::AgentNeedsLeaf { agent: id, .. }
            | StreamEvent::AgentHasNoLeaf { agent: id, .. } => agent(id),
            StreamEvent::AgentStarts { .. } | StreamEvent::AgentActs { .. } => Duration::ZERO,
            StreamEvent::Operator | StreamEvent::Fault => Duration::ZERO,
            StreamEvent::LeaderDies { .. } | StreamEvent::Handshake => Duration::ZERO,
        }
    }
}
