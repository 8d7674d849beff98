//! Standing in for the quorum: agents that their platform vouches for are admitted by one server alone, and the mesh is
//! asked as soon as there is one again.
//!
//! What this server decides meanwhile, the state machine decides later once more, on the same facts: a copy of the catalog
//! carries the admission out, so that the rules are the same ones.

mod journal;
mod keeping;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catalog::{
    Actor, Admission, AgentId, AgentRecord, Attestation, Catalog, CatalogIndex, Command, ENVELOPE_VERSION, Envelope,
    KeyFingerprint, LoginChange, LoginClaims, Outcome, Refusal, RequestId, ServerId, ServiceKey, Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wire::crypto;

use crate::consensus::{RaftStatus, Role};

use journal::Entry;
use keeping::Written;
pub(crate) use keeping::{NotKept, keep};
pub(crate) use settle::settle;

/// For so long without a leader, one is waited for: elections take less.
const PATIENCE: Duration = Duration::from_secs(3);
/// For so long after a leader was heard last, this server's state is recent enough to admit by.
const STANDING_IN_MAX: Duration = Duration::from_secs(3600);
/// How long a certificate lives that is signed for an agent without a record: the mesh has not agreed to it.
pub(crate) const PROVISIONAL_LEAF_TTL: Duration = Duration::from_secs(3600);
/// How many agents are admitted by one server alone.
const HELD_MAX: usize = 4096;
/// How many of these may be one identity's: whoever draws new keys and nodes must not shut all others out.
const HELD_OF_ONE_MAX: usize = HELD_MAX / 8;
/// Servers share the numbers of such agents out by the remainders of their Raft ids under this. It is the same for all, however
/// much each of them knows: a group has far fewer members.
const TURNS: u64 = 16;
/// How many numbers of such agents are remembered, so that none is given twice.
const GIVEN_MAX: usize = 65_536;

/// Reports whether this server stands in for the quorum: it heard a leader since it started, not for a while, and not too
/// long ago.
pub(crate) fn stands_in(status: &RaftStatus) -> bool {
    let waits = matches!(status.role, Role::Follower | Role::Candidate) && status.leader.is_none();
    waits && status.last_contact.is_some_and(|ago| (PATIENCE..STANDING_IN_MAX).contains(&ago))
}

/// Reports whether a platform vouched for the agent, so that its entitlement can be judged without asking anybody.
pub(crate) fn is_platform_attested(record: &AgentRecord) -> bool {
    matches!(record.attestation, Attestation::Login { .. })
}

/// Is an agent that this server admitted alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Held {
    /// What the agent is as long as the mesh has not been asked.
    pub(crate) record: AgentRecord,
    /// The indexes in serials of what it was given before, as something else: they are revoked.
    superseded: Vec<CatalogIndex>,
    /// How it logged in.
    admission: Admission,
    claims: LoginClaims,
    admitted_at: Timestamp,
    source: String,
    /// The mesh it was admitted to.
    cluster_id: String,
    /// Rises with each admission: in this order the mesh is asked.
    #[serde(skip)]
    ticket: u64,
    /// Whether an earlier process of this server admitted it: the mesh is asked about it, and nobody is served by it.
    #[serde(skip)]
    is_recovered: bool,
}

/// Is a login that this server is to judge alone.
#[derive(Debug)]
pub(crate) struct Applicant {
    pub(crate) admission: Admission,
    pub(crate) claims: LoginClaims,
    pub(crate) now: Timestamp,
    pub(crate) source: String,
}

/// Holds the agents that were admitted without a quorum, and the sessions that were opened without one.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    state: Mutex<State>,
    /// Something is held that the mesh must be told of.
    pending: Notify,
    /// Where it is written down who is held; nowhere in a server that keeps nothing.
    directory: Option<PathBuf>,
    /// Something is to be written down.
    unwritten: Notify,
    written: watch::Sender<Written>,
}

#[derive(Debug, Default)]
struct State {
    held: BTreeMap<KeyFingerprint, Held>,
    tickets: u64,
    unwritten: Vec<Entry>,
    given: BTreeSet<CatalogIndex>,
    /// The state with the held admissions carried out on it, and the index that it was made from.
    what_if: Option<(CatalogIndex, Catalog)>,
    sessions: CancellationToken,
    has_sessions: bool,
}

