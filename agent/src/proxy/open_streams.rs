//! Which streams are open, so that a new snapshot can cut those that it no longer allows.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use catalog::{KeyExchange, ServiceKey, SpiffeId, Timestamp};
use serde::Serialize;
use tokio::sync::oneshot;

use super::current::{Current, End};
use super::decide::still_allows;
use super::handshake::Connection;
use super::http::decide::{Facts, still_allows_request};
use super::outbound::outside::Leaving;
use crate::metrics::Direction;

/// Says why a stream that was carried ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// The rules or the revocations of a newer snapshot refuse it; the label of the refusal.
    Refused(&'static str),
    /// It is carried as bytes, and its destination is one of HTTP now: each of its requests would have to be decided.
    Changed,
    /// The agent is stopping and its deadline has passed.
    Cut,
}

impl Closing {
    /// Returns the label of the metric that counts it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Refused(label) => label,
            Self::Changed => "protocol_changed",
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

/// How many parts the open streams are held in, so that connections rarely wait for one another's entries.
const SHARDS: usize = 16;

/// Holds every open stream of both directions: carried connections, and requests.
#[derive(Debug, Default)]
pub(crate) struct OpenStreams {
    next: AtomicU64,
    inbound: AtomicUsize,
    outbound: AtomicUsize,
    shards: [Mutex<Shard>; SHARDS],
}

type Shard = HashMap<u64, Entry>;

#[derive(Debug)]
struct Entry {
    inbound: Option<Inbound>,
    /// Whom an outbound connection reached, once it has.
    reached: Option<(Arc<End>, KeyExchange)>,
    /// Where an outbound connection goes that has left the mesh.
    leaves: Option<Leaving>,
    /// What it is carried to as bytes, where nothing is read in it.
    bytes_to: Option<ServiceKey>,
    close: oneshot::Sender<Closing>,
    /// Tells the body of a request the same, where there is one.
    close_question: Option<oneshot::Sender<Closing>>,
}

/// Is who opened an inbound stream, and what it is.
#[derive(Debug, Clone)]
struct Inbound {
    connection: Arc<Connection>,
    /// What it says, where it is a request and the rules may look at that.
    request: Option<Arc<Facts>>,
}

/// Is a stream's place among the open ones; dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Place {
    streams: Arc<OpenStreams>,
    id: u64,
    closing: oneshot::Receiver<Closing>,
}

impl OpenStreams {
    /// Enters an inbound stream that is carried as bytes.
    ///
    /// To be called before the stream is decided: whoever publishes a snapshot first swaps it and then walks the open
    /// streams, so a stream that is entered too late to be walked is decided by the new snapshot.
    pub(crate) fn enter_inbound(self: &Arc<Self>, connection: Arc<Connection>) -> Place {
        let bytes_to = Some(connection.destination.clone());
        self.enter(Some(Inbound { connection, request: None }), bytes_to)
    }

    /// Enters a request, with what it says where the rules may look at that.
    ///
    /// To be called after the request is decided, by a snapshot that is seen to be in force still when this has returned.
    pub(crate) fn enter_request(self: &Arc<Self>, connection: Arc<Connection>, request: Option<Arc<Facts>>) -> Place {
        self.enter(Some(Inbound { connection, request }), None)
    }

    /// Enters an outbound connection that is carried as bytes to a service, or a request.
    pub(crate) fn enter_outbound(self: &Arc<Self>, bytes_to: Option<ServiceKey>) -> Place {
        self.enter(None, bytes_to)
    }

    fn enter(self: &Arc<Self>, inbound: Option<Inbound>, bytes_to: Option<ServiceKey>) -> Place {
        let (close, closing) = oneshot::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.counter(inbound.is_some()).fetch_add(1, Ordering::Relaxed);
        self.shard(id)
            .insert(id, Entry { inbound, reached: None, leaves: None, bytes_to, close, close_question: None });
        Place { streams: Arc::clone(self), id, closing }
    }

    /// Decides every open inbound stream again, and what has left the mesh, closes those that are refused now and returns how
    /// many that were. Streams of either direction whose bytes would have to be read from now on are closed too.
    pub(crate) fn decide_again(&self, current: &Current, now: Timestamp) -> usize {
        self.close_unread(current) + self.close_leaving(current, now) + self.close_refused(current, now)
    }

    fn close_unread(&self, current: &Current) -> usize {
        let must_be_read = |entry: &Entry| {
            entry.bytes_to.as_ref().is_some_and(|destination| current.snapshot.protocol(destination).is_http())
        };
        let mut closed = 0;
        for shard in &self.shards {
            let unread: Vec<u64> =
                lock(shard).iter().filter(|(_, entry)| must_be_read(entry)).map(|(id, _)| *id).collect();
            closed += unread.into_iter().filter(|id| self.close(*id, Closing::Changed)).count();
        }
        closed
    }

    /// Decides again what has left the mesh: nobody else would.
    fn close_leaving(&self, current: &Current, now: Timestamp) -> usize {
        let mut closed = 0;
        for shard in &self.shards {
            let leaving: Vec<(u64, Leaving)> =
                lock(shard).iter().filter_map(|(id, entry)| Some((*id, entry.leaves.clone()?))).collect();
            for (id, leaving) in leaving {
                if let Err(refusal) = leaving.decide(&current.snapshot, now) {
                    closed += usize::from(self.close(id, Closing::Refused(refusal.label())));
                }
            }
        }
        closed
    }

