//! What one command touches.

use std::collections::BTreeSet;

use crate::WatchKey;

/// Gathers what a command touches.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(super) keys: BTreeSet<WatchKey>,
    pub(super) gone: BTreeSet<WatchKey>,
}

impl Touched {
    /// Notes that the thing behind `key` changed.
    pub(crate) fn changed(&mut self, key: WatchKey) {
        self.gone.remove(&key);
        self.keys.insert(key);
    }

    /// Notes that the thing behind `key` is gone: its watchers wake, and its index need not be kept.
    pub(crate) fn gone(&mut self, key: WatchKey) {
        self.keys.insert(key.clone());
        self.gone.insert(key);
    }
}
