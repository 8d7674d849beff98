//! Clients: each does one thing at a time, and sends it again under the same request id until it hears what became of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use catalog::{
    Action, Actor, AgentId, CatalogIndex, Command, Envelope, Intention, Outcome, RequestId, ServicePattern,
    SourcePattern, Timestamp, WriteMode,
};

use super::checks::{Checked, check};
use super::history::{self, Act, Deed, Held, REGISTERS};
use super::mesh::{Event, Mesh, Parcel};
use super::network::Place;
use super::plan::Lasting;
use super::random::Random;
use super::servers::Server;

/// How long a client waits for an answer before it asks elsewhere.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long those who write would wait in all before they called it a failure.
const LATE: Duration = Duration::from_secs(5);

/// For how many milliseconds clients rest once they were answered.
const BUSY: Range<u64> = 10..200;
/// For how many they do where everything was healed and they have written since: they keep the servers company then.
const CALM: Range<u64> = 1_000..10_000;

/// What a client wants.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// Something that nobody else creates.
    Write { destination: ServicePattern, data: Vec<u8> },
    /// A linearizable read of a register; what was acknowledged before it began is at most this index.
    Read { floor: CatalogIndex, register: u64 },
    /// A register's new value, under what the client knows of it if it compares.
    Set { register: u64, value: u64, compare: Option<Held>, data: Vec<u8> },
    /// A certificate for an agent: signed while its record lives, as a read confirmed it; `is_revoked` says whether its end
    /// was acknowledged before this was asked.
    Certificate { record: AgentId, is_revoked: bool },
    /// What a server or the operator brings through Raft.
    Errand(Vec<u8>),
}

/// What a server answers.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Written {
        index: CatalogIndex,
        outcome: Outcome,
    },
    Read(Held),
    /// Whether a certificate was signed.
    Certificate(bool),
    /// Not done; try there, if somebody is named.
    Elsewhere(Option<u64>),
    /// Perhaps done: the same request id tells.
    Unknown,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    /// Counts wishes; the current one's number.
    pub(crate) number: u64,
    pub(crate) wish: Option<Wish>,
    /// When it began to wish.
    since: Duration,
    /// What it read last, of which register.
    knows: Option<(u64, Held)>,
    /// Counts sendings, so that an old timer is not taken for a new one.
    pub(crate) attempt: u64,
    /// The server that it asks.
    pub(crate) server: u64,
    pub(crate) done: u64,
}

impl Client {
    pub(crate) fn new(id: u64) -> Client {
        Client { id, number: 0, wish: None, since: Duration::ZERO, knows: None, attempt: 0, server: 1, done: 0 }
    }

    /// Means to get a certificate for an agent.
    fn wish_certificate(&mut self, now: Duration, record: AgentId, is_revoked: bool) {
        self.number += 1;
        self.since = now;
        self.wish = Some(Wish::Certificate { record, is_revoked });
    }

    /// Thinks of something new.
    fn wish(&mut self, now: Duration, time: Timestamp, floor: CatalogIndex, random: &mut Random) {
        self.number += 1;
        self.since = now;
        let register = random.within(0..REGISTERS);
        self.wish = Some(match random.within(0..10) {
            0..3 => self.creation(time),
            3..7 => Wish::Read { floor, register },
            kind => {
                let known = self.knows.take().filter(|_| kind > 7);
                let register = known.map_or(register, |(register, _)| register);
                let compare = known.map(|(_, held)| held);
                let value = self.id * 1_000_000 + self.number;
                let data = history::set(register, value, compare, &format!("{}-{}", self.id, self.number), time);
                Wish::Set { register, value, compare, data }
            }
        });
    }

    /// Something that nobody else creates.
    fn creation(&self, now: Timestamp) -> Wish {
        let destination: ServicePattern =
            format!("service-{}-{}", self.id, self.number).parse().expect("the name is a service's");
        let source = SourcePattern::Service(ServicePattern::Any);
        let intention = Intention::new(source, destination.clone(), Action::Allow);
        let request_id = format!("{}-{}", self.id, self.number);
        let envelope = Envelope {
            version: 1,
            request_id: request_id.parse::<RequestId>().expect("the id is a request's"),
            actor: Actor::ClusterKey,
            source_address: None,
            proposed_at: now,
            command: Command::WriteIntention { intention: Box::new(intention), mode: WriteMode::Create },
        };
        Wish::Write { destination, data: envelope.encode() }
    }

    /// Returns what the client does to a register, if it does; `is_done` says what it was answered, if it was.
    fn act(&self, is_done: Option<bool>) -> Option<Act> {
        let Some(Wish::Set { register, value, compare, .. }) = &self.wish else { return None };
        let deed = match compare {
            None => Deed::Put(*value),
            Some(held) => Deed::Swap { expected: held.map(|(value, _)| value), value: *value, is_done },
        };
        Some(Act { register: *register, deed })
    }
}

