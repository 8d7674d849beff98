//! A subscriber as the contract of the stream has it: what it holds, and whether what it is told keeps the promise.

use std::collections::BTreeMap;

use super::{Event, Item, Topic};
use crate::CatalogIndex;

/// How far one topic is followed.
#[derive(Debug, Clone, Default)]
struct Following {
    /// What is held, under the index that it is of.
    held: Option<(CatalogIndex, BTreeMap<String, Item>)>,
    /// The index that the present subscription named, while it is not answered yet.
    asked: Option<Option<CatalogIndex>>,
    is_followed: bool,
}

/// Applies what a subscriber is sent, to the letter of the promise: no gap, no duplicate, no going back, nothing that was not
/// asked for.
#[derive(Debug, Clone, Default)]
pub struct Follower {
    topics: BTreeMap<Topic, Following>,
}

/// Says how an event breaks the promise; what is held stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenPromise {
    /// Nobody asked for the topic.
    #[error("an event of {topic}, which is not followed")]
    NotFollowed {
        /// The topic.
        topic: Topic,
    },
    /// Something is missing between what is held and the event.
    #[error("{topic} goes on from {from}, and {held:?} is held")]
    Gap {
        /// The topic.
        topic: Topic,
        /// What the event continues from.
        from: CatalogIndex,
        /// What is held.
        held: Option<CatalogIndex>,
    },
    /// The event leads to where the subscriber is, or was before.
    #[error("{topic} goes from {held} to {index}")]
    NotOnward {
        /// The topic.
        topic: Topic,
        /// What is held.
        held: CatalogIndex,
        /// Where the event leads.
        index: CatalogIndex,
    },
    /// The event confirms what was not asked about.
    #[error("{topic} is said to be current at {index}, and that was not asked")]
    NotAsked {
        /// The topic.
        topic: Topic,
        /// What the event confirms.
        index: CatalogIndex,
    },
    /// The event tells again what is held, or takes away what is not.
    #[error("the change of {topic} to {index} repeats what is known of `{key}`")]
    Repeated {
        /// The topic.
        topic: Topic,
        /// Where the event leads.
        index: CatalogIndex,
        /// The item.
        key: String,
    },
}

impl Follower {
    /// Notes that the topic is asked for on a stream, and returns the index to resume from.
    pub fn subscribe(&mut self, topic: &Topic) -> Option<CatalogIndex> {
        let from = self.index(topic);
        self.subscribe_from(topic, from);
        from
    }

    /// Notes that the topic is asked for from an index.
    pub fn subscribe_from(&mut self, topic: &Topic, from: Option<CatalogIndex>) {
        let following = self.topics.entry(topic.clone()).or_default();
        following.asked = Some(from);
        following.is_followed = true;
    }

    /// Notes that the topic is followed no longer; what is held of it is kept, to be resumed from.
    pub fn unsubscribe(&mut self, topic: &Topic) {
        if let Some(following) = self.topics.get_mut(topic) {
            following.is_followed = false;
            following.asked = None;
        }
    }

    /// Drops what is held of the topic, which is followed no longer.
    pub fn forget(&mut self, topic: &Topic) {
        self.topics.remove(topic);
    }

    /// Takes over what somebody else held of the topic.
    pub fn hold(&mut self, topic: &Topic, index: CatalogIndex, items: BTreeMap<String, Item>) {
        self.topics.entry(topic.clone()).or_default().held = Some((index, items));
    }

    /// Returns the topics that are followed.
    pub fn followed(&self) -> impl Iterator<Item = &Topic> {
        self.topics.iter().filter(|(_, following)| following.is_followed).map(|(topic, _)| topic)
    }

    /// Returns what is held of the topic.
    #[must_use]
    pub fn items(&self, topic: &Topic) -> Option<&BTreeMap<String, Item>> {
        self.topics.get(topic)?.held.as_ref().map(|(_, items)| items)
    }

    /// Returns the index of what is held of the topic.
    #[must_use]
    pub fn index(&self, topic: &Topic) -> Option<CatalogIndex> {
        self.topics.get(topic)?.held.as_ref().map(|(index, _)| *index)
    }

