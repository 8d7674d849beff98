//! What to write so that the mesh says what resources do, and what each resource is told.
//!
//! Only what the connector wrote itself is ever changed or removed; whatever else says something about the same is a
//! conflict, and the resource is told with whom. Removals wait until all resources were seen.

use std::collections::{BTreeMap, BTreeSet};

use catalog::{CatalogIndex, ConfigEntry, Intention, IntentionKey, IntentionOwner, Namespace, PolicyChange};
use serde_json::Value;

use super::documents::{CONNECTOR_FACT, Content, DEFAULTS, INTENTIONS, content_of, owner_of};
use super::{DocumentKey, Documents, Verdict};
use crate::kubernetes::mirror::ObjectName;
use crate::plan::{Caution, is_rash};

/// Is what the mesh says about what resources can be about.
#[derive(Debug, Default)]
pub struct Actual {
    entries: BTreeMap<DocumentKey, Entry>,
}

#[derive(Debug)]
struct Entry {
    content: Content,
    modified: u64,
}

impl Actual {
    /// Reads listings of config entries, as the API shows them.
    ///
    /// # Errors
    /// What is wrong with one: nothing is known then of what the mesh says.
    pub fn read(listed: impl IntoIterator<Item = Value>) -> Result<Self, String> {
        let mut actual = Self::default();
        for body in listed {
            let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
            let kind = [INTENTIONS, DEFAULTS].into_iter().find(|kind| *kind == text("Kind"));
            let kind = kind.ok_or_else(|| format!("a config entry of kind `{}` was not asked for", text("Kind")))?;
            let key = DocumentKey { kind, namespace: text("Namespace"), name: text("Name") };
            let modified = body["ModifyIndex"].as_u64().ok_or_else(|| format!("the {key} says no ModifyIndex"))?;
            let content = content_of(body, &Namespace::default()).map_err(|error| format!("the {key}: {error}"))?;
            actual.entries.insert(key, Entry { content, modified });
        }
        Ok(actual)
    }
}

/// Is one write.
#[derive(Debug, Clone, PartialEq)]
pub enum EntryWrite {
    /// Writes an entry, or the own part of it, unless it was changed since.
    Put {
        /// Which.
        key: DocumentKey,
        /// What it is to be.
        body: Value,
        /// The index of the change that was seen last; 0 where there was none.
        compare: CatalogIndex,
    },
    /// Removes an entry, or the own part of it, unless it was changed since.
    Delete {
        /// Which.
        key: DocumentKey,
        /// The index of the change that was seen last.
        compare: CatalogIndex,
    },
}

/// Is what to do and what to say.
#[derive(Debug, Default)]
pub struct EntryPlan {
    /// What to write, removals last.
    pub writes: Vec<EntryWrite>,
    /// What each resource is told, by kind and name; one whose entry is yet to be written is told afterwards.
    pub verdicts: BTreeMap<(&'static str, ObjectName), Verdict>,
    /// How many removals are held, since there are so many.
    pub held: usize,
}

/// Says under which circumstances entries are removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Removals {
    /// Whether all resources were seen: only then is one that is missing gone.
    pub all_seen: bool,
    /// How many of one's own entries may go at once.
    pub caution: Caution,
}

/// Plans what to write.
#[must_use]
pub fn plan(connector: &str, documents: &Documents, actual: &Actual, removals: Removals) -> EntryPlan {
    let owner = owner_of(connector);
    let mut plan = EntryPlan { verdicts: documents.refused.clone(), ..EntryPlan::default() };
    for (key, document) in &documents.wanted {
        let held = actual.entries.get(key);
        let compare = CatalogIndex(held.map_or(0, |entry| entry.modified));
        let judged = match (&document.content, held.map(|entry| &entry.content)) {
            (Content::Intentions(wanted), held) => judge_intentions(&owner, wanted, held),
            (Content::Entry(wanted), Some(Content::Entry(held))) => judge_entry(connector, wanted, held),
            (Content::Entry(_), _) => Judged::Write,
        };
        match judged {
            Judged::Same => {
                plan.verdicts.insert((key.kind, document.resource.clone()), Verdict::Synced);
            }
            Judged::Conflict(why) => {
                plan.verdicts.insert((key.kind, document.resource.clone()), Verdict::Conflicting(why));
            }
            Judged::Write => {
                plan.writes.push(EntryWrite::Put { key: key.clone(), body: document.body.clone(), compare });
            }
        }
    }
    if removals.all_seen {
        plan.remove(connector, &owner, documents, actual, removals);
    }
    plan
}

