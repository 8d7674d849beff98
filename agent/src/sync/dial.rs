//! Which server to try next, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use wire::random::Seeded;

/// The wait before the first retry is drawn from up to this.
const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// No wait before a retry is longer.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A session that lasted this long shows that the server is well, and retries start from the shortest wait again.
const WELL_AFTER: Duration = Duration::from_secs(5);
/// More servers than a Raft group has are not remembered.
const SERVERS_MAX: usize = 64;

/// A server cannot keep an agent away for longer, but for the agent's own jitter.
const SENT_AWAY_MAX: Duration = Duration::from_secs(30);

/// What to do about a lost connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Try this server.
    Dial(String),
    /// Every server wants to be left alone until then.
    NotBefore(Duration),
    /// No server is known.
    Nobody,
}

/// Walks around the known servers, waiting longer the more of them failed in a row.
#[derive(Clone, Debug)]
pub(super) struct Dialler {
    configured: Vec<String>,
    learned: Vec<String>,
    ring: Vec<String>,
    next: usize,
    /// The server that was tried last: after it fails, it is nobody's first choice.
    last: Option<String>,
    failures: u32,
    /// Servers that had too much to do, and until when each is left alone.
    away: BTreeMap<String, Duration>,
}

impl Dialler {
    pub(super) fn new(configured: Vec<String>, learned: Vec<String>, jitter: &mut Seeded) -> Self {
        let mut dialler =
            Self { configured, learned, ring: Vec::new(), next: 0, last: None, failures: 0, away: BTreeMap::new() };
        dialler.close_ring(jitter);
        dialler
    }

    /// Takes the servers that a server says there are; returns whether that is news.
    ///
    /// What was configured stays in the ring: a server that misleads must not be able to cut its agents off.
    pub(super) fn learn(&mut self, mut servers: Vec<String>, jitter: &mut Seeded) -> bool {
        servers.truncate(SERVERS_MAX);
        servers.sort();
        servers.dedup();
        if servers.is_empty() || servers == self.learned {
            return false;
        }
        self.learned = servers;
        self.close_ring(jitter);
        true
    }

    pub(super) fn learned(&self) -> &[String] {
        &self.learned
    }

    /// Returns the next server to try at `now`.
    pub(super) fn next(&mut self, now: Duration) -> Choice {
        self.away.retain(|_, until| *until > now);
        for _ in 0..self.ring.len() {
            let server = self.ring[self.next % self.ring.len()].clone();
            self.next = self.next.wrapping_add(1);
            if !self.away.contains_key(&server) {
                self.last = Some(server.clone());
                return Choice::Dial(server);
            }
        }
        self.away.values().min().map_or(Choice::Nobody, |until| Choice::NotBefore(*until))
    }

    /// Leaves the server that was tried last alone for as long as it asked, and a little longer, so that a crowd that is
    /// sent away at once does not come back at once. The others have room of their own.
    pub(super) fn sent_away(&mut self, retry_after: Duration, now: Duration, jitter: &mut Seeded) {
        let least = retry_after.min(SENT_AWAY_MAX);
        if let Some(last) = &self.last {
            self.away.insert(last.clone(), now + least + jitter.up_to(least / 4));
        }
    }