impl Outage {
    /// Admits an agent by what this server knows, or says why not; a repeat by the same key is answered as before.
    ///
    /// # Errors
    /// The [`Refusal`] with which the state machine would answer.
    pub(crate) fn admit(
        &self,
        catalog: &Catalog,
        server: &ServerId,
        applicant: Applicant,
    ) -> Result<AgentRecord, Refusal> {
        let mut state = self.state();
        let before = state.held.get(&applicant.admission.key).filter(|held| held.is_the_same(&applicant.admission));
        if let Some(held) = before.filter(|held| !held.is_recovered) {
            return Ok(held.record.clone());
        }
        // Unless the mesh has revoked it meanwhile, and this server ended before it noted that.
        let kept_number = before.map(|held| held.record.enrolled).filter(|number| !catalog.is_revoked(*number));
        if kept_number.is_none() {
            state.has_room(&applicant.admission)?;
        }
        let mut what_if = state.what_if(catalog);
        let record = match carry_out(&mut what_if, &applicant.admission, applicant.now)? {
            Outcome::Enrolled { record } => *record,
            Outcome::Refused(refusal) => return Err(refusal),
            _ => return Err(Refusal::LoginRulesChanged { method: applicant.admission.method }),
        };
        // Who has a record keeps it: the mesh agreed to it when it could be asked.
        if catalog.agent_record(&record.id) == Some(&record) {
            return Ok(record);
        }
        let enrolled = match kept_number {
            Some(number) => number,
            None => state.free_index(catalog, server, &record.services).ok_or(Refusal::TooManyBearers)?,
        };
        let record = AgentRecord { id: AgentId::enrolled_at(enrolled), enrolled, modified: enrolled, ..record };
        state.given.insert(enrolled);
        state.what_if = Some((catalog.index(), what_if));
        let Applicant { admission, claims, now: admitted_at, source } = applicant;
        let superseded = state.take_superseded(&record);
        let cluster_id = catalog.mesh().map(|mesh| mesh.cluster_id.clone()).unwrap_or_default();
        state.tickets += 1;
        let (ticket, is_recovered) = (state.tickets, false);
        let held = Held {
            record: record.clone(),
            superseded,
            admission,
            claims,
            admitted_at,
            source,
            cluster_id,
            ticket,
            is_recovered,
        };
        self.note(&mut state, Entry::Admitted(Box::new(held.clone())));
        state.held.insert(record.key.clone(), held);
        drop(state);
        self.unwritten.notify_one();
        self.pending.notify_one();
        Ok(record)
    }

    /// Returns what an agent is that this server admitted alone; none before that is written down, nor where an earlier process
    /// of it did.
    pub(crate) fn record(&self, key: &KeyFingerprint) -> Option<AgentRecord> {
        let is_written = |held: &&Held| self.directory.is_none() || held.ticket <= self.written.borrow().up_to;
        let state = self.state();
        let held = state.held.get(key).filter(|held| !held.is_recovered).filter(is_written);
        held.map(|held| held.record.clone())
    }

    /// Returns what ends a session that is opened now, when the mesh can be asked again.
    pub(crate) fn session(&self) -> CancellationToken {
        let mut state = self.state();
        state.has_sessions = true;
        let token = state.sessions.clone();
        drop(state);
        self.pending.notify_one();
        token
    }

    /// Returns how many agents are held.
    pub(crate) fn len(&self) -> usize {
        self.state().held.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Reports whether somebody comes again as what it is already.
    fn is_the_same(&self, admission: &Admission) -> bool {
        let what = |of: &Admission| {
            (
                of.method.clone(),
                of.subject.clone(),
                of.services.clone(),
                of.gateway.clone(),
                of.node.clone(),
                of.platform,
            )
        };
        what(&self.admission) == what(admission)
    }
}

impl State {
    fn has_room(&self, login: &Admission) -> Result<(), Refusal> {
        if self.held.len() >= HELD_MAX {
            return Err(Refusal::TooManyBearers);
        }
        let is_of_one = |held: &&Held| held.admission.method == login.method && held.admission.subject == login.subject;
        if self.held.values().filter(is_of_one).count() < HELD_OF_ONE_MAX {
            return Ok(());
        }
        let (method, subject) = (login.method.clone(), login.subject.clone());
        Err(Refusal::TooManyBearersOf { method, subject, most: HELD_OF_ONE_MAX })
    }

