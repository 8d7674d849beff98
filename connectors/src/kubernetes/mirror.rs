//! What an API server said there is, as far as it may be believed.
//!
//! Servers repeat themselves, speak of the past after a reconnect, and break off in the middle of lists. So an object is
//! replaced only by a later version of it, and one that a list lacks is gone only when the list is complete. Only a cluster whose
//! own memory was put back (etcd, from a backup) counts versions anew: what is older than what was heard before is believed when a
//! complete list says so a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::Resource;
use kube::runtime::watcher::Event;

/// Names an object within its kind: its namespace, empty where it has none, and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectName {
    /// The namespace; empty where the kind has none.
    pub(super) namespace: String,
    /// The name.
    pub(super) name: String,
}

impl ObjectName {
    /// Returns the name of an object.
    pub(super) fn of(object: &impl Resource) -> Self {
        let metadata = object.meta();
        let (namespace, name) = (metadata.namespace.clone(), metadata.name.clone());
        Self { namespace: namespace.unwrap_or_default(), name: name.unwrap_or_default() }
    }

    /// Makes a name.
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// Holds the objects of one kind.
#[derive(Debug, Clone)]
pub(super) struct Mirror<K> {
    held: BTreeMap<ObjectName, Arc<K>>,
    /// The versions at which objects went, so that nothing from before brings them back.
    gone: BTreeMap<ObjectName, u64>,
    /// The latest version that was heard of before the last complete list: what is of before and was not in it, is gone.
    floor: u64,
    latest: u64,
    /// What the list that is coming has said so far; none where no list is coming.
    listing: Option<Listing<K>>,
    is_complete: bool,
    /// Whether the last complete list was older than what had been heard before, or something since that nobody had heard of.
    is_doubted: bool,
}

/// Is a list on its way.
#[derive(Debug, Clone)]
struct Listing<K> {
    named: BTreeSet<ObjectName>,
    /// What it has in an older version than was heard of.
    older: Vec<(ObjectName, Arc<K>)>,
    /// Whether there is any such thing, or something nobody had heard of that is from before the last complete list.
    is_older: bool,
    highest: u64,
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Self { named: BTreeSet::new(), older: Vec::new(), is_older: false, highest: 0 }
    }
}

impl<K> Default for Mirror<K> {
    fn default() -> Self {
        let (held, gone) = (BTreeMap::new(), BTreeMap::new());
        Self { held, gone, floor: 0, latest: 0, listing: None, is_complete: false, is_doubted: false }
    }
}

impl<K: Resource + PartialEq> Mirror<K> {
    /// Takes what a watch says, and reports whether there is anything new.
    pub(super) fn take(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(Listing::default());
                false
            }
            Event::InitApply(object) => self.list(object),
            Event::InitDone => self.complete(),
            Event::Apply(object) => self.hold(object),
            Event::Delete(object) => self.drop(&object),
        }
    }

    fn list(&mut self, object: K) -> bool {
        let (name, found) = (ObjectName::of(&object), version(&object));
        let known = self.held.get(&name).map(|held| version(&**held)).or_else(|| self.gone.get(&name).copied());
        if let Some(listing) = &mut self.listing {
            listing.named.insert(name.clone());
            listing.highest = listing.highest.max(found);
            let is_older = found != 0 && known.map_or(found <= self.floor, |known| found < known);
            listing.is_older |= is_older;
            if is_older && known.is_some() {
                listing.older.push((name, Arc::new(object)));
                return false;
            }
        }
        self.hold(object)
    }

    fn hold(&mut self, object: K) -> bool {
        let (name, found) = (ObjectName::of(&object), version(&object));
        let floor = if self.listing.is_some() { 0 } else { self.floor };
        let held = self.held.get(&name).map(|held| version(&**held));
        let gone = self.gone.get(&name).copied().unwrap_or_default();
        // What is said to be gone says nothing of what came later and went before the last complete list. Without a number to
        // go by, the later word counts.
        if found != 0 && found <= held.unwrap_or(gone.max(floor)) {
            // Where only that list speaks against it, another one decides: versions may have begun anew since.
            self.is_doubted |= held.is_none() && found > gone;
            return false;
        }
        self.latest = self.latest.max(found);
        self.gone.remove(&name);
        let is_new = self.held.get(&name).is_none_or(|held| **held != object);
        self.held.insert(name, Arc::new(object));
        is_new
    }

    fn drop(&mut self, object: &K) -> bool {
        let (name, found) = (ObjectName::of(object), version(object));
        match self.held.get(&name) {
            Some(held) if version(&**held) > found && found != 0 => return false,
            // The one that went is not the one that is there: it came later, under the same name.
            Some(held) if held.meta().uid != object.meta().uid && version(&**held) >= found => return false,
            _ => {}
        }
        self.latest = self.latest.max(found);
        let later = self.gone.get(&name).copied().unwrap_or_default().max(found);
        self.gone.insert(name.clone(), later);
        self.held.remove(&name).is_some()
    }

    /// Lets go what a complete list did not name.
    fn complete(&mut self) -> bool {
        let Some(listed) = self.listing.take() else { return false };
        let before = self.held.len();
        self.held.retain(|name, _| listed.named.contains(name));
        self.gone.clear();
        let is_put_back = listed.is_older && self.is_doubted;
        self.is_doubted = listed.is_older && !is_put_back;
        if is_put_back {
            self.held.extend(listed.older);
            self.latest = listed.highest;
        }
        self.floor = self.latest;
        let was_complete = std::mem::replace(&mut self.is_complete, true);
        is_put_back || !was_complete || self.held.len() != before
    }

    /// Reports whether the last complete list was older than what had been heard before, or something is that nobody had heard
    /// of, so that another one should be asked for: if that is older, too, it is believed.
    pub(super) fn is_doubted(&self) -> bool {
        self.is_doubted
    }

    /// Reports whether a whole list was seen at least once: before, nothing that is missing is known to be gone.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Returns an object.
    pub(super) fn get(&self, name: &ObjectName) -> Option<&Arc<K>> {
        self.held.get(name)
    }

    /// Returns all objects, sorted by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectName, &Arc<K>)> {
        self.held.iter()
    }
}

