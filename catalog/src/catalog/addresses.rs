//! Gives each service its number, once, and keeps it for a while after the service is gone.

use std::time::Duration;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::{Catalog, Touched};
use crate::{AddressNumber, Allotment, Instance, ServiceKey, Timestamp, WatchKey};

/// For how long the number of a service that nobody serves, calls or shapes any more is kept for it: whoever looked its address
/// up before it was deployed anew still reaches it, and nobody else.
const UNUSED_MAX: Duration = Duration::from_secs(72 * 60 * 60);
/// How many such services are kept at most. An agent may name ever new ones as its upstreams.
const UNUSED_SERVICES_MAX: usize = 16_384;

/// Holds which service has which number.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Addresses {
    of: OrdMap<ServiceKey, Allotment>,
    by_number: OrdMap<AddressNumber, ServiceKey>,
    unused: OrdSet<(Timestamp, ServiceKey)>,
    /// The number that was given last. The next one follows it, so that one that was given back is not given again before
    /// all others were.
    last: Option<AddressNumber>,
    /// How often each service is named as an upstream; follows from the instances.
    callers: OrdMap<ServiceKey, usize>,
}

/// Is the same as a snapshot has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredAddresses {
    last: AddressNumber,
    allotted: Vec<Allotment>,
}

impl Addresses {
    fn number_of(&self, service: &ServiceKey) -> Option<AddressNumber> {
        self.of.get(service).map(|allotment| allotment.number)
    }

    /// Gives a number to a service that has none; none where all are taken.
    fn allot(&mut self, service: &ServiceKey) -> Option<AddressNumber> {
        if self.left() == 0 {
            return None;
        }
        let first = self.last.map_or_else(|| AddressNumber::new(1), |last| Some(last.next()))?;
        let mut number = first;
        while self.by_number.contains_key(&number) {
            number = number.next();
            if number == first {
                return None;
            }
        }
        self.last = Some(number);
        self.put(Allotment { service: service.clone(), number, unused_since: None });
        Some(number)
    }

    /// Returns how many numbers are free.
    fn left(&self) -> u32 {
        let taken = u32::try_from(self.by_number.len()).unwrap_or(u32::MAX);
        AddressNumber::MAX.saturating_sub(taken)
    }

    /// Takes the numbers of two states together. Where they differ, these are right: their addresses are the ones that
    /// applications were told last.
    pub(super) fn united_with(&self, other: &Self) -> Self {
        let last = self.last.max(other.last);
        let mut united = Self { callers: OrdMap::new(), last, ..self.clone() };
        for allotment in other.of.values() {
            if !united.of.contains_key(&allotment.service) && !united.by_number.contains_key(&allotment.number) {
                united.put(allotment.clone());
            }
        }
        united
    }

    fn put(&mut self, allotment: Allotment) {
        self.forget(&allotment.service);
        self.by_number.insert(allotment.number, allotment.service.clone());
        if let Some(since) = allotment.unused_since {
            self.unused.insert((since, allotment.service.clone()));
        }
        self.of.insert(allotment.service.clone(), allotment);
    }

    fn forget(&mut self, service: &ServiceKey) {
        let Some(allotment) = self.of.remove(service) else { return };
        self.by_number.remove(&allotment.number);
        if let Some(since) = allotment.unused_since {
            self.unused.remove(&(since, allotment.service));
        }
    }

    /// Forgets those that nobody has used for long, or of which there are too many, and returns them.
    fn forget_unused(&mut self, now: Timestamp) -> Vec<ServiceKey> {
        let mut forgotten = Vec::new();
        while let Some((since, service)) = self.unused.get_min().cloned() {
            if self.unused.len() <= UNUSED_SERVICES_MAX && now.since(since) <= UNUSED_MAX {
                break;
            }
            self.forget(&service);
            forgotten.push(service);
        }
        forgotten
    }

    pub(crate) fn stored(&self) -> Option<StoredAddresses> {
        self.last.map(|last| StoredAddresses { last, allotted: self.of.values().cloned().collect() })
    }

