//! Keeps the catalog's clock going while nobody writes: what waits for a time would wait for ever.
//!
//! The clock follows the times inside commands. Where none come, the leader writes one that says nothing but the time. That is
//! never more than what has passed since this server saw the clock move last, by a clock of its own that cannot jump: a leader
//! whose wall clock is ahead hurries nothing. What a whole mesh slept through is made up for by others' commands only.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use catalog::{Catalog, Command, Timestamp};
use tokio::time::Instant;
use tracing::debug;
use wire::{crypto, one_line};

use super::status::Role;
use super::transport::jittered;
use super::{Committed, Consensus, ProposeError};

/// How far the clock may be behind before the time is written: an idle mesh has one such entry in about as much time.
pub(crate) const BEHIND_MAX: Duration = Duration::from_secs(45);
/// How often a server looks whether the clock has moved.
const LOOK: Duration = Duration::from_secs(1);

/// Is where this server saw the catalog's clock last, and when.
#[derive(Debug, Default)]
pub(crate) struct SeenClock(Mutex<Option<(Timestamp, Instant)>>);

impl SeenClock {
    /// Looks at the catalog's clock, and returns what it may show by now: the time that has passed since it moved is added.
    fn look(&self, catalog: &Catalog, now: Instant) -> Timestamp {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (clock, since) = (*seen).filter(|(clock, _)| *clock == catalog.clock()).unwrap_or((catalog.clock(), now));
        *seen = Some((clock, since));
        clock.saturating_add(now.saturating_duration_since(since))
    }
}

/// Returns the time to write, if it is worth an entry: what the wall clock shows, but no more than `may_show`.
fn due(clock: Timestamp, may_show: Timestamp, wall: Timestamp, behind_max: Duration) -> Option<Timestamp> {
    let time = may_show.min(wall);
    (time.since(clock) >= behind_max && !time.since(clock).is_zero()).then_some(time)
}

/// Writes the time whenever this server leads, the mesh is established, and nothing else was written for a while.
pub(crate) async fn run(consensus: Consensus, behind_max: Duration) {
    loop {
        tokio::time::sleep(jittered(LOOK.min(behind_max))).await;
        if let Err(error) = consensus.tell_time(behind_max).await {
            debug!(error = one_line(&error), "the time is not written yet");
        }
    }
}

impl Consensus {
    /// Moves the catalog's clock as far as time has passed, where it is further behind than this and this server leads.
    ///
    /// Returns what was committed; `None` where there was nothing to write.
    ///
    /// # Errors
    /// As [`Consensus::propose`].
    pub(crate) async fn tell_time(&self, behind_max: Duration) -> Result<Option<Committed>, ProposeError> {
        let catalog = self.catalog();
        let may_show = self.shared.clock.look(&catalog, Instant::now());
        let leads = self.shared.standing.borrow().role == Role::Leader;
        if !leads || catalog.mesh().is_none() {
            return Ok(None);
        }
        match due(catalog.clock(), may_show, crypto::now(), behind_max) {
            Some(time) => self.propose_as_server_at(time, Command::Time).await.map(Some),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::testing::Alone;

    #[test]
    fn fault_20_the_time_that_is_written_is_never_more_than_what_has_passed() {
        let (at, minute) = (|seconds: u64| Timestamp(seconds * 1_000), Duration::from_secs(60));
        let rows = [
            // The wall clock is right: what has passed is written, once that is enough.
            (at(1_000), at(1_059), at(1_059), None),
            (at(1_000), at(1_060), at(1_060), Some(at(1_060))),
            // It is ahead by hours: what has passed counts.
            (at(1_000), at(1_060), at(9_999), Some(at(1_060))),
            (at(1_000), at(1_010), at(9_999), None),
            // It is behind, or this server has been asleep: the wall clock counts.
            (at(1_000), at(1_500), at(900), None),
            (at(1_000), at(9_999), at(1_070), Some(at(1_070))),
        ];
        for (clock, may_show, wall, want) in rows {
            assert_eq!(due(clock, may_show, wall, minute), want, "{clock} {may_show} {wall}");
        }
        assert_eq!(due(at(5), at(5), at(5), Duration::ZERO), None, "nothing has passed");
    }

    #[tokio::test]
    async fn what_has_passed_is_counted_from_where_the_clock_was_seen_to_move() {
        let (seen, began) = (SeenClock::default(), Instant::now());
        let mut catalog = Catalog::default();
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(seen.look(&catalog, after(0)), Timestamp(0));
        assert_eq!(seen.look(&catalog, after(30)), Timestamp(30_000));
        let envelope = catalog::Envelope {
            version: 2,
            request_id: "r1".parse().unwrap(),
            actor: catalog::Actor::ClusterKey,
            source_address: None,
            proposed_at: Timestamp(500_000),
            command: Command::Time,
        };
        catalog.apply(catalog::CatalogIndex(1), &envelope, crypto::sha256);
        assert_eq!(
            seen.look(&catalog, after(40)),
            Timestamp(500_000),
            "it has moved just now, as far as this server knows"
        );
        assert_eq!(seen.look(&catalog, after(45)), Timestamp(505_000));
    }

    #[tokio::test]
    async fn the_catalogs_clock_goes_on_where_nobody_writes() {
        let alone = Alone::start().await;
        let before = alone.consensus.catalog().clock();
        let told = tokio::spawn(run(alone.consensus.clone(), Duration::from_millis(20)));
        let mut applied = alone.consensus.shared.applied.subscribe();
        let clock = || alone.consensus.catalog().clock();
        let passes = async {
            while clock() < before.saturating_add(Duration::from_millis(500)) {
                applied.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), passes).await.expect("the time is written");
        assert!(clock() <= crypto::now(), "{before} {}", clock());
        told.abort();
    }

    #[tokio::test]
    async fn the_time_that_has_passed_is_written_and_no_line_tells_of_it() {
        let alone = Alone::start().await;
        let told = async {
            loop {
                let before = alone.consensus.catalog();
                alone.consensus.shared.clock.look(&before, Instant::now());
                tokio::time::sleep(Duration::from_millis(30)).await;
                let written = alone.consensus.tell_time(Duration::from_millis(20)).await.unwrap();
                let after = alone.consensus.catalog();
                // What the server wrote by itself meanwhile moves the clock as well, and has lines.
                if written
                    .is_some_and(|written| written.index.0 == before.index().0 + 1 && after.index() == written.index)
                {
                    return (before, after);
                }
            }
        };
        let (before, after) = tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
        let passed = after.clock().since(before.clock());
        assert!(passed >= Duration::from_millis(20), "{passed:?}");
        assert_eq!(after.audit_head(), before.audit_head());
    }
}
