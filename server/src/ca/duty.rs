//! What the leader owes the certificate authority next, from the state alone: whoever leads next goes on from there.

use std::time::Duration;

use catalog::{AgentRecord, CaRoot, CaRotation, Catalog, RotationStep, Timestamp};

/// A leaf that was signed without a quorum may be younger than the moment from which on the old root signs nothing more.
const UNSEEN_SIGNING_MAX: Duration = Duration::from_secs(3600);
/// Longest wait for agents that do not renew, before a root that somebody distrusts is taken from them all the same.
const DISTRUST_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Is what is to be done for the authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// Nothing, until something changes or the time comes that is named.
    Wait {
        /// The time.
        until: Option<Timestamp>,
    },
    /// Draw another intermediate under the same root: half of the present one's life has passed.
    RenewIntermediate {
        /// When that half was over.
        not_before: Timestamp,
    },
    /// Draw another root: half of the present one's life has passed.
    StartRotation {
        /// When that half was over.
        not_before: Timestamp,
    },
    /// Have the new root sign.
    Activate {
        /// The root.
        root: String,
        /// The time that was waited for in place of agents.
        not_before: Option<Timestamp>,
    },
    /// End the rotation.
    Finish {
        /// The root that has taken over.
        root: String,
        /// The time that was waited for in place of agents.
        not_before: Option<Timestamp>,
    },
    /// Take the replaced root from everybody at once.
    Distrust {
        /// The root.
        root: String,
        /// The time that was waited for in place of agents.
        not_before: Option<Timestamp>,
    },
    /// Take a replaced root out of the bundle.
    Retire {
        /// The root.
        root: String,
        /// When the last leaf under it has expired.
        not_before: Timestamp,
    },
}

/// Returns the agents that have not done yet what the present step of a rotation waits for, and may yet. `unset` is how long
/// leaves live where the catalog does not say.
pub fn agents_waited_for<'a>(
    catalog: &'a Catalog,
    rotation: &'a CaRotation,
    unset: Duration,
) -> impl Iterator<Item = &'a AgentRecord> {
    // One that never opened a session holds at most the leaf that it joined with, and hears of the new root before it serves.
    let opened = catalog.agent_records().filter(|record| record.incarnation.is_some());
    // One that was away for so long that its node was removed serves nobody; should it come back, it hears of the new root first.
    // Where it knows no root that certifies the new one, though, it would recognise nobody any more while its last leaf lives:
    // also one that took leave, for it may only be restarted. It knows none where the old root certifies nothing, or where it
    // went before that one took over. Where the old root is to be distrusted it will recognise nobody anyway.
    let certifies = |root: &CaRoot| root.cross.as_ref().is_some_and(|cross| cross.signed_by == rotation.replaces);
    let is_certified = catalog.root(&rotation.root_id).is_some_and(certifies);
    let took_over_at = older_roots(catalog, rotation).filter_map(|root| root.replaced_at).max();
    let is_lost_to_it = move |lost_at: Timestamp| !is_certified || took_over_at.is_some_and(|at| lost_at <= at);
    let waits = rotation.step == RotationStep::Distributing && !rotation.distrust_replaced;
    let leaf_ttl = longest_leaf_ttl(catalog, rotation, unset);
    let may_call = move |lost_at: Timestamp| {
        waits && is_lost_to_it(lost_at) && lost_at.saturating_add(leaf_ttl) > rotation.started_at
    };
    let live = opened.filter(move |record| {
        record.presence.lost_at.is_none_or(|lost_at| may_call(lost_at) || catalog.holds_node(record))
    });
    live.filter(|record| !catalog.roots_ack(&record.id).is_some_and(|ack| rotation.is_met(ack)))
}

/// Returns the roots that were replaced before the one that this rotation replaces, and under which leaves may live yet.
fn older_roots<'a>(catalog: &'a Catalog, rotation: &'a CaRotation) -> impl Iterator<Item = &'a CaRoot> {
    catalog.roots().filter(|root| !root.retired && root.id != rotation.replaces && root.id != rotation.root_id)
}

