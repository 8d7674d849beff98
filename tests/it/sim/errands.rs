//! Writes that a server or the operator brings through Raft: sent again under one request id until they are answered.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{
    Actor, AgentId, CatalogIndex, Command, ENVELOPE_VERSION, Envelope, Outcome, Refusal, RequestId, RevocationChange,
    RootsAck, ServiceKey,
};
use server::raft::Input;

use agent::sync::WriteResult;

use super::checks::Checked;
use super::clients::{Answer, Wish, after};
use super::connections::Heard;
use super::mesh::{Mesh, Parcel};
use super::network::Place;
use super::plan::Planted;
use super::servers::{Asker, Subject};
use super::streams::StreamEvent;

/// How long a server tries to bring a write through before it tells the agent that it cannot.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long one attempt waits for its answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a server looks whether it has applied what the leader answered.
const LOOK: Duration = Duration::from_millis(20);

/// What a write is for.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    /// A connection's agent wants a session.
    Open { connection: u64, services: Vec<ServiceKey> },
    /// A connection's agent wrote something.
    Write { connection: u64, number: u64, request_id: RequestId },
    /// The operator did something.
    Operator,
    /// The operator did something to the group.
    Group,
    /// A steward wrote to the list of servers.
    Steward,
    /// A leader took a step of the certificate authority.
    Authority { server: u64, life: u64 },
    /// A server speaks of sessions that ended.
    Sessions { server: u64, life: u64 },
    /// A server brings in what agents said of roots.
    Acks { server: u64, acks: BTreeMap<AgentId, RootsAck> },
}

/// One write under way.
#[derive(Debug)]
pub(crate) struct Errand {
    origin: Place,
    envelope: Envelope,
    purpose: Purpose,
    /// The server that the operator asks.
    target: u64,
    attempt: u64,
    deadline: Option<Duration>,
    answer: Option<(CatalogIndex, Outcome)>,
}

impl Errand {
    pub(super) fn origin(&self) -> Place {
        self.origin
    }
}

impl Mesh {
    /// Starts to bring a command through Raft, on behalf of a server or of the operator.
    pub(super) fn run_errand(&mut self, origin: Place, name: String, actor: Actor, command: Command, purpose: Purpose) {
        let now = self.schedule.now();
        let envelope = Envelope {
            version: ENVELOPE_VERSION,
            request_id: name.parse().expect("the name is a request id"),
            actor,
            source_address: None,
            proposed_at: self.clock(origin),
            command,
        };
        let number = self.streams.number();
        let deadline = matches!(origin, Place::Server(_)).then_some(now + DEADLINE);
        let errand = Errand { origin, envelope, purpose, target: 1, attempt: 0, deadline, answer: None };
        self.streams.errands.insert(number, errand);
        self.schedule_errand(number, Duration::ZERO);
    }

    fn schedule_errand(&mut self, number: u64, after: Duration) {
        if let Some(errand) = self.streams.errands.get_mut(&number) {
            errand.attempt += 1;
            let attempt = errand.attempt;
            self.plan_stream(after, StreamEvent::Errand { number, attempt });
        }
    }

    /// Sends a write to whoever may be the leader, or ends it.
    pub(super) fn errand_acts(&mut self, number: u64, attempt: u64) -> Checked {
        let now = self.schedule.now();
        let Some(errand) = self.streams.errands.get(&number).filter(|errand| errand.attempt == attempt) else {
            return Ok(());
        };
        let is_late = errand.deadline.is_some_and(|deadline| now >= deadline);
        let own = match errand.origin {
            Place::Server(id) => Some(id),
            _ => None,
        };
        if let Some((index, _)) = &errand.answer {
            // A server answers once it has applied the write itself, if that happens in time.
            let here = own.and_then(|id| self.streams.hubs.get(&id));
            if is_late || here.is_none_or(|hub| hub.catalog.index() >= *index) {
                return self.errand_ends(number);
            }
            self.schedule_errand(number, LOOK);
            return Ok(());
        }
        if is_late {
            return self.errand_ends(number);
        }
        let wish = Wish::Errand(self.encoded(&errand.envelope));
        let (origin, target) = (errand.origin, errand.target);
        match own {
            None => {
                self.send(origin, Place::Server(target), Parcel::Ask { number, wish });
                // Whoever does not answer may be gone for good.
                if let Some(errand) = self.streams.errands.get_mut(&number) {
                    errand.target = after(&self.servers, target);
                }
            }
            Some(id) => match self.leader_as_seen_by(id) {
                None => {
                    let pause = self.random.millis(50..200);
                    self.schedule_errand(number, pause);
                    return Ok(());
                }
                Some(leader) if leader == id => self.ask_own_room(id, number, wish),
                Some(leader) => {
                    self.send(origin, Place::Server(leader), Parcel::Ask { number, wish });
                }
            },
        }
        self.schedule_errand(number, PATIENCE);
        Ok(())
    }

