//! Watching requests, on the server: who watches through this one, and what agents are told of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::ServiceKey;
use tokio::sync::{broadcast, mpsc};
use wire::crypto;
use wire::tap::{TapLine, TapOrder};

/// How many may watch through one server at once.
const WATCHING_MAX: usize = 16;
/// Lines that wait to be read by one who watches; agents wait beyond it, and cut what they cannot send.
const LINES_MAX: usize = 256;
/// Orders that wait to be passed on.
const ORDERS_MAX: usize = 64;

/// Holds who watches.
#[derive(Debug)]
pub(crate) struct TapDesk {
    open: Mutex<BTreeMap<String, Open>>,
    orders: broadcast::Sender<Arc<TapOrder>>,
}

#[derive(Debug)]
struct Open {
    service: ServiceKey,
    lines: mpsc::Sender<TapLine>,
}

impl Default for TapDesk {
    fn default() -> Self {
        Self { open: Mutex::default(), orders: broadcast::Sender::new(ORDERS_MAX) }
    }
}

/// Is the end at which lines arrive; the watching ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    /// What agents show.
    pub(crate) id: String,
    desk: Arc<TapDesk>,
    /// What they send.
    pub(crate) lines: mpsc::Receiver<TapLine>,
}

/// Enough watch already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{WATCHING_MAX} watch requests through this server already: try again later, or another server")]
pub(crate) struct TooMany;

impl TapDesk {
    /// Begins to watch a service.
    pub(crate) fn open(self: &Arc<Self>, service: ServiceKey) -> Result<Watching, TooMany> {
        let (lines, arriving) = mpsc::channel(LINES_MAX);
        let id = crypto::random_hex(32);
        let mut open = self.lock();
        if open.len() >= WATCHING_MAX {
            return Err(TooMany);
        }
        open.insert(id.clone(), Open { service, lines });
        Ok(Watching { id, desk: Arc::clone(self), lines: arriving })
    }

    /// Returns where what an agent saw of a service goes; none where nobody waits for it.
    pub(crate) fn lines(&self, id: &str, entitles: impl Fn(&ServiceKey) -> bool) -> Option<mpsc::Sender<TapLine>> {
        self.lock().get(id).filter(|open| entitles(&open.service)).map(|open| open.lines.clone())
    }

    /// Has the agents told whose sessions are here.
    pub(crate) fn announce(&self, order: TapOrder) {
        // Without a port for agents there is nobody to tell.
        let _ = self.orders.send(Arc::new(order));
    }

    /// Returns what hears of every order from now on.
    pub(crate) fn orders(&self) -> broadcast::Receiver<Arc<TapOrder>> {
        self.orders.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.desk.lock().remove(&self.id);
    }
}
