//! Choosing an instance to call, and remembering how they fared.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::{InstanceKey, InstanceLabel, Leg, PassiveHealthCheck};
use tokio::time::Instant;
use wire::crypto;
use wire::random::drawn;

use super::allowance::Allowed;
use super::call_error::CallError;
use super::cluster::{Cluster, Member};
use super::standing::Standing;
use crate::proxy::snapshot::Snapshot;

/// How many tunnels may turn out dead, or take no more, before an instance is given up.
const STALE_TUNNELS_MAX: usize = 3;

/// Remembers how the instances that are called have fared.
#[derive(Debug)]
pub(crate) struct Endpoints {
    standings: Mutex<HashMap<InstanceKey, Arc<Standing>>>,
    draws: Draws,
}

/// Draws numbers. Good enough to spread load, and nothing else hangs on it.
#[derive(Debug)]
pub(crate) struct Draws {
    seed: u64,
    count: AtomicU64,
    epoch: Instant,
}

/// Is the instances of each target of a way, in the order in which the targets are tried.
pub(crate) type Targets = Vec<Arc<Cluster>>;

/// Holds the instances that a call has tried; a call that is made once only needs no memory for them.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    first: Option<Arc<Standing>>,
    more: Vec<Arc<Standing>>,
    /// How many tunnels were none any more since an instance was given up last.
    stale: usize,
}

/// Is an instance that was chosen for a connection. While it lives, the connection counts as open there.
#[derive(Debug)]
pub(crate) struct Chosen {
    member: Arc<Member>,
    cluster: Arc<Cluster>,
    /// Counts the call as one of those at once.
    allowed: Option<Allowed>,
    /// Where its agent is dialled.
    pub(crate) mesh_address: Arc<str>,
    since: Instant,
}

/// Says which instances come into question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those of the own network, or where there are none, those that a gateway leads to.
    Anywhere,
    /// Those of the own network, or the one of them that is asked for: what a gateway passes on goes no further, and only
    /// its caller knows which instances will do.
    OwnNetwork(Option<InstanceLabel>),
}

/// Returns what an instance is called in a server name.
pub(crate) fn label_of(instance: &InstanceKey) -> InstanceLabel {
    InstanceLabel::of_digest(&crypto::sha256(instance.to_string().as_bytes()))
}

impl Default for Endpoints {
    fn default() -> Self {
        let draws =
            Draws { seed: u64::from_le_bytes(crypto::random()), count: AtomicU64::new(0), epoch: Instant::now() };
        Self { standings: Mutex::default(), draws }
    }
}

impl Endpoints {
    /// Works out among which instances the calls of a way choose.
    pub(crate) fn targets(&self, snapshot: &Snapshot, leg: &Leg, scope: Scope) -> Targets {
        let is_alone = leg.targets.len() == 1;
        let standing = |key: &InstanceKey| {
            let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
            match standings.get(key) {
                Some(standing) => Arc::clone(standing),
                None => {
                    let standing = Arc::new(Standing::new(self.draws.epoch));
                    standings.insert(key.clone(), Arc::clone(&standing));
                    standing
                }
            }
        };
        let how = (leg, is_alone, scope);
        leg.targets.iter().map(|target| Arc::new(Cluster::new(snapshot, target, how, standing, &self.draws))).collect()
    }