    /// Reads back what a snapshot has, or says what contradicts itself there.
    pub(crate) fn open(stored: Option<StoredAddresses>) -> Result<Self, String> {
        let Some(stored) = stored else { return Ok(Self::default()) };
        let mut addresses = Self { last: Some(stored.last), ..Self::default() };
        for allotment in stored.allotted {
            let number = allotment.number;
            if addresses.by_number.contains_key(&number) || addresses.of.contains_key(&allotment.service) {
                return Err(format!("service `{}` or its number {number} is there twice", allotment.service));
            }
            addresses.put(allotment);
        }
        Ok(addresses)
    }
}

impl Catalog {
    /// Returns the number of a service; none where nobody serves, calls or shapes it.
    #[must_use]
    pub fn address_number(&self, service: &ServiceKey) -> Option<AddressNumber> {
        self.addresses.number_of(service)
    }

    /// Returns how many services more can be given a number.
    #[must_use]
    pub fn address_numbers_left(&self) -> u32 {
        self.addresses.left()
    }

    /// Returns the services that have a number, with it.
    pub(crate) fn allotments(&self) -> impl Iterator<Item = &Allotment> {
        self.addresses.of.values()
    }

    /// Notes whom an instance calls from now on, and whom it called.
    pub(super) fn note_calls(&mut self, before: Option<&Instance>, after: Option<&Instance>, touched: &mut Touched) {
        fn named(instance: Option<&Instance>) -> impl Iterator<Item = &ServiceKey> {
            instance.into_iter().flat_map(|instance| &instance.upstreams).map(|upstream| &upstream.destination)
        }
        for service in named(after) {
            *self.addresses.callers.entry(service.clone()).or_insert(0) += 1;
        }
        for service in named(before) {
            let left = self.addresses.callers.get(service).map_or(0, |callers| callers.saturating_sub(1));
            if left == 0 {
                self.addresses.callers.remove(service);
            } else {
                self.addresses.callers.insert(service.clone(), left);
            }
        }
        for service in named(before).chain(named(after)) {
            self.settle_address(service, touched);
        }
    }

    /// Sees to it that a service has a number if anybody serves, calls or shapes it, and that it loses it a while after nobody
    /// does any more. Servers of the first release know no numbers; with one of them in the group there are none.
    pub(super) fn settle_address(&mut self, service: &ServiceKey, touched: &mut Touched) {
        if !self.is_past_first_release() {
            return;
        }
        let held = self.addresses.of.get(service).cloned();
        match (self.is_in_use(service), held) {
            (true, None) => {
                self.forget_unused(touched);
                if self.addresses.allot(service).is_some() {
                    touched.changed(WatchKey::Service(service.clone()));
                }
            }
            (true, Some(held)) if held.unused_since.is_some() => {
                self.addresses.put(Allotment { unused_since: None, ..held });
            }
            (false, Some(held)) => {
                let since = held.unused_since.unwrap_or(self.clock);
                self.addresses.put(Allotment { unused_since: Some(since), ..held });
                self.forget_unused(touched);
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn forget_unused(&mut self, touched: &mut Touched) {
        for service in self.addresses.forget_unused(self.clock) {
            touched.gone(WatchKey::Service(service));
        }
    }

    /// Reports whether anybody serves, calls or shapes a service.
    fn is_in_use(&self, service: &ServiceKey) -> bool {
        self.by_service.contains_key(service)
            || self.addresses.callers.contains_key(service)
            || self.has_config(service)
    }

    /// Gives a number to every service in use, in their order, where none has one yet: the group began with the first release.
    pub(super) fn number_first(&mut self, touched: &mut Touched) {
        if self.addresses.last.is_none() && self.is_past_first_release() {
            self.number_all(touched);
        }
    }

    pub(super) fn number_all(&mut self, touched: &mut Touched) {
        let shaped = self.config.iter().filter_map(|entry| entry.key().service().cloned());
        let used = self.by_service.keys().chain(self.addresses.callers.keys()).chain(self.addresses.of.keys());
        for service in used.cloned().chain(shaped).collect::<OrdSet<ServiceKey>>() {
            self.settle_address(&service, touched);
        }
    }

    /// Counts anew who is called.
    pub(crate) fn count_callers(&mut self) {
        let mut callers = OrdMap::new();
        for instance in self.nodes.values().flat_map(|state| state.instances.values()) {
            for upstream in &instance.upstreams {
                *callers.entry(upstream.destination.clone()).or_insert(0) += 1;
            }
        }
        self.addresses.callers = callers;
    }
}

#[cfg(test)]
mod tests;
