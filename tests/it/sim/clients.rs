//! Clients: each does one thing at a time, and sends it again under the same request id until it hears what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{
    Action, Actor, CatalogIndex, Command, Effect, Envelope, Intention, Outcome, RequestId, ServicePattern,
    SourcePattern, Timestamp, WriteMode,
};

use super::checks::Checked;
use super::mesh::{Event, Mesh, Parcel};
use super::network::Place;

/// How long a client waits for an answer before it asks elsewhere.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a client wants.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// Something that nobody else creates.
    Write { destination: ServicePattern, data: Vec<u8> },
    /// A linearizable read; what was acknowledged before it began is at most this index.
    Read { floor: CatalogIndex },
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
    Read,
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
    /// Counts sendings, so that an old timer is not taken for a new one.
    pub(crate) attempt: u64,
    /// The server that it asks.
    pub(crate) server: u64,
    pub(crate) done: u64,
}

impl Client {
    pub(crate) fn new(id: u64) -> Client {
        Client { id, number: 0, wish: None, attempt: 0, server: 1, done: 0 }
    }

    pub(crate) fn wish_to_write(&mut self, now: Timestamp) {
        self.number += 1;
        let destination: ServicePattern =
            format!("service-{}-{}", self.id, self.number).parse().expect("the name is a service's");
        let intention = Intention {
            destination: destination.clone(),
            source: SourcePattern::Service(ServicePattern::Any),
            effect: Effect::Action(Action::Allow),
            description: String::new(),
            meta: BTreeMap::new(),
            jwt: None,
            expires_at: None,
            audit: false,
            created: CatalogIndex(0),
            modified: CatalogIndex(0),
        };
        let request_id = format!("{}-{}", self.id, self.number);
        let envelope = Envelope {
            version: 1,
            request_id: request_id.parse::<RequestId>().expect("the id is a request's"),
            actor: Actor::ClusterKey,
            source_address: None,
            proposed_at: now,
            command: Command::WriteIntention { intention: Box::new(intention), mode: WriteMode::Create },
        };
        self.wish = Some(Wish::Write { destination, data: envelope.encode() });
    }

    pub(crate) fn wish_to_read(&mut self, floor: CatalogIndex) {
        self.number += 1;
        self.wish = Some(Wish::Read { floor });
    }
}

impl Mesh {
    pub(super) fn client_hears(&mut self, id: u64, from: u64, number: u64, answer: Answer) -> Checked {
        let now = self.schedule.now();
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.number == number) else { return Ok(()) };
        let pause = match (answer, &client.wish) {
            (Answer::Written { index, outcome }, Some(Wish::Write { destination, .. })) => {
                self.trace.note(now, "acknowledged", &[id, number, index.0]);
                self.checks.acknowledged(destination, index, &outcome)?;
                self.summary.acknowledged += 1;
                client.wish = None;
                client.server = from;
                client.done += 1;
                10..200
            }
            (Answer::Read, Some(Wish::Read { .. })) => {
                self.summary.reads += 1;
                client.wish = None;
                10..200
            }
            // A late answer to what was heard of already, or to an earlier sending.
            (_, None) => return Ok(()),
            (Answer::Elsewhere(Some(leader)), _) => {
                client.server = leader;
                1..20
            }
            (_, Some(_)) => {
                client.server = client.server % self.plan.servers + 1;
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
        let now = self.schedule.now();
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.attempt == attempt) else { return };
        let is_new = client.wish.is_none();
        if is_new && self.random.happens(30) {
            client.wish_to_read(floor);
            client.server = self.random.within(1..self.plan.servers + 1);
        } else if is_new {
            client.wish_to_write(Timestamp(now.as_millis() as u64));
        } else if self.random.happens(50) {
            client.server = self.random.within(1..self.plan.servers + 1);
        }
        client.attempt += 1;
        let Some(wish) = client.wish.clone() else { return };
        let (to, number, attempt) = (client.server, client.number, client.attempt);
        self.schedule.plan(PATIENCE, Event::Client { client: id, attempt });
        self.send(Place::Client(id), Place::Server(to), Parcel::Ask { number, wish });
    }
}
