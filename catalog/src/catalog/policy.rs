//! Writes intentions, alone or by destination, with regard to who owns them; relaxes them for a time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use imbl::OrdMap;

use super::{Attempt, Catalog, Touched};
use crate::{
    Action, Actor, CatalogIndex, Envelope, Intention, IntentionKey, IntentionOwner, Outcome, PolicyChange, Refusal,
    Relaxation, RelaxedScope, ServicePattern, SourcePattern, WatchKey, WriteMode,
};

/// How many relaxations there are at most at a time.
const RELAXATIONS_MAX: usize = 64;

type Toward = OrdMap<SourcePattern, Arc<Intention>>;

impl Catalog {
    pub(super) fn change_policy(
        &mut self,
        index: CatalogIndex,
        envelope: &Envelope,
        change: &PolicyChange,
        touched: &mut Touched,
    ) -> Attempt {
        match change {
            PolicyChange::Relax { scope, reason, lasts_ms } => {
                self.relax(index, envelope, scope, reason, Duration::from_millis(*lasts_ms), touched)
            }
            PolicyChange::EndRelaxation { scope } => self.end_relaxation(scope, touched),
            PolicyChange::TakeOver { intention, mode } => self.write_intention(index, intention, *mode, true, touched),
            PolicyChange::DeleteOwned { key, compare, owner, take_over } => {
                self.delete_intention(key, *compare, owner.as_ref(), *take_over, touched)
            }
            PolicyChange::WriteDestination { destination, owner, intentions, compare } => {
                self.write_destination(index, destination, owner.as_ref(), intentions, *compare, touched)
            }
            PolicyChange::DeleteDestination { destination, owner, compare } => {
                self.delete_destination(destination, owner.as_ref(), *compare, touched)
            }
        }
    }

    /// Returns the relaxations that are in force at `now`.
    pub fn relaxations(&self, now: crate::Timestamp) -> impl Iterator<Item = &Relaxation> {
        self.relaxations.values().map(|one| &**one).filter(move |one| one.is_live(now))
    }

    /// Returns the intentions whose destination is written like this, in the order in which they are tried.
    #[must_use]
    pub fn intentions_toward(&self, destination: &ServicePattern) -> Vec<&Intention> {
        let toward = self.intentions.get(destination);
        let mut all: Vec<&Intention> = toward.into_iter().flat_map(OrdMap::values).map(|one| &**one).collect();
        all.sort_by(|a, b| a.order(b));
        all
    }

    /// Returns the index at which the intentions whose destination is written like this last changed; 0 while there are
    /// none.
    #[must_use]
    pub fn destination_modified(&self, destination: &ServicePattern) -> CatalogIndex {
        if !self.intentions.contains_key(destination) {
            return CatalogIndex::default();
        }
        self.changes.get(&WatchKey::Destination(destination.clone())).copied().unwrap_or(self.floor)
    }

    /// Returns the destinations that some intention is written toward.
    pub fn destinations(&self) -> impl Iterator<Item = &ServicePattern> {
        self.intentions.keys()
    }

    fn relax(
        &mut self,
        index: CatalogIndex,
        envelope: &Envelope,
        scope: &RelaxedScope,
        reason: &str,
        lasts: Duration,
        touched: &mut Touched,
    ) -> Attempt {
        let since = self.now(envelope);
        let live = |one: &Arc<Relaxation>| since < one.ends_at;
        let mut kept: OrdMap<RelaxedScope, Arc<Relaxation>> =
            self.relaxations.iter().filter(|(_, one)| live(one)).map(|(key, one)| (key.clone(), one.clone())).collect();
        if kept.len() >= RELAXATIONS_MAX && !kept.contains_key(scope) {
            return Err(Refusal::invalid(
                "scope",
                format!("{RELAXATIONS_MAX} namespaces are relaxed already: end some, or relax the whole mesh"),
            ));
        }
        let by = match &envelope.actor {
            Actor::Token(accessor) => Some(accessor.clone()),
            _ => None,
        };
        let relaxation = Relaxation {
            scope: scope.clone(),
            reason: reason.to_owned(),
            by,
            since,
            ends_at: since.saturating_add(lasts),
            modified: index,
        };
        kept.insert(scope.clone(), Arc::new(relaxation));
        self.relaxations = kept;
        touched.changed(WatchKey::Mesh);
        Ok(Outcome::Done)
    }

