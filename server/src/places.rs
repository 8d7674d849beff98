//! Places for connections, counted by whom they are of.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use catalog::NodeName;

/// Whom a connection is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// Whoever lives at an address, as long as nothing more is proved.
    Address(IpAddr),
    /// The agent on a node. Many of them may stand behind one address.
    Agent(NodeName),
}

/// Counts open connections by holder, and grants each holder so many.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    per_address_max: usize,
    per_agent_max: usize,
    open: Arc<Mutex<HashMap<Holder, usize>>>,
}

/// One place that is taken; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    holder: Holder,
}

impl Places {
    /// Returns places of which each address and each agent may take so many.
    pub(crate) fn new(per_address_max: usize, per_agent_max: usize) -> Self {
        Self { per_address_max, per_agent_max, open: Arc::default() }
    }

    /// Takes a place for `holder`, unless it holds all of its own already.
    pub(crate) fn take(&self, holder: Holder) -> Option<Place> {
        let max = match holder {
            Holder::Address(_) => self.per_address_max,
            Holder::Agent(_) => self.per_agent_max,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(holder.clone()).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), holder })
    }
}

impl Place {
    /// Gives the place back for one of `holder`, which has turned out to be whom the connection is of.
    pub(crate) fn change(self, holder: Holder) -> Option<Place> {
        self.places.take(holder)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Holder {
        Holder::Address(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn a5_one_address_cannot_take_every_place_and_gets_its_own_back() {
        let places = Places::new(200, 1);
        let mut held: Vec<Place> = (0..200).filter_map(|_| places.take(address(1))).collect();
        assert_eq!(held.len(), 200);
        assert!(places.take(address(1)).is_none());
        assert!(places.take(address(2)).is_some());
        held.pop();
        assert!(places.take(address(1)).is_some());
        drop(held);
        assert!(places.open.lock().unwrap().is_empty());
    }

    #[test]
    fn agents_behind_one_address_take_places_of_their_own() {
        let places = Places::new(1, 2);
        let agent = |name: &str| Holder::Agent(name.parse().unwrap());
        let held: Vec<Place> = ["vm-1", "vm-1", "vm-2"]
            .iter()
            .map(|name| places.take(address(1)).unwrap().change(agent(name)).unwrap())
            .collect();
        assert!(places.take(address(1)).unwrap().change(agent("vm-1")).is_none(), "one agent holds all of its own");
        drop(held);
        assert!(places.open.lock().unwrap().is_empty());
    }
}
