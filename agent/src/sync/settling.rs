//! What is in force of what was told.
//!
//! Topics arrive one after the other, and a newer one beside an older one may allow what nobody ever committed. So what
//! decides calls comes into force together, when the server says that it has told all of it as of one index. What it told
//! of it meanwhile cannot widen anything; after a moment's wait it restrains what is in force, so that whatever keeps the
//! rest from arriving keeps no denial back.

use std::time::Duration;

use catalog::{CatalogIndex, Topic};

use super::topics::{Topics, View};

/// What was told and not settled restrains what is in force after this long. A server settles in the same breath.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What became of what is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is what it was.
    Same,
    /// It says the same, as of another index.
    Confirmed,
    /// It is something else.
    Changed,
}

/// What is in force, and how far what was told is ahead of it.
#[derive(Debug, Default)]
pub(super) struct Settling {
    view: View,
    /// The index that what decides calls is of, where a server told it.
    at: Option<CatalogIndex>,
    /// What must allow a call, too; empty where nothing restrains.
    restraint: View,
    /// Since when something is told that is not in force.
    unsettled_since: Option<Duration>,
    /// The server had told all, as of this index, but for what is not listened to.
    missed: Option<CatalogIndex>,
    /// What is in force is of a history that the servers have left.
    is_foreign: bool,
}

impl Settling {
    /// Starts from what an earlier run had in force.
    pub(super) fn new(view: View, restraint: View) -> Self {
        Self { view, restraint, ..Self::default() }
    }

    /// Returns what is in force; what decides calls is of one state of one server.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Returns the index of that state, where a server told it.
    pub(super) fn at(&self) -> Option<CatalogIndex> {
        self.at
    }

    /// Returns what must allow a call, too, of what decides calls; empty where nothing restrains.
    pub(super) fn restraint(&self) -> &View {
        &self.restraint
    }

    /// Returns the index of a topic in force, unless it is of a history that the servers have left.
    pub(super) fn index_of(&self, topic: &Topic) -> Option<CatalogIndex> {
        self.view.get(topic).filter(|_| !self.is_foreign).map(|state| state.index)
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// Takes the news that the servers' history is another one: indexes start over.
    pub(super) fn start_over(&mut self) {
        self.is_foreign = !self.view.is_empty();
        (self.at, self.missed) = (None, None);
    }

    /// Returns when what was told restrains what is in force, unless it settles before.
    pub(super) fn due(&self) -> Option<Duration> {
        self.unsettled_since.filter(|_| self.restraint.is_empty()).map(|since| since + PATIENCE)
    }

    /// Lets what was told restrain what is in force, if that is due.
    pub(super) fn pass(&mut self, topics: &Topics, now: Duration) -> Standing {
        if self.due().is_none_or(|due| now < due) {
            return Standing::Same;
        }
        self.restrain(topics);
        Standing::Changed
    }

    /// Takes the news that other topics are needed.
    pub(super) fn need(&mut self, topics: &Topics) -> Standing {
        self.view.retain(|topic, _| topics.is_needed(topic));
        self.restraint.retain(|topic, _| topics.is_needed(topic));
        self.follow(topics);
        match self.missed {
            Some(index) => self.settle(topics, Some(index)),
            None => Standing::Same,
        }
    }

    /// Takes the news that a topic holds something else.
    pub(super) fn changed(&mut self, topics: &Topics, topic: &Topic, now: Duration) -> Standing {
        if !topics.decides(topic) {
            self.follow(topics);
            return Standing::Changed;
        }
        self.missed = None;
        self.unsettled_since.get_or_insert(now);
        if self.restraint.is_empty() {
            return Standing::Same;
        }
        self.restrain(topics);
        Standing::Changed
    }

    /// Puts all that was told into force, if nothing that decides calls is missing; `index` is what the server says that it
    /// is of, and none for a server that does not say such things.
    pub(super) fn settle(&mut self, topics: &Topics, index: Option<CatalogIndex>) -> Standing {
        self.missed = index;
        if index.is_some() && !topics.is_complete() {
            return Standing::Same;
        }
        let before = std::mem::replace(&mut self.view, topics.view().clone());
        let was_restrained = !std::mem::take(&mut self.restraint).is_empty();
        self.at = index.max(self.at.filter(|_| index.is_some()));
        (self.unsettled_since, self.missed, self.is_foreign) = (None, None, false);
        let holds_same = before.len() == self.view.len()
            && before
                .iter()
                .zip(&self.view)
                .all(|((one, held), (other, holds))| one == other && held.items == holds.items);
        match (was_restrained || !holds_same, before == self.view) {
            (true, _) => Standing::Changed,
            (false, true) => Standing::Same,
            (false, false) => Standing::Confirmed,
        }
    }

    /// Takes over what decides nothing: it counts when it is told.
    fn follow(&mut self, topics: &Topics) {
        for (topic, state) in topics.view().iter().filter(|(topic, _)| !topics.decides(topic)) {
            self.view.insert(topic.clone(), state.clone());
        }
    }

    /// Lets what decides calls restrain what is in force. What is asked for anew, and not answered yet, restrains as it did.
    fn restrain(&mut self, topics: &Topics) {
        for (topic, state) in topics.view().iter().filter(|(topic, _)| topics.decides(topic)) {
            if topics.is_followed(topic) || !self.restraint.contains_key(topic) {
                self.restraint.insert(topic.clone(), state.clone());
            }
        }
    }
}
