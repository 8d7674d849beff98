//! When leaves are asked for: each at half its life, and early where what signs has changed.
//!
//! While servers are away it is tried again and again, and the old leaf stays: it serves until it expires, and an expired one
//! is still enough to renew with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use catalog::Timestamp;
use wire::agent_protocol::Subject;

use wire::random::Seeded;

/// The wait before the first repeat of a failed request is drawn from up to this.
const BACKOFF_BASE: Duration = Duration::from_secs(1);
/// No wait before a repeat is drawn from more.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// After a change of what signs, leaves are renewed within this time, or a quarter of their lives where that is shorter:
/// all agents hear of it together, and should not all ask together.
const REISSUE_SPREAD: Duration = Duration::from_secs(10 * 60);
/// The same where a root was distrusted, and whoever keeps a leaf under it is cut.
const URGENT_SPREAD: Duration = Duration::from_secs(2);
/// A server cannot put renewals off for longer.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Is a leaf as its renewal sees it.
pub trait Renewable {
    /// Returns when it was obtained, by this machine's clock.
    fn obtained(&self) -> Timestamp;

    /// Returns when it expires.
    fn not_after(&self) -> Timestamp;

    /// Returns the id of the intermediate that signed it.
    fn signer(&self) -> &str;
}

/// Returns when a leaf's half-life ends, or up to a tenth of its life earlier: whenever the servers go, what is held is good
/// for half a life at least.
fn renew_at(leaf: &impl Renewable, jitter: &mut Seeded) -> Timestamp {
    let life = leaf.not_after().since(leaf.obtained());
    let early = jitter.up_to(life / 10);
    leaf.obtained().saturating_add(life / 2).saturating_sub(early)
}

/// When a subject's leaf is asked for next.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// By the wall clock, as the certificate's own dates are.
    renew_at: Timestamp,
    /// By the monotonic clock: setting the wall clock back must not put retries off.
    not_before: Duration,
    failures: u32,
    /// Whether what was signed last was under a root that is not known here yet.
    wants_root: bool,
}

impl Plan {
    /// Returns the plan of a leaf of which nothing has failed.
    fn at(renew_at: Timestamp) -> Self {
        Self { renew_at, not_before: Duration::ZERO, failures: 0, wants_root: false }
    }
}

/// Is the leaves that an agent needs and holds, and when each is asked for next.
#[derive(Debug)]
pub struct Leaves<L> {
    plans: BTreeMap<Subject, Plan>,
    held: BTreeMap<Subject, L>,
    under_way: Option<Subject>,
    /// The intermediate that signs leaves now, as far as servers have said it.
    signer: Option<String>,
    jitter: Seeded,
}

impl<L: Renewable> Leaves<L> {
    /// Returns the machine of an agent that holds these leaves; `seed` decides every random choice.
    pub fn new(held: BTreeMap<Subject, L>, seed: u64) -> Self {
        Self { plans: BTreeMap::new(), held, under_way: None, signer: None, jitter: Seeded::new(seed) }
    }

    /// Returns the leaves by whom they are for; some may have expired.
    pub fn held(&self) -> &BTreeMap<Subject, L> {
        &self.held
    }

    /// Takes the subjects that need leaves from now on; returns whether a leaf was dropped.
    pub fn need(&mut self, subjects: &BTreeSet<Subject>) -> bool {
        let before = self.held.len();
        self.held.retain(|subject, _| subjects.contains(subject));
        self.plans.retain(|subject, _| subjects.contains(subject));
        for subject in subjects {
            if !self.plans.contains_key(subject) {
                let renew_at = self.held.get(subject).map(|leaf| renew_at(leaf, &mut self.jitter)).unwrap_or_default();
                self.plans.insert(subject.clone(), Plan::at(renew_at));
            }
        }
        self.held.len() != before
    }

    /// Takes the intermediate that signs leaves now: a leaf that another one signed is renewed early, at a time of its own,
    /// and soon where the root that vouches for it may be trusted no longer.
    pub fn follow(&mut self, signer: &str, wall: Timestamp, is_urgent: bool) {
        if self.signer.as_deref() == Some(signer) && !is_urgent {
            return;
        }
        self.signer = Some(signer.to_owned());
        let subjects: Vec<Subject> = self.held.keys().cloned().collect();
        for subject in subjects {
            self.renew_early(&subject, wall, is_urgent);
        }
    }

