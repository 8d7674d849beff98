//! Counts log lines that this process dropped because nobody took them.

use std::sync::atomic::{AtomicU64, Ordering};

static LOST: AtomicU64 = AtomicU64::new(0);

/// Counts lines that were dropped.
pub fn add(lines: u64) {
    LOST.fetch_add(lines, Ordering::Relaxed);
}

/// Returns how many lines were dropped since the process began.
pub fn total() -> u64 {
    LOST.load(Ordering::Relaxed)
}
