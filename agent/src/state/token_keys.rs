//! The keys of providers of tokens, kept across restarts: an issuer that is away must not have an agent that starts anew
//! refuse what it let in a minute ago.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use catalog::{AgentId, Timestamp};
use serde::{Deserialize, Serialize};
use tracing::warn;
use wire::jwt::{KEPT_MAX, KeptKeys};

use super::Store;

const FILE: &str = "token-keys.json";

/// How many bytes of keys are kept at most: the directory may lie in memory, and an issuer may publish a quarter of a
/// mebibyte.
const BYTES_MAX: usize = 4 << 20;

/// How long two fetches of one place may have been under way together.
const DISORDER_MAX: Duration = Duration::from_secs(60);

/// Keeps the keys in a file beside the last good state.
#[derive(Debug)]
pub(crate) struct TokenKeys {
    store: Store,
    agent: AgentId,
    kept: Mutex<BTreeMap<String, Kept>>,
    /// Held over the disk, by those who write and nobody else.
    writing: Mutex<()>,
}

/// Is what one issuer published.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    fetched: Timestamp,
    keys: String,
}

impl TokenKeys {
    /// Reads what this agent has kept.
    pub(crate) fn open(store: Store, agent: AgentId) -> Self {
        let kept = store.read(FILE, Some(&agent)).unwrap_or_default();
        Self { store, agent, kept: Mutex::new(kept), writing: Mutex::default() }
    }
}

impl TokenKeys {
    /// Takes what was fetched, unless what is there was fetched later, and returns all that is kept now.
    fn take(&self, place: &str, new: Kept) -> Option<BTreeMap<String, Kept>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // By a clock that was far ahead nothing was fetched later: it would keep newer keys out for long.
        let is_later = |known: &Kept| known.fetched > new.fetched && known.fetched.since(new.fetched) <= DISORDER_MAX;
        if kept.get(place).is_some_and(is_later) {
            return None;
        }
        let fetched = new.fetched;
        kept.insert(place.to_owned(), new);
        kept.retain(|_, kept| fetched.since(kept.fetched) <= KEPT_MAX);
        while kept.values().map(|kept| kept.keys.len()).sum::<usize>() > BYTES_MAX {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.fetched).map(|(place, _)| place.clone());
            oldest.and_then(|place| kept.remove(&place));
        }
        Some(kept.clone())
    }
}

impl KeptKeys for TokenKeys {
    fn load(&self, place: &str) -> Option<(String, Timestamp)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(place).map(|kept| (kept.keys.clone(), kept.fetched))
    }

    fn keep(&self, place: &str, keys: String, fetched: Timestamp) {
        // One after the other, so that an older content never replaces a newer one in the file.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = self.take(place, Kept { fetched, keys }) else { return };
        if let Err(error) = self.store.write(FILE, &self.agent, &kept) {
            let error = wire::one_line(&error);
            warn!(error, "the keys of a provider of tokens are not kept; after a restart they are fetched anew");
        }
    }

    fn forget(&self, place: &str) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let left = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.remove(place).map(|_| kept.clone())
        };
        if let Some(left) = left
            && let Err(error) = self.store.write(FILE, &self.agent, &left)
        {
            let error = wire::one_line(&error);
            warn!(error, "the keys of a provider of tokens that nobody asks for any more are still on disk");
        }
    }
}

#[cfg(test)]
mod tests {
    use catalog::CatalogIndex;

    use super::*;

    #[test]
    fn j4_keys_are_read_back_by_the_same_agent_and_old_ones_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let (agent, other) = (AgentId::enrolled_at(CatalogIndex(7)), AgentId::enrolled_at(CatalogIndex(8)));
        let open = |agent: &AgentId| TokenKeys::open(Store::open(Some(directory.path())).unwrap(), agent.clone());
        let at = Timestamp(1_000_000_000);
        let first = open(&agent);
        first.keep("okta", "one".to_owned(), at);
        first.keep("okta", "two".to_owned(), Timestamp(at.0 + 1));
        first.keep("okta", "late".to_owned(), at);
        first.keep("other", "three".to_owned(), at);
        drop(first);
        let second = open(&agent);
        assert_eq!(second.load("okta"), Some(("two".to_owned(), Timestamp(at.0 + 1))));
        assert_eq!(second.load("elsewhere"), None);
        second.keep("gone", "five".to_owned(), at);
        second.forget("gone");
        second.forget("elsewhere");
        drop(second);
        let second = open(&agent);
        assert_eq!((second.load("gone"), second.load("other").is_some()), (None, true), "it is forgotten on disk, too");
        let later = Timestamp(at.0 + 1).saturating_add(KEPT_MAX);
        second.keep("new", "four".to_owned(), later);
        assert_eq!((second.load("other"), second.load("okta").is_some()), (None, true), "a day and more is too old");
        for number in 1..=5 {
            let large = "x".repeat(BYTES_MAX / 4);
            second.keep(&format!("n{number}"), large, later.saturating_add(Duration::from_secs(number)));
        }
        assert_eq!(second.kept.lock().unwrap().keys().collect::<Vec<_>>(), ["n2", "n3", "n4", "n5"]);
        drop(second);
        assert!(open(&other).load("n5").is_none(), "what another enrolment kept is of no use");
        assert!(TokenKeys::open(Store::open(None).unwrap(), agent).load("n5").is_none());
    }
}
