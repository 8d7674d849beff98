//! What must hold whatever fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use catalog::{AgentId, Catalog, CatalogIndex, Outcome, ServiceKey, ServicePattern};

use server::raft::{Message, MessageType};

use super::history::History;
use super::random::Random;

/// Something that must hold and did not.
#[derive(Debug)]
pub(crate) struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// Fails the run with this sentence unless the claim holds.
macro_rules! check {
    ($claim:expr, $($sentence:tt)+) => {
        if !$claim {
            return Err($crate::sim::checks::Violation(format!($($sentence)+)));
        }
    };
}
pub(super) use check;

/// Remembers what was seen, to hold the present against it.
#[derive(Debug)]
pub(crate) struct Checks {
    /// How many indexes there are from one whose state is compared between servers to the next.
    compared_every: u64,
    leaders: BTreeMap<u64, u64>,
    states: BTreeMap<CatalogIndex, (u64, Catalog)>,
    acknowledged: Vec<(ServicePattern, CatalogIndex)>,
    /// The highest index of those.
    floor: CatalogIndex,
    pub(crate) history: History,
    /// Agent records that were enrolled, and whether their end was acknowledged.
    records: BTreeMap<AgentId, bool>,
    /// Services that were revoked, and at which index last.
    services: BTreeMap<ServiceKey, CatalogIndex>,
    /// What each server let others rely on: the term that it answered in, and how far its log went as it said then.
    answered: BTreeMap<u64, (u64, u64)>,
}

impl Checks {
    pub(crate) fn new(compared_every: u64) -> Checks {
        Checks {
            compared_every,
            leaders: BTreeMap::new(),
            states: BTreeMap::new(),
            acknowledged: Vec::new(),
            floor: CatalogIndex(0),
            history: History::default(),
            records: BTreeMap::new(),
            services: BTreeMap::new(),
            answered: BTreeMap::new(),
        }
    }

    /// A server answers another: what it says there must be on its disk already.
    pub(crate) fn answers(&mut self, server: u64, message: &Message) {
        let index = match MessageType::from_i32(message.msg_type) {
            Some(MessageType::MsgAppendResponse) if !message.reject => message.index,
            Some(MessageType::MsgHeartbeatResponse) => 0,
            Some(MessageType::MsgRequestVoteResponse) if !message.reject => 0,
            _ => return,
        };
        let said = self.answered.entry(server).or_default();
        *said = if message.term > said.0 { (message.term, index) } else { (said.0, said.1.max(index)) };
    }

    /// A server came back. In the term that it answered in last, its log is as long as it said; in a newer one, another leader
    /// may have cut it back.
    pub(crate) fn comes_back(&self, server: u64, term: u64, last_index: u64) -> Checked {
        let (said_term, said_index) = self.answered.get(&server).copied().unwrap_or_default();
        let is_kept = term > said_term || (term == said_term && last_index >= said_index);
        check!(
            is_kept,
            "server {server} forgot what it had answered: its log went to {said_index} in term {said_term}, and it came back \
             in term {term} with a log to {last_index}"
        );
        Ok(())
    }

    /// What a server answered binds it no more: it goes on as another group.
    pub(crate) fn is_released(&mut self, server: u64) {
        self.answered.remove(&server);
    }

    /// A term has one leader at most.
    pub(crate) fn leads(&mut self, server: u64, term: u64) -> Checked {
        let first = *self.leaders.entry(term).or_insert(server);
        check!(first == server, "servers {first} and {server} both lead in term {term}");
        Ok(())
    }

    /// Servers that applied the same log have the same state.
    pub(crate) fn applied(&mut self, server: u64, catalog: &Catalog, is_certain: bool) -> Checked {
        let index = catalog.index();
        if !is_certain && !index.0.is_multiple_of(self.compared_every) {
            return Ok(());
        }
        let (other, seen) = self.states.entry(index).or_insert_with(|| (server, catalog.clone()));
        check!(seen == catalog, "servers {other} and {server} differ at index {index}");
        Ok(())
    }

    /// A write that creates what only it creates is done, however often it was sent.
    pub(crate) fn acknowledged(
        &mut self,
        destination: &ServicePattern,
        index: CatalogIndex,
        outcome: &Outcome,
    ) -> Checked {
        check!(*outcome == Outcome::Done, "the write of {destination} was applied twice: {outcome:?}");
        self.acknowledged.push((destination.clone(), index));
        self.floor = self.floor.max(index);
        Ok(())
    }

    /// Returns the index that every read started from now on must have reached.
    pub(crate) fn floor(&self) -> CatalogIndex {
        self.floor
    }

    pub(crate) fn enrolled(&mut self, record: &AgentId) {
        self.records.insert(record.clone(), false);
    }

    pub(crate) fn revoked(&mut self, record: &AgentId) {
        self.records.insert(record.clone(), true);
    }

    /// Says whether a record's end was acknowledged.
    pub(crate) fn has_ended(&self, record: &AgentId) -> bool {
        self.records.get(record).copied().unwrap_or_default()
    }

    pub(crate) fn revoked_service(&mut self, service: &ServiceKey, index: CatalogIndex) {
        self.services.insert(service.clone(), index);
    }

    /// Says whether the revocation of a service was acknowledged, of those whom it concerns.
    pub(crate) fn is_revoked(&self, service: &ServiceKey, record: &AgentId) -> bool {
        self.services.get(service).is_some_and(|index| record.index() < *index)
    }

    /// Draws a record, and says whether its end was acknowledged.
    pub(crate) fn some_record(&self, random: &mut Random) -> Option<(AgentId, bool)> {
        let at = random.within(0..self.records.len().max(1) as u64) as usize;
        self.records.iter().nth(at).map(|(record, is_revoked)| (record.clone(), *is_revoked))
    }

    /// A linearizable read sees every write acknowledged before it was asked for.
    pub(crate) fn read(&self, server: u64, catalog: &Catalog, floor: CatalogIndex) -> Checked {
        let index = catalog.index();
        check!(index >= floor, "a read on server {server} saw index {index} after a write at {floor} was acknowledged");
        Ok(())
    }

    /// No acknowledged write is lost. A server that joins has what it has heard of so far.
    pub(crate) fn kept(&self, server: u64, catalog: &Catalog) -> Checked {
        let present: BTreeSet<&ServicePattern> = catalog.intentions().map(|intention| &intention.destination).collect();
        for (destination, index) in &self.acknowledged {
            let is_kept = present.contains(destination) || catalog.index() < *index;
            check!(
                is_kept,
                "the write of {destination}, acknowledged at {index}, is lost on server {server}, which stands at {}",
                catalog.index()
            );
        }
        Ok(())
    }

    pub(crate) fn leader_count(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// Returns the highest term in which anybody led.
    pub(crate) fn last_term(&self) -> u64 {
        self.leaders.last_key_value().map_or(0, |(term, _)| *term)
    }
}
