//! How much a connection is in use.

use std::time::Duration;

use tokio::sync::watch;

/// Counts a connection's requests in flight; a clone counts into the same number.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    in_flight: watch::Sender<usize>,
}

/// One request in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    activity: Activity,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity { in_flight: watch::Sender::new(0) }
    }
}

impl Activity {
    /// Counts a request as in flight until the guard is dropped.
    pub(super) fn enter(&self) -> InFlight {
        self.in_flight.send_modify(|count| *count += 1);
        InFlight { activity: self.clone() }
    }

    /// Waits until no request has been in flight for `limit`, or none has come within `first` at the start.
    pub(super) async fn idle(&self, first: Duration, limit: Duration) {
        let mut count = self.in_flight.subscribe();
        let mut wait = first;
        loop {
            let is_idle = *count.borrow_and_update() == 0;
            let changed = if is_idle {
                match tokio::time::timeout(wait, count.changed()).await {
                    Ok(changed) => changed,
                    Err(_) => return,
                }
            } else {
                count.changed().await
            };
            if changed.is_err() {
                return;
            }
            wait = limit;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.in_flight.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(3600);

    /// Says whether the connection counts as idle within a moment.
    async fn is_idle(activity: &Activity, first: Duration, limit: Duration) -> bool {
        tokio::time::timeout(10 * SHORT, activity.idle(first, limit)).await.is_ok()
    }

    #[tokio::test]
    async fn a5_a_connection_without_requests_is_idle_and_one_with_a_stream_is_not() {
        let activity = Activity::default();
        assert!(is_idle(&activity, SHORT, LONG).await);
        assert!(!is_idle(&activity, LONG, SHORT).await);
        let (one, other) = (activity.enter(), activity.enter());
        assert!(!is_idle(&activity, SHORT, SHORT).await);
        drop(one);
        assert!(!is_idle(&activity, SHORT, SHORT).await);
        let ending = async {
            tokio::task::yield_now().await;
            drop(other);
        };
        // Once there has been a request, the longer patience of a connection in use counts.
        let (idle, ()) = tokio::join!(is_idle(&activity, LONG, SHORT), ending);
        assert!(idle);
    }
}
