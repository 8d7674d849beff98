//! The tunnels that are open, so that a connection rarely costs a handshake.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use catalog::{ServiceKey, Timestamp};

use super::call_error::ConnectError;
use super::tunnel::{Lease, Plan, Tunnel};
use crate::proxy::room::Room;
use crate::proxy::snapshot::{Snapshot, is_same_leaf};

/// Says between whom a tunnel runs. One is never used for another pair: its handshake proved these two.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TunnelKey {
    /// The local service that calls.
    pub(crate) source: ServiceKey,
    /// The service that is called.
    pub(crate) destination: ServiceKey,
    /// The agent before the instance that is called, or a gateway to it.
    pub(crate) address: Arc<str>,
    /// Which instance a gateway is asked for; nothing where the agent is dialled itself.
    pub(crate) instance: Option<Arc<str>>,
}

/// Holds the tunnels of all local services.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    slots: Mutex<HashMap<TunnelKey, Arc<Slot>>>,
    /// Every tunnel that lives, those included that only finish what they carry.
    alive: Mutex<Vec<Weak<Tunnel>>>,
}

#[derive(Debug, Default)]
struct Slot {
    tunnels: Mutex<Vec<Arc<Tunnel>>>,
    /// Held by the one who opens a tunnel; the others wait for it instead of opening more.
    opening: tokio::sync::Mutex<()>,
    failures: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    count: u64,
    last: Option<Arc<ConnectError>>,
}

impl Pool {
    /// Takes a place on a tunnel, and opens one if there is none. Who comes while one is being opened shares its outcome.
    pub(crate) async fn lease(
        &self,
        room: &Arc<Room>,
        key: &TunnelKey,
        plan: &Plan<'_>,
    ) -> Result<Lease, Arc<ConnectError>> {
        let slot = self.slot(key);
        if let Some(lease) = slot.take(plan, room.now()) {
            return Ok(lease);
        }
        let failures_seen = lock(&slot.failures).count;
        let _opening = slot.opening.lock().await;
        if let Some(lease) = slot.take(plan, room.now()) {
            return Ok(lease);
        }
        // What failed for somebody who had much less time may succeed yet.
        let is_ours =
            |error: &Arc<ConnectError>| !matches!(**error, ConnectError::Timeout(given) if given < plan.deadline / 2);
        if let Some(error) = slot.failed_since(failures_seen).filter(is_ours) {
            return Err(error);
        }
        match self.open(room, plan).await {
            Ok(tunnel) => {
                let lease = tunnel.lease(false).ok_or_else(|| slot.fail(ConnectError::NoStreams))?;
                lock(&slot.tunnels).push(tunnel);
                Ok(lease)
            }
            Err(error) => Err(slot.fail(error)),
        }
    }

    fn slot(&self, key: &TunnelKey) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        // Nearly always it is there.
        match slots.get(key) {
            Some(slot) => Arc::clone(slot),
            None => Arc::clone(slots.entry(key.clone()).or_default()),
        }
    }

    /// Reports whether a tunnel is open that takes one more stream.
    pub(crate) fn has_place(&self, key: &TunnelKey, plan: &Plan<'_>, now: Timestamp) -> bool {
        let slot = lock(&self.slots).get(key).cloned();
        slot.is_some_and(|slot| slot.take(plan, now).is_some())
    }

    async fn open(&self, room: &Arc<Room>, plan: &Plan<'_>) -> Result<Arc<Tunnel>, ConnectError> {
        let tunnel = Arc::new(Tunnel::open(room, plan).await?);
        // Listed before it is checked: a snapshot that comes in between finds it in the list.
        lock(&self.alive).push(Arc::downgrade(&tunnel));
        let current = room.current.load_full();
        if let Some(why) = current.and_then(|current| current.snapshot.unfit(&tunnel.peer)) {
            tunnel.cut();
            return Err(ConnectError::Unfit(why));
        }
        Ok(tunnel)
    }

    /// Fits the tunnels to a new snapshot: those to peers that nobody deals with any more are cut, those of an older leaf or a
    /// former instance take no more streams.
    pub(crate) fn review(&self, snapshot: &Snapshot) {
        let alive: Vec<Arc<Tunnel>> = {
            let mut alive = lock(&self.alive);
            alive.retain(|tunnel| tunnel.strong_count() > 0);
            alive.iter().filter_map(Weak::upgrade).collect()
        };
        for tunnel in alive {
            if snapshot.unfit(&tunnel.peer).is_some() {
                tunnel.cut();
            }
        }
        lock(&self.slots).retain(|key, slot| {
            let own = snapshot.identities.get(&key.source);
            let is_called = snapshot.endpoints.contains_key(&key.destination);
            lock(&slot.tunnels).retain(|tunnel| is_called && own.is_some_and(|own| is_same_leaf(own, &tunnel.own)));
            // A slot that somebody is using now must stay, for he may be about to put a tunnel into it.
            Arc::strong_count(slot) > 1 || !lock(&slot.tunnels).is_empty()
        });
    }

    /// Lets go of tunnels that are over or have been idle for too long.
    pub(crate) fn sweep(&self, idle_max: Duration, now: Timestamp) {
        lock(&self.slots).retain(|_, slot| {
            lock(&slot.tunnels).retain(|tunnel| tunnel.is_good(now) && !tunnel.is_idle(idle_max));
            Arc::strong_count(slot) > 1 || !lock(&slot.tunnels).is_empty()
        });
        lock(&self.alive).retain(|tunnel| tunnel.strong_count() > 0);
    }
}

impl Slot {
    /// Takes a place on a tunnel that fits; forgets those that are over or show another leaf than the plan's.
    fn take(&self, plan: &Plan<'_>, now: Timestamp) -> Option<Lease> {
        let mut tunnels = lock(&self.tunnels);
        tunnels.retain(|tunnel| tunnel.is_good(now) && is_same_leaf(&tunnel.own, plan.own));
        tunnels.iter().find_map(|tunnel| tunnel.lease(true))
    }

    fn fail(&self, error: ConnectError) -> Arc<ConnectError> {
        let error = Arc::new(error);
        let mut failures = lock(&self.failures);
        failures.count += 1;
        failures.last = Some(Arc::clone(&error));
        error
    }

    fn failed_since(&self, seen: u64) -> Option<Arc<ConnectError>> {
        let failures = lock(&self.failures);
        failures.last.clone().filter(|_| failures.count > seen)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole at every step, also after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