impl Mesh {
    pub(super) fn client_hears(&mut self, id: u64, from: u64, number: u64, answer: Answer) -> Checked {
        let now = self.schedule.now();
        let rest = if self.clients_are_calm { CALM } else { BUSY };
        let asked = self.asked();
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.number == number) else { return Ok(()) };
        if let (Answer::Written { .. }, Some(_)) = (&answer, &client.wish) {
            self.summary.late += u64::from(now - client.since > LATE);
        }
        let pause = match (answer, &client.wish) {
            (Answer::Written { index, outcome }, Some(Wish::Write { destination, .. })) => {
                self.trace.note(now, "acknowledged", &[id, number, index.0]);
                self.checks.acknowledged(destination, index, &outcome)?;
                self.summary.acknowledged += 1;
                client.wish = None;
                client.server = from;
                client.done += 1;
                rest
            }
            (Answer::Written { index, outcome }, Some(Wish::Set { .. })) => {
                self.trace.note(now, "set", &[id, number, index.0]);
                let is_done = history::is_done(&outcome)?;
                if let Some(act) = client.act(Some(is_done)) {
                    self.checks.history.done(id, act, client.since, now);
                }
                self.summary.acknowledged += u64::from(is_done);
                client.wish = None;
                client.server = from;
                client.done += 1;
                rest
            }
            (Answer::Read(held), Some(Wish::Read { register, .. })) => {
                self.summary.reads += 1;
                let act = Act { register: *register, deed: Deed::Get(held.map(|(value, _)| value)) };
                self.checks.history.done(id, act, client.since, now);
                client.knows = Some((*register, held));
                client.wish = None;
                rest
            }
            (Answer::Certificate(is_signed), Some(Wish::Certificate { record, is_revoked })) => {
                check!(!(is_signed && *is_revoked), "a certificate was signed for {record}, whose record had ended");
                *self.summary.certificates.entry(is_signed).or_default() += 1;
                client.wish = None;
                rest
            }
            // A late answer to what was heard of already, or to an earlier sending.
            (_, None) => return Ok(()),
            (Answer::Elsewhere(Some(leader)), _) => {
                client.server = leader;
                1..20
            }
            (_, Some(_)) => {
                client.server = following(&asked, client.server);
                50..400
            }
        };
        client.attempt += 1;
        let (attempt, after) = (client.attempt, self.random.millis(pause));
        self.schedule.plan(after, Event::Client { client: id, attempt });
        Ok(())
    }

    pub(super) fn client_acts(&mut self, id: u64, attempt: u64) {
        let floor = self.checks.floor();
        let servers = self.asked();
        let (now, time) = (self.schedule.now(), self.clock(Place::Client(id)));
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.attempt == attempt) else { return };
        if client.wish.is_none() {
            match self.checks.some_record(&mut self.random) {
                Some((record, is_revoked)) if self.random.happens(20) => {
                    client.wish_certificate(now, record, is_revoked);
                }
                _ => client.wish(now, time, floor, &mut self.random),
            }
            if let Some(Wish::Read { .. } | Wish::Certificate { .. }) = client.wish {
                client.server = self.random.choose(&servers);
            }
        } else {
            // Whoever stays silent may be gone for good.
            let next = following(&servers, client.server);
            client.server = if self.random.happens(50) { self.random.choose(&servers) } else { next };
        }
        client.attempt += 1;
        let Some(wish) = client.wish.clone() else { return };
        let (to, number, attempt) = (client.server, client.number, client.attempt);
        self.schedule.plan(PATIENCE, Event::Client { client: id, attempt });
        self.send(Place::Client(id), Place::Server(to), Parcel::Ask { number, wish });
    }

    /// Returns the servers that clients ask: where one is slow all the time, it is the clients of the others that must not feel it.
    fn asked(&self) -> Vec<u64> {
        let is_asked = |server: &&Server| self.plan.lasting != Lasting::SlowFollower || server.disk_takes.is_zero();
        self.servers.values().filter(is_asked).map(|server| server.id).collect()
    }

    /// Ends all clients; what they still wait for may have happened, or happen later.
    pub(super) fn clients_fall_silent(&mut self) {
        for (id, client) in std::mem::take(&mut self.clients) {
            if let Some(act) = client.act(None) {
                self.checks.history.open(id, act, client.since);
            }
        }
    }
}

/// Returns the server that follows another in the order of their numbers, round and round.
pub(super) fn after(servers: &BTreeMap<u64, Server>, id: u64) -> u64 {
    following(&servers.keys().copied().collect::<Vec<_>>(), id)
}

fn following(servers: &[u64], id: u64) -> u64 {
    let next = servers.iter().find(|other| **other > id).or_else(|| servers.first());
    next.copied().unwrap_or(id)
}
