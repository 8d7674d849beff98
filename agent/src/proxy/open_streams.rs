//! Which streams are open, so that a new snapshot can cut those that it no longer allows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::{KeyExchange, ServiceKey, SpiffeId, Timestamp};
use serde::Serialize;
use tokio::sync::oneshot;
use wire::tls::PeerIdentity;

use super::decide::still_allows;
use super::snapshot::Snapshot;
use crate::metrics::Direction;

/// Says why a stream that was carried ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// The rules or the revocations of a newer snapshot refuse it; the label of the refusal.
    Refused(&'static str),
    /// The agent is stopping and its deadline has passed.
    Cut,
}

impl Closing {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Refused(label) => label,
            Self::Cut => "cut",
        }
    }
}

/// No list of open connections is longer.
const LISTED_MAX: usize = 1000;

/// Is an open connection as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct OpenConnection {
    /// `inbound` or `outbound`, seen from the agent.
    pub direction: &'static str,
    /// The service that is called.
    pub destination: ServiceKey,
    /// The identity that the other side proved: the caller's inbound, the called service's outbound.
    pub peer: SpiffeId,
    /// How the keys of the connection between the two agents were agreed on.
    pub key_exchange: KeyExchange,
}

/// Holds every open stream of both directions.
#[derive(Debug, Default)]
pub(crate) struct OpenStreams {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    streams: HashMap<u64, Entry>,
    inbound: usize,
}

#[derive(Debug)]
struct Entry {
    inbound: Option<(Arc<PeerIdentity>, ServiceKey)>,
    /// Whom an outbound connection reached, once it has.
    reached: Option<(SpiffeId, KeyExchange, ServiceKey)>,
    close: oneshot::Sender<Closing>,
}

/// Is a stream's place among the open ones; dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Place {
    streams: Arc<OpenStreams>,
    id: u64,
    closing: oneshot::Receiver<Closing>,
}

impl OpenStreams {
    /// Enters an inbound stream.
    ///
    /// To be called before the stream is decided: whoever publishes a snapshot first swaps it and then walks the open
    /// streams, so a stream that is entered too late to be walked is decided by the new snapshot.
    pub(crate) fn enter_inbound(self: &Arc<Self>, peer: Arc<PeerIdentity>, destination: ServiceKey) -> Place {
        self.enter(Some((peer, destination)))
    }

    /// Enters an outbound connection.
    pub(crate) fn enter_outbound(self: &Arc<Self>) -> Place {
        self.enter(None)
    }

    fn enter(self: &Arc<Self>, inbound: Option<(Arc<PeerIdentity>, ServiceKey)>) -> Place {
        let (close, closing) = oneshot::channel();
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.inbound += usize::from(inbound.is_some());
        state.streams.insert(id, Entry { inbound, reached: None, close });
        Place { streams: Arc::clone(self), id, closing }
    }

    /// Decides every open inbound stream again, closes those that are refused now and returns how many that were.
    pub(crate) fn decide_again(&self, snapshot: &Snapshot, now: Timestamp) -> usize {
        let entered: Vec<(u64, Arc<PeerIdentity>, ServiceKey)> = self
            .lock()
            .streams
            .iter()
            .filter_map(|(id, entry)| entry.inbound.clone().map(|(peer, destination)| (*id, peer, destination)))
            .collect();
        // Streams of one tunnel share their peer, so one decision serves them all. The lock is not held meanwhile.
        let mut decided: HashMap<(*const PeerIdentity, ServiceKey), Option<&'static str>> = HashMap::new();
        let mut refused = Vec::new();
        for (id, peer, destination) in &entered {
            let label = *decided
                .entry((Arc::as_ptr(peer), destination.clone()))
                .or_insert_with(|| still_allows(snapshot, peer, destination, now).err().map(|refusal| refusal.label()));
            refused.extend(label.map(|label| (*id, label)));
        }
        refused.iter().filter(|(id, label)| self.close(*id, Closing::Refused(label))).count()
    }

    /// Closes every open stream of a direction.
    pub(crate) fn cut(&self, direction: Direction) {
        let ids: Vec<u64> = self
            .lock()
            .streams
            .iter()
            .filter(|(_, entry)| entry.inbound.is_some() == (direction == Direction::Inbound))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.close(id, Closing::Cut);
        }
    }

    /// Lists what is carried now, up to a thousand connections, in order.
    pub(crate) fn list(&self) -> Vec<OpenConnection> {
        let state = self.lock();
        let inbound = state.streams.values().filter_map(|entry| entry.inbound.as_ref()).map(|(peer, destination)| {
            OpenConnection {
                direction: "inbound",
                destination: destination.clone(),
                peer: peer.id.clone(),
                key_exchange: peer.key_exchange,
            }
        });
        let reached = state.streams.values().filter_map(|entry| entry.reached.as_ref());
        let outbound = reached.map(|(peer, key_exchange, destination)| OpenConnection {
            direction: "outbound",
            destination: destination.clone(),
            peer: peer.clone(),
            key_exchange: *key_exchange,
        });
        let mut listed: Vec<OpenConnection> = inbound.chain(outbound).take(LISTED_MAX).collect();
        drop(state);
        listed.sort();
        listed
    }

    /// Returns how many streams of a direction are open.
    pub(crate) fn count(&self, direction: Direction) -> usize {
        let state = self.lock();
        match direction {
            Direction::Inbound => state.inbound,
            Direction::Outbound => state.streams.len() - state.inbound,
        }
    }

    fn close(&self, id: u64, why: Closing) -> bool {
        self.leave(id).is_some_and(|entry| entry.close.send(why).is_ok())
    }

    fn leave(&self, id: u64) -> Option<Entry> {
        let mut state = self.lock();
        let entry = state.streams.remove(&id)?;
        state.inbound -= usize::from(entry.inbound.is_some());
        Some(entry)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held; if it did, the map would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Notes whom an outbound connection reached.
    pub(crate) fn reached(&self, peer: &PeerIdentity, destination: &ServiceKey) {
        if let Some(entry) = self.streams.lock().streams.get_mut(&self.id) {
            entry.reached = Some((peer.id.clone(), peer.key_exchange, destination.clone()));
        }
    }

    /// Waits until the stream must close.
    pub(crate) async fn closing(&mut self) -> Closing {
        // The sender goes only with the entry, and the entry goes without a word only when this place does.
        (&mut self.closing).await.unwrap_or(Closing::Cut)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.leave(self.id);
    }
}
