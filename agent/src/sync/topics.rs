//! What an agent holds of each topic, and how events change it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use catalog::{CatalogIndex, ConfigContent, ConfigKey, Event, Item, ServiceKey, Topic};
use serde::{Deserialize, Serialize};

use super::accept;

/// What a topic held at an index. Never changed in place, so that it can be shared with whoever reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicState {
    /// The index that a subscription resumes from.
    pub index: CatalogIndex,
    /// The items under their keys.
    pub items: BTreeMap<String, Item>,
}

impl TopicState {
    /// Reports whether a service is outside the mesh by its entries that the topic holds.
    fn is_external(&self, service: &ServiceKey) -> bool {
        let name = ConfigKey::ServiceDefaults(service.clone()).to_string();
        match self.items.get(&name) {
            Some(Item::Config(entry)) => match &entry.content {
                ConfigContent::ServiceDefaults(defaults) => defaults.external,
                _ => false,
            },
            _ => false,
        }
    }
}

/// The last good state of every topic that was ever received and is still needed.
pub type View = BTreeMap<Topic, Arc<TopicState>>;

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The topic holds something else now.
    Changed,
    /// The topic is current and holds what it held.
    Current,
    /// The event says nothing new, or concerns nothing that is needed.
    Ignored,
    /// Something is missing between what is held and the event.
    Gap,
    /// The server knows less than this agent does.
    Behind,
    /// The event cannot be true; what is held stays.
    Invalid(String),
}

/// Whether what comes for a topic continues what is held.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Flow {
    /// It is asked for, from the index that is held, and not answered yet.
    Asked,
    /// It was answered; deltas are taken.
    Following,
    /// Only a snapshot or a confirmation is taken: what comes before it belongs to an older subscription.
    AwaitingSnapshot,
    /// The topic was sent something impossible and is asked for again at this time.
    Poisoned { again_at: Duration },
}

/// The topics that are needed, what is held of each, and how far each follows the server.
#[derive(Debug)]
pub(super) struct Topics {
    flows: BTreeMap<Topic, Flow>,
    held: View,
    /// What is held of these is of a history that the servers have left: it stays in force until it is told anew, and its
    /// index says nothing.
    foreign: BTreeSet<Topic>,
}

impl Topics {
    /// Starts from what an earlier run held; whatever of it would not be taken from a server is dropped.
    pub(super) fn new(held: View) -> Self {
        Self { flows: BTreeMap::new(), held: acceptable(held), foreign: BTreeSet::new() }
    }

    pub(super) fn view(&self) -> &View {
        &self.held
    }

    /// Takes the set of needed topics; returns those that are new and those that are not needed any more.
    pub(super) fn need(&mut self, topics: &BTreeSet<Topic>) -> (Vec<Topic>, Vec<Topic>) {
        let dropped: Vec<Topic> = self.flows.keys().filter(|topic| !topics.contains(topic)).cloned().collect();
        let added: Vec<Topic> = topics.iter().filter(|topic| !self.flows.contains_key(topic)).cloned().collect();
        for topic in &dropped {
            self.flows.remove(topic);
        }
        for topic in &added {
            self.flows.insert(topic.clone(), Flow::Asked);
        }
        self.held.retain(|topic, _| topics.contains(topic));
        self.foreign.retain(|topic| topics.contains(topic));
        (added, dropped)
    }

    /// Returns every subscription that a new connection opens, each with the index it resumes from.
    pub(super) fn subscriptions(&mut self) -> Vec<(Topic, Option<CatalogIndex>)> {
        for flow in self.flows.values_mut() {
            *flow = Flow::Asked;
        }
        self.flows.keys().map(|topic| (topic.clone(), self.index_of(topic))).collect()
    }

    pub(super) fn index_of(&self, topic: &Topic) -> Option<CatalogIndex> {
        self.held.get(topic).filter(|_| !self.foreign.contains(topic)).map(|state| state.index)
    }

    /// Reports whether a topic is needed.
    pub(super) fn is_needed(&self, topic: &Topic) -> bool {
        self.flows.contains_key(topic)
    }