    /// Takes out whoever held the key or the node before: the state machine agreed to that. Returns their numbers, which are
    /// revoked before the mesh is asked about the one that is there now; its own is not among them.
    fn take_superseded(&mut self, record: &AgentRecord) -> Vec<CatalogIndex> {
        let gives_way = |held: &&Held| held.record.key == record.key || held.record.node == record.node;
        let keys: Vec<KeyFingerprint> =
            self.held.values().filter(gives_way).map(|held| held.record.key.clone()).collect();
        let gone = keys.iter().filter_map(|key| self.held.remove(key));
        let numbers = gone.flat_map(|held| held.superseded.into_iter().chain([held.record.enrolled]));
        numbers.filter(|number| *number != record.enrolled).collect()
    }

    /// Returns the catalog as it would be if the mesh had agreed to everybody who is held.
    fn what_if(&mut self, catalog: &Catalog) -> Catalog {
        if let Some((index, what_if)) = &self.what_if
            && *index == catalog.index()
        {
            return what_if.clone();
        }
        let mut what_if = catalog.clone();
        for held in self.in_order() {
            // Whoever does not hold any more is told when the mesh is asked.
            let _ = carry_out(&mut what_if, &held.admission, held.admitted_at);
        }
        what_if
    }

    /// Returns an index for the serials of an agent's certificates, by which they can be revoked: one that lies behind us,
    /// so that no record will ever be enrolled at it, and that no other agent has. Two servers that stand in at once do not
    /// meet either, wherever the log of each ends: a number is the turn of one of them alone.
    ///
    /// Nor does it lie before a revocation of one of its services: that is of others.
    fn free_index(&mut self, catalog: &Catalog, server: &ServerId, services: &[ServiceKey]) -> Option<CatalogIndex> {
        if self.given.len() >= GIVEN_MAX {
            return None;
        }
        // Whoever is no member has no turn, and would give away the numbers of another.
        let membership = catalog.membership();
        let own = membership.member_named(server)?.raft_id;
        let turn = own % TURNS;
        // Of two with one turn the elder has it: whoever joined later knows of the one that was there.
        if membership.members.keys().any(|raft_id| *raft_id < own && raft_id % TURNS == turn) {
            return None;
        }
        let signers: BTreeSet<CatalogIndex> = catalog.intermediates().map(|one| one.created).collect();
        let revoked = catalog.revoked_services().filter(|revoked| services.contains(&revoked.service));
        let first = revoked.map(|revoked| revoked.below.0).max().unwrap_or(0).max(1);
        let last = catalog.number_at(catalog.index()).0;
        let mut next = last.checked_sub((last % TURNS + TURNS - turn) % TURNS)?;
        while next >= first {
            let index = CatalogIndex(next);
            let is_taken = self.given.contains(&index)
                || signers.contains(&index)
                || catalog.is_revoked(index)
                || catalog.agent_record(&AgentId::enrolled_at(index)).is_some()
                || catalog.agent_records().any(|record| record.earlier.contains(&index));
            if !is_taken {
                return Some(index);
            }
            next = next.checked_sub(TURNS)?;
        }
        None
    }
}

/// Carries an admission out on a copy of the catalog.
fn carry_out(catalog: &mut Catalog, admission: &Admission, now: Timestamp) -> Result<Outcome, Refusal> {
    let command = Command::Login { change: LoginChange::Admit { admission: Box::new(admission.clone()) } };
    command.validate()?;
    let envelope = Envelope {
        version: ENVELOPE_VERSION,
        request_id: fresh_request_id(),
        actor: Actor::Login(admission.method.clone()),
        source_address: None,
        proposed_at: now,
        command,
    };
    let index = CatalogIndex(catalog.index().0 + 1);
    Ok(catalog.apply(index, &envelope, crypto::sha256).outcome)
}

fn fresh_request_id() -> RequestId {
    crypto::uuid_v4().parse().expect("a UUID is a request id: 36 letters, digits and hyphens")
}
