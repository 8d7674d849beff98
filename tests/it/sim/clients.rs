//! Clients: each does one thing at a time, and sends it again under the same request id until it hears what became of it.

use std::collections::BTreeMap;

use catalog::{
    Action, Actor, CatalogIndex, Command, Effect, Envelope, Intention, Outcome, RequestId, ServicePattern, SourcePattern,
    Timestamp, WriteMode,
};

/// What a client wants.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// Something that nobody else creates.
    Write { destination: ServicePattern, data: Vec<u8> },
    /// A linearizable read; what was acknowledged before it began is at most this index.
    Read { floor: CatalogIndex },
}

/// What a server answers.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Written { index: CatalogIndex, outcome: Outcome },
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
