//! The virtual clock and what is going to happen.

use std::collections::BTreeMap;
use std::time::Duration;

/// What is going to happen, by time and then by the order in which it was planned.
#[derive(Debug)]
pub(crate) struct Schedule<E> {
    now: Duration,
    planned: u64,
    /// In boxes: what is in between is moved whenever something is planned or taken.
    queue: BTreeMap<(Duration, u64), Box<E>>,
}

impl<E> Schedule<E> {
    pub(crate) fn new() -> Schedule<E> {
        Schedule { now: Duration::ZERO, planned: 0, queue: BTreeMap::new() }
    }

    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn plan(&mut self, after: Duration, event: E) {
        self.planned += 1;
        self.queue.insert((self.now + after, self.planned), Box::new(event));
    }

    /// Moves the clock to the next event before `deadline`, or to the deadline if there is none.
    pub(crate) fn next(&mut self, deadline: Duration) -> Option<E> {
        match self.queue.first_entry() {
            Some(first) if first.key().0 <= deadline => {
                self.now = first.key().0;
                Some(*first.remove())
            }
            _ => {
                self.now = deadline;
                None
            }
        }
    }
}