    fn end_relaxation(&mut self, scope: &RelaxedScope, touched: &mut Touched) -> Attempt {
        if self.relaxations.remove(scope).is_none() {
            return Err(Refusal::not_found("relaxation of", scope));
        }
        touched.changed(WatchKey::Mesh);
        Ok(Outcome::Done)
    }

    /// Checks what an intention must have whoever writes it.
    fn check_intention(&self, intention: &Intention) -> Result<(), Refusal> {
        let key = intention.key();
        self.check_source(format!("intention {key}: source"), &intention.source)?;
        if intention.has_jwt() && self.mesh_entry.default_action == Action::Allow {
            return Err(Refusal::invalid(
                format!("intention {key}"),
                "a JWT condition on an allow means nothing while the mesh's default is allow: set the default to deny first",
            ));
        }
        if let ServicePattern::Exact(service) = &intention.destination
            && intention.judges_requests()
            && !self.protocol_of(service).is_http()
        {
            return Err(Refusal::invalid(
                format!("intention {key}"),
                format!(
                    "rules on requests need an HTTP protocol, and nobody looks into the bytes of {service}: write \
                     `service-defaults` with Protocol `http`, `http2` or `grpc` for it first"
                ),
            ));
        }
        if let Some(provider) = intention.providers().find(|name| self.config.provider(name).is_none()) {
            return Err(Refusal::invalid(
                format!("intention {key}"),
                format!("there is no jwt-provider `{}`: write that config entry first", provider.escape_debug()),
            ));
        }
        Ok(())
    }

    pub(super) fn write_intention(
        &mut self,
        index: CatalogIndex,
        intention: &Intention,
        mode: WriteMode,
        take_over: bool,
        touched: &mut Touched,
    ) -> Attempt {
        let key = intention.key();
        self.check_intention(intention)?;
        let previous = self.intention(&key);
        let found = previous.map(|previous| previous.modified).unwrap_or_default();
        match mode {
            WriteMode::Create if previous.is_some() => return Err(Refusal::exists("intention", &key)),
            WriteMode::CompareAndSet(expected) if expected != found => {
                return Err(Refusal::IntentionChanged { key, modified: found, expected });
            }
            WriteMode::Create | WriteMode::Upsert | WriteMode::CompareAndSet(_) => {}
        }
        if let Some(previous) = previous.filter(|_| !take_over) {
            check_owner(previous, intention.owner.as_ref())?;
        }
        if previous.is_some_and(|previous| says_the_same(previous, intention)) {
            return Ok(Outcome::Done);
        }
        let created = previous.map_or(index, |previous| previous.created);
        let mut toward = self.intentions.get(&key.destination).cloned().unwrap_or_default();
        toward.insert(key.source, Arc::new(Intention { created, modified: index, ..intention.clone() }));
        self.put_toward(&key.destination, toward, touched);
        Ok(Outcome::Done)
    }

    pub(super) fn delete_intention(
        &mut self,
        key: &IntentionKey,
        compare: Option<CatalogIndex>,
        owner: Option<&IntentionOwner>,
        take_over: bool,
        touched: &mut Touched,
    ) -> Attempt {
        let there = self.intention(key).ok_or_else(|| Refusal::not_found("intention", key))?;
        let found = there.modified;
        if let Some(expected) = compare.filter(|expected| *expected != found) {
            return Err(Refusal::IntentionChanged { key: key.clone(), modified: found, expected });
        }
        if !take_over {
            check_owner(there, owner)?;
        }
        let mut toward = self.intentions.get(&key.destination).cloned().unwrap_or_default();
        toward.remove(&key.source);
        self.put_toward(&key.destination, toward, touched);
        Ok(Outcome::Done)
    }

    fn write_destination(
        &mut self,
        index: CatalogIndex,
        destination: &ServicePattern,
        owner: Option<&IntentionOwner>,
        intentions: &[Intention],
        compare: Option<CatalogIndex>,
        touched: &mut Touched,
    ) -> Attempt {
        self.check_destination_unchanged(destination, compare)?;
        let before = self.intentions.get(destination).cloned().unwrap_or_default();
        let mut after = before.clone();
        for intention in intentions {
            self.check_intention(intention)?;
            let there = before.get(&intention.source).map(|there| &**there);
            if let Some(mine) = line_of(intention, there, owner)? {
                let created = there.map_or(index, |there| there.created);
                after.insert(mine.source.clone(), Arc::new(Intention { created, modified: index, ..mine }));
            }
        }
        let written: BTreeSet<&SourcePattern> = intentions.iter().map(|intention| &intention.source).collect();
        keep(&mut after, |there| there.owner.as_ref() != owner || written.contains(&there.source));
        if after != before {
            self.put_toward(destination, after, touched);
        }
        Ok(Outcome::Done)
    }

