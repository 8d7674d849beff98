//! Leaf certificates: one for the agent itself and one for each local service.
//!
//! Keys are made here and never leave. A leaf is renewed at half its life; while servers are away it is tried again and
//! again, and the old one stays: it serves until it expires, and an expired one is still enough to renew with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use catalog::{SpiffeId, Timestamp};
use serde::{Deserialize, Serialize};
use wire::agent_protocol::{Leaf, Subject};
use wire::crypto::Secret;
use wire::pki::LeafKey;
use wire::tls::{TlsIdentity, TlsIdentityError};

use crate::jitter::Jitter;
use crate::state::Identity;

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

/// A leaf as it is kept on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredLeaf {
    key_pem: Secret,
    chain_pem: Vec<String>,
    /// By this machine's clock; the certificate's own start is dated back.
    obtained: Timestamp,
}

/// A leaf with its key, ready to be used.
#[derive(Clone, Debug)]
pub(crate) struct HeldLeaf {
    stored: StoredLeaf,
    /// One value for as long as the leaf is held, so that whoever sees another knows that it was renewed.
    tls: Arc<TlsIdentity>,
    /// The id of the intermediate that signed it: the SHA-256 of what follows it in the chain.
    signer: String,
}

/// Why a leaf cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// Certificate or key cannot be read, or do not belong together.
    #[error("the certificate cannot be used")]
    Identity(#[source] TlsIdentityError),
    /// The certificate is somebody else's.
    #[error("the certificate is of `{found}`, not of `{wanted}`")]
    Other {
        /// Whom it names.
        found: SpiffeId,
        /// Whom it should name.
        wanted: SpiffeId,
    },
}

impl StoredLeaf {
    /// Returns the leaf and then its issuer.
    pub(crate) fn chain_pem(&self) -> &[String] {
        &self.chain_pem
    }

    /// Returns the key that the agent made for the leaf.
    pub(crate) fn key_pem(&self) -> &Secret {
        &self.key_pem
    }

    /// Returns when it was obtained, by this machine's clock.
    pub(crate) fn obtained(&self) -> Timestamp {
        self.obtained
    }
}

impl HeldLeaf {
    /// Joins a key with what a server signed for it; `wanted` is whom the leaf must name.
    pub(crate) fn new(key: &LeafKey, leaf: &Leaf, wanted: &SpiffeId, obtained: Timestamp) -> Result<Self, LeafError> {
        let stored = StoredLeaf { key_pem: key.to_pem(), chain_pem: leaf.chain_pem.clone(), obtained };
        Self::load(stored, wanted)
    }

    /// Reads a leaf that was kept on disk; it may have expired.
    pub(crate) fn load(stored: StoredLeaf, wanted: &SpiffeId) -> Result<Self, LeafError> {
        let tls = TlsIdentity::from_pem(&stored.chain_pem, &stored.key_pem).map_err(LeafError::Identity)?;
        if tls.id() != wanted {
            return Err(LeafError::Other { found: tls.id().clone(), wanted: wanted.clone() });
        }
        let signer = tls.certified_key().cert.get(1).map(|signer| wire::crypto::sha256_hex(signer));
        Ok(Self { stored, tls: Arc::new(tls), signer: signer.unwrap_or_default() })
    }

    pub(crate) fn stored(&self) -> &StoredLeaf {
        &self.stored
    }

    pub(crate) fn tls(&self) -> &Arc<TlsIdentity> {
        &self.tls
    }

    pub(crate) fn not_after(&self) -> Timestamp {
        self.tls.not_after()
    }

    /// Returns when the leaf's half-life ends, or up to a tenth of its life earlier: whenever the servers go, what is held
    /// is good for half a life at least.
    fn renew_at(&self, jitter: &mut Jitter) -> Timestamp {
        let life = self.not_after().since(self.stored.obtained);
        let early = jitter.up_to(life / 10);
        self.stored.obtained.saturating_add(life / 2).saturating_sub(early)
    }
}

/// When a subject's leaf is asked for next.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// By the wall clock, as the certificate's own dates are.
    renew_at: Timestamp,
    /// By the monotonic clock: setting the wall clock back must not put retries off.
    not_before: Duration,
    failures: u32,
}

/// The leaves that an agent needs and holds.
#[derive(Debug)]
pub(crate) struct Leaves {
    plans: BTreeMap<Subject, Plan>,
    held: BTreeMap<Subject, HeldLeaf>,
    under_way: Option<Subject>,
    /// The intermediate that signs leaves now, as far as servers have said it.
    signer: Option<String>,
    jitter: Jitter,
}

impl Leaves {
    pub(crate) fn new(held: BTreeMap<Subject, HeldLeaf>, jitter: Jitter) -> Self {
        Self { plans: BTreeMap::new(), held, under_way: None, signer: None, jitter }
    }