    /// Reports whether what is held of a topic follows the server.
    pub(super) fn is_followed(&self, topic: &Topic) -> bool {
        self.flows.get(topic) == Some(&Flow::Following)
    }

    /// Reports whether who may call whom here follows from what a topic holds: the config entries of services that others
    /// stand beside do not count, but those of services that nobody stands beside.
    pub(super) fn decides(&self, topic: &Topic) -> bool {
        match topic {
            Topic::Config(service) => {
                self.is_needed(&Topic::Intentions(service.clone()))
                    || self.held.get(topic).is_some_and(|held| held.is_external(service))
            }
            _ => topic.decides_calls(),
        }
    }

    /// Reports whether everything that decides calls follows the server, of what is held at all.
    pub(super) fn is_complete(&self) -> bool {
        self.held.keys().all(|topic| !self.decides(topic) || self.is_followed(topic))
    }

    /// Takes the news that the servers' history is another one: everything is to be told anew.
    pub(super) fn start_over(&mut self) {
        self.foreign = self.held.keys().cloned().collect();
    }

    /// Whether anything is held that is of an older history.
    pub(super) fn has_foreign(&self) -> bool {
        !self.foreign.is_empty()
    }

    /// Returns every topic that is needed.
    pub(super) fn needed(&self) -> Vec<Topic> {
        self.flows.keys().cloned().collect()
    }

    /// Notes that the topic is being asked for from scratch.
    pub(super) fn restart(&mut self, topic: &Topic) {
        if let Some(flow) = self.flows.get_mut(topic) {
            *flow = Flow::AwaitingSnapshot;
        }
    }

    /// Notes that the topic is not to be listened to before `again_at`.
    pub(super) fn poison(&mut self, topic: &Topic, again_at: Duration) {
        if let Some(flow) = self.flows.get_mut(topic) {
            *flow = Flow::Poisoned { again_at };
        }
    }

    /// Returns the poisoned topics whose time has come.
    pub(super) fn due(&self, now: Duration) -> Vec<Topic> {
        let due = |flow: &Flow| matches!(flow, Flow::Poisoned { again_at } if *again_at <= now);
        self.flows.iter().filter(|(_, flow)| due(flow)).map(|(topic, _)| topic.clone()).collect()
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        let due = |flow: &Flow| match flow {
            Flow::Poisoned { again_at } => Some(*again_at),
            Flow::Asked | Flow::Following | Flow::AwaitingSnapshot => None,
        };
        self.flows.values().filter_map(due).min()
    }

    /// Applies one event, or leaves everything as it was and says why.
    pub(super) fn take(&mut self, event: Event) -> Taken {
        let topic = event.topic().clone();
        let Some(flow) = self.flows.get(&topic) else { return Taken::Ignored };
        match (flow, &event) {
            (Flow::Poisoned { .. }, _) => return Taken::Ignored,
            (Flow::AwaitingSnapshot, Event::Delta { .. }) => return Taken::Ignored,
            // It continues, or confirms, an index of the older history.
            (_, Event::Delta { .. } | Event::UpToDate { .. }) if self.foreign.contains(&topic) => {
                return Taken::Ignored;
            }
            (Flow::Asked | Flow::Following | Flow::AwaitingSnapshot, _) => {}
        }
        let held = self.held.get(&topic).cloned();
        let is_answer = !matches!(event, Event::Delta { .. });
        let taken = match event {
            Event::Snapshot { index, items, .. } => self.replace(&topic, held.as_deref(), index, items),
            Event::Delta { from, index, upserts, removes, .. } => {
                self.advance(&topic, held.as_deref(), (from, index), upserts, &removes)
            }
            Event::UpToDate { index, .. } => match held {
                None => Taken::Gap,
                Some(held) if index == held.index => Taken::Current,
                Some(held) if index < held.index => Taken::Behind,
                Some(_) => Taken::Gap,
            },
        };
        if is_answer && matches!(taken, Taken::Changed | Taken::Current) {
            self.flows.insert(topic, Flow::Following);
        }
        taken
    }

