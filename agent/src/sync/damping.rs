//! Keeping checks that flap from flooding the servers: what is worse is said at once, what is better once it has lasted.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{Check, CheckKey, CheckStatus};

/// Status updates are not sent more often; what changes in between goes together.
const BATCH_PAUSE: Duration = Duration::from_millis(250);
/// How long a check must have been better before it is said, after its second turn for the worse; twice as long after each
/// further one.
const DWELL_MIN: Duration = Duration::from_secs(1);
/// No check must have been better for longer.
const DWELL_MAX: Duration = Duration::from_secs(10);
/// A turn for the worse is forgotten after this long without another one.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// Remembers how often checks turned for the worse, and when anything was said last.
#[derive(Debug, Default)]
pub(super) struct Damping {
    checks: BTreeMap<CheckKey, Turns>,
    said_at: Option<Duration>,
}

#[derive(Debug)]
struct Turns {
    status: CheckStatus,
    since: Duration,
    worse: u32,
}

impl Damping {
    /// Takes in what the checks say now.
    pub(super) fn observe(&mut self, checks: &BTreeMap<CheckKey, Check>, now: Duration) {
        self.checks.retain(|key, _| checks.contains_key(key));
        for (key, check) in checks {
            let first = || Turns { status: check.status, since: now, worse: 0 };
            let turns = self.checks.entry(key.clone()).or_insert_with(first);
            if check.status != turns.status {
                turns.turn(check.status, now);
            }
        }
    }

    /// Returns until when nothing may be said of any check; none where something may be said now.
    pub(super) fn pause(&self, now: Duration) -> Option<Duration> {
        self.said_at.map(|at| at + BATCH_PAUSE).filter(|until| now < *until)
    }

    /// Returns until when it is not said that a check is better than `shown`; none where it may be said now.
    pub(super) fn dwell(&self, key: &CheckKey, shown: CheckStatus, now: Duration) -> Option<Duration> {
        let turns = self.checks.get(key).filter(|turns| turns.status < shown)?;
        Some(turns.since + turns.dwell()).filter(|until| now < *until)
    }

    /// Notes that something is said now.
    pub(super) fn said(&mut self, now: Duration) {
        self.said_at = Some(now);
    }
}

impl Turns {
    fn turn(&mut self, status: CheckStatus, now: Duration) {
        let forgiven = now.saturating_sub(self.since).as_secs() / FORGIVEN_AFTER.as_secs();
        self.worse = self.worse.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        if status > self.status {
            self.worse = self.worse.saturating_add(1);
        }
        (self.status, self.since) = (status, now);
    }

    fn dwell(&self) -> Duration {
        match self.worse {
            // Whoever fails once is back at once.
            0 | 1 => Duration::ZERO,
            worse => DWELL_MIN.saturating_mul(2_u32.saturating_pow(worse - 2)).min(DWELL_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(status: CheckStatus) -> BTreeMap<CheckKey, Check> {
        let key = CheckKey {
            node: "n1".parse().unwrap(),
            namespace: "default".parse().unwrap(),
            id: "alive".parse().unwrap(),
        };
        let check = Check {
            key: key.clone(),
            name: "alive".to_owned(),
            status,
            notes: String::new(),
            output: String::new(),
            instance: None,
            kind: "tcp".to_owned(),
            created: Default::default(),
            modified: Default::default(),
        };
        BTreeMap::from([(key, check)])
    }

    #[test]
    fn fault_32_a_check_that_flaps_is_better_only_once_that_has_lasted() {
        let mut damping = Damping::default();
        let key = checks(CheckStatus::Passing).into_keys().next().unwrap();
        let mut now = Duration::ZERO;
        damping.observe(&checks(CheckStatus::Passing), now);
        let mut dwells = Vec::new();
        for _ in 0..7 {
            now += Duration::from_secs(1);
            damping.observe(&checks(CheckStatus::Critical), now);
            assert_eq!(damping.dwell(&key, CheckStatus::Passing, now), None, "what is worse is said at once");
            now += Duration::from_secs(1);
            damping.observe(&checks(CheckStatus::Passing), now);
            dwells.push(damping.dwell(&key, CheckStatus::Critical, now).map_or(0, |until| (until - now).as_secs()));
        }
        assert_eq!(dwells, [0, 1, 2, 4, 8, 10, 10]);
        assert!(damping.dwell(&key, CheckStatus::Critical, now + DWELL_MAX).is_none());
        now += FORGIVEN_AFTER * 7;
        damping.observe(&checks(CheckStatus::Critical), now);
        damping.observe(&checks(CheckStatus::Passing), now);
        assert_eq!(damping.dwell(&key, CheckStatus::Critical, now), None, "long calm is rewarded");
    }
}