    pub(crate) fn held(&self) -> &BTreeMap<Subject, HeldLeaf> {
        &self.held
    }

    /// Takes the subjects that need leaves from now on; returns whether a leaf was dropped.
    pub(crate) fn need(&mut self, subjects: &BTreeSet<Subject>) -> bool {
        let before = self.held.len();
        self.held.retain(|subject, _| subjects.contains(subject));
        self.plans.retain(|subject, _| subjects.contains(subject));
        for subject in subjects {
            if !self.plans.contains_key(subject) {
                let renew_at = self.held.get(subject).map(|leaf| leaf.renew_at(&mut self.jitter)).unwrap_or_default();
                let plan = Plan { renew_at, not_before: Duration::ZERO, failures: 0 };
                self.plans.insert(subject.clone(), plan);
            }
        }
        self.held.len() != before
    }

    /// Takes the intermediate that signs leaves now: a leaf that another one signed is renewed early, at a time of its own,
    /// and soon where the root that vouches for it may be trusted no longer.
    pub(crate) fn follow(&mut self, signer: &str, wall: Timestamp, is_urgent: bool) {
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
    pub(crate) fn are_renewed(&self) -> bool {
        let signer = self.signer.as_deref();
        signer.is_none_or(|signer| self.held.values().all(|leaf| leaf.signer == signer))
    }

    fn renew_early(&mut self, subject: &Subject, wall: Timestamp, is_urgent: bool) {
        let (Some(leaf), Some(plan)) = (self.held.get(subject), self.plans.get_mut(subject)) else { return };
        if self.signer.as_deref().is_none_or(|signer| signer == leaf.signer) {
            return;
        }
        let life = leaf.not_after().since(leaf.stored.obtained);
        let spread = if is_urgent { URGENT_SPREAD } else { REISSUE_SPREAD.min(life / 4) };
        plan.renew_at = plan.renew_at.min(wall.saturating_add(self.jitter.up_to(spread)));
    }

    /// Returns a subject whose leaf is to be asked for now, and marks it as asked for; one at a time.
    ///
    /// The agent's own comes first, for an expired one is good for nothing but this; then services without a leaf, which
    /// do not serve yet.
    pub(crate) fn ask(&mut self, wall: Timestamp, now: Duration) -> Option<Subject> {
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
    pub(crate) fn next_in(&self, wall: Timestamp, now: Duration) -> Option<Duration> {
        if self.under_way.is_some() {
            return None;
        }
        let wait = |plan: &Plan| plan.renew_at.since(wall).max(plan.not_before.saturating_sub(now));
        self.plans.values().map(wait).min()
    }

    /// Takes a signed leaf.
    pub(crate) fn signed(&mut self, subject: &Subject, leaf: HeldLeaf) {
        self.finished(subject);
        if let Some(plan) = self.plans.get_mut(subject) {
            *plan = Plan { renew_at: leaf.renew_at(&mut self.jitter), not_before: Duration::ZERO, failures: 0 };
            self.held.insert(subject.clone(), leaf);
            // A server that is behind may have signed with the intermediate of before.
            self.renew_early(subject, wire::crypto::now(), false);
        }
    }

    /// Asks for every leaf but the agent's own anew.
    pub(crate) fn renew_all(&mut self) {
        for (subject, plan) in &mut self.plans {
            if *subject != Subject::Agent {
                *plan = Plan { renew_at: Timestamp::default(), not_before: Duration::ZERO, failures: 0 };
            }
        }
    }

    /// Takes the news that a leaf was not signed; it is asked for again later.
    pub(crate) fn failed(&mut self, subject: &Subject, retry_after: Option<Duration>, now: Duration) {
        self.finished(subject);
        if let Some(plan) = self.plans.get_mut(subject) {
            let least = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
            plan.not_before = now + least + self.jitter.backoff(plan.failures, BACKOFF_BASE, BACKOFF_MAX);
            plan.failures = plan.failures.saturating_add(1);
        }
    }

    /// Tries failed subjects at once: there is a server again.
    pub(crate) fn retry_now(&mut self, now: Duration) {
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

/// Returns whom a leaf of `subject` must name.
pub(crate) fn named(subject: &Subject, identity: &Identity) -> SpiffeId {
    let scheme = identity.scheme();
    match subject {
        Subject::Agent => scheme.agent(identity.record.platform, &identity.record.node),
        Subject::Service(service) => scheme.workload(service),
    }
}

/// Returns the key that a request for `subject` is about.
///
/// The agent keeps its key, because its record names it. A service gets a fresh one each time, so that a key that
/// leaked once is worth something only until the next renewal.
pub(crate) fn key_for(subject: &Subject, agent: &LeafKey) -> LeafKey {
    match subject {
        Subject::Agent => agent.clone(),
        Subject::Service(_) => LeafKey::generate(),
    }
}

#[cfg(test)]
mod tests;