    fn replace(
        &mut self,
        topic: &Topic,
        held: Option<&TopicState>,
        index: CatalogIndex,
        items: BTreeMap<String, Item>,
    ) -> Taken {
        let is_foreign = self.foreign.contains(topic);
        if held.is_some_and(|held| !is_foreign && index < held.index) {
            return Taken::Behind;
        }
        if let Err(reason) = accept::items(topic, &items, held) {
            return Taken::Invalid(reason);
        }
        let same = held.is_some_and(|held| held.items == items);
        self.foreign.remove(topic);
        self.held.insert(topic.clone(), Arc::new(TopicState { index, items }));
        if same { Taken::Current } else { Taken::Changed }
    }

    fn advance(
        &mut self,
        topic: &Topic,
        held: Option<&TopicState>,
        (from, index): (CatalogIndex, CatalogIndex),
        upserts: BTreeMap<String, Item>,
        removes: &BTreeSet<String>,
    ) -> Taken {
        let Some(held) = held else { return Taken::Gap };
        if index <= held.index {
            return Taken::Ignored;
        }
        if from != held.index {
            return Taken::Gap;
        }
        let mut items = held.items.clone();
        items.retain(|key, _| !removes.contains(key));
        items.extend(upserts);
        if let Err(reason) = accept::items(topic, &items, Some(held)) {
            return Taken::Invalid(reason);
        }
        self.held.insert(topic.clone(), Arc::new(TopicState { index, items }));
        Taken::Changed
    }
}

