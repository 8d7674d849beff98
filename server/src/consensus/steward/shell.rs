//! The shell around the steward: shows it the group, does what it says, and keeps this server's own entry true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{CatalogIndex, Command, MemberFacts, MemberRole, MembershipChange, Outcome, StateDigest};
use tracing::{debug, info, warn};

use super::{GroupHealth, Output, Steward, View};
use crate::consensus::admit::own_facts;
use crate::consensus::inbox::Request;
use crate::consensus::start::{Failure, FatalError};
use crate::consensus::status::Role;
use crate::consensus::transport::jittered;
use crate::consensus::{Consensus, ProposeError};

/// The steward looks this many ticks apart.
const TICKS: u32 = 2;
/// A write that did not come through is not tried again at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Carries out a change of the list of servers in this server's name.
///
/// # Errors
/// As [`Consensus::propose`].
pub(crate) async fn propose(consensus: &Consensus, change: MembershipChange) -> Result<Outcome, ProposeError> {
    consensus.propose_as_server(Command::Membership { change }).await.map(|committed| committed.outcome)
}

/// Is what the steward's shell remembers between two looks.
pub(crate) struct Shell {
    consensus: Consensus,
    failure: Failure,
    raft_address: String,
    agent_address: String,
    /// The ids of the cluster keys that it was started with.
    keys: Vec<String>,
    steward: Steward,
    started: Instant,
    /// What the Raft thread was told last of what its peers read.
    readers: BTreeMap<u64, u16>,
    /// When this server may say something of itself again.
    describes_from: Instant,
    /// The last state that was compared and found alike.
    compared: CatalogIndex,
}

impl Shell {
    /// Returns the shell of a server that is reached at these addresses, for Raft and for agents, and has these cluster keys.
    pub(crate) fn new(
        consensus: Consensus,
        failure: Failure,
        (raft_address, agent_address): (String, String),
        keys: Vec<String>,
    ) -> Self {
        Self {
            consensus,
            failure,
            raft_address,
            agent_address,
            keys,
            steward: Steward::default(),
            started: Instant::now(),
            readers: BTreeMap::new(),
            describes_from: Instant::now(),
            compared: CatalogIndex::default(),
        }
    }

    /// Looks again and again, for as long as the server runs.
    pub(crate) async fn run(mut self) {
        let pause = self.consensus.shared.timing.tick.saturating_mul(TICKS);
        loop {
            tokio::time::sleep(pause).await;
            self.tell_readers();
            self.compare_states();
            self.lead().await;
            self.describe().await;
        }
    }

    fn tell_readers(&mut self) {
        let readers = self.consensus.shared.members.readers();
        if readers != self.readers {
            self.readers.clone_from(&readers);
            self.consensus.shared.inbox.tell(Request::Readers { readers });
        }
    }

    /// Takes one step where this server leads.
    async fn lead(&mut self) {
        let shared = Arc::clone(&self.consensus.shared);
        let role = shared.standing.borrow().role;
        let status = shared.group.borrow().clone();
        let Some(status) = status.filter(|status| role == Role::Leader && status.is_established) else {
            self.steward.rest();
            shared.health.store(None);
            return;
        };
        let catalog = self.consensus.catalog();
        let (own, group) = (status.id, &status.group);
        let view = View { own, membership: catalog.membership(), group, commit: status.commit, term: status.term };
        let (health, output) = self.steward.step(&view, self.started.elapsed());
        self.publish(health);
        let Some(output) = output else { return };
        debug!(step = ?output, "the group changes");
        match output {
            Output::Change(change) => {
                info!(learners = ?change.learners, voters = ?change.voters, removed = ?change.removed, "raft group changes");
                shared.inbox.tell(Request::ChangeGroup { change });
            }
            Output::TransferLeader(to) => {
                info!(to, "leadership is handed over: this server is being taken out");
                shared.inbox.tell(Request::TransferLeader { to });
            }
            Output::Propose(change) => {
                info!(change = ?change, "list of servers changes");
                match propose(&self.consensus, change).await {
                    Ok(Outcome::Refused(refusal)) => warn!(error = %refusal, "list of servers not changed"),
                    Ok(_) => {}
                    Err(error) => warn!(error = %error, "list of servers not changed"),
                }
            }
        }
    }

    fn publish(&self, health: GroupHealth) {
        let shared = &self.consensus.shared;
        let before = shared.health.load();
        if health.held.is_some() && before.as_ref().is_none_or(|before| before.held != health.held) {
            warn!(reason = health.held, "a change of the servers waits");
        }
        shared.health.store(Some(Arc::new(health)));
    }

    /// Says of this server what the list does not have yet.
    async fn describe(&mut self) {
        let shared = Arc::clone(&self.consensus.shared);
        let now = Instant::now();
        if now < self.describes_from || shared.standing.borrow().leader.is_none() {
            return;
        }
        let Some(raft_id) = shared.members.own_raft_id() else { return };
        let catalog = self.consensus.catalog();
        let Some(member) = catalog.membership().member(raft_id) else { return };
        let facts: MemberFacts = own_facts(&self.raft_address, &self.agent_address, &self.keys);
        let change = if member.role != MemberRole::Leaving && member.facts != facts {
            MembershipChange::Describe { raft_id, facts }
        } else if let Some((index, digest)) = shared.states.unsaid(catalog.membership()) {
            let release = env!("CARGO_PKG_VERSION").to_owned();
            MembershipChange::Witness { raft_id, index, found: StateDigest { release, digest } }
        } else {
            return;
        };
        self.describes_from = now + jittered(PAUSE);
        if let Err(error) = propose(&self.consensus, change).await {
            debug!(error = %error, "the list does not have this server's facts yet");
        }
    }

    /// Compares this server's state with what a majority found theirs to be.
    fn compare_states(&mut self) {
        let catalog = self.consensus.catalog();
        let membership = catalog.membership();
        let witness = &membership.witness;
        if witness.index <= self.compared {
            return;
        }
        let Some(own) = self.consensus.shared.states.at(witness.index) else { return };
        let Some(agreed) = witness.majority(membership.voters().count(), env!("CARGO_PKG_VERSION")) else { return };
        self.compared = witness.index;
        if own != agreed {
            self.failure.set(FatalError::Diverged { index: witness.index, own, agreed: agreed.to_owned() });
        }
    }
}