    /// Reports whether every leaf that is held was signed by the intermediate that signs now.
    pub fn are_renewed(&self) -> bool {
        let signer = self.signer.as_deref();
        signer.is_none_or(|signer| self.held.values().all(|leaf| leaf.signer() == signer))
    }

    fn renew_early(&mut self, subject: &Subject, wall: Timestamp, is_urgent: bool) {
        let (Some(leaf), Some(plan)) = (self.held.get(subject), self.plans.get_mut(subject)) else { return };
        if self.signer.as_deref().is_none_or(|signer| signer == leaf.signer()) {
            return;
        }
        let life = leaf.not_after().since(leaf.obtained());
        let spread = if is_urgent { URGENT_SPREAD } else { REISSUE_SPREAD.min(life / 4) };
        plan.renew_at = plan.renew_at.min(wall.saturating_add(self.jitter.up_to(spread)));
    }

    /// Returns a subject whose leaf is to be asked for now, and marks it as asked for; one at a time.
    ///
    /// The agent's own comes first, for an expired one is good for nothing but this; then services without a leaf, which
    /// do not serve yet.
    pub fn ask(&mut self, wall: Timestamp, now: Duration) -> Option<Subject> {
        if self.under_way.is_some() {
            return None;
        }
        let due = self.plans.iter().filter(|(_, plan)| plan.renew_at <= wall && plan.not_before <= now);
        let (subject, _) =
            due.min_by_key(|(subject, plan)| (**subject != Subject::Agent, plan.renew_at, plan.not_before))?;
        self.under_way = Some(subject.clone());
        self.under_way.clone()
    }

    /// Returns how long to wait, from now, until a leaf is to be asked for; nothing while one is.
    pub fn next_in(&self, wall: Timestamp, now: Duration) -> Option<Duration> {
        if self.under_way.is_some() {
            return None;
        }
        let wait = |plan: &Plan| plan.renew_at.since(wall).max(plan.not_before.saturating_sub(now));
        self.plans.values().map(wait).min()
    }

    /// Takes a signed leaf.
    pub fn signed(&mut self, subject: &Subject, leaf: L, wall: Timestamp) {
        self.finished(subject);
        if let Some(plan) = self.plans.get_mut(subject) {
            *plan = Plan::at(renew_at(&leaf, &mut self.jitter));
            self.held.insert(subject.clone(), leaf);
            // A server that is behind may have signed with the intermediate of before.
            self.renew_early(subject, wall, false);
        }
    }

    /// Asks for every leaf but the agent's own anew.
    pub fn renew_all(&mut self) {
        for (subject, plan) in &mut self.plans {
            if *subject != Subject::Agent {
                *plan = Plan::at(Timestamp::default());
            }
        }
    }

    /// Takes the news that a leaf was not signed; it is asked for again later.
    pub fn failed(&mut self, subject: &Subject, retry_after: Option<Duration>, now: Duration) {
        self.finished(subject);
        if let Some(plan) = self.plans.get_mut(subject) {
            let least = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
            plan.not_before = now + least + self.jitter.backoff(plan.failures, BACKOFF_BASE, BACKOFF_MAX);
            plan.failures = plan.failures.saturating_add(1);
            plan.wants_root = false;
        }
    }

    /// Takes the news that a leaf was signed under a root that is not known here yet; it is asked for again later, and soon
    /// after that root has come.
    pub fn unvouched(&mut self, subject: &Subject, now: Duration) {
        self.failed(subject, None, now);
        if let Some(plan) = self.plans.get_mut(subject) {
            plan.wants_root = true;
        }
    }

    /// Takes the news that other roots are in force: what waited for one is asked for again soon.
    pub fn roots_came(&mut self, now: Duration) {
        for plan in self.plans.values_mut().filter(|plan| plan.wants_root) {
            plan.wants_root = false;
            plan.not_before = plan.not_before.min(now + self.jitter.up_to(BACKOFF_BASE));
        }
    }

    /// Tries failed subjects at once: there is a server again.
    pub fn retry_now(&mut self, now: Duration) {
        let soon = self.jitter.up_to(BACKOFF_BASE);
        for plan in self.plans.values_mut().filter(|plan| plan.failures > 0) {
            plan.not_before = plan.not_before.min(now + soon);
        }
    }

    fn finished(&mut self, subject: &Subject) {
        if self.under_way.as_ref() == Some(subject) {
            self.under_way = None;
        }
    }
}

#[cfg(test)]
mod tests;