/// Returns what of a view would be taken from a server.
pub(super) fn acceptable(held: View) -> View {
    held.into_iter().filter(|(topic, state)| accept::items(topic, &state.items, None).is_ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use catalog::{Action, Intention, ServiceKey};

    fn web() -> ServiceKey {
        "web".parse().unwrap()
    }

    fn topic() -> Topic {
        Topic::Intentions(web())
    }

    fn intention(source: &str) -> (String, Item) {
        let source = catalog::SourcePattern::parse(source, &catalog::Namespace::default()).unwrap();
        let destination = catalog::ServicePattern::Exact(web());
        let intention = Intention::new(source, destination, Action::Allow);
        (intention.key().to_string(), Item::Intention(Box::new(intention)))
    }

    fn snapshot(index: u64, sources: &[&str]) -> Event {
        let items = sources.iter().map(|source| intention(source)).collect();
        Event::Snapshot { topic: topic(), index: CatalogIndex(index), items }
    }

    fn delta(from: u64, index: u64, sources: &[&str], removed: &[&str]) -> Event {
        Event::Delta {
            topic: topic(),
            from: CatalogIndex(from),
            index: CatalogIndex(index),
            upserts: sources.iter().map(|source| intention(source)).collect(),
            removes: removed.iter().map(|source| intention(source).0).collect(),
        }
    }

    fn up_to_date(index: u64) -> Event {
        Event::UpToDate { topic: topic(), index: CatalogIndex(index) }
    }

    fn following(index: u64, sources: &[&str]) -> Topics {
        let mut topics = Topics::new(View::new());
        topics.need(&BTreeSet::from([topic()]));
        assert_eq!(topics.take(snapshot(index, sources)), Taken::Changed);
        topics
    }

    fn held(topics: &Topics) -> (u64, usize) {
        let state = topics.view().get(&topic()).unwrap();
        (state.index.0, state.items.len())
    }

    #[test]
    fn a_delta_that_continues_what_is_held_is_taken() {
        let mut topics = following(5, &["a", "b"]);
        assert_eq!(topics.take(delta(5, 9, &["c", "d"], &["a"])), Taken::Changed);
        assert_eq!(held(&topics), (9, 3));
    }

    #[test]
    fn a_gap_is_noticed_and_changes_nothing() {
        let mut topics = following(5, &["a"]);
        assert_eq!(topics.take(delta(7, 9, &["b"], &[])), Taken::Gap);
        assert_eq!(held(&topics), (5, 1));
        topics.restart(&topic());
        assert_eq!(topics.take(delta(5, 10, &["c"], &[])), Taken::Ignored, "it belongs to the old subscription");
        assert_eq!(topics.take(snapshot(10, &["b", "c"])), Taken::Changed);
        assert_eq!(topics.take(delta(10, 11, &[], &["b"])), Taken::Changed);
        assert_eq!(held(&topics), (11, 1));
    }

    #[test]
    fn nothing_goes_back_to_an_earlier_index() {
        let mut topics = following(5, &["a"]);
        assert_eq!(topics.take(snapshot(4, &[])), Taken::Behind);
        assert_eq!(topics.take(up_to_date(4)), Taken::Behind);
        assert_eq!(topics.take(delta(3, 4, &[], &["a"])), Taken::Ignored);
        assert_eq!(held(&topics), (5, 1));
    }

    #[test]
    fn a_confirmation_must_be_of_what_is_held() {
        let mut topics = following(5, &["a"]);
        assert_eq!(topics.take(up_to_date(5)), Taken::Current);
        assert_eq!(topics.take(up_to_date(6)), Taken::Gap);
        assert_eq!(Topics::new(View::new()).take(up_to_date(6)), Taken::Ignored);
    }

    #[test]
    fn a_poisoned_topic_keeps_its_last_good_state_until_it_is_asked_for_again() {
        let mut topics = following(5, &["a"]);
        let mut bad = delta(5, 6, &[], &[]);
        if let Event::Delta { upserts, .. } = &mut bad {
            upserts.insert("x".to_owned(), Item::Root { certificate_pem: String::new(), active: true, signer: None });
        }
        assert!(matches!(topics.take(bad), Taken::Invalid(_)));
        topics.poison(&topic(), Duration::from_secs(30));
        assert_eq!(topics.take(delta(5, 6, &["b"], &[])), Taken::Ignored);
        assert_eq!(held(&topics), (5, 1));
        assert!(topics.due(Duration::from_secs(29)).is_empty());
        assert_eq!(topics.due(Duration::from_secs(30)), [topic()]);
        topics.restart(&topic());
        assert_eq!(topics.take(snapshot(7, &["a", "b"])), Taken::Changed);
        assert_eq!(held(&topics), (7, 2));
    }

    #[test]
    fn what_is_of_an_older_history_stays_until_it_is_told_anew() {
        let mut topics = following(50, &["a"]);
        topics.start_over();
        assert_eq!(topics.index_of(&topic()), None, "an index of another history is asked from");
        assert_eq!(topics.take(delta(50, 51, &["b"], &[])), Taken::Ignored);
        assert_eq!(topics.take(up_to_date(50)), Taken::Ignored);
        assert_eq!((held(&topics), topics.has_foreign()), ((50, 1), true));
        // A new connection does not make it any better.
        assert_eq!(topics.subscriptions(), [(topic(), None)]);
        assert_eq!(topics.take(snapshot(7, &["b", "c"])), Taken::Changed);
        assert_eq!((held(&topics), topics.has_foreign()), ((7, 2), false));
        assert_eq!(topics.take(delta(7, 8, &["d"], &[])), Taken::Changed);
    }

    #[test]
    fn what_is_not_needed_any_more_is_forgotten_and_ignored() {
        let mut topics = following(5, &["a"]);
        let (added, dropped) = topics.need(&BTreeSet::from([Topic::Mesh]));
        assert_eq!((added, dropped), (vec![Topic::Mesh], vec![topic()]));
        assert!(topics.view().is_empty());
        assert_eq!(topics.take(snapshot(9, &["a"])), Taken::Ignored);
    }

    #[test]
    fn a_new_connection_resumes_from_what_is_held() {
        let mut topics = following(5, &["a"]);
        topics.need(&BTreeSet::from([topic(), Topic::Roots]));
        assert_eq!(topics.subscriptions(), [(Topic::Roots, None), (topic(), Some(CatalogIndex(5)))]);
    }
}