    fn close_refused(&self, current: &Current, now: Timestamp) -> usize {
        // Streams of one connection share its answer, requests that the rules look at have each their own. No lock is held
        // while it is decided.
        let mut decided: HashMap<*const Connection, (Arc<Connection>, Option<&'static str>)> = HashMap::new();
        let mut closed = 0;
        for shard in &self.shards {
            let entered: Vec<(u64, Inbound)> =
                lock(shard).iter().filter_map(|(id, entry)| Some((*id, entry.inbound.clone()?))).collect();
            for (id, Inbound { connection, request }) in entered {
                let label = match request {
                    Some(facts) => {
                        let allowed = still_allows_request(current, &connection, &facts, now);
                        allowed.err().map(|refusal| refusal.label())
                    }
                    // Kept with its answer, so that no other connection can come to lie where it lay.
                    None => {
                        decided
                            .entry(Arc::as_ptr(&connection))
                            .or_insert_with(|| {
                                let allowed =
                                    still_allows(&current.snapshot, &connection.peer, &connection.destination, now);
                                (connection, allowed.err().map(|refusal| refusal.label()))
                            })
                            .1
                    }
                };
                if let Some(label) = label {
                    closed += usize::from(self.close(id, Closing::Refused(label)));
                }
            }
        }
        closed
    }

    /// Closes every open stream of a direction.
    pub(crate) fn cut(&self, direction: Direction) {
        for shard in &self.shards {
            let ids: Vec<u64> = lock(shard)
                .iter()
                .filter(|(_, entry)| entry.inbound.is_some() == (direction == Direction::Inbound))
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                self.close(id, Closing::Cut);
            }
        }
    }

    /// Lists what is carried now, up to a thousand connections, in order.
    pub(crate) fn list(&self) -> Vec<OpenConnection> {
        let mut listed = Vec::new();
        for shard in &self.shards {
            let left = LISTED_MAX - listed.len();
            listed.extend(lock(shard).values().filter_map(Entry::listed).take(left));
        }
        listed.sort();
        listed
    }

    /// Returns how many streams of a direction are open.
    pub(crate) fn count(&self, direction: Direction) -> usize {
        self.counter(direction == Direction::Inbound).load(Ordering::Relaxed)
    }

    fn counter(&self, is_inbound: bool) -> &AtomicUsize {
        if is_inbound { &self.inbound } else { &self.outbound }
    }

    fn close(&self, id: u64, why: Closing) -> bool {
        let Some(Entry { close, close_question, .. }) = self.leave(id) else { return false };
        // The answer first: it tells why the request ended, and a question that broke off would have it end for that.
        let is_told = close.send(why).is_ok();
        if let Some(question) = close_question {
            // An error only says that it has been sent.
            let _ = question.send(why);
        }
        is_told
    }

    fn leave(&self, id: u64) -> Option<Entry> {
        let entry = self.shard(id).remove(&id)?;
        self.counter(entry.inbound.is_some()).fetch_sub(1, Ordering::Relaxed);
        Some(entry)
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Shard> {
        // The remainder is always within; the first one stands in for what cannot be.
        let [first, ..] = &self.shards;
        let index = usize::try_from(id % SHARDS as u64).unwrap_or(0);
        lock(self.shards.get(index).unwrap_or(first))
    }
}

impl Entry {
    fn listed(&self) -> Option<OpenConnection> {
        match (&self.inbound, &self.reached) {
            (Some(Inbound { connection, .. }), _) => Some(OpenConnection {
                direction: "inbound",
                destination: connection.destination.clone(),
                peer: connection.peer.id.clone(),
                key_exchange: match &connection.ingress {
                    None => connection.peer.key_exchange,
                    // None of the mesh, be it hidden from others or not.
                    Some(_) => KeyExchange::Classical,
                },
            }),
            (None, Some((end, key_exchange))) => Some(OpenConnection {
                direction: "outbound",
                destination: end.service.clone(),
                peer: end.expected.clone(),
                key_exchange: *key_exchange,
            }),
            (None, None) => None,
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Nothing panics while the lock is held; if it did, the map would still be whole.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Place {
    /// Notes whom an outbound connection reached.
    pub(crate) fn reached(&self, end: Arc<End>, key_exchange: KeyExchange) {
        if let Some(entry) = self.streams.shard(self.id).get_mut(&self.id) {
            entry.reached = Some((end, key_exchange));
        }
    }

    /// Notes that an outbound connection has left the mesh.
    pub(crate) fn leaves(&self, leaving: Leaving) {
        if let Some(entry) = self.streams.shard(self.id).get_mut(&self.id) {
            entry.leaves = Some(leaving);
        }
    }

    /// Returns what tells the body of a request that it must close, whatever becomes of the answer.
    pub(crate) fn closing_of_question(&self) -> oneshot::Receiver<Closing> {
        let (close, closing) = oneshot::channel();
        if let Some(entry) = self.streams.shard(self.id).get_mut(&self.id) {
            entry.close_question = Some(close);
        }
        closing
    }

    /// Returns why the stream must close, if it must and nobody has heard of it.
    pub(crate) fn closed(&mut self) -> Option<Closing> {
        self.closing.try_recv().ok()
    }

    /// Waits until the stream must close.
    pub(crate) async fn closing(&mut self) -> Closing {
        // The sender goes only with the entry, and the entry goes without a word only when this place does.
        (&mut self.closing).await.unwrap_or(Closing::Cut)
    }

    /// Asks whether the stream must close, and has the task woken when it must.
    pub(crate) fn poll_closing(&mut self, context: &mut Context<'_>) -> Poll<Closing> {
        Pin::new(&mut self.closing).poll(context).map(|closing| closing.unwrap_or(Closing::Cut))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.leave(self.id);
    }
}