/// Returns how long the last leaf lives that somebody may hold who is waited for in the present step.
fn longest_leaf_ttl(catalog: &Catalog, rotation: &CaRotation, unset: Duration) -> Duration {
    let of = |root: &str| catalog.longest_leaf_ttl(root, unset);
    let older = older_roots(catalog, rotation).filter(|_| rotation.step == RotationStep::Distributing);
    older.map(|root| of(&root.id)).fold(of(&rotation.replaces), Duration::max)
}

/// Returns how long after a root was replaced the last leaf under it has expired.
pub fn patience_of_retirement(catalog: &Catalog, root: &str, unset: Duration) -> Duration {
    let leaf_ttl = catalog.longest_leaf_ttl(root, unset);
    leaf_ttl + leaf_ttl.min(UNSEEN_SIGNING_MAX)
}

/// Decides what to do at `now`, by the leader's clock. `unset` is how long leaves live where the catalog does not say.
pub fn next_duty(catalog: &Catalog, unset: Duration, now: Timestamp) -> Duty {
    let mut until: Option<Timestamp> = None;
    let mut wait_for = |at: Timestamp| {
        if at > now {
            until = Some(until.map_or(at, |until| until.min(at)));
        }
        at <= now
    };
    if let Some(rotation) = catalog.ca_rotation() {
        let deadline = deadline(catalog, rotation, unset);
        let all_met = agents_waited_for(catalog, rotation, unset).next().is_none();
        if all_met || wait_for(deadline) {
            return step(rotation, (!all_met).then_some(deadline));
        }
    }
    if let Some(intermediate) = catalog.active_intermediate()
        && catalog.root(&intermediate.root_id).is_some_and(|root| root.sealed_key.is_some() && root.not_after > now)
    {
        let half = middle(intermediate.not_before, intermediate.not_after);
        if wait_for(half) {
            return Duty::RenewIntermediate { not_before: half };
        }
    }
    if catalog.ca_rotation().is_none() {
        for root in catalog.roots().filter(|root| !root.retired) {
            let Some(replaced_at) = root.replaced_at else { continue };
            let at = replaced_at.saturating_add(patience_of_retirement(catalog, &root.id, unset));
            if wait_for(at) {
                return Duty::Retire { root: root.id.clone(), not_before: at };
            }
        }
        if let Some(root) = catalog.active_root().filter(|root| root.sealed_key.is_some()) {
            let half = middle(root.not_before, root.not_after);
            if wait_for(half) {
                return Duty::StartRotation { not_before: half };
            }
        }
    }
    Duty::Wait { until }
}

/// Returns the step that follows; `not_before` is the time that it waited for in place of agents.
fn step(rotation: &CaRotation, not_before: Option<Timestamp>) -> Duty {
    match rotation.step {
        RotationStep::Distributing => Duty::Activate { root: rotation.root_id.clone(), not_before },
        RotationStep::Reissuing if rotation.distrust_replaced => {
            Duty::Distrust { root: rotation.replaces.clone(), not_before }
        }
        RotationStep::Reissuing => Duty::Finish { root: rotation.root_id.clone(), not_before },
    }
}

/// Returns when a step no longer waits for agents that stay silent: their leaves have expired by then, and they hear of the
/// new root before they get another. Nobody is waited for under a root that has expired itself.
pub fn deadline(catalog: &Catalog, rotation: &CaRotation, unset: Duration) -> Timestamp {
    let leaf_ttl = longest_leaf_ttl(catalog, rotation, unset);
    let patience = if rotation.distrust_replaced { leaf_ttl.min(DISTRUST_PATIENCE) } else { leaf_ttl };
    let since = rotation.activated_at.unwrap_or(rotation.started_at);
    let expired = catalog.root(&rotation.replaces).map_or(Timestamp(u64::MAX), |root| root.not_after);
    since.saturating_add(patience).min(expired)
}

fn middle(begin: Timestamp, end: Timestamp) -> Timestamp {
    Timestamp(begin.0 + end.0.saturating_sub(begin.0) / 2)
}

#[cfg(test)]
mod tests;
