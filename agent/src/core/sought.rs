//! What local applications ask for by name, beyond the upstreams that they name beforehand: it is followed like these, so that
//! it is known while no server can be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{NodeName, ServiceKey, Topic};

use super::Core;
use crate::sync::View;

/// How much of that is followed at once.
const SOUGHT_MAX: usize = 1024;
/// After how long what turned out to be nothing is forgotten.
const NOTHING_KEPT: Duration = Duration::from_secs(60);

/// Names something that an application asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sought {
    /// A service.
    Service(ServiceKey),
    /// A node.
    Node(NodeName),
}

impl Sought {
    /// Returns the topic that says whether there is such a thing.
    fn topic(&self) -> Topic {
        match self {
            Self::Service(service) => Topic::Endpoints(service.clone()),
            Self::Node(node) => Topic::Node(node.clone()),
        }
    }
}

/// Holds what is sought, and when it was last.
#[derive(Debug, Default)]
pub(super) struct SoughtAfter(BTreeMap<Sought, Instant>);

impl SoughtAfter {
    /// Takes up what an earlier run followed: an application may have looked it up then, and call it now.
    pub(super) fn kept(view: &View, now: Instant) -> Self {
        let sought = view.iter().filter(|(_, state)| !state.items.is_empty()).filter_map(|(topic, _)| match topic {
            Topic::Endpoints(service) => Some(Sought::Service(service.clone())),
            Topic::Node(node) => Some(Sought::Node(node.clone())),
            _ => None,
        });
        Self(sought.take(SOUGHT_MAX).map(|sought| (sought, now)).collect())
    }

    /// Notes that something is asked for; reports whether it was not followed before.
    fn seek(&mut self, sought: Sought, view: &View, now: Instant) -> bool {
        if let Some(at) = self.0.get_mut(&sought) {
            *at = now;
            return false;
        }
        let is_nothing = |sought: &Sought| view.get(&sought.topic()).is_none_or(|state| state.items.is_empty());
        self.0.retain(|sought, at| !is_nothing(sought) || now.duration_since(*at) < NOTHING_KEPT);
        if self.0.len() >= SOUGHT_MAX {
            // What is nothing goes first, then what nobody has asked for the longest.
            let last = self.0.iter().min_by_key(|(sought, at)| (!is_nothing(sought), **at));
            if let Some(last) = last.map(|(sought, _)| sought.clone()) {
                self.0.remove(&last);
            }
        }
        self.0.insert(sought, now);
        true
    }

    /// Returns the services among it.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.0.keys().filter_map(|sought| match sought {
            Sought::Service(service) => Some(service),
            Sought::Node(_) => None,
        })
    }

    /// Returns the topics of what is no service.
    pub(super) fn other_topics(&self) -> BTreeSet<Topic> {
        self.0.keys().filter(|sought| matches!(sought, Sought::Node(_))).map(Sought::topic).collect()
    }
}

impl Core {
    /// Follows what an application asks for.
    pub(super) fn seek(&mut self, sought: Sought) {
        let is_known = self.sync.view().get(&sought.topic()).is_some_and(|state| !state.items.is_empty());
        if self.sought.seek(sought, self.sync.view(), Instant::now()) {
            self.follow_topics();
            self.follow_routes();
            self.rules_changed |= is_known;
        }
    }

    /// Takes over what is in force now; reports whether all that is new of it is that names which applications asked for are
    /// nothing, or are forgotten for that. Nothing is decided by that, and whoever asks for names without end costs others
    /// nothing.
    pub(super) fn sought_nothing(&mut self, now: View) -> bool {
        let upstreams = self.local.services().flat_map(|service| &service.upstreams);
        let declared: BTreeSet<&ServiceKey> = upstreams.map(|upstream| &upstream.destination).collect();
        let is_local = |service: &ServiceKey| self.local.services().any(|it| it.instance.service_key() == *service);
        let before = &self.followed;
        let is_nothing = |service: &ServiceKey| {
            let topic = Topic::Endpoints(service.clone());
            let is_empty = |view: &View| view.get(&topic).is_none_or(|state| state.items.is_empty());
            let is_asked_for = !declared.contains(service) && !self.routing.lead_to(service) && !is_local(service);
            is_asked_for && is_empty(before) && is_empty(&now)
        };
        let is_new = |topic: &&Topic| match (before.get(*topic), now.get(*topic)) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            (before, now) => before.is_some() != now.is_some(),
        };
        let says_nothing = |topic: &Topic| match topic {
            Topic::Endpoints(service) | Topic::Config(service) => is_nothing(service),
            // Addresses for those who look them up.
            Topic::Node(_) => true,
            _ => false,
        };
        let is_news = now.keys().chain(before.keys()).filter(is_new).any(|topic| !says_nothing(topic));
        self.followed = now;
        !is_news
    }
}

#[cfg(test)]
mod tests {
    use catalog::{AddressNumber, CatalogIndex, Item};

    use super::*;
    use crate::sync::TopicState;

    fn service(number: usize) -> Sought {
        Sought::Service(format!("s{number}").parse().unwrap())
    }

    #[test]
    fn d4_a_flood_of_names_that_are_nothing_pushes_out_nothing_that_is() {
        let mut view = View::new();
        let item = Item::Address(AddressNumber::new(1).unwrap());
        let items = BTreeMap::from([(Item::ADDRESS.to_owned(), item)]);
        view.insert(service(0).topic(), Arc::new(TopicState { index: CatalogIndex(1), items }));
        let (mut sought, start) = (SoughtAfter::default(), Instant::now());
        for number in 0..3 * SOUGHT_MAX {
            assert!(sought.seek(service(number), &view, start));
        }
        assert_eq!(sought.0.len(), SOUGHT_MAX);
        assert!(sought.0.contains_key(&service(0)) && !sought.seek(service(0), &view, start));
        assert!(sought.seek(service(99_999), &view, start + NOTHING_KEPT));
        assert_eq!(sought.0.len(), 2, "what is nothing is forgotten before long");
        let kept = SoughtAfter::kept(&view, start);
        assert_eq!(kept.0.keys().collect::<Vec<_>>(), [&service(0)]);
    }
}