    fn delete_destination(
        &mut self,
        destination: &ServicePattern,
        owner: Option<&IntentionOwner>,
        compare: Option<CatalogIndex>,
        touched: &mut Touched,
    ) -> Attempt {
        self.check_destination_unchanged(destination, compare)?;
        let Some(before) = self.intentions.get(destination).cloned() else { return Ok(Outcome::Done) };
        let mut after = before.clone();
        keep(&mut after, |there| there.owner.as_ref() != owner);
        if after == before {
            // All of them are somebody else's, and whoever asked should know whose.
            return before.values().try_for_each(|there| check_owner(there, owner)).map(|()| Outcome::Done);
        }
        self.put_toward(destination, after, touched);
        Ok(Outcome::Done)
    }

    fn check_destination_unchanged(
        &self,
        destination: &ServicePattern,
        compare: Option<CatalogIndex>,
    ) -> Result<(), Refusal> {
        let modified = self.destination_modified(destination);
        match compare.filter(|expected| *expected != modified) {
            Some(expected) => {
                Err(Refusal::EntryChanged { name: format!("service-intentions/{destination}"), modified, expected })
            }
            None => Ok(()),
        }
    }

    /// Replaces all that is written toward a destination.
    fn put_toward(&mut self, destination: &ServicePattern, toward: Toward, touched: &mut Touched) {
        touched.changed(WatchKey::Intentions);
        if toward.is_empty() {
            self.intentions.remove(destination);
            touched.gone(WatchKey::Destination(destination.clone()));
        } else {
            self.intentions.insert(destination.clone(), toward);
            touched.changed(WatchKey::Destination(destination.clone()));
        }
    }
}

/// Drops the intentions that are not wanted.
fn keep(toward: &mut Toward, is_wanted: impl Fn(&Intention) -> bool) {
    let dropped: Vec<SourcePattern> =
        toward.values().filter(|there| !is_wanted(there)).map(|there| there.source.clone()).collect();
    for source in &dropped {
        toward.remove(source);
    }
}

/// Refuses to touch an intention of another owner. One without an owner is anybody's.
fn check_owner(there: &Intention, asked: Option<&IntentionOwner>) -> Result<(), Refusal> {
    match &there.owner {
        Some(owner) if Some(owner) != asked => Err(Refusal::IntentionOwned { key: there.key(), owner: owner.clone() }),
        _ => Ok(()),
    }
}

/// Reports whether both say the same, whenever they were written.
fn says_the_same(one: &Intention, other: &Intention) -> bool {
    *one == Intention { created: one.created, modified: one.modified, ..other.clone() }
}

/// Returns what `owner` has to write for an intention in the list of a destination; none where it stands there already, as
/// its own or as another's.
fn line_of(
    intention: &Intention,
    there: Option<&Intention>,
    owner: Option<&IntentionOwner>,
) -> Result<Option<Intention>, Refusal> {
    let mine = Intention { owner: owner.cloned(), ..intention.clone() };
    let Some(there) = there else {
        return match &intention.owner {
            Some(other) if Some(other) != owner => {
                Err(Refusal::IntentionOwned { key: intention.key(), owner: other.clone() })
            }
            _ => Ok(Some(mine)),
        };
    };
    // A list that was read and is sent back has the lines of others in it, with their owner's name or without.
    let theirs = Intention { owner: there.owner.clone(), ..intention.clone() };
    let is_theirs = there.owner.is_some() && there.owner.as_ref() != owner;
    if is_theirs {
        let echoes = intention.owner.is_none() || intention.owner == there.owner;
        let kept = echoes && says_the_same(there, &theirs);
        return if kept { Ok(None) } else { check_owner(there, owner).map(|()| None) };
    }
    Ok((!says_the_same(there, &mine)).then_some(mine))
}

#[cfg(test)]
pub(super) mod tests;