    /// Returns how long to wait after a connection that failed, or that was lost after `lasted`.
    pub(super) fn lost(&mut self, lasted: Duration, jitter: &mut Seeded) -> Duration {
        if lasted >= WELL_AFTER {
            self.failures = 0;
        }
        // By rounds, not by attempts: one dead server of three must not keep the agent from the other two.
        let rounds = self.failures / u32::try_from(self.ring.len().max(1)).unwrap_or(u32::MAX);
        let wait = jitter.backoff(rounds, BACKOFF_BASE, BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    fn close_ring(&mut self, jitter: &mut Seeded) {
        self.ring = self.configured.iter().chain(&self.learned).cloned().collect();
        self.ring.sort();
        self.ring.dedup();
        self.away.retain(|server, _| self.ring.contains(server));
        // Every agent walks in an order of its own, so that a lost server's agents spread over the rest.
        jitter.shuffle(&mut self.ring);
        if let Some(last) = self.ring.iter().position(|server| self.last.as_ref() == Some(server)) {
            let server = self.ring.remove(last);
            self.ring.push(server);
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Dialler {
        fn dials(&mut self) -> Option<String> {
            match self.next(Duration::ZERO) {
                Choice::Dial(server) => Some(server),
                Choice::NotBefore(_) | Choice::Nobody => None,
            }
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_server_is_tried_before_one_is_tried_again() {
        let mut dialler = Dialler::new(names(&["a", "b"]), names(&["b", "c"]), &mut Seeded::new(5));
        let mut round: Vec<_> = (0..3).filter_map(|_| dialler.dials()).collect();
        let again = dialler.dials();
        assert_eq!(again.as_ref(), round.first());
        round.sort();
        assert_eq!(round, names(&["a", "b", "c"]));
    }

    #[test]
    fn without_servers_there_is_nothing_to_dial() {
        assert_eq!(Dialler::new(Vec::new(), Vec::new(), &mut Seeded::new(5)).next(Duration::ZERO), Choice::Nobody);
    }

    #[test]
    fn c13_a_server_that_has_too_much_to_do_is_left_alone_and_the_others_are_tried() {
        let mut jitter = Seeded::new(5);
        let mut dialler = Dialler::new(names(&["a", "b"]), Vec::new(), &mut jitter);
        let (now, asked) = (Duration::from_secs(100), Duration::from_secs(8));
        let Choice::Dial(first) = dialler.next(now) else { panic!("nobody is dialled") };
        dialler.sent_away(asked, now, &mut jitter);
        for _ in 0..4 {
            assert!(matches!(dialler.next(now), Choice::Dial(server) if server != first));
        }
        dialler.sent_away(Duration::from_secs(3600), now, &mut jitter);
        let Choice::NotBefore(until) = dialler.next(now + Duration::from_secs(1)) else {
            panic!("somebody is dialled")
        };
        assert!(until >= now + asked && until <= now + asked * 5 / 4, "{until:?}");
        assert_eq!(dialler.next(until), Choice::Dial(first.clone()));
        // No server keeps its agents away for an hour.
        let waits: Vec<_> = (0..2).map(|_| dialler.next(now + SENT_AWAY_MAX * 5 / 4)).collect();
        assert!(waits.iter().any(|choice| matches!(choice, Choice::Dial(server) if *server != first)), "{waits:?}");
    }

    #[test]
    fn configured_servers_survive_what_a_server_says() {
        let mut jitter = Seeded::new(5);
        let mut dialler = Dialler::new(names(&["a"]), Vec::new(), &mut jitter);
        assert!(dialler.learn(names(&["x", "x"]), &mut jitter));
        assert!(!dialler.learn(names(&["x"]), &mut jitter));
        let mut round: Vec<_> = (0..2).filter_map(|_| dialler.dials()).collect();
        round.sort();
        assert_eq!(round, names(&["a", "x"]));
    }

    #[test]
    fn the_server_that_told_of_the_others_is_not_the_next_one() {
        for seed in 0..50 {
            let mut jitter = Seeded::new(seed);
            let mut dialler = Dialler::new(names(&["a", "b", "c"]), Vec::new(), &mut jitter);
            let first = dialler.dials();
            dialler.learn(names(&["a", "b", "c", "d"]), &mut jitter);
            assert_ne!(dialler.dials(), first);
        }
    }

    #[test]
    fn waits_grow_with_failures_and_start_over_after_a_good_session() {
        let mut jitter = Seeded::new(5);
        let mut dialler = Dialler::new(names(&["a"]), Vec::new(), &mut jitter);
        let longest = (0..40).map(|_| dialler.lost(Duration::ZERO, &mut jitter)).max();
        assert!(longest > Some(Duration::from_secs(5)) && longest <= Some(BACKOFF_MAX));
        assert!(dialler.lost(WELL_AFTER, &mut jitter) <= BACKOFF_BASE);
    }
}
