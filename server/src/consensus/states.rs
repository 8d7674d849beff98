//! What this server's state was at the indexes at which all servers look, so that they can be compared.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use catalog::{CatalogIndex, Membership};

/// How many are remembered: the others say theirs within seconds.
const REMEMBERED_MAX: usize = 8;

/// Remembers digests of this server's state by index.
#[derive(Debug, Default)]
pub(crate) struct States {
    digests: Mutex<Digests>,
}

#[derive(Debug, Default)]
struct Digests {
    found: BTreeMap<CatalogIndex, String>,
    /// The newest that was said.
    said: CatalogIndex,
}

impl States {
    /// Remembers what the state was at an index.
    pub(crate) fn found(&self, index: CatalogIndex, digest: String) {
        let mut digests = self.lock();
        digests.found.insert(index, digest);
        while digests.found.len() > REMEMBERED_MAX {
            digests.found.pop_first();
        }
    }

    /// Returns what the state was at an index, where it is remembered.
    pub(crate) fn at(&self, index: CatalogIndex) -> Option<String> {
        self.lock().found.get(&index).cloned()
    }

    /// Returns the newest digest that this server has not said yet, unless the others are further already.
    pub(crate) fn unsaid(&self, membership: &Membership) -> Option<(CatalogIndex, String)> {
        let mut digests = self.lock();
        let (index, digest) = digests.found.last_key_value().map(|(index, digest)| (*index, digest.clone()))?;
        if index <= digests.said || index < membership.witness.index {
            return None;
        }
        digests.said = index;
        Some((index, digest))
    }

    fn lock(&self) -> MutexGuard<'_, Digests> {
        // What it guards is consistent after every single operation.
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use catalog::Witness;

    use super::*;

    #[test]
    fn r6_a_state_is_said_once_and_only_while_it_is_news() {
        let states = States::default();
        let mut membership = Membership::default();
        assert_eq!(states.unsaid(&membership), None);
        states.found(CatalogIndex(10), "ten".to_owned());
        assert_eq!(states.unsaid(&membership), Some((CatalogIndex(10), "ten".to_owned())));
        assert_eq!(states.unsaid(&membership), None);
        states.found(CatalogIndex(20), "twenty".to_owned());
        membership.witness = Witness { index: CatalogIndex(30), ..Witness::default() };
        assert_eq!(states.unsaid(&membership), None, "the others are further");
        for index in 3..20 {
            states.found(CatalogIndex(index * 10), index.to_string());
        }
        assert_eq!((states.at(CatalogIndex(10)), states.at(CatalogIndex(190))), (None, Some("19".to_owned())));
    }
}
