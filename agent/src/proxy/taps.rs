//! Who watches the requests to local services. What nobody takes in time ends the watching: no request waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::NodeName;
use tokio::sync::mpsc;
use wire::tap::{TapEvent, TapOrder};

/// How many may watch at once.
const TAPS_MAX: usize = 4;
/// Requests that wait to be sent to one who watches.
const WAITING_MAX: usize = 512;

/// Holds those who watch.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    /// How many there are; read for each request.
    count: AtomicUsize,
    open: Mutex<Vec<Tap>>,
}

#[derive(Debug)]
struct Tap {
    order: TapOrder,
    node: NodeName,
    events: mpsc::Sender<TapEvent>,
}

/// Is the end at which what is watched arrives; the watching ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    id: String,
    taps: Arc<Taps>,
    /// Ends early where it was not read fast enough.
    pub(crate) events: mpsc::Receiver<TapEvent>,
}

impl Taps {
    /// Begins to watch; none where enough watch already, or this one does.
    pub(crate) fn watch(self: &Arc<Self>, order: TapOrder, node: NodeName) -> Option<Watched> {
        let (events, arriving) = mpsc::channel(WAITING_MAX);
        let id = order.id.clone();
        let mut open = self.lock();
        if open.len() >= TAPS_MAX || open.iter().any(|tap| tap.order.id == id) {
            return None;
        }
        open.push(Tap { order, node, events });
        self.count.store(open.len(), Ordering::Relaxed);
        Some(Watched { id, taps: Arc::clone(self), events: arriving })
    }

    /// Reports whether anybody watches.
    pub(crate) fn are_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Lists the headers that somebody wants to see.
    pub(crate) fn headers(&self) -> Vec<String> {
        self.lock().iter().flat_map(|tap| tap.order.wanted.headers.iter().cloned()).collect()
    }

    /// Tells those of a request who want to hear of it; whoever has not read what was told before hears no more.
    pub(crate) fn tell(&self, event: &TapEvent) {
        let mut open = self.lock();
        open.retain(|tap| {
            let is_wanted = event.destination == tap.order.service.to_string() && tap.order.wanted.matches(event);
            if !is_wanted {
                return true;
            }
            let mut event = event.clone();
            event.node = Some(tap.node.clone());
            event.headers.retain(|name, _| tap.order.wanted.headers.contains(name));
            tap.events.try_send(event).is_ok()
        });
        self.count.store(open.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Tap>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut open = self.taps.lock();
        open.retain(|tap| tap.order.id != self.id);
        self.taps.count.store(open.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use wire::tap::TapFilter;

    use super::*;

    fn order(id: &str) -> TapOrder {
        TapOrder {
            id: id.to_owned(),
            service: "api".parse().unwrap(),
            wanted: TapFilter { headers: vec!["x-env".to_owned()], ..TapFilter::default() },
            lasts_ms: 1000,
            server: "127.0.0.1:1".to_owned(),
        }
    }

    fn watch(taps: &Arc<Taps>, id: &str) -> Option<Watched> {
        taps.watch(order(id), "n1".parse().unwrap())
    }

    fn event() -> TapEvent {
        let event = serde_json::json!({
            "Time": "2026-01-01T00:00:00Z", "Source": "default/web", "Destination": "default/api",
            "Method": "GET", "Path": "/", "Status": 200, "Reason": "done", "DurationMs": 1.0, "BytesSent": 0,
            "BytesRecv": 0, "Headers": {"x-env": "prod", "x-other": "1"},
        });
        serde_json::from_value(event).unwrap()
    }

    #[test]
    fn few_watch_at_once_and_each_once_and_until_it_ends() {
        let taps = Arc::new(Taps::default());
        let first = watch(&taps, "0").unwrap();
        assert!(watch(&taps, "0").is_none());
        let rest: Vec<_> = (1..TAPS_MAX).map(|id| watch(&taps, &id.to_string()).unwrap()).collect();
        assert!(watch(&taps, "more").is_none() && taps.are_any());
        drop((first, rest));
        assert!(!taps.are_any());
    }

    #[test]
    fn fault_44_whoever_watches_and_does_not_read_hears_no_more() {
        let taps = Arc::new(Taps::default());
        let mut watched = watch(&taps, "1").unwrap();
        for _ in 0..WAITING_MAX + 100 {
            taps.tell(&event());
        }
        assert!(!taps.are_any(), "it was cut");
        let mut heard = Vec::new();
        while let Ok(event) = watched.events.try_recv() {
            heard.push(event);
        }
        assert_eq!(heard.len(), WAITING_MAX);
        assert_eq!(heard[0].headers.keys().collect::<Vec<_>>(), ["x-env"]);
    }
}
