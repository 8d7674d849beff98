//! Who waits for a change of what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use catalog::{Catalog, WatchKey};
use tokio::sync::Notify;

use super::Consensus;

/// Keys that may be waited for at once, counted once for each waiter: a few thousand queries of a few keys each.
const REGISTRATIONS_MAX: usize = 65_536;

/// Is everybody who waits. The locks are held for a few map operations, never across a wait.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    queries: Arc<Mutex<Queries>>,
    streams: Mutex<Vec<Weak<Slot>>>,
}

#[derive(Debug, Default)]
struct Queries {
    next: u64,
    registrations: usize,
    by_key: BTreeMap<WatchKey, BTreeMap<u64, Arc<Notify>>>,
}

impl Watches {
    /// Registers a waiter for `keys`; none where too many wait already.
    pub(crate) fn wait_for(&self, keys: &[WatchKey]) -> Option<Waiter> {
        let keys: BTreeSet<WatchKey> = keys.iter().cloned().collect();
        let notify = Arc::new(Notify::new());
        let mut queries = lock(&self.queries);
        if queries.registrations + keys.len() > REGISTRATIONS_MAX {
            return None;
        }
        let id = queries.next;
        queries.next += 1;
        queries.registrations += keys.len();
        for key in &keys {
            queries.by_key.entry(key.clone()).or_default().insert(id, Arc::clone(&notify));
        }
        Some(Waiter { queries: Arc::clone(&self.queries), id, keys, notify })
    }

    /// Registers a receiver of everything that changes.
    pub(crate) fn touched(&self, consensus: Consensus) -> TouchedReceiver {
        let slot = Arc::new(Slot::default());
        let mut streams = lock(&self.streams);
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&slot));
        TouchedReceiver { consensus, slot }
    }

    /// Wakes everybody who waits for one of `touched`. The catalog that has the change must be in place already.
    pub(crate) fn wake(&self, touched: &BTreeSet<WatchKey>) {
        if touched.is_empty() {
            return;
        }
        let queries = lock(&self.queries);
        for waiter in touched.iter().filter_map(|key| queries.by_key.get(key)).flat_map(BTreeMap::values) {
            waiter.notify_one();
        }
        drop(queries);
        for slot in lock(&self.streams).iter().filter_map(Weak::upgrade) {
            lock(&slot.touched).extend(touched.iter().cloned());
            slot.notify.notify_one();
        }
    }

    /// Wakes everybody for everything: the whole catalog was replaced.
    pub(crate) fn wake_all(&self, before: &Catalog, after: &Catalog) {
        // A key that neither has remembered stands for something that exists in neither.
        let mut touched: BTreeSet<WatchKey> = before.watch_keys().chain(after.watch_keys()).cloned().collect();
        touched.extend(lock(&self.queries).by_key.keys().cloned());
        self.wake(&touched);
    }
}

/// Is one registered wait; dropping it takes the registration back.
#[derive(Debug)]
pub(crate) struct Waiter {
    queries: Arc<Mutex<Queries>>,
    id: u64,
    keys: BTreeSet<WatchKey>,
    notify: Arc<Notify>,
}

impl Waiter {
    /// Waits until one of the keys was touched since the registration, or since the last time this returned.
    pub(crate) async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut queries = lock(&self.queries);
        queries.registrations -= self.keys.len();
        for key in &self.keys {
            if let Some(waiters) = queries.by_key.get_mut(key) {
                waiters.remove(&self.id);
                if waiters.is_empty() {
                    queries.by_key.remove(key);
                }
            }
        }
    }
}

/// Gathers what was touched until somebody takes it: a set, so that it never holds more than there are keys.
#[derive(Debug, Default)]
struct Slot {
    touched: Mutex<BTreeSet<WatchKey>>,
    notify: Notify,
}

/// Receives everything that changes, as one set for all changes since it was last asked.
#[derive(Debug)]
pub(crate) struct TouchedReceiver {
    consensus: Consensus,
    slot: Arc<Slot>,
}

impl TouchedReceiver {
    /// Waits until something changed, and returns what did, with a catalog that has all of it.
    ///
    /// Cancel safe: a call that is dropped takes nothing.
    pub(crate) async fn next(&mut self) -> (Arc<Catalog>, BTreeSet<WatchKey>) {
        loop {
            let touched = std::mem::take(&mut *lock(&self.slot.touched));
            if !touched.is_empty() {
                return (self.consensus.catalog(), touched);
            }
            self.slot.notify.notified().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is consistent after every single operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_woken(waiter: &Waiter) -> bool {
        pin!(waiter.woken()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn a_waiter_wakes_for_its_keys_only() {
        let watches = Watches::default();
        let waiter = watches.wait_for(&[WatchKey::Roots, WatchKey::Mesh]).unwrap();
        watches.wake(&BTreeSet::from([WatchKey::Nodes]));
        assert!(!is_woken(&waiter));
        watches.wake(&BTreeSet::from([WatchKey::Nodes, WatchKey::Mesh]));
        assert!(is_woken(&waiter));
        assert!(!is_woken(&waiter));
    }

    #[test]
    fn a_replaced_catalog_wakes_everybody() {
        let watches = Watches::default();
        let waiter = watches.wait_for(&[WatchKey::Roots]).unwrap();
        watches.wake_all(&Catalog::default(), &Catalog::default());
        assert!(is_woken(&waiter));
    }

    #[test]
    fn waits_are_bounded_and_give_their_room_back() {
        let watches = Watches::default();
        let held: Vec<Waiter> = (0..REGISTRATIONS_MAX).map_while(|_| watches.wait_for(&[WatchKey::Nodes])).collect();
        assert_eq!(held.len(), REGISTRATIONS_MAX);
        assert!(watches.wait_for(&[WatchKey::Mesh]).is_none());
        drop(held);
        assert!(lock(&watches.queries).by_key.is_empty());
        assert_eq!(lock(&watches.queries).registrations, 0);
        assert!(watches.wait_for(&[WatchKey::Mesh]).is_some());
    }
}