fn version(object: &impl Resource) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(name: u8, uid: u64, version: u64) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {
            "name": format!("o{name}"), "namespace": "n", "uid": format!("u{uid}"), "resourceVersion": version.to_string(),
        }}))
        .unwrap()
    }

    fn versions(mirror: &Mirror<ConfigMap>) -> Vec<(String, u64)> {
        mirror.iter().map(|(name, held)| (name.name.clone(), version(&**held))).collect()
    }

    fn listed(mirror: &mut Mirror<ConfigMap>, objects: impl IntoIterator<Item = ConfigMap>) {
        mirror.take(Event::Init);
        for object in objects {
            mirror.take(Event::InitApply(object));
        }
        mirror.take(Event::InitDone);
    }

    #[test]
    fn k2_only_a_complete_list_says_that_something_is_gone() {
        let mut mirror = Mirror::default();
        assert!(!mirror.is_complete());
        listed(&mut mirror, [object(1, 1, 1), object(2, 2, 2)]);
        assert!(mirror.is_complete());
        mirror.take(Event::Init);
        mirror.take(Event::InitApply(object(1, 1, 1)));
        // The server breaks off, and the watcher begins again.
        assert_eq!(mirror.iter().count(), 2);
        mirror.take(Event::Init);
        assert_eq!(mirror.iter().count(), 2);
        listed(&mut mirror, [object(1, 1, 1)]);
        assert_eq!(versions(&mirror), [("o1".to_owned(), 1)]);
    }

    #[test]
    fn k2_what_is_late_or_told_twice_changes_nothing() {
        let mut mirror = Mirror::default();
        listed(&mut mirror, [object(1, 1, 5)]);
        assert!(mirror.take(Event::Apply(object(1, 1, 7))));
        for late in [object(1, 1, 7), object(1, 1, 6)] {
            assert!(!mirror.take(Event::Apply(late.clone())));
            assert!(!mirror.take(Event::InitApply(late)), "nor a list from an old cache");
        }
        assert!(!mirror.take(Event::Delete(object(1, 1, 6))), "it was made again since");
        assert!(mirror.take(Event::Delete(object(1, 1, 9))));
        assert!(!mirror.take(Event::Apply(object(1, 1, 8))), "nothing from before brings it back");
        assert!(mirror.take(Event::Apply(object(1, 2, 10))), "another one under its name does");
        assert!(!mirror.take(Event::Delete(object(1, 1, 9))), "and the end of the first is not its end");
        assert_eq!(versions(&mirror), [("o1".to_owned(), 10)]);
    }

    #[test]
    fn k2_two_lists_in_a_row_are_believed_when_the_memory_of_the_cluster_was_put_back() {
        let mut mirror = Mirror::default();
        listed(&mut mirror, [object(1, 1, 800), object(2, 2, 900)]);
        mirror.take(Event::Apply(object(3, 3, 901)));
        mirror.take(Event::Delete(object(3, 3, 902)));
        let restored = || [object(1, 1, 650), object(2, 2, 700), object(3, 3, 690)];
        listed(&mut mirror, restored());
        assert!(mirror.is_doubted());
        let held = [("o1".to_owned(), 800), ("o2".to_owned(), 900)];
        assert_eq!(versions(&mirror), held, "one old list changes nothing");
        listed(&mut mirror, [object(1, 1, 800), object(2, 2, 900)]);
        assert!(!mirror.is_doubted(), "it came of an old cache");
        assert_eq!(versions(&mirror), held);

        listed(&mut mirror, restored());
        listed(&mut mirror, restored());
        assert!(!mirror.is_doubted());
        assert_eq!(versions(&mirror), [("o1".to_owned(), 650), ("o2".to_owned(), 700), ("o3".to_owned(), 690)]);
        assert!(mirror.take(Event::Apply(object(4, 4, 702))), "what comes now is news");
        assert!(mirror.take(Event::Apply(object(1, 1, 703))));
        assert!(!mirror.take(Event::Apply(object(2, 2, 699))), "and what is late is late");
    }

    #[test]
    fn k2_what_is_made_after_the_memory_of_the_cluster_was_put_back_is_seen() {
        let mut mirror = Mirror::default();
        listed(&mut mirror, [object(1, 1, 500)]);
        mirror.take(Event::Apply(object(2, 2, 700)));
        // The backup is of before the second one was made, and says nothing that is older than what is known of the first.
        listed(&mut mirror, [object(1, 1, 500)]);
        assert!(!mirror.is_doubted());
        assert!(!mirror.take(Event::Apply(object(2, 3, 650))), "it may be late");
        assert!(mirror.is_doubted());
        listed(&mut mirror, [object(1, 1, 500), object(2, 3, 650)]);
        assert!(!mirror.is_doubted());
        assert_eq!(versions(&mirror), [("o1".to_owned(), 500), ("o2".to_owned(), 650)]);
        assert!(mirror.take(Event::Apply(object(3, 4, 651))), "what comes now is news");
    }

    #[test]
    fn k2_an_end_that_is_told_again_brings_nothing_back_from_before_the_last_list() {
        let mut mirror = Mirror::default();
        listed(&mut mirror, [object(1, 1, 1)]);
        let end = Event::Delete(object(1, 1, 2));
        mirror.take(end.clone());
        mirror.take(Event::Apply(object(1, 3, 3)));
        mirror.take(Event::Delete(object(1, 3, 4)));
        listed(&mut mirror, []);
        mirror.take(end);
        assert!(!mirror.take(Event::Apply(object(1, 3, 3))), "it went before the list");
        assert!(mirror.take(Event::Apply(object(1, 5, 5))), "what is newer than the list is there");
    }

    proptest! {
        /// Whatever is repeated, late or listed anew on the way, in the end the mirror holds what there is.
        #[test]
        fn k2_repeats_and_late_words_do_not_change_where_it_ends(
            steps in proptest::collection::vec((0u8..4, any::<bool>(), 0usize..6, any::<bool>()), 1..60),
        ) {
            let mut truth: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
            let mut told: Vec<Event<ConfigMap>> = Vec::new();
            let mut mirror = Mirror::default();
            listed(&mut mirror, []);
            for (number, (name, is_end, back, is_relist)) in (1u64..).zip(steps) {
                let event = match truth.get(&name).copied() {
                    Some((uid, _)) if is_end => {
                        truth.remove(&name);
                        Event::Delete(object(name, uid, number))
                    }
                    held => {
                        let uid = held.map_or(number, |(uid, _)| uid);
                        truth.insert(name, (uid, number));
                        Event::Apply(object(name, uid, number))
                    }
                };
                told.push(event.clone());
                mirror.take(event);
                if let Some(again) = told.iter().rev().nth(back).cloned() {
                    mirror.take(again);
                }
                if is_relist {
                    listed(&mut mirror, truth.iter().map(|(name, (uid, version))| object(*name, *uid, *version)));
                }
            }
            let want: Vec<(String, u64)> =
                truth.iter().map(|(name, (_, version))| (format!("o{name}"), *version)).collect();
            prop_assert_eq!(versions(&mirror), want);
        }
    }
}