    /// Applies one event.
    ///
    /// # Errors
    /// [`BrokenPromise`]
    pub fn take(&mut self, event: &Event) -> Result<(), BrokenPromise> {
        let (topic, index) = (event.topic(), event.index());
        let following = self.topics.get_mut(topic).filter(|following| following.is_followed);
        let following = following.ok_or_else(|| BrokenPromise::NotFollowed { topic: topic.clone() })?;
        let held = following.held.as_ref().map(|(held, _)| *held);
        match event {
            Event::UpToDate { .. } => {
                if following.asked != Some(Some(index)) || held != Some(index) {
                    return Err(BrokenPromise::NotAsked { topic: topic.clone(), index });
                }
                following.asked = None;
            }
            Event::Snapshot { items, .. } => {
                // The answer to a subscription may tell what is held already; after that only news is told.
                let is_answer = following.asked.is_some();
                let known = held.max(following.asked.flatten());
                if let Some(held) = known.filter(|known| index < *known || (index == *known && !is_answer)) {
                    return Err(BrokenPromise::NotOnward { topic: topic.clone(), held, index });
                }
                following.asked = None;
                following.held = Some((index, items.clone()));
            }
            Event::Delta { from, upserts, removes, .. } => {
                let gap = || BrokenPromise::Gap { topic: topic.clone(), from: *from, held };
                if following.asked.is_some() {
                    return Err(gap());
                }
                let (held, items) = following.held.as_mut().filter(|(held, _)| held == from).ok_or_else(gap)?;
                if index <= *held {
                    return Err(BrokenPromise::NotOnward { topic: topic.clone(), held: *held, index });
                }
                let known = upserts.iter().find(|(key, item)| items.get(*key) == Some(*item)).map(|(key, _)| key);
                if let Some(key) = known.or_else(|| removes.iter().find(|key| !items.contains_key(*key))) {
                    return Err(BrokenPromise::Repeated { topic: topic.clone(), index, key: key.clone() });
                }
                items.retain(|key, _| !removes.contains(key));
                items.extend(upserts.clone());
                *held = index;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TOPIC: Topic = Topic::Revocations;

    fn items(of: &[u64]) -> BTreeMap<String, Item> {
        of.iter().map(|one| (format!("a{one}"), Item::RevokedRecord { enrolled: CatalogIndex(*one) })).collect()
    }

    fn snapshot(index: u64, of: &[u64]) -> Event {
        Event::Snapshot { topic: TOPIC, index: CatalogIndex(index), items: items(of) }
    }

    fn delta(from: u64, index: u64, upserts: &[u64], removes: &[u64]) -> Event {
        let removes: BTreeSet<String> = removes.iter().map(|one| format!("a{one}")).collect();
        Event::Delta {
            topic: TOPIC,
            from: CatalogIndex(from),
            index: CatalogIndex(index),
            upserts: items(upserts),
            removes,
        }
    }

    fn up_to_date(index: u64) -> Event {
        Event::UpToDate { topic: TOPIC, index: CatalogIndex(index) }
    }

    /// Judges events after a snapshot at 5 of item 1, which answered the subscription; the last one decides.
    #[track_caller]
    fn check(resubscribes: bool, events: &[Event], want: Option<&[u64]>) {
        let mut follower = Follower::default();
        assert_eq!(follower.subscribe(&TOPIC), None);
        follower.take(&snapshot(5, &[1])).unwrap();
        if resubscribes {
            assert_eq!(follower.subscribe(&TOPIC), Some(CatalogIndex(5)));
        }
        let (last, before) = events.split_last().unwrap();
        before.iter().for_each(|event| follower.take(event).unwrap());
        let held = follower.items(&TOPIC).cloned();
        match (follower.take(last), want) {
            (Ok(()), Some(want)) => assert_eq!(follower.items(&TOPIC), Some(&items(want))),
            (Err(_), None) => assert_eq!(follower.items(&TOPIC).cloned(), held, "what is held must stay"),
            (got, _) => panic!("{got:?}"),
        }
    }

    #[test]
    fn p3_what_keeps_the_promise_is_taken_and_what_breaks_it_is_not() {
        check(false, &[delta(5, 6, &[2], &[])], Some(&[1, 2]));
        check(false, &[delta(5, 6, &[2], &[]), delta(6, 9, &[], &[1])], Some(&[2]));
        check(false, &[snapshot(7, &[3])], Some(&[3]));
        // A gap, a going back, a duplicate, and what nobody asked.
        check(false, &[delta(4, 6, &[2], &[])], None);
        check(false, &[delta(6, 7, &[2], &[])], None);
        check(false, &[delta(5, 5, &[2], &[])], None);
        check(false, &[snapshot(4, &[])], None);
        check(false, &[snapshot(5, &[1])], None);
        check(false, &[delta(5, 6, &[2], &[]), delta(5, 6, &[2], &[])], None);
        check(false, &[delta(5, 6, &[1], &[])], None);
        check(false, &[delta(5, 6, &[], &[2])], None);
        check(false, &[up_to_date(5)], None);
    }

    #[test]
    fn p3_a_resumed_subscription_is_answered_before_it_goes_on() {
        check(true, &[up_to_date(5)], Some(&[1]));
        check(true, &[snapshot(5, &[1])], Some(&[1]));
        check(true, &[up_to_date(5), delta(5, 6, &[2], &[])], Some(&[1, 2]));
        check(true, &[up_to_date(6)], None);
        check(true, &[snapshot(4, &[1])], None);
        check(true, &[delta(5, 6, &[2], &[])], None);
        check(true, &[up_to_date(5), up_to_date(5)], None);
        let mut follower = Follower::default();
        assert!(matches!(follower.take(&snapshot(1, &[])), Err(BrokenPromise::NotFollowed { .. })));
    }
}
