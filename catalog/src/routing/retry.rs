//! How many requests are asked again at most: a share of all, so that retries never become the load that brings a service
//! down.

use std::sync::atomic::{AtomicU32, Ordering};

/// What every request adds, in thousandths of a retry: one in five may be a retry.
const DEPOSIT: u32 = 200;
/// What one retry takes.
const PRICE: u32 = 1000;
/// What is saved up at most: this many retries in a row.
const SAVED_MAX: u32 = 100 * PRICE;
/// What there is at the start, so that the first failures are saved too.
const SAVED_FIRST: u32 = 10 * PRICE;

/// Counts what may be spent on retries of one service; many may count at once.
#[derive(Debug)]
pub struct RetryBudget {
    saved: AtomicU32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { saved: AtomicU32::new(SAVED_FIRST) }
    }
}

impl RetryBudget {
    /// Counts a request that is asked for the first time.
    pub fn deposit(&self) {
        let more = |saved: u32| (saved < SAVED_MAX).then(|| (saved + DEPOSIT).min(SAVED_MAX));
        let _full = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Takes the price of a retry, if there is enough.
    pub fn spend(&self) -> bool {
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(PRICE)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_requests_and_a_few_at_the_start() {
        let budget = RetryBudget::default();
        let mut retried = 0;
        for _ in 0..1000 {
            budget.deposit();
            retried += u32::from(budget.spend());
        }
        assert_eq!(retried, 10 + 1000 / 5 - 1 + 1);
        assert!((0..10_000).filter(|_| budget.spend()).count() <= 100);
        for _ in 0..10_000 {
            budget.deposit();
        }
        assert_eq!((0..10_000).filter(|_| budget.spend()).count(), 100, "nothing is saved for a storm");
    }
}
