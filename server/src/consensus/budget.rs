//! Bounds a queue by the bytes in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes that wait in a queue; a clone counts into the same number.
#[derive(Debug, Clone)]
pub(crate) struct ByteBudget {
    held: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// Counts against a budget until dropped.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    budget: ByteBudget,
    bytes: usize,
}

impl ByteBudget {
    /// Returns a budget of `bytes_max` bytes, none of them taken.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { held: Arc::default(), bytes_max }
    }

    /// Takes `bytes` of the budget, if they are left. A single taker may take more than all of it.
    pub(crate) fn hold(&self, bytes: usize) -> Option<HeldBytes> {
        let mut held = HeldBytes { budget: self.clone(), bytes: 0 };
        held.take_more(bytes).then_some(held)
    }
}

impl HeldBytes {
    /// Takes `bytes` more, as [`ByteBudget::hold`] does; reports whether they were left.
    pub(crate) fn take_more(&mut self, bytes: usize) -> bool {
        let ByteBudget { held, bytes_max } = &self.budget;
        let taken = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            (held == self.bytes || held.saturating_add(bytes) <= *bytes_max).then(|| held.saturating_add(bytes))
        });
        self.bytes += if taken.is_ok() { bytes } else { 0 };
        taken.is_ok()
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_not_exceeded_and_gets_its_bytes_back() {
        let budget = ByteBudget::new(10);
        let (first, second) = (budget.hold(6), budget.hold(4));
        assert!(first.is_some() && second.is_some() && budget.hold(1).is_none());
        drop(first);
        assert!(budget.hold(7).is_none() && budget.hold(6).is_some());
    }

    #[test]
    fn what_grows_takes_what_is_left_and_gives_all_of_it_back() {
        let budget = ByteBudget::new(10);
        let (other, mut growing) = (budget.hold(4).unwrap(), budget.hold(0).unwrap());
        assert!(growing.take_more(5) && !growing.take_more(2) && growing.take_more(1));
        assert!(budget.hold(1).is_none());
        drop(other);
        assert!(growing.take_more(11), "it is alone");
        drop(growing);
        assert!(budget.hold(10).is_some());
    }

    #[test]
    fn one_taker_may_take_more_than_all() {
        let budget = ByteBudget::new(10);
        let whole = budget.hold(11);
        assert!(whole.is_some() && budget.hold(1).is_none());
        drop(whole);
        assert!(budget.hold(1).is_some());
    }
}