impl EntryPlan {
    fn remove(
        &mut self,
        connector: &str,
        owner: &IntentionOwner,
        documents: &Documents,
        actual: &Actual,
        removals: Removals,
    ) {
        let is_own = |entry: &&Entry| match &entry.content {
            Content::Intentions(change) => own_of(owner, change).next().is_some(),
            Content::Entry(entry) => entry.meta.get(CONNECTOR_FACT).is_some_and(|one| one == connector),
        };
        let own: Vec<(&DocumentKey, &Entry)> = actual.entries.iter().filter(|(_, entry)| is_own(entry)).collect();
        // An entry of a resource that is refused by now stays as it was last taken, until it says something of use or goes.
        let asked: BTreeSet<&DocumentKey> = documents.wanted.keys().chain(&documents.kept).collect();
        let over: Vec<_> = own.iter().filter(|(key, _)| !asked.contains(key)).collect();
        if is_rash(over.len(), own.len(), removals.caution) {
            self.held = over.len();
            return;
        }
        self.writes.extend(
            over.into_iter()
                .map(|(key, entry)| EntryWrite::Delete { key: (*key).clone(), compare: CatalogIndex(entry.modified) }),
        );
    }
}

enum Judged {
    Same,
    Write,
    Conflict(String),
}

fn intentions(change: &PolicyChange) -> &[Intention] {
    match change {
        PolicyChange::WriteDestination { intentions, .. } => intentions,
        _ => &[],
    }
}

fn own_of<'a>(owner: &'a IntentionOwner, change: &'a PolicyChange) -> impl Iterator<Item = &'a Intention> {
    intentions(change).iter().filter(move |one| one.owner.as_ref() == Some(owner))
}

fn judge_intentions(owner: &IntentionOwner, wanted: &PolicyChange, held: Option<&Content>) -> Judged {
    let nothing = [];
    let held = match held {
        Some(Content::Intentions(change)) => intentions(change),
        _ => &nothing,
    };
    // Whose the whole entry is, each of its intentions is.
    let wanted: Vec<Intention> =
        intentions(wanted).iter().map(|one| Intention { owner: Some(owner.clone()), ..one.clone() }).collect();
    let keys: BTreeSet<IntentionKey> = wanted.iter().map(Intention::key).collect();
    let other = held.iter().find(|one| one.owner.as_ref() != Some(owner) && keys.contains(&one.key()));
    if let Some(other) = other {
        let whom = match &other.owner {
            Some(other) => format!("{other}"),
            None => "whoever wrote it through the API, in nobody's name".to_owned(),
        };
        return Judged::Conflict(format!(
            "the intention {} belongs to {whom}: remove it there, or leave its source out here",
            other.key()
        ));
    }
    let by_key = |all: &mut dyn Iterator<Item = Intention>| -> BTreeMap<IntentionKey, Intention> {
        let plain = |one: Intention| Intention { created: CatalogIndex(0), modified: CatalogIndex(0), ..one };
        all.map(|one| (one.key(), plain(one))).collect()
    };
    let own = held.iter().filter(|one| one.owner.as_ref() == Some(owner)).cloned();
    let is_same = by_key(&mut wanted.into_iter()) == by_key(&mut own.into_iter());
    if is_same { Judged::Same } else { Judged::Write }
}

fn judge_entry(connector: &str, wanted: &ConfigEntry, held: &ConfigEntry) -> Judged {
    match held.meta.get(CONNECTOR_FACT) {
        Some(other) if other != connector => Judged::Conflict(format!(
            "the {} {} belongs to the connector {other}: keep one of the two",
            DEFAULTS,
            held.key()
        )),
        None => Judged::Conflict(format!(
            "{} was written through the API, and not by this connector: remove it there (`weft config delete`)",
            held.key()
        )),
        Some(_) if wanted.content == held.content && wanted.meta == held.meta => Judged::Same,
        Some(_) => Judged::Write,
    }
}

#[cfg(test)]
mod tests;
