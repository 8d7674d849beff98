//! Waiting for what becomes true by itself.

use std::time::{Duration, Instant};

/// A promise in seconds is asserted with a deadline of this many times the promise: machines that run tests are busy.
pub(crate) const PROMISE_FACTOR: u32 = 5;

/// Asks again and again until there is an answer; fails the test at the deadline, naming what was waited for.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, deadline: Duration, ask: impl FnMut() -> Option<T>) -> T {
    within(deadline, ask).unwrap_or_else(|| panic!("waited {deadline:?} for {what}"))
}

/// Asks again and again until there is an answer, or none to a question asked after the deadline: one slow answer does not use up
/// the time of all others.
pub(crate) fn within<T>(deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let is_last = start.elapsed() >= deadline;
        let answer = ask();
        if answer.is_some() || is_last {
            return answer;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}
