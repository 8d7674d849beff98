//! What must hold of views: what servers have, what sessions are told, and what agents make of it.

use std::collections::BTreeMap;

use catalog::{
    Catalog, CatalogIndex, Event, Follower, Incarnation, InstanceKey, Item, NodeName, Owner, Topic, WatchKey,
};

use super::checks::{Checked, check};
use super::operator::topics;

/// What a topic holds.
type Items = BTreeMap<String, Item>;

/// How often things happened. What never happens is not tested.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) sessions: u64,
    pub(crate) published: u64,
    /// Subscriptions that went on from a held index.
    pub(crate) resumed: u64,
    /// Subscriptions that started over because something was missing.
    pub(crate) restarted: u64,
    pub(crate) written: u64,
    pub(crate) refused: u64,
    /// Writes of an older session that came too late.
    pub(crate) fenced: u64,
    pub(crate) superseded: u64,
    pub(crate) slow: u64,
    pub(crate) behind: u64,
    pub(crate) revoked: u64,
    /// Sessions that ended because the servers had given them up.
    pub(crate) given_up: u64,
    pub(crate) agent_crashes: u64,
    pub(crate) left: u64,
    /// Events that the network swallowed.
    pub(crate) lost: u64,
    /// Swallowed events whose absence the machine noticed by itself.
    pub(crate) noticed: u64,
    /// Pairs of agents that recognised each other.
    pub(crate) handshakes: u64,
    /// Decisions of agents that were held against what was committed.
    pub(crate) decided: u64,
    /// Policies that were restrained by what was told and not settled.
    pub(crate) restrained: u64,
    /// Leaves that nobody recognises because their root was distrusted on purpose.
    pub(crate) distrusted: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.sessions += other.sessions;
        self.published += other.published;
        self.resumed += other.resumed;
        self.restarted += other.restarted;
        self.written += other.written;
        self.refused += other.refused;
        self.fenced += other.fenced;
        self.superseded += other.superseded;
        self.slow += other.slow;
        self.behind += other.behind;
        self.revoked += other.revoked;
        self.given_up += other.given_up;
        self.agent_crashes += other.agent_crashes;
        self.left += other.left;
        self.lost += other.lost;
        self.noticed += other.noticed;
        self.handshakes += other.handshakes;
        self.decided += other.decided;
        self.restrained += other.restrained;
        self.distrusted += other.distrusted;
    }
}

/// What one server had applied when it was last looked at.
#[derive(Debug, Default)]
struct Seen {
    /// One for each of the topics, in their order.
    indexes: Vec<Option<CatalogIndex>>,
    incarnations: BTreeMap<NodeName, Incarnation>,
    versions: BTreeMap<InstanceKey, u64>,
}

/// What each topic held on servers, by its index.
#[derive(Debug)]
pub(crate) struct Truth {
    /// All there are, and what each reads.
    topics: Vec<(Topic, Vec<WatchKey>)>,
    held: BTreeMap<Topic, BTreeMap<CatalogIndex, Items>>,
    seen: BTreeMap<u64, Seen>,
}

impl Default for Truth {
    fn default() -> Truth {
        let with_keys = |topic: Topic| (topic.clone(), Catalog::reads(&topic));
        let topics = topics().into_iter().map(with_keys).collect();
        Truth { topics, held: BTreeMap::new(), seen: BTreeMap::new() }
    }
}

impl Truth {
    /// A server started with this catalog.
    pub(crate) fn starts(&mut self, server: u64, catalog: &Catalog) -> Checked {
        self.seen.remove(&server);
        self.applied(server, catalog)
    }

    /// A topic at an index holds the same on every server; nothing that a newer session wrote is undone by an older one.
    pub(crate) fn applied(&mut self, server: u64, catalog: &Catalog) -> Checked {
        let seen = self.seen.entry(server).or_default();
        seen.indexes.resize(self.topics.len(), None);
        for ((topic, keys), seen) in self.topics.iter().zip(&mut seen.indexes) {
            let index = catalog.index_of(keys);
            let before = seen.replace(index);
            check!(before <= Some(index), "on server {server} {topic} went from index {before:?} to {index}");
            if before == Some(index) {
                continue;
            }
            let items = catalog.view(topic);
            let first = self.held.entry(topic.clone()).or_default().entry(index).or_insert_with(|| items.clone());
            check!(*first == items, "{topic} at {index} is {items:?} on server {server} and was {first:?} elsewhere");
        }
        for node in catalog.nodes() {
            let Some(incarnation) = node.incarnation else { continue };
            let newest = known(&mut seen.incarnations, &node.name, incarnation);
            check!(incarnation >= *newest, "an older session, {incarnation}, overwrote node {} of {newest}", node.name);
            *newest = incarnation;
            let Owner::Agent(owner) = &node.owner else { continue };
            let current = catalog.agent_record(owner).and_then(|record| record.incarnation);
            check!(
                current.is_none_or(|current| incarnation <= current),
                "node {} is of session {incarnation}, which is not open yet",
                node.name
            );
            for instance in catalog.instances_on(&node.name) {
                let version = version(&instance.meta);
                let newest = known(&mut seen.versions, &instance.key, version);
                check!(version >= *newest, "instance {} went from version {newest} to {version}", instance.key);
                *newest = version;
            }
        }
        Ok(())
    }

    /// Returns what a topic held at an index on any server.
    pub(crate) fn at(&self, topic: &Topic, index: CatalogIndex) -> Option<&Items> {
        self.held.get(topic)?.get(&index)
    }
}

/// Returns what is kept under a key, or puts something there. The key is copied only then: this is asked at every index.
fn known<'a, K: Ord + Clone, V>(map: &'a mut BTreeMap<K, V>, key: &K, first: V) -> &'a mut V {
    if !map.contains_key(key) {
        map.insert(key.clone(), first);
    }
    map.get_mut(key).expect("it is there by now")
}

/// Returns the version that an agent gave to what it registered.
pub(crate) fn version(meta: &BTreeMap<String, String>) -> u64 {
    meta.get("version").and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// What one session was told: no gap, no repetition, no going back, and always what some server had.
#[derive(Debug, Default)]
pub(crate) struct Told {
    follower: Follower,
}

impl Told {
    pub(crate) fn subscribes(&mut self, topic: &Topic, from: Option<CatalogIndex>, truth: &Truth) -> Checked {
        if let Some(from) = from {
            let Some(items) = truth.at(topic, from) else {
                check!(false, "an agent holds {topic} at {from}, where no server ever had it");
                return Ok(());
            };
            if self.follower.index(topic).is_none() {
                self.follower.hold(topic, from, items.clone());
            }
        }
        self.follower.subscribe_from(topic, from);
        Ok(())
    }

    pub(crate) fn unsubscribes(&mut self, topic: &Topic) {
        self.follower.forget(topic);
    }

    pub(crate) fn is_told(&mut self, event: &Event, truth: &Truth) -> Checked {
        let (topic, index) = (event.topic(), event.index());
        let right = truth.at(topic, index);
        check!(right.is_some(), "a session is told of {topic} at {index}, where no server ever had it");
        let taken = self.follower.take(event);
        check!(taken.is_ok(), "a session is told what it must not be: {taken:?}");
        let items = self.follower.items(topic);
        check!(items == right, "{topic} at {index} is told as {items:?} and is {right:?}");
        Ok(())
    }
}