    /// Chooses an instance that has not been tried yet, of the first target that has one in good health.
    ///
    /// Endpoints that were put aside come into play only when no other is left, of any target: to try them is better than to
    /// refuse.
    ///
    /// # Errors
    ///
    /// Why no instance of the first target can be called; after the last has been tried, that none is healthy.
    pub(crate) fn choose(
        &self,
        targets: &[Arc<Cluster>],
        hash: Option<u64>,
        tried: &Tried,
        now: Instant,
    ) -> Result<Chosen, CallError> {
        let (mut last_resort, mut failure) = (None, None);
        for cluster in targets {
            match cluster.pick(&self.draws, hash, tried, now) {
                Ok((member, true)) => return Ok(self.take(cluster, member, now)),
                Ok((member, false)) => drop(last_resort.get_or_insert((cluster, member))),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        match (last_resort, failure) {
            (Some((cluster, member)), _) => Ok(self.take(cluster, member, now)),
            (None, Some(error)) => Err(error),
            (None, None) => Err(CallError::NoRoute),
        }
    }

    /// Counts a call as open at an instance.
    fn take(&self, cluster: &Arc<Cluster>, member: &Arc<Member>, now: Instant) -> Chosen {
        member.standing.enter();
        // One of several gateways, drawn anew each time.
        let number = if member.addresses.len() > 1 { self.draws.below(member.addresses.len()) } else { 0 };
        let mesh_address = member.addresses.get(number).map_or_else(|| Arc::from(""), Arc::clone);
        Chosen { member: Arc::clone(member), cluster: Arc::clone(cluster), allowed: None, mesh_address, since: now }
    }

    /// Forgets the instances that a snapshot no longer has.
    pub(crate) fn retain(&self, snapshot: &Snapshot) {
        let known: HashSet<&InstanceKey> =
            snapshot.endpoints.values().flatten().map(|endpoint| &endpoint.key).collect();
        let mut standings = self.standings.lock().unwrap_or_else(PoisonError::into_inner);
        standings.retain(|key, _| known.contains(key));
    }

    /// Returns how an instance has fared; none of which was never called.
    pub(crate) fn standing(&self, key: &InstanceKey) -> Option<Arc<Standing>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Draws any number.
    pub(crate) fn draw_any(&self) -> u64 {
        self.draws.any()
    }
}

impl Draws {
    /// Draws any number.
    pub(crate) fn any(&self) -> u64 {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        drawn(self.seed, count)
    }

    /// Draws a number below `bound`, or 0.
    pub(crate) fn below(&self, bound: usize) -> usize {
        usize::try_from(self.any() % (bound.max(1) as u64)).unwrap_or(0)
    }

    /// Returns from where time is counted.
    pub(crate) fn epoch(&self) -> Instant {
        self.epoch
    }
}

impl Tried {
    /// Counts a tunnel as none any more; says whether another one may be tried before an instance is given up.
    pub(crate) fn may_meet_stale(&mut self) -> bool {
        self.stale += 1;
        self.stale <= STALE_TUNNELS_MAX
    }

    /// Adds an instance.
    pub(crate) fn add(&mut self, chosen: &Chosen) {
        self.stale = 0;
        let standing = Arc::clone(&chosen.member.standing);
        match &self.first {
            None => self.first = Some(standing),
            Some(_) => self.more.push(standing),
        }
    }

    /// Reports whether an instance is among them.
    pub(crate) fn has(&self, standing: &Arc<Standing>) -> bool {
        self.first.iter().chain(&self.more).any(|tried| Arc::ptr_eq(tried, standing))
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }
}

impl Deref for Chosen {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

impl Chosen {
    /// Holds what counts the call as one of those at once, for as long as it lives. From now on it waits for an answer.
    pub(crate) fn hold(&mut self, allowed: Option<Allowed>) {
        self.allowed = allowed;
        self.since = Instant::now();
    }

    /// Records whether the instance did well. One that fails too often in a row is ejected, if enough others are left; says
    /// whether it was.
    pub(crate) fn fared(&self, passive: &PassiveHealthCheck, is_failure: bool, draw: u64, now: Instant) -> bool {
        let standing = &self.member.standing;
        if !is_failure {
            standing.did_well();
            return false;
        }
        if !standing.did_badly(passive.failures()) || draw % 100 >= u64::from(passive.enforcing()) {
            return false;
        }
        let (all, aside) = self.cluster.count_aside(now);
        if standing.is_aside(now) || aside >= passive.most_of(all) {
            return false;
        }
        standing.eject(now, passive.interval(), |before| passive.length(before));
        true
    }

    /// Returns how long it may take until the instance is reached, where the service's entries say.
    pub(crate) fn connect_timeout(&self) -> Option<Duration> {
        self.cluster.connect_timeout
    }

    /// Records that the instance was reached.
    pub(crate) fn succeeded(&self) {
        self.member.standing.reached();
    }

    /// Records that the instance was not reached, and puts it aside for a while.
    pub(crate) fn failed(&self, now: Instant) {
        self.member.standing.missed(now);
    }

    /// Records how long it took to answer since it was chosen, or how long there was no answer.
    pub(crate) fn answered(&self, now: Instant, is_failure: bool) {
        self.member.standing.took(now, now.saturating_duration_since(self.since), is_failure);
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.member.standing.leave();
    }
}