    /// Writes an envelope out; where the plan wants it, a write of an older session looks like one of the newest.
    fn encoded(&self, envelope: &Envelope) -> Vec<u8> {
        let Actor::Agent(agent) = &envelope.actor else { return envelope.encode() };
        if self.plan.planted != Planted::ForgetsFences {
            return envelope.encode();
        }
        let mut forged = envelope.clone();
        let newest = self.streams.newest().and_then(|catalog| catalog.agent_record(agent)?.incarnation);
        match &mut forged.command {
            Command::Register { node, incarnation, .. } => (node.incarnation, *incarnation) = (newest, newest),
            Command::Deregister { incarnation, .. } | Command::UpdateChecks { incarnation, .. } => {
                *incarnation = newest
            }
            _ => {}
        }
        forged.encode()
    }

    fn leader_as_seen_by(&self, id: u64) -> Option<u64> {
        self.servers.get(&id)?.room()?.status(self.schedule.now()).leader
    }

    fn ask_own_room(&mut self, id: u64, number: u64, wish: Wish) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let name =
            server.ask(Asker { place: Place::Server(id), number, floor: CatalogIndex(0), subject: Subject::Nothing });
        if let Wish::Errand(data) = wish {
            self.input(id, Input::Propose { id: name, data });
        }
    }

    /// Takes a server's answer to a write.
    pub(super) fn errand_hears(&mut self, number: u64, answer: Answer) {
        let Some(errand) = self.streams.errands.get_mut(&number).filter(|errand| errand.answer.is_none()) else {
            return;
        };
        let pause = match answer {
            Answer::Written { index, outcome } => {
                errand.answer = Some((index, outcome));
                0..1
            }
            Answer::Elsewhere(Some(leader)) => {
                errand.target = leader;
                5..50
            }
            Answer::Elsewhere(None) | Answer::Unknown | Answer::Read(_) | Answer::Certificate(_) => {
                errand.target = after(&self.servers, errand.target);
                50..400
            }
        };
        let after = self.random.millis(pause);
        self.schedule_errand(number, after);
    }

    fn errand_ends(&mut self, number: u64) -> Checked {
        let Some(errand) = self.streams.errands.remove(&number) else { return Ok(()) };
        let outcome = errand.answer.clone().map(|(_, outcome)| outcome);
        if let Some(Outcome::Refused(Refusal::StaleIncarnation { .. })) = &outcome {
            self.summary.streams.fenced += 1;
        }
        match errand.purpose {
            Purpose::Open { connection, services } => self.session_opens(connection, services, outcome)?,
            Purpose::Write { connection, number, request_id } => {
                self.count_sessions(&errand.envelope.command, outcome.as_ref());
                let result = match outcome {
                    Some(outcome) => WriteResult::Answered(outcome),
                    None => WriteResult::Unavailable { retry_after: Some(Duration::from_secs(1)) },
                };
                self.send_down(connection, Heard::Written { number, request_id, result });
            }
            Purpose::Steward => {}
            Purpose::Authority { server, life } => {
                self.authority_hears(server, life, &errand.envelope.command, outcome.as_ref());
            }
            Purpose::Sessions { server, life } => {
                self.sessions_are_told(server, life, &errand.envelope.command, outcome.as_ref())?;
            }
            Purpose::Acks { server, acks } => {
                self.count_step(&errand.envelope.command, outcome.as_ref());
                self.acks_are_taken(server, &acks, outcome.is_some());
            }
            Purpose::Group => self.group_hears(outcome)?,
            Purpose::Operator => {
                if let (
                    Command::Revoke { change: RevocationChange::Service { service } },
                    Some((index, Outcome::Revoked { .. } | Outcome::Done)),
                ) = (&errand.envelope.command, &errand.answer)
                {
                    self.checks.revoked_service(service, *index);
                }
                if let (Command::RevokeAgent { agent }, Some(Outcome::AgentRevoked { .. } | Outcome::Done)) =
                    (&errand.envelope.command, &outcome)
                {
                    self.checks.revoked(agent);
                }
                self.count_step(&errand.envelope.command, outcome.as_ref());
                self.operator_hears(outcome);
            }
        }
        Ok(())
    }
}
