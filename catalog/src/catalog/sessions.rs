//! What becomes of an agent's node when its session is lost, reaped or draining.

use std::sync::Arc;

use super::{
    Attempt, Catalog, Touched,
    registration::{put_check, touch_check},
};
use crate::{
    AGENT_CHECK, AgentRecord, Attestation, CatalogIndex, Check, CheckId, CheckKey, CheckStatus, DeregisterTarget,
    Incarnation, Namespace, NodeName, Outcome, Owner, Presence, Refusal, SessionChange, SessionRef, Timestamp,
    WatchKey,
};

impl Catalog {
    pub(super) fn change_sessions(
        &mut self,
        index: CatalogIndex,
        now: Timestamp,
        change: &SessionChange,
        touched: &mut Touched,
    ) -> Attempt {
        match change {
            SessionChange::Lost { sessions } => {
                for session in sessions {
                    if let Some(record) = self.latest(session).filter(|record| record.presence.lost_at.is_none()) {
                        let presence = Presence { lost_at: Some(now), ..record.presence.clone() };
                        self.set_presence(index, &record, presence, touched);
                    }
                }
                Ok(Outcome::Done)
            }
            SessionChange::Reaped { sessions } => {
                for session in sessions {
                    let lost = self.latest(session).filter(|record| record.presence.lost_at.is_some());
                    if let Some(record) = lost.filter(|record| self.holds_node(record)) {
                        self.remove(index, &record.node, &DeregisterTarget::Node, touched);
                    }
                }
                Ok(Outcome::Done)
            }
            SessionChange::Ended { sessions } => {
                let is_over = |record: &AgentRecord| {
                    record.presence.lost_at.is_some()
                        && !self.holds_node(record)
                        && matches!(record.attestation, Attestation::Login { .. })
                };
                let over: Vec<AgentRecord> =
                    sessions.iter().filter_map(|session| self.latest(session)).filter(is_over).collect();
                for record in over {
                    self.end_record(&record, index, true, touched);
                }
                Ok(Outcome::Done)
            }
            SessionChange::Unused { agents } => {
                let is_unused = |record: &&AgentRecord| {
                    record.incarnation.is_none() && matches!(record.attestation, Attestation::Login { .. })
                };
                let unused = agents.iter().filter_map(|agent| self.agent_record(agent).filter(is_unused).cloned());
                for record in unused.collect::<Vec<_>>() {
                    self.end_record(&record, index, true, touched);
                }
                Ok(Outcome::Done)
            }
            SessionChange::Drain { session } => {
                let record = self
                    .agent_record(&session.agent)
                    .ok_or_else(|| Refusal::AgentUnknown { agent: session.agent.to_string() })?
                    .clone();
                self.check_session(&record.node, Some(&record), Some(session.incarnation))?;
                let presence = Presence { draining: Some(session.incarnation), ..record.presence.clone() };
                self.set_presence(index, &record, presence, touched);
                Ok(Outcome::Done)
            }
        }
    }

    /// Returns the live record whose latest session this is.
    fn latest(&self, session: &SessionRef) -> Option<AgentRecord> {
        self.agent_record(&session.agent).filter(|record| record.incarnation == Some(session.incarnation)).cloned()
    }

    /// Reports whether the agent of a record has its node in the catalog.
    #[must_use]
    pub fn holds_node(&self, record: &AgentRecord) -> bool {
        self.node(&record.node).is_some_and(|node| node.owner == Owner::Agent(record.id.clone()))
    }

    fn set_presence(&mut self, index: CatalogIndex, record: &AgentRecord, presence: Presence, touched: &mut Touched) {
        if record.presence == presence {
            return;
        }
        let changed = AgentRecord { presence, modified: index, ..record.clone() };
        self.agents.insert(record.id.clone(), Arc::new(changed));
        touched.changed(WatchKey::Agent(record.id.clone()));
        touched.changed(WatchKey::Agents);
        self.show_presence(index, &record.node, touched);
    }

    /// Makes the node's own check say how its agent stands; there is none while all is well.
    pub(super) fn show_presence(&mut self, index: CatalogIndex, node: &NodeName, touched: &mut Touched) {
        let Some(mut state) = self.nodes.get(node).cloned() else { return };
        let owner = match &state.node.owner {
            Owner::Agent(id) => self.agent_record(id),
            Owner::Connector(_) | Owner::External => None,
        };
        let output = match owner.map(|record| &record.presence) {
            Some(Presence { draining: Some(_), .. }) => Some("the agent is shutting down"),
            Some(Presence { lost_at: Some(_), .. }) => Some("no server has a session of the agent"),
            Some(_) | None => None,
        };
        match output {
            Some(output) => put_check(index, &mut state, &agent_check(node, output), touched),
            None => {
                let Some(check) = state.remove_check(&slot()) else { return };
                touch_check(&state, &check, touched);
            }
        }
        self.nodes.insert(node.clone(), state);
    }

    /// A session registers something: what an earlier one said about shutting down is over.
    pub(super) fn session_registers(&mut self, index: CatalogIndex, node: &NodeName, touched: &mut Touched) {
        if let Some(record) = self.agent_on(node).filter(|record| record.presence.draining.is_some()).cloned() {
            let presence = Presence { draining: None, ..record.presence.clone() };
            self.set_presence(index, &record, presence, touched);
        }
        self.show_presence(index, node, touched);
    }

    /// Refuses what comes from another session than the latest one, or from one that the servers gave up.
    pub(super) fn check_session(
        &self,
        node: &NodeName,
        record: Option<&AgentRecord>,
        found: Option<Incarnation>,
    ) -> Result<(), Refusal> {
        let current = record.and_then(|record| record.incarnation);
        let is_lost = record.is_some_and(|record| record.presence.lost_at.is_some());
        if current == found && !is_lost {
            return Ok(());
        }
        Err(Refusal::StaleIncarnation {
            node: node.clone(),
            found: found.unwrap_or(Incarnation(0)),
            current: current.unwrap_or(Incarnation(0)),
        })
    }

    /// Refuses what a session says of its node's health after it said that it is shutting down.
    pub(super) fn check_not_draining(
        &self,
        node: &NodeName,
        record: &AgentRecord,
        found: Option<Incarnation>,
    ) -> Result<(), Refusal> {
        match record.presence.draining.filter(|draining| found.is_some_and(|found| found <= *draining)) {
            Some(incarnation) => Err(Refusal::Draining { node: node.clone(), incarnation }),
            None => Ok(()),
        }
    }
}

fn slot() -> (Namespace, CheckId) {
    (Namespace::default(), AGENT_CHECK.parse().expect("it is a check's id"))
}

fn agent_check(node: &NodeName, output: &str) -> Check {
    let (namespace, id) = slot();
    Check {
        key: CheckKey { node: node.clone(), namespace, id },
        name: "agent of the node".to_owned(),
        status: CheckStatus::Critical,
        notes: String::new(),
        output: output.to_owned(),
        instance: None,
        kind: String::new(),
        created: CatalogIndex::default(),
        modified: CatalogIndex::default(),
    }
}
